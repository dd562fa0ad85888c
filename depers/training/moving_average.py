"""The average of a model's weights over the steps of a training, which is what is validated and kept."""

import math
from copy import deepcopy
from typing import Any

import torch

_DECAY, _RAMP = 0.9999, 2000  # as YOLOv5: of the last ten thousand steps; in the beginning of fewer


class MovingAverage:
    """A moving average of all floating-point numbers in a model's state: weights and statistics.

    YOLOv5's own fits trainings of ten thousand steps: after some hundred it is hardly an average at all. With `share`
    it covers that share of the steps so far, however many these are: the mean age of what is averaged is `share` of
    them (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", equation 3).
    """

    def __init__(self, model: Any, share: float | None = None) -> None:
        """Take the model that learns, and perhaps the share of the steps to average over, in 0…0.5."""
        self.model = deepcopy(model).eval()
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.updates = 0
        self._share = share
        averages, values = self.model.state_dict(), model.state_dict()
        names = [name for name, value in averages.items() if value.dtype.is_floating_point]
        self._averages = [averages[name] for name in names]
        self._values = [values[name].detach() for name in names]

    def compute_decay(self) -> float:
        """Return how much of the average stays at the latest update."""
        if self._share is None:
            return _DECAY * (1 - math.exp(-self.updates / _RAMP))
        return float((1 - 1 / self.updates) ** (1 / self._share - 1))

    def update(self) -> None:
        """Move the average towards the model as it is now."""
        self.updates += 1
        torch._foreach_lerp_(self._averages, self._values, 1 - self.compute_decay())

    def describe(self, model: Any) -> None:
        """Take over what describes the model: its architecture, classes and strides."""
        for name in ("yaml", "nc", "names", "stride"):
            setattr(self.model, name, getattr(model, name))
