"""The course of a training, batch by batch: where optimizer steps end, and the rates, as YOLOv5 sets them.

All of it is known before the first batch, so a resumed run goes on where the schedule says.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST_WARMUP = 100  # batches, as YOLOv5


class Rates(NamedTuple):
    """What the optimizer's groups get at one batch: learning rates of weights and of biases, and the momentum."""

    weights: float
    biases: float
    momentum: float


class Schedule(NamedTuple):
    """`starts` (epochs + 1): the number of each epoch's first batch; `ends` bool (batches,): a step follows the batch.

    Gradients add up over batches to `nominal_batch` images per step (fewer at the beginning, as YOLOv5 warms up);
    the last step of an epoch takes what is left.
    """

    starts: list[int]
    ends: NDArray[np.bool_]
    warmup: int
    cosine: bool
    strength: Mapping[str, float]

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return int(self.ends.sum())

    def rates(self, batch: int) -> Rates:
        """The rates at a batch, counted from the training's first (keys of YOLOv5: lr0, lrf, momentum, warmup_…)."""
        how = self.strength
        share, final = batch / len(self.ends), how["lrf"]
        fall = (1 + math.cos(math.pi * share)) / 2 if self.cosine else 1 - share
        rate = how["lr0"] * (final + (1 - final) * fall)
        if batch >= self.warmup:
            return Rates(rate, rate, how["momentum"])
        risen = (batch + 1) / self.warmup
        bias = how["warmup_bias_lr"] + risen * (rate - how["warmup_bias_lr"])
        return Rates(risen * rate, bias, how["warmup_momentum"] + risen * (how["momentum"] - how["warmup_momentum"]))


def make_schedule(
    *,
    epochs: int,
    batches_per_pass: int,
    accumulate: int,
    strength: Mapping[str, float],
    steps: int | None = None,
    warmup_epochs: float | None = None,
    cosine: bool = True,
) -> Schedule:
    """The schedule of `epochs` passes, or of exactly `steps` optimizer steps in as many equal parts.

    `accumulate` batches make a step. The warm-up lasts `warmup_epochs`, else what `strength` says but at least 100
    batches; never more than half of the training.
    """
    per_epoch = batches_per_pass if steps is None else steps * accumulate / epochs
    if warmup_epochs is None:
        warmup = max(round(strength["warmup_epochs"] * per_epoch), _LEAST_WARMUP)
    else:
        warmup = round(warmup_epochs * per_epoch)
    warmup = min(warmup, int(epochs * per_epoch / 2))
    starts, ends, gathered, taken = [0], bytearray(), 0, 0
    for epoch in range(epochs):
        due = None if steps is None else steps * (epoch + 1) // epochs
        while True:
            number = len(ends)
            wanted = accumulate if number >= warmup else round(1 + (accumulate - 1) * number / warmup)
            gathered += 1
            last = due is None and number + 1 - starts[-1] == batches_per_pass
            step = gathered >= wanted or last
            ends.append(step)
            gathered, taken = (0, taken + 1) if step else (gathered, taken)
            if last or (step and taken == due):
                break
        starts.append(len(ends))
    return Schedule(starts, np.frombuffer(bytes(ends), np.bool_), warmup, cosine, strength)
