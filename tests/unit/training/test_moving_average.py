"""The average of weights: YOLOv5's own, and one over a share of the steps."""

import numpy as np
import pytest
import torch
from torch import nn

from depers.training.moving_average import MovingAverage


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_without_a_share_it_is_that_of_yolov5() -> None:
    model, decay = make_model(), 0.0
    average = MovingAverage(model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 30):
        with torch.no_grad():
            for value in model.state_dict().values():
                value.add_(1 if value.dtype is torch.int64 else torch.randn_like(value))
        average.update()
        decay = 0.9999 * (1 - np.exp(-step / 2000))
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point:
                expected[name] = expected[name] * decay + value * (1 - decay)
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("steps", [200, 1000])
def test_the_mean_age_is_the_share_of_the_steps(share: float, steps: int) -> None:
    """Of weights that are the number of their step, the average is that many steps behind."""
    model = nn.Linear(1, 1).double()
    average = MovingAverage(model, share)
    for step in range(1, steps + 1):
        nn.init.constant_(model.weight, step)
        average.update()
    assert (steps - average.model.weight.item()) / steps == pytest.approx(share, rel=0.1)
