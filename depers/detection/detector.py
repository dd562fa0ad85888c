"""Prediction with one or more YOLOv5 models on letterboxed images; no yolov5 import beyond loading."""

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from depers.detection import yolo
from depers.detection.detections import Detections
from depers.detection.fused_convolution import join_activations
from depers.detection.settings import InferenceSettings, Weights
from depers.errors import UserError, typed_reason

MAX_CANDIDATES = 30_000  # per image, before suppression; as YOLOv5
_ALL = slice(None)
_CLASS_STEP = 7680.0  # pixels, YOLOv5's
# YOLOv5's `--augment`: scale, whether mirrored, and which levels of the head count: the coarsest not at full size, the
# finest not at the smallest, where each adds little but false boxes.
_VIEWS = ((1.0, False, slice(None, -1)), (0.83, True, _ALL), (0.67, False, slice(1, None)))
_MEAN = 0.447  # ImageNet's, the border of scaled images


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 itself (AVX512-BF16 or AMX); emulated, it is slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


class _Network:
    """One model, ready to predict: layers up to the head in the fast arithmetic, boxes decoded in float32."""

    def __init__(self, model: nn.Module, class_ids: dict[int, int], device: torch.device, dtype: torch.dtype) -> None:
        layers: Any = yolo.fuse(model).model
        head = layers[-1].float().to(device)
        self.body = [layer.to(device, dtype, memory_format=torch.channels_last) for layer in layers[:-1]]
        if dtype == torch.bfloat16 and device.type == "cpu":
            join_activations(self.body)
        self.dtype, self.device = dtype, device
        model_ids = sorted(class_ids)
        self.targets = torch.tensor([class_ids[index] for index in model_ids], dtype=torch.int64, device=device)
        self.stride = int(head.stride.max())
        self.levels = [_Level(head, index, model_ids) for index in range(head.nl)]

    def __call__(self, images: Tensor, confidence: float, levels: slice = _ALL) -> tuple[Tensor, Tensor]:
        """Return the image of each box, int64 (N,), and the boxes, float32 (N, 5 + requested classes).

        `images` are float (B, 3, H, W) in 0…1; a box is cx, cy, w, h in pixels, objectness, classes. There are those
        whose objectness is above `confidence`, since no score can be higher. `levels` of the head answer, from fine to
        coarse.
        """
        return self.predict_rows(self.compute_features(images), confidence, levels)

    def compute_features(self, images: Tensor) -> list[Any]:
        """Return what every layer below the head makes of the images."""
        x: Any = images.to(self.dtype, memory_format=torch.channels_last)
        outputs: list[Any] = []
        with torch.autocast("cuda", torch.float16, enabled=self.device.type == "cuda"):
            for layer in self.body:
                if layer.f != -1:
                    source = layer.f
                    x = outputs[source] if isinstance(source, int) else [x if j == -1 else outputs[j] for j in source]
                x = layer(x)
                outputs.append(x)
        return outputs

    def predict_rows(self, outputs: Sequence[Any], confidence: float, levels: slice = _ALL) -> tuple[Tensor, Tensor]:
        """Return the predictions of the head, from the outputs of the layers below it."""
        return _concatenate([level(outputs[level.source], confidence) for level in self.levels[levels]])

    def predict_augmented(self, images: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
        """Return the predictions of all `_VIEWS` of the images together, in pixels of `images`."""
        predictions = []
        for scale, mirrored, levels in _VIEWS:
            view = scale_images(images.flip(3) if mirrored else images, scale, self.stride)
            image, rows = self(view, confidence, levels)
            rows[:, :4] /= scale
            if mirrored:
                rows[:, 0] = images.shape[3] - rows[:, 0]
            predictions.append((image, rows))
        return _concatenate(predictions)


def _concatenate(predictions: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the images and the rows of several predictions, one after another."""
    return torch.cat([image for image, _ in predictions]), torch.cat([rows for _, rows in predictions])


class _Level:
    """One level of the head (YOLOv5 6.0), in float32, since 8 bits of mantissa do not hold a pixel coordinate.

    The objectness is computed everywhere, all else only where that is high enough: with 80 classes the rest of the
    head costs as much as the network below it.
    """

    def __init__(self, head: Any, index: int, class_ids: Sequence[int]) -> None:
        outputs = [0, 1, 2, 3, 4, *(5 + class_id for class_id in class_ids)]
        convolution, self.source = head.m[index], head.f[index]  # 1 × 1: a product with every pixel's features
        self.weight = convolution.weight.detach().reshape(head.na, head.no, -1)[:, outputs]  # (anchors, outputs, C)
        self.bias = convolution.bias.detach().reshape(head.na, head.no)[:, outputs]
        self.stride = head.stride[index]
        self.anchors_wh = head.anchors[index] * self.stride

    def __call__(self, features: Tensor, confidence: float) -> tuple[Tensor, Tensor]:
        """Return for features (B, C, H, W) the image of each box, and its row, as `_Network` does."""
        pixels = features.permute(0, 2, 3, 1).float()
        likely = functional.linear(pixels, self.weight[:, 4], self.bias[:, 4]).sigmoid() > confidence
        images, rows = [], []
        for anchor, anchor_wh in enumerate(self.anchors_wh):
            image, y, x = likely[..., anchor].nonzero(as_tuple=True)
            raw = functional.linear(pixels[image, y, x], self.weight[anchor], self.bias[anchor]).sigmoid()
            center = (raw[:, :2] * 2 - 0.5 + torch.stack((x, y), dim=1)) * self.stride
            size = (raw[:, 2:4] * 2) ** 2 * anchor_wh
            images.append(image)
            rows.append(torch.cat((center, size, raw[:, 4:]), dim=1))
        return torch.cat(images), torch.cat(rows)

    def compute_raw(self, features: Tensor) -> Tensor:
        """Return all outputs before the sigmoid, float32 (B, anchors, H, W, 5 + requested classes).

        `features` are (B, C, H, W).
        """
        pixels = features.permute(0, 2, 3, 1).float()
        return torch.stack(
            [functional.linear(pixels, weight, bias) for weight, bias in zip(self.weight, self.bias, strict=True)], 1
        )


class DetectorEnsemble:
    """One or more models that answer as one: classes united by name, boxes of all models suppressed together."""

    def __init__(
        self,
        weights: Sequence[Weights],
        checkpoints: Sequence[bytes],
        classes: Sequence[str],
        settings: InferenceSettings,
    ) -> None:
        """Load the models. `checkpoints` are the bytes of each `weights`, `classes` the names to detect (empty: all).

        Raise UserError.
        """
        models = [yolo.load(source.uri, data) for source, data in zip(weights, checkpoints, strict=True)]
        maps = [_resolve_class_map(source, model.names) for source, model in zip(weights, models, strict=True)]  # type: ignore[arg-type]
        names = list(dict.fromkeys(name for mapping in maps for name in mapping.values()))
        for name in classes:
            if name not in names:
                raise UserError(f"--classes must be among those of the weights ({', '.join(names)}), but got {name!r}")
        self.class_names = [name for name in names if not classes or name in classes]
        self.model_names = [source.name for source in weights]
        self.settings = settings
        device = torch.device(settings.device)
        fast = settings.precision == "bfloat16" or (settings.precision == "auto" and cpu_has_bfloat16())
        dtype = torch.bfloat16 if fast and device.type == "cpu" else torch.float32
        ids = {name: index for index, name in enumerate(self.class_names)}
        self._networks = [
            _Network(model, {i: ids[name] for i, name in mapping.items() if name in ids}, device, dtype)
            for model, mapping in zip(models, maps, strict=True)
        ]
        self.stride = max(network.stride for network in self._networks)
        if settings.imgsz % self.stride:
            raise UserError(f"--imgsz must be a multiple of {self.stride}, but got {settings.imgsz}")

    def __call__(self, canvases: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return detections in canvas pixels for letterboxed uint8 RGB images (H, W, 3), in batches of a shape."""
        results: list[Detections | None] = [None] * len(canvases)
        shapes = sorted({canvas.shape for canvas in canvases})
        for shape in shapes:
            indices = [i for i, canvas in enumerate(canvases) if canvas.shape == shape]
            batch = np.stack([canvases[i] for i in indices])
            for i, detections in zip(indices, self._predict(batch), strict=True):
                results[i] = detections
        return [detections if detections is not None else Detections.none() for detections in results]

    @torch.inference_mode()
    def detect_with_raw(self, batch: NDArray[np.uint8]) -> tuple[list[Detections], list[Tensor]]:
        """Return detections of the only model for images of one shape, uint8 RGB (B, H, W, 3), and what its head says.

        That is for a loss: per level all outputs before the sigmoid, float32 (B, anchors, rows, columns, 5 + C).
        """
        (network,) = self._networks
        outputs = network.compute_features(self._pixels(batch))
        split = select_candidates(
            *network.predict_rows(outputs, self.settings.confidence), len(batch), network.targets, self.settings
        )
        detections = [_as_detections(suppress(functional.pad(rows, (0, 1)), self.settings)) for rows in split]
        return detections, [level.compute_raw(outputs[level.source]) for level in network.levels]

    def _pixels(self, batch: NDArray[np.uint8]) -> Tensor:
        device = self._networks[0].device
        return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).to(self._networks[0].dtype).div_(255)

    @torch.inference_mode()
    def _predict(self, batch: NDArray[np.uint8]) -> list[Detections]:
        images = self._pixels(batch)
        rows_by_image: list[list[Tensor]] = [[] for _ in batch]
        for index, network in enumerate(self._networks):
            if not len(network.targets):
                continue
            predict = network.predict_augmented if self.settings.augment else network
            images_of, predictions = predict(images, self.settings.confidence)
            split = select_candidates(images_of, predictions, len(batch), network.targets, self.settings)
            for image, rows in enumerate(split):
                rows_by_image[image].append(torch.cat((rows, torch.full_like(rows[:, :1], index)), dim=1))
        return [
            _as_detections(suppress(torch.cat(rows), self.settings)) if rows else Detections.none()
            for rows in rows_by_image
        ]


def _resolve_class_map(weights: Weights, names: dict[int, str]) -> dict[int, str]:
    """Return class id of the model → the name it stands for. Raise UserError for a class that the model has not."""
    for name in weights.class_map:
        if name not in names.values():
            raise UserError(
                f"{weights.uri}: the class map names {name!r}, but the model's classes are {', '.join(names.values())}"
            )
    if not weights.class_map:
        return dict(names)
    return {index: weights.class_map[name] for index, name in names.items() if name in weights.class_map}


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


def select_candidates(
    image: Tensor, predictions: Tensor, count: int, targets: Tensor, settings: InferenceSettings
) -> list[Tensor]:
    """Return per image the rows above the confidence threshold, float32 (N, 6): x0, y0, x1, y1, confidence, class.

    `image` int64 (M,) says which of `count` images each row of `predictions` float32 (M, 5 + C) belongs to; a box
    counts for its best class, or with `multi_label` for each class.
    """
    order = image.argsort(stable=True)
    image, predictions = image[order], predictions[order]
    scores = predictions[:, 5:] * predictions[:, 4:5]
    if settings.multi_label:
        row, column = (scores > settings.confidence).nonzero(as_tuple=True)
        confidence = scores[row, column]
    else:
        best, best_column = scores.max(dim=1)
        (row,) = (best > settings.confidence).nonzero(as_tuple=True)
        confidence, column = best[row], best_column[row]
    center, half = predictions[row, :2], predictions[row, 2:4] / 2
    rows = torch.cat((center - half, center + half, confidence[:, None], targets[column][:, None].float()), dim=1)
    return list(torch.split(rows, torch.bincount(image[row], minlength=count).tolist()))


def suppress(rows: Tensor, settings: InferenceSettings) -> Tensor:
    """Return the rows that greedy non-maximum suppression per class leaves, as `select_candidates` gives them.

    Any further columns follow along.
    """
    rows = rows[rows[:, 4].argsort(descending=True, stable=True)[:MAX_CANDIDATES]]
    if not len(rows):
        return rows
    # Boxes of different classes are moved apart by as much as in YOLOv5, so that rounding decides ties as there.
    step = (rows[:, :4].max() - rows[:, :4].min() + 1).clamp(min=_CLASS_STEP)
    boxes = rows[:, :4] + rows[:, 5:6] * step
    indices: Tensor = _load_nms()(boxes, rows[:, 4], settings.iou_threshold)
    return rows[indices[: settings.max_detections]]


def _load_nms() -> Any:
    """Return torchvision's operator from its library file: importing the package itself would take 5 s."""
    if not hasattr(torch.ops.torchvision, "nms"):
        spec = importlib.util.find_spec("torchvision")
        assert spec is not None and spec.origin is not None
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))  # type: ignore[no-untyped-call]
    return torch.ops.torchvision.nms


def _as_detections(rows: Tensor) -> Detections:
    array = rows.float().cpu().numpy()
    return Detections(array[:, :4], array[:, 4], array[:, 5].astype(np.int64), array[:, 6].astype(np.int64))


def detect_canvases(canvases: Sequence[NDArray[np.uint8]], detector: DetectorEnsemble) -> list[Detections | str]:
    """Return the detections in each canvas, or why there are none; a batch that fails is tried again one by one."""
    try:
        return list(detector(canvases)) if canvases else []
    except Exception as error:
        if len(canvases) > 1:
            return [answer for canvas in canvases for answer in detect_canvases([canvas], detector)]
        return [f"detection failed ({typed_reason(error)})"]
