"""The split: shares, groups, seed and strata, as properties."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.datasets.splits import Strata, group_names, split, split_into
from depers.errors import UserError

names = st.lists(st.text("abc019_. ", min_size=1, max_size=8), min_size=2, max_size=40, unique=True)


@given(names, st.floats(0, 0.99), st.integers(0, 5), st.randoms())
def test_split(paths: list[str], fraction: float, seed: int, random: Any) -> None:
    result = dict(zip(paths, split(paths, fraction, seed), strict=True))
    count = list(result.values()).count("val")
    assert abs(count - fraction * len(paths)) <= 1
    assert count < len(paths)
    assert (count > 0) == (fraction > 0)
    shuffled = random.sample(paths, len(paths))
    assert dict(zip(shuffled, split(shuffled, fraction, seed), strict=True)) == result


def test_split_follows_the_seed_and_keeps_groups_whole() -> None:
    paths = [f"cam{camera}_{index:02}.jpg" for camera in range(8) for index in range(5)]
    assert split(paths, 0.25, 0) != split(paths, 0.25, 1)
    for pattern in (r"^cam\d", r"^cam(\d)_"):
        result = dict(zip(paths, split(group_names(paths, pattern), 0.25, 0), strict=True))
        cameras = {name: {path[3] for path in paths if result[path] == name} for name in ("train", "val")}
        assert not cameras["train"] & cameras["val"]
        assert len(cameras["val"]) == 2
    lopsided = ["a1", "a2", "a3", "a4", "b1", "b2", "b3"]
    assert set(split(group_names(lopsided, "^[ab]"), 0.01, 0)) == {"train", "val"}
    with pytest.raises(UserError, match=r"--group-by .* 'cam0_00.jpg'"):
        group_names(paths, r"^dash")


def shares(result: list[str], strata: list[list[tuple[int, int]]]) -> np.ndarray:
    """The share of every stratum that lies in val."""
    totals: Counter[int] = Counter()
    val: Counter[int] = Counter()
    for where, amounts in zip(result, strata, strict=True):
        for stratum, amount in amounts:
            totals[stratum] += amount
            val[stratum] += amount * (where == "val")
    return np.array([val[stratum] / totals[stratum] for stratum in sorted(totals)])


def test_every_class_has_its_share_in_val() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson([4, 1, 0.3, 0.1, 0.02], (1000, 5))
    strata = [[(c, int(n)) for c, n in enumerate(row) if n] for row in counts]
    groups = [str(index) for index in range(1000)]
    for seed in range(3):
        result = split(groups, 0.2, seed, strata)
        assert abs(result.count("val") - 200) <= 2
        assert np.abs(shares(result, strata) - 0.2).max() < 0.03
    blind = split(groups, 0.2, 0)
    assert np.abs(shares(blind, strata) - 0.2).max() > 0.03  # what it would be without


def test_strata_are_spread_as_far_as_groups_allow() -> None:
    rng = np.random.default_rng(1)
    groups = [f"cam{camera}" for camera in rng.integers(0, 30, 600)]
    strata = [[(0, 3)] + ([(1, 2)] if group in ("cam1", "cam2", "cam3", "cam4") else []) for group in groups]
    result = split(groups, 0.25, 0, strata)
    assert all(len({where for where, g in zip(result, groups, strict=True) if g == group}) == 1 for group in groups)
    assert abs(shares(result, strata)[1] - 0.25) < 0.1  # one of the four cameras that have it
    assert abs(result.count("val") - 150) < 20


def test_a_class_in_one_group_stays_in_train() -> None:
    strata = [[(0, 1)]] * 9 + [[(1, 5)]]
    for seed in range(10):
        assert split([str(index) for index in range(10)], 0.3, seed, strata)[9] == "train"


@pytest.mark.parametrize("fractions", [{"val": 0.2, "calibration": 0.3}, {"val": 0, "calibration": 0.3}, {"val": 0.2}])
def test_each_split_has_its_share_of_every_class_and_whole_groups(fractions: dict[str, float]) -> None:
    groups = [f"{number // 3}" for number in range(900)]
    strata: list[Strata] = [[("car", 1 + number % 3), ("rare", int(number % 30 == 0))] for number in range(900)]
    splits = split_into(groups, fractions, 0, strata)
    for name, share in {"train": 1 - sum(fractions.values()), **fractions}.items():
        assert splits.count(name) == pytest.approx(900 * share, abs=3)
        rare = sum(number % 30 == 0 and splits[number] == name for number in range(900))
        assert rare == pytest.approx(30 * share, abs=2)
    assert all(len({splits[number] for number in range(first, first + 3)}) == 1 for first in range(0, 900, 3))
