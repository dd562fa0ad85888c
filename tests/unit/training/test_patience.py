"""When a training ends early: some epochs after the best one, and only where a validation has just said so."""

import math

import pytest

from depers.training.loop import is_out_of_patience


@pytest.mark.parametrize(
    ("fitnesses", "best_epoch", "patience", "is_out"),
    [
        ([], 0, 1, False),
        ([0.5], 1, 1, False),
        ([0.5, 0.4], 1, 1, True),
        ([0.5, 0.4], 1, 2, False),
        ([0.5, 0.4, 0.4], 1, 2, True),
        ([0.5, 0.4, 0.4], 1, 0, False),
        ([math.nan, math.nan, math.nan], 0, 1, False),  # nobody has judged any of them
        ([math.nan, 0.5], 2, 1, False),
        ([math.nan, 0.5, math.nan], 2, 1, False),
        ([math.nan, 0.5, math.nan, 0.4], 2, 1, True),
        ([math.nan, 0.0], 2, 1, False),  # nothing found yet: the best epoch goes along
    ],
)
def test_patience(fitnesses: list[float], best_epoch: int, patience: int, is_out: bool) -> None:
    assert is_out_of_patience([{"fitness": value} for value in fitnesses], best_epoch, patience) == is_out
