"""How good a checkpoint is, while it trains: the figures of `depers evaluate`, by the detector that `detect` uses.

What is found of a class that an image has no labels for does not count, neither for nor against.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depers.boxes import letterbox
from depers.detection.detector import Detector
from depers.detection.settings import InferenceSettings, Weights
from depers.evaluation import metrics
from depers.evaluation.metrics import MatchedImage
from depers.training.augmentation import RGB, letterboxed
from depers.training.batches import collate, labelled_image
from depers.training.data import Example, unlabelled_mask
from depers.training.loss import Loss


class Found(NamedTuple):
    """One image by its number among the examples: `boxes_xyxy` (N, 4) in pixels of its canvas, highest confidence
    first, `confidences` (N,), `class_ids` (N,), and its labels, `label_boxes_xyxy` (M, 4) and `label_ids` (M,)."""

    number: int
    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_boxes_xyxy: NDArray[np.float32]
    label_ids: NDArray[np.int64]

    def matched(self) -> MatchedImage:
        """The detections matched with the labels."""
        correct = metrics.match(self.boxes_xyxy, self.class_ids, self.label_boxes_xyxy, self.label_ids)
        return MatchedImage(correct, self.confidences, self.class_ids, self.label_ids)


def canvases(examples: Sequence[Example], imgsz: int, stride: int) -> list[tuple[int, int]]:
    """The canvases of `yolov5 val`: rectangular, with half a stride of border."""
    return [letterbox(example.size_wh, imgsz, stride, half_stride_pad=True).canvas_wh for example in examples]


def predict(
    checkpoint: bytes,
    members: Sequence[int],
    images: Callable[[int], RGB],
    examples: Sequence[Example],
    canvases_wh: Sequence[tuple[int, int]],
    batch_size: int,
    imgsz: int,
    device: str,
    precision: str = "auto",
    loss: Loss | None = None,
) -> tuple[list[Found], Tensor]:
    """What a checkpoint finds in the images `members`, and the sums over them of their box, objectness and class
    loss (3,): each has the mean of its batch; zeros without `loss`, which must be that of one worker."""
    how = InferenceSettings(imgsz, 0.001, 0.6, 300, multi_label=True, device=device, precision=precision)
    detector = Detector([Weights("last.pt", {})], [checkpoint], [], how)
    found, losses = [], torch.zeros(3, device=device)
    unlabelled = unlabelled_mask(examples, len(detector.class_names))
    for batch in _like_shaped(members, canvases_wh, batch_size):
        own = [labelled_image(images(i), examples[i]) for i in batch]
        placed = [letterboxed(image, canvases_wh[i]) for i, image in zip(batch, own, strict=True)]
        made = collate(placed, list(unlabelled[batch]))
        detections, levels = detector.with_raw(made.images)
        if loss:
            hidden = torch.from_numpy(made.unlabelled).to(device) if made.unlabelled.any() else None
            with torch.inference_mode():
                losses += loss(levels, torch.from_numpy(made.targets).to(device), hidden)[1] * len(batch)
        for index, image, put, one in zip(batch, own, placed, detections, strict=True):
            counts = np.isin(one.class_ids, sorted(examples[index].labelled))
            low, high, odd = _frame(image.image, canvases_wh[index])
            boxes = one.boxes_xyxy[counts].clip(low, high)
            labels, ids = put.labels[:, 1:] + odd, put.labels[:, 0].astype(np.int64)
            sure, classes = one.confidences[counts], one.class_ids[counts]
            found.append(Found(index, boxes, sure, classes, labels.astype(np.float32), ids))
    return found, losses


def _like_shaped(
    members: Sequence[int], canvases_wh: Sequence[tuple[int, int]], batch_size: int
) -> Iterator[list[int]]:
    """The members in batches of one shape each."""
    ordered = sorted(members, key=lambda index: canvases_wh[index])
    for _, group in groupby(ordered, key=lambda index: canvases_wh[index]):
        alike = list(group)
        for start in range(0, len(alike), batch_size):
            yield alike[start : start + batch_size]


def _frame(image: RGB, canvas_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Where `yolov5 val` takes an image to lie: its corner, its far corner, each twice, and the half pixels by which
    that is beside the image where a border is odd (see `letterbox`), float32 (3, 4)."""
    size_wh = image.shape[1::-1]
    border = np.subtract(canvas_wh, size_wh) / 2
    return np.tile([border, border + size_wh, border % 1], 2).astype(np.float32)


def fitness(row: metrics.ClassMetrics) -> float:
    """What `best.pt` is best in, as YOLOv5 weighs it."""
    return 0.1 * row.map50 + 0.9 * row.map50_95
