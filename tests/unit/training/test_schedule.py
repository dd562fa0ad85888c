"""The course of a training: exact numbers of steps, and rates that rise and fall as YOLOv5's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.detection.yolo import read_hyperparameters
from depers.training.schedule import Rates, make_schedule

HYP = read_hyperparameters("scratch-low")


@given(st.integers(1, 20), st.integers(1, 60), st.integers(1, 8))
def test_every_epoch_is_a_pass_and_ends_with_a_step(epochs: int, batches: int, accumulate: int) -> None:
    schedule = make_schedule(epochs=epochs, batches_per_pass=batches, accumulate=accumulate, hyp=HYP)
    assert np.diff(schedule.starts).tolist() == [batches] * epochs
    assert all(schedule.ends[start - 1] for start in schedule.starts[1:])
    assert schedule.warmup <= epochs * batches / 2


@given(st.integers(1, 6), st.integers(0, 100), st.integers(1, 50), st.integers(1, 8))
def test_steps_are_exact_and_epochs_equal_parts(epochs: int, more: int, batches: int, accumulate: int) -> None:
    steps = epochs + more
    schedule = make_schedule(epochs=epochs, batches_per_pass=batches, accumulate=accumulate, hyp=HYP, steps=steps)
    assert schedule.steps == steps
    step_counts = [int(schedule.ends[a:b].sum()) for a, b in zip(schedule.starts, schedule.starts[1:], strict=False)]
    assert max(step_counts) - min(step_counts) <= 1


def test_after_the_warm_up_a_step_gathers_a_nominal_batch() -> None:
    schedule = make_schedule(epochs=10, batches_per_pass=40, accumulate=4, hyp=HYP, warmup_epochs=1.0, fall="linear")
    assert schedule.warmup == 40 and schedule.ends[0]
    assert np.diff(np.flatnonzero(schedule.ends[80:120])).tolist() == [4] * 9


def test_a_constant_rate_does_not_depend_on_the_end() -> None:
    """So a training of fewer steps is the beginning of one of more."""
    rates = []
    for steps in (300, 700):
        schedule = make_schedule(
            epochs=1, batches_per_pass=9, accumulate=1, hyp=HYP, steps=steps, warmup_epochs=0.1, fall="constant"
        )
        rates.append([schedule.compute_rates(number) for number in range(100, 300)])
    assert rates[0] == rates[1] and {rate.weights for rate in rates[0]} == {HYP["lr0"]}


@pytest.mark.parametrize("fall", ["cosine", "linear"])
def test_rates_rise_then_fall(fall: str) -> None:
    middle = 0.505
    schedule = make_schedule(epochs=100, batches_per_pass=10, accumulate=1, hyp=HYP, warmup_epochs=5.0, fall=fall)
    rates = [schedule.compute_rates(number) for number in range(1000)]
    weights = np.array([rate.weights for rate in rates])
    assert (np.diff(weights[:50]) > 0).all() and (np.diff(weights[51:]) < 0).all()
    assert weights[500] == pytest.approx(0.01 * middle) and weights[-1] == pytest.approx(0.0001, rel=0.2)
    assert rates[0].biases > 0.09 and rates[49].biases == pytest.approx(weights[49])
    assert rates[0].momentum < 0.81 and rates[49].momentum == pytest.approx(HYP["momentum"])
    assert rates[60] == Rates(weights[60], weights[60], HYP["momentum"])
