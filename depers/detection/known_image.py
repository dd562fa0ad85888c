"""A known image, on which the fast arithmetic of a machine has to say what float32 says before it is trusted.

Libraries for CPUs and GPUs choose their kernels by the machine: what is right here can be wrong, or not finite, there.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from depers.errors import UserError, one_line

TOLERANCES = {torch.float32: 0.001, torch.bfloat16: 0.15, torch.float16: 0.15}
"""How far the features' part of the head's outputs may be off, as a share of it (root mean squares).

Measured: float32 below 0.00001, bfloat16 0.04.
"""
_LEAST = 0.001  # of an output before the sigmoid: so little matters nowhere, and an untrained head gives less than that
_SIZE_WH = (320, 192)


def draw_known_image(stride: int) -> Tensor:
    """Return an image of noise in three sizes, float32 (1, 3, H, W) in 0…1, its sides multiples of `stride`."""
    width, height = (math.ceil(side / stride) * stride for side in _SIZE_WH)
    generator = np.random.Generator(np.random.Philox(0))
    grains = [generator.random((cells * height // width + 1, cells, 3), np.float32) for cells in (4, 16, 64)]
    rgb = sum(cv2.resize(grain, (width, height), interpolation=cv2.INTER_LINEAR) for grain in grains) / len(grains)
    return torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]


def run_layers(layers: Sequence[Any], images: Any) -> list[Any]:
    """Return what each layer of a YOLOv5 model below its head gives."""
    x, outputs = images, list[Any]()
    for layer in layers:
        if layer.f != -1:
            source = layer.f
            x = outputs[source] if isinstance(source, int) else [x if j == -1 else outputs[j] for j in source]
        x = layer(x)
        outputs.append(x)
    return outputs


@torch.inference_mode()
def compute_reference(model: nn.Module, source: str) -> list[Tensor]:
    """Return what the model as it was loaded says of the known image, layer by layer in float32, on the CPU.

    That is per level the head's outputs before the sigmoid, without the bias, float32 (1, anchors, H, W, 5 + C). Raise
    UserError, which names `source`, for weights that hold or give a number that is not finite, and for layers that do
    not fit together: on the tiny image on which they were tried as they were read, one number can fit everywhere.
    """
    for name, values in model.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            raise UserError(f"{source}: weights must be finite, but {name} holds NaN or infinity")
    layers: Any = model.model
    *body, head = layers
    image = draw_known_image(int(head.stride.max()))
    try:
        outputs = run_layers(body, image)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        size = f"{image.shape[3]} × {image.shape[2]}"
        raise UserError(f"{source}: layers must fit together on an image of {size}: {one_line(error)}") from None
    levels = []
    for convolution, index in zip(head.m, head.f, strict=True):
        logits = convolution(outputs[index]) - convolution.bias[:, None, None]
        count, _, height, width = logits.shape
        levels.append(logits.reshape(count, head.na, head.no, height, width).permute(0, 1, 3, 4, 2))
    if not all(bool(logits.isfinite().all()) for logits in levels):
        raise UserError(f"{source}: weights must give numbers, but give NaN or infinity on a known image")
    return levels


def measure_deviation(logits: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Return how far the outputs of any level are off, as a share of the reference's; NaN where one is not finite."""
    deviations = []
    for level, expected in zip(logits, reference, strict=True):
        difference, size = (_root_mean_square(values) for values in (level.cpu() - expected, expected))
        if not math.isfinite(difference):
            return math.nan
        deviations.append(max(0.0, difference - _LEAST) / (size + _LEAST))
    return max(deviations)


def _root_mean_square(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())
