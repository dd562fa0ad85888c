"""How good a checkpoint is, while it trains: the figures of `depers evaluate`, by the detector that `detect` uses.

What is found of a class that a picture has no labels for does not count, neither for nor against.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import metrics
from depers.augmentation import RGB, letterboxed
from depers.boxes import letterbox
from depers.detector import Detector
from depers.metrics import Picture
from depers.prediction import Prediction, Weights
from depers.training_batches import labelled_picture
from depers.training_data import Example


class Found(NamedTuple):
    """One picture by its number among the examples: `boxes_xyxy` (N, 4) in pixels of its canvas, highest confidence
    first, `confidences` (N,), `class_ids` (N,), and its labels, `label_boxes_xyxy` (M, 4) and `label_ids` (M,)."""

    number: int
    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_boxes_xyxy: NDArray[np.float32]
    label_ids: NDArray[np.int64]

    def matched(self) -> Picture:
        """The detections matched with the labels."""
        correct = metrics.match(self.boxes_xyxy, self.class_ids, self.label_boxes_xyxy, self.label_ids)
        return Picture(correct, self.confidences, self.class_ids, self.label_ids)


def canvases(examples: Sequence[Example], imgsz: int, stride: int) -> list[tuple[int, int]]:
    """The canvases of `yolov5 val`: rectangular, with half a stride of border."""
    return [letterbox(example.size_wh, imgsz, stride, half_stride_pad=True).canvas_wh for example in examples]


def predict(
    checkpoint: bytes,
    members: Sequence[int],
    pictures: Callable[[int], RGB],
    examples: Sequence[Example],
    canvases_wh: Sequence[tuple[int, int]],
    batch_size: int,
    imgsz: int,
    device: str,
) -> list[Found]:
    """What a checkpoint finds in the pictures `members`."""
    how = Prediction(imgsz, 0.001, 0.6, 300, multi_label=True, device=device)
    detector = Detector([Weights("last.pt", {})], [checkpoint], [], how)
    found = []
    ordered = sorted(members, key=lambda index: canvases_wh[index])
    for start in range(0, len(ordered), batch_size):
        batch = ordered[start : start + batch_size]
        placed = [letterboxed(labelled_picture(pictures(i), examples[i]), canvases_wh[i]) for i in batch]
        for index, picture, one in zip(batch, placed, detector([made.image for made in placed]), strict=True):
            counts = np.isin(one.class_ids, sorted(examples[index].labelled))
            boxes, ids = picture.labels[:, 1:].astype(np.float32), picture.labels[:, 0].astype(np.int64)
            found.append(
                Found(index, one.boxes_xyxy[counts], one.confidences[counts], one.class_ids[counts], boxes, ids)
            )
    return found


def fitness(row: metrics.Row) -> float:
    """What `best.pt` is best in, as YOLOv5 weighs it."""
    return 0.1 * row.map50 + 0.9 * row.map50_95
