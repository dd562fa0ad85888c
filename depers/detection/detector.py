"""Prediction with one or more YOLOv5 models on letterboxed images; no yolov5 import beyond loading."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from depers.detection import contexts, yolo
from depers.detection.detections import Detections
from depers.detection.network import NonFiniteError, Predictions, make_network, name_arithmetic
from depers.detection.settings import InferenceSettings, Weights
from depers.detection.suppression import suppress_batch
from depers.errors import UserError, typed_reason
from depers.imaging.headers import ImageError


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU multiplies bfloat16 itself (AVX512-BF16 or AMX); emulated, it is slower than float32."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def list_arithmetics(device: torch.device, precision: str, chosen: str = "") -> list[torch.dtype]:
    """Return the arithmetics for a device and a `--precision`, the one to be used first, then what it falls back to.

    `chosen` is the one that a job has chosen for all of its workers, if it has.
    """
    fast = torch.bfloat16 if device.type == "cpu" else torch.float16
    if precision == "float32" or chosen == "float32":
        return [torch.float32]
    if precision == "auto" and device.type == "cpu":
        return [fast, torch.float32] if chosen or cpu_has_bfloat16() else [torch.float32]
    return [fast] if device.type == "cpu" else [fast, torch.float32]


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
        models: list[Any] = [yolo.load(source.uri, data) for source, data in zip(weights, checkpoints, strict=True)]
        maps = [_resolve_class_map(source, model.names) for source, model in zip(weights, models, strict=True)]
        names = list(dict.fromkeys(name for mapping in maps for name in mapping.values()))
        for name in classes:
            if name not in names:
                raise UserError(f"--classes must be among those of the weights ({', '.join(names)}), but got {name!r}")
        self.class_names = [name for name in names if not classes or name in classes]
        self.model_names = [source.name for source in weights]
        rules = [rule for rule in settings.within if rule[0] in self.class_names]
        for rule in rules:
            if rule[1] not in names:
                given = f"the weights give {', '.join(names)}"
                raise UserError(f"--within {'='.join(rule)}: the context must be a class of the weights, but {given}")
        context_names = [name for name in names if name not in self.class_names and name in dict(rules).values()]
        ids = {name: index for index, name in enumerate([*self.class_names, *context_names])}
        self.contexts = {ids[name]: ids[context] for name, context in rules}
        """Ids of classes that have a context, with the context's: those of `class_names`, or above."""
        if rules:
            settings = replace(settings, confidence=min(settings.confidence, contexts.CONTEXT_CONFIDENCE))
        self.settings = settings
        device = torch.device(settings.device)
        arithmetics = list_arithmetics(device, settings.precision, settings.arithmetic)
        self._networks = [
            make_network(
                source.uri,
                partial(_take_or_load, [model], source.uri, data),
                {index: ids[name] for index, name in mapping.items() if name in ids},
                device,
                arithmetics,
            )
            for source, data, model, mapping in zip(weights, checkpoints, models, maps, strict=True)
        ]
        self.warnings = [
            f"warning: {source.uri}: computed in {name_arithmetic(network.arithmetic)}, since"
            f" {name_arithmetic(arithmetics[0])} on this machine does not give the same on a known image"
            for source, network in zip(weights, self._networks, strict=True)
            if network.arithmetic != arithmetics[0]
        ]
        self.arithmetic = "+".join(sorted({name_arithmetic(network.arithmetic) for network in self._networks}))
        self.stride = max(network.stride for network in self._networks)
        if settings.imgsz % self.stride:
            raise UserError(f"--imgsz must be a multiple of {self.stride}, but got {settings.imgsz}")

    def __call__(self, canvases: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return detections in canvas pixels for letterboxed uint8 RGB images (H, W, 3), in batches of a shape.

        All that are above the threshold, also contexts: they may be more than `max_detections`. Raise
        NonFiniteError where a model gives numbers that are not finite about any of them, ImageError where there are
        more than can be suppressed.
        """
        results: list[Detections | None] = [None] * len(canvases)
        shapes = sorted({canvas.shape for canvas in canvases})
        for shape in shapes:
            indices = [i for i, canvas in enumerate(canvases) if canvas.shape == shape]
            batch = np.stack([canvases[i] for i in indices])
            for i, detections in zip(indices, self._predict(batch), strict=True):
                results[i] = detections
        return [detections if detections is not None else Detections.none() for detections in results]

    @torch.inference_mode()
    def detect_with_raw(self, batch: Tensor) -> tuple[list[Detections], list[Tensor]]:
        """Return detections of the only model for images of one shape, uint8 RGB (B, H, W, 3), and what its head says.

        That is for a loss: per level all outputs before the sigmoid, float32 (B, anchors, rows, columns, 5 + C).
        """
        (network,) = self._networks
        outputs = network.compute_features(self._to_pixels(batch))
        predictions = network.predict_rows(outputs, self.settings.confidence)
        split = select_candidates(predictions, len(batch), network.targets, self.settings)
        rows_by_image = suppress_batch([functional.pad(rows, (0, 1)) for rows in split], self.settings)
        kept = [rows[: self.settings.max_detections] for rows in rows_by_image]
        return _read_detections(kept), [level.compute_raw(outputs[level.source]) for level in network.levels]

    def _to_pixels(self, batch: Tensor) -> Tensor:
        dtypes = [network.dtype for network in self._networks]
        dtype = torch.float32 if torch.float32 in dtypes else dtypes[0]
        on_device = batch.to(self._networks[0].device, non_blocking=True)
        return on_device.permute(0, 3, 1, 2).to(dtype).div_(255)

    @torch.inference_mode()
    def _predict(self, batch: NDArray[np.uint8]) -> list[Detections]:
        images = self._to_pixels(torch.from_numpy(batch))
        rows_by_image: list[list[Tensor]] = [[] for _ in batch]
        for index, network in enumerate(self._networks):
            if not len(network.targets):
                continue
            predict = network.predict_augmented if self.settings.augment else network
            predictions = predict(images, self.settings.confidence)
            if not bool(predictions.sums.isfinite().all()):
                raise NonFiniteError
            split = select_candidates(predictions, len(batch), network.targets, self.settings, len(self.class_names))
            for image, rows in enumerate(split):
                rows_by_image[image].append(torch.cat((rows, torch.full_like(rows[:, :1], index)), dim=1))
        if not any(rows_by_image):
            return [Detections.none() for _ in batch]
        return _read_detections(suppress_batch([torch.cat(rows) for rows in rows_by_image], self.settings))


def _take_or_load(models: list[nn.Module], source: str, data: bytes) -> nn.Module:
    """Return the model that is there, once; after that, since it was changed, another from the checkpoint."""
    return models.pop() if models else yolo.load(source, data)


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


def select_candidates(
    predictions: Predictions, count: int, targets: Tensor, settings: InferenceSettings, class_count: int | None = None
) -> list[Tensor]:
    """Return per image the rows above the confidence threshold, float32 (N, 6): x0, y0, x1, y1, confidence, class.

    The predictions are about `count` images; a box counts for its best class, or with `multi_label` for each class.
    `targets` from `class_count` on are contexts: no rivals of the others, a box is one besides what it counts for.
    """
    order = predictions.images.argsort(stable=True)
    image, boxes = predictions.images[order], predictions.rows[order]
    scores = boxes[:, 5:] * boxes[:, 4:5]
    is_context = targets >= (len(targets) if class_count is None else class_count)
    if settings.multi_label:
        row, column = (scores > settings.confidence).nonzero(as_tuple=True)
    elif is_context.any():
        best_column = scores.masked_fill(is_context, -1).max(dim=1).indices
        is_best = functional.one_hot(best_column, len(targets)).bool()
        row, column = ((scores > settings.confidence) & (is_best | is_context)).nonzero(as_tuple=True)
    else:
        best, best_column = scores.max(dim=1)
        (row,) = (best > settings.confidence).nonzero(as_tuple=True)
        column = best_column[row]
    confidence = scores[row, column]
    center, half = boxes[row, :2], boxes[row, 2:4] / 2
    rows = torch.cat((center - half, center + half, confidence[:, None], targets[column][:, None].float()), dim=1)
    return list(torch.split(rows, torch.bincount(image[row], minlength=count).tolist()))


def _read_detections(rows_by_image: Sequence[Tensor]) -> list[Detections]:
    """Return each image's rows as detections; all are copied from the device at once, which would wait for each."""
    array = torch.cat(list(rows_by_image)).float().cpu().numpy()
    if not np.isfinite(array).all():
        raise NonFiniteError
    ends = np.cumsum([len(rows) for rows in rows_by_image])
    return [
        Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64), rows[:, 6].astype(np.int64))
        for rows in np.split(array, ends[:-1])
    ]


def detect_canvases(canvases: Sequence[NDArray[np.uint8]], detector: DetectorEnsemble) -> list[Detections | str]:
    """Return the detections in each canvas, or why there are none; a batch that fails is tried again one by one."""
    try:
        return list(detector(canvases)) if canvases else []
    except Exception as error:
        if len(canvases) > 1:
            return [answer for canvas in canvases for answer in detect_canvases([canvas], detector)]
        if isinstance(error, ImageError):
            return [str(error)]
        return [f"detection failed ({typed_reason(error)})"]
