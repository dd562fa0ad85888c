"""How good a checkpoint is, while it trains: the figures of `depers evaluate`, by the detector that `detect` uses.

Detections of a class that an image has no labels for, or that lie in an ignore region of their class, do not count,
neither for nor against.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depers.boxes import center, grow, letterbox
from depers.datasets.ignore_regions import shares_ignored
from depers.detection.detector import DetectorEnsemble
from depers.detection.settings import InferenceSettings, Weights
from depers.evaluation import metrics
from depers.evaluation.calibration import covered_from
from depers.evaluation.metrics import MatchedImage
from depers.training.images.augmentation import RGB, LabelledImage, letterbox_sample
from depers.training.images.batches import Batch, attach_labels, collate, scale_boxes
from depers.training.images.data import find_unlabelled
from depers.training.images.examples import Example, map_sizes
from depers.training.loss import Loss

_MARGIN, _COVERAGE = 0.1, 0.9  # the defaults of `anonymize` and `evaluate`
_ENDLESS_WH = (1 << 20, 1 << 20)  # a canvas that no box is cut at


class ValidationResult(NamedTuple):
    """One image by its `number` among the examples: `boxes_xyxy` (N, 4) in pixels of its canvas, highest confidence
    first, `confidences` (N,), `class_ids` (N,), its labels, `label_boxes_xyxy` (M, 4) and `label_ids` (M,), and its
    ignore regions, `ignored_xyxy` (R, 4) and `ignored_ids` (R,)."""

    number: int
    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_boxes_xyxy: NDArray[np.float32]
    label_ids: NDArray[np.int64]
    ignored_xyxy: NDArray[np.float32] = np.zeros((0, 4), np.float32)
    ignored_ids: NDArray[np.int64] = np.zeros(0, np.int64)

    def match(self) -> MatchedImage:
        """Match the detections with the labels."""
        correct = metrics.match(self.boxes_xyxy, self.class_ids, self.label_boxes_xyxy, self.label_ids)
        shares = shares_ignored(self.boxes_xyxy, self.class_ids, self.ignored_xyxy, self.ignored_ids)
        ignored = metrics.find_ignored(correct, shares)
        return MatchedImage(correct, self.confidences, self.class_ids, self.label_ids, ignored=ignored)


def choose_canvases(examples: Sequence[Example], imgsz: int, stride: int) -> list[tuple[int, int]]:
    """Return the canvases (width, height) of `yolov5 val`: rectangular, with half a stride of border."""
    return map_sizes(examples, lambda size_wh: letterbox(size_wh, imgsz, stride, half_stride_pad=True).canvas_wh)


class ValidationBatches:
    """The batches of validation, for a `Loader`: each is planned as indices of images that have one canvas."""

    def __init__(
        self,
        images: Callable[[int], RGB],
        examples: Sequence[Example],
        canvases_wh: Sequence[tuple[int, int]],
        class_count: int,
    ) -> None:
        """Take scaled images by the index of their example, and the canvas of each."""
        self._images, self._examples, self._canvases_wh = images, examples, canvases_wh
        self._unlabelled = find_unlabelled(examples, class_count)

    def plan(self, indices: Sequence[int], batch_size: int) -> Iterator[list[int]]:
        """Yield the indices in batches of one canvas each."""
        by_canvas = sorted(indices, key=lambda index: self._canvases_wh[index])
        for _, group in groupby(by_canvas, key=lambda index: self._canvases_wh[index]):
            members = list(group)
            for start in range(0, len(members), batch_size):
                yield members[start : start + batch_size]

    def make_sample(self, spec: int) -> LabelledImage:
        """Paint an image into the middle of its canvas."""
        return letterbox_sample(attach_labels(self._images(spec), self._examples[spec]), self._canvases_wh[spec])

    def collate(self, specs: Sequence[int], samples: Sequence[LabelledImage]) -> Batch:
        """Join images into a batch."""
        return collate(samples, list(self._unlabelled[list(specs)]))

    def make_batch(self, specs: Sequence[int]) -> Batch:
        """Make a batch in this thread."""
        return self.collate(specs, [self.make_sample(spec) for spec in specs])


def predict(
    checkpoint: bytes,
    batches: Iterable[tuple[Sequence[int], Batch]],
    examples: Sequence[Example],
    sizes_wh: Sequence[tuple[int, int]],
    canvases_wh: Sequence[tuple[int, int]],
    imgsz: int,
    device: str,
    precision: str = "auto",
    loss: Loss | None = None,
) -> tuple[list[ValidationResult], Tensor]:
    """Detect with a checkpoint in batches, each with the indices of its images; return results, and losses (3,).

    Images have been scaled to `sizes_wh`, and painted on their canvases. Losses are sums over the images, of box,
    objectness and class loss, each the mean of its batch; zeros without `loss`, which must be that of one worker.
    """
    settings = InferenceSettings(imgsz, 0.001, 0.6, 300, multi_label=True, device=device, precision=precision)
    detector = DetectorEnsemble([Weights("last.pt", {})], [checkpoint], [], settings)
    results, losses = [], torch.zeros(3, device=device)
    for members, batch in batches:
        detections, levels = detector.detect_with_raw(torch.as_tensor(batch.images))
        if loss:
            mask = torch.as_tensor(batch.unlabelled).to(device) if batch.unlabelled.any() else None
            with torch.inference_mode():
                targets = torch.as_tensor(batch.targets).to(device)
                ignored = torch.as_tensor(batch.ignored).to(device) if len(batch.ignored) else None
                losses += loss(levels, targets, mask, ignored)[1] * len(members)
        for index, entry in zip(members, detections, strict=True):
            example, size_wh, canvas_wh = examples[index], sizes_wh[index], canvases_wh[index]
            counts = np.isin(entry.class_ids, sorted(example.labelled))
            low, high, offset = _locate(size_wh, canvas_wh)
            boxes = entry.boxes_xyxy[counts].clip(low, high)
            shift = np.tile(center(size_wh, canvas_wh), 2) + offset
            labels, regions = (
                ((rows[:, 1:] + shift).astype(np.float32), rows[:, 0].astype(np.int64))
                for rows in scale_boxes(example, size_wh)
            )
            confidences, class_ids = entry.confidences[counts], entry.class_ids[counts]
            results.append(ValidationResult(index, boxes, confidences, class_ids, *labels, *regions))
    return results, losses


def _locate(size_wh: Sequence[int], canvas_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Return where `yolov5 val` takes an image to lie on its canvas, float32 (3, 4).

    Its corner, its far corner, each twice, and the half pixels by which that is beside the image where a border is
    odd (see `letterbox`).
    """
    border = np.subtract(canvas_wh, size_wh) / 2
    return np.tile([border, border + size_wh, border % 1], 2).astype(np.float32)


def measure_coverage(
    results: Sequence[ValidationResult], examples: Sequence[Example], class_count: int, false_per_image: float
) -> float:
    """Return the mean over the classes of the share of labels that redaction would cover.

    Each class has the least threshold at which there are no more than `false_per_image` boxes of it, in the mean over
    the images that are labelled for it, that match no label at IoU 0.5. A label is covered where the boxes above that,
    grown by the default margin, together cover 0.9 of it.
    """
    recalls = []
    matches = [result.match() for result in results]
    for class_id in range(class_count):
        covered, false = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        for result, match in zip(results, matches, strict=True):
            rows, labels = result.class_ids == class_id, result.label_boxes_xyxy[result.label_ids == class_id]
            confidences = result.confidences[rows]
            boxes = grow(result.boxes_xyxy[rows], _MARGIN, _ENDLESS_WH)
            covered.append(covered_from(labels, boxes, confidences, _COVERAGE))
            wrong = ~match.correct[:, 0] & ~(match.ignored[:, 0] if match.ignored is not None else False)
            false.append(result.confidences[rows & wrong])
        from_confidence, false_confidences = np.concatenate(covered), -np.sort(-np.concatenate(false))
        if len(from_confidence):
            images = sum(class_id in examples[result.number].labelled for result in results)
            allowed = int(false_per_image * images)
            threshold = false_confidences[allowed] if allowed < len(false_confidences) else 0.0
            recalls.append(float((from_confidence > threshold).mean()))
    return float(np.mean(recalls)) if recalls else 0.0


def compute_fitness(row: metrics.ClassMetrics) -> float:
    """Return what `best.pt` is best in, as YOLOv5 weighs it."""
    return 0.1 * row.map50 + 0.9 * row.map50_95
