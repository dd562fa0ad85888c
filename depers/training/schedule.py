"""The course of a training, batch by batch: where optimizer steps end, and the rates, as YOLOv5 sets them.

All of it is known before the first batch, so a resumed run goes on where the schedule says.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MIN_WARMUP = 100  # batches, as YOLOv5


class Rates(NamedTuple):
    """The rates of the optimizer at one batch: learning rates of weights and of biases, and the momentum."""

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
    fall: str
    hyp: Mapping[str, float]

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return int(self.ends.sum())

    def compute_rates(self, batch: int) -> Rates:
        """Return the rates at a batch, counted from the training's first (YOLOv5's lr0, lrf, momentum, warmup_…)."""
        hyp = self.hyp
        progress, final = batch / len(self.ends), hyp["lrf"]
        share = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[self.fall]
        rate = hyp["lr0"] * (final + (1 - final) * share)
        if batch >= self.warmup:
            return Rates(rate, rate, hyp["momentum"])
        rise = (batch + 1) / self.warmup
        bias = hyp["warmup_bias_lr"] + rise * (rate - hyp["warmup_bias_lr"])
        return Rates(rise * rate, bias, hyp["warmup_momentum"] + rise * (hyp["momentum"] - hyp["warmup_momentum"]))


def make_schedule(
    *,
    epochs: int,
    batches_per_pass: int,
    accumulate: int,
    hyp: Mapping[str, float],
    steps: int | None = None,
    warmup_epochs: float | None = None,
    fall: str = "cosine",
) -> Schedule:
    """Plan `epochs` passes, or exactly `steps` optimizer steps in as many equal parts.

    `accumulate` batches make a step. `fall`: cosine, linear, or constant after the warm-up, which lasts
    `warmup_epochs`, else what `hyp` says but at least 100 batches; never more than half of the training.
    """
    per_epoch = batches_per_pass if steps is None else steps * accumulate / epochs
    if warmup_epochs is None:
        warmup = max(round(hyp["warmup_epochs"] * per_epoch), _MIN_WARMUP)
    else:
        warmup = round(warmup_epochs * per_epoch)
    warmup = min(warmup, int(epochs * per_epoch / 2))
    starts, ends, batches_since_step, step_count = [0], bytearray(), 0, 0
    for epoch in range(epochs):
        if steps is None and not batches_since_step and len(ends) >= warmup:  # from here on all epochs are alike
            numbers = np.arange(1, batches_per_pass + 1)
            pattern = ((numbers % accumulate == 0) | (numbers == batches_per_pass)).tobytes()
            starts += range(
                starts[-1] + batches_per_pass, starts[-1] + (epochs - epoch) * batches_per_pass + 1, batches_per_pass
            )
            ends += pattern * (epochs - epoch)
            break
        due_steps = None if steps is None else steps * (epoch + 1) // epochs
        while True:
            number = len(ends)
            batches_per_step = accumulate if number >= warmup else round(1 + (accumulate - 1) * number / warmup)
            batches_since_step += 1
            pass_ends = due_steps is None and number + 1 - starts[-1] == batches_per_pass
            is_step = batches_since_step >= batches_per_step or pass_ends
            ends.append(is_step)
            if is_step:
                batches_since_step, step_count = 0, step_count + 1
            if pass_ends or (is_step and step_count == due_steps):
                break
        starts.append(len(ends))
    return Schedule(starts, np.frombuffer(bytes(ends), np.bool_), warmup, fall, hyp)
