"""One YOLOv5 model as it predicts: layers in the fast arithmetic, boxes decoded in float32."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from depers.detection import yolo
from depers.detection.fused_convolution import join_activations
from depers.detection.known_image import (
    TOLERANCES,
    compute_reference,
    draw_known_image,
    measure_deviation,
    run_layers,
)
from depers.errors import UserError
from depers.imaging.headers import ImageError

_ALL = slice(None)
# YOLOv5's `--augment`: scale, whether mirrored, and which levels of the head count: the coarsest not at full size, the
# finest not at the smallest, where each adds little but false boxes.
_VIEWS = ((1.0, False, slice(None, -1)), (0.83, True, _ALL), (0.67, False, slice(1, None)))
_MEAN = 0.447  # ImageNet's, the border of scaled images


class NonFiniteError(ImageError):
    """A detector gave NaN or infinity, which no threshold lets through: it says nothing about the image."""

    def __init__(self) -> None:
        super().__init__("makes the detector give numbers that are not finite")


class Predictions(NamedTuple):
    """What a model finds in a batch: the image of each box, int64 (N,), and the boxes, float32 (N, 5 + classes).

    A box is cx, cy, w, h in pixels, objectness, classes. `sums` float32 (B,), of all that the model says about each
    image, is finite where all of it is.
    """

    images: Tensor
    rows: Tensor
    sums: Tensor


class Network:
    """One model, ready to predict: layers up to the head in the fast arithmetic, boxes decoded in float32."""

    def __init__(
        self, model: nn.Module, class_ids: dict[int, int], device: torch.device, arithmetic: torch.dtype
    ) -> None:
        """Take a model, which is changed in place, and its class ids with those that they become.

        The `arithmetic` is float32, bfloat16, or on a GPU float16 where that is safe.
        """
        layers: Any = yolo.fuse(model).model
        head = layers[-1].float().to(device)
        dtype = torch.float32 if arithmetic == torch.float16 else arithmetic
        self.body = [layer.to(device, dtype, memory_format=torch.channels_last) for layer in layers[:-1]]
        if dtype == torch.bfloat16 and device.type == "cpu":
            join_activations(self.body)
        self.arithmetic, self.dtype, self.device = arithmetic, dtype, device
        model_ids = sorted(class_ids)
        self.targets = torch.tensor([class_ids[index] for index in model_ids], dtype=torch.int64, device=device)
        self.stride = int(head.stride.max())
        self.levels = [_Level(head, index, model_ids) for index in range(head.nl)]

    def __call__(self, images: Tensor, confidence: float, levels: slice = _ALL) -> Predictions:
        """Return the boxes whose objectness is above `confidence`, since no score can be higher.

        `images` are float (B, 3, H, W) in 0…1. `levels` of the head answer, from fine to coarse.
        """
        return self.predict_rows(self.compute_features(images), confidence, levels)

    def compute_features(self, images: Tensor) -> list[Any]:
        """Return what every layer below the head makes of the images."""
        with torch.autocast("cuda", torch.float16, enabled=self.arithmetic == torch.float16):
            return run_layers(self.body, images.to(self.dtype, memory_format=torch.channels_last))

    @torch.inference_mode()
    def measure_deviation(self, reference: Sequence[Tensor]) -> float:
        """Return how far the network is off on the known image, as a share of the `reference`; NaN if not finite."""
        outputs = self.compute_features(draw_known_image(self.stride).to(self.device))
        logits = [level.compute_raw(outputs[level.source]) - level.bias[:, None, None] for level in self.levels]
        expected = [logits[..., level.outputs] for level, logits in zip(self.levels, reference, strict=True)]
        return measure_deviation(logits, expected)

    def predict_rows(self, outputs: Sequence[Any], confidence: float, levels: slice = _ALL) -> Predictions:
        """Return the predictions of the head, from the outputs of the layers below it."""
        return _concatenate([level(outputs[level.source], confidence) for level in self.levels[levels]])

    def predict_augmented(self, images: Tensor, confidence: float) -> Predictions:
        """Return the predictions of all `_VIEWS` of the images together, in pixels of `images`."""
        predictions = []
        for scale, mirrored, levels in _VIEWS:
            view = scale_images(images.flip(3) if mirrored else images, scale, self.stride)
            prediction = self(view, confidence, levels)
            prediction.rows[:, :4] /= scale
            if mirrored:
                prediction.rows[:, 0] = images.shape[3] - prediction.rows[:, 0]
            predictions.append(prediction)
        return _concatenate(predictions)


def _concatenate(predictions: Sequence[Predictions]) -> Predictions:
    """Return several predictions about the same images as one."""
    images, rows, sums = zip(*predictions, strict=True)
    return Predictions(torch.cat(images), torch.cat(rows), torch.stack(sums).sum(0))


class _Level:
    """One level of the head (YOLOv5 6.0), in float32, since 8 bits of mantissa do not hold a pixel coordinate.

    The objectness is computed everywhere, all else only where that is high enough: with 80 classes the rest of the
    head costs as much as the network below it.
    """

    def __init__(self, head: Any, index: int, class_ids: Sequence[int]) -> None:
        self.outputs = outputs = [0, 1, 2, 3, 4, *(5 + class_id for class_id in class_ids)]
        convolution, self.source = head.m[index], head.f[index]  # 1 × 1: a product with every pixel's features
        self.weight = convolution.weight.detach().reshape(head.na, head.no, -1)[:, outputs]  # (anchors, outputs, C)
        self.bias = convolution.bias.detach().reshape(head.na, head.no)[:, outputs]
        self.stride = head.stride[index]
        self.anchors_wh = head.anchors[index] * self.stride

    def __call__(self, features: Tensor, confidence: float) -> Predictions:
        """Return for features (B, C, H, W) the predictions, as `Network` does.

        The sums have the objectness, which one feature that is not finite makes so too, and all of each box.
        """
        pixels = features.permute(0, 2, 3, 1).float()
        logits = functional.linear(pixels, self.weight[:, 4], self.bias[:, 4])
        likely = logits.sigmoid() > confidence
        images, rows, sums = [], [], logits.sum(dim=(1, 2, 3))
        for anchor, anchor_wh in enumerate(self.anchors_wh):
            image, y, x = likely[..., anchor].nonzero(as_tuple=True)
            # In float64, which rounds away in what order libraries add, and where their vectors end: that depends on
            # how many boxes all images of a batch have, and an image's boxes must not depend on its neighbors.
            features_64 = pixels[image, y, x].double()
            raw_64 = functional.linear(features_64, self.weight[anchor].double(), self.bias[anchor].double())
            sums = sums.index_add(0, image, raw_64.sum(dim=1).float())
            raw = raw_64.sigmoid().float()
            center = (raw[:, :2] * 2 - 0.5 + torch.stack((x, y), dim=1)) * self.stride
            size = (raw[:, 2:4] * 2) ** 2 * anchor_wh
            images.append(image)
            rows.append(torch.cat((center, size, raw[:, 4:]), dim=1))
        return Predictions(torch.cat(images), torch.cat(rows), sums)

    def compute_raw(self, features: Tensor) -> Tensor:
        """Return all outputs before the sigmoid, float32 (B, anchors, H, W, 5 + requested classes).

        `features` are (B, C, H, W).
        """
        pixels = features.permute(0, 2, 3, 1).float()
        return torch.stack(
            [functional.linear(pixels, weight, bias) for weight, bias in zip(self.weight, self.bias, strict=True)], 1
        )


def scale_images(images: Tensor, scale: float, stride: int) -> Tensor:
    """Return images (B, 3, H, W) at `scale` of their size, padded on the right and below to multiples of `stride`."""
    if scale == 1:
        return images
    height, width = images.shape[2:]
    small = functional.interpolate(
        images.float(), (int(height * scale), int(width * scale)), mode="bilinear", align_corners=False
    )
    wide, high = (math.ceil(side * scale / stride) * stride for side in (width, height))
    return functional.pad(small, (0, wide - small.shape[3], 0, high - small.shape[2]), value=_MEAN)


def make_network(
    source: str,
    load: Callable[[], nn.Module],
    class_ids: dict[int, int],
    device: torch.device,
    arithmetics: Sequence[torch.dtype],
) -> Network:
    """Return the network in the first of the `arithmetics` in which it says of a known image what float32 says.

    `load` gives the model, once for each that is tried. Raise UserError, which names `source`, where none does.
    """
    model = load()
    reference = compute_reference(model, source)
    deviation, tried = 0.0, arithmetics[0]
    for tried in arithmetics:
        network = Network(model if tried == arithmetics[0] else load(), class_ids, device, tried)
        deviation = network.measure_deviation(reference)
        if deviation <= TOLERANCES[tried]:
            return network
    text = f"{source}: {name_arithmetic(tried)} on this machine must give what float32 gives on a known image"
    limit = TOLERANCES[tried]
    raise UserError(f"{text} to {limit:.1%}, but is {deviation:.1%} off: try another --precision or --device")


def name_arithmetic(arithmetic: torch.dtype) -> str:
    """Return the name of a type of numbers, as `--precision` has it."""
    return str(arithmetic).removeprefix("torch.")
