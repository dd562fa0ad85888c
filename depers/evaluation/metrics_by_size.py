"""How well objects of each size are found: small ones are what a detector misses first.

Sliced as COCO does it: labels of other sizes are neither missed nor found, a detection that matches one of them does
not count, and one that matches nothing counts as false in the slice of its own size.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, area
from depers.evaluation.metrics import IOU_THRESHOLDS, average_precision, find_ignored, match_labels
from depers.evaluation.samples import Sample


class Size(NamedTuple):
    """A range of sizes, from `low` up to below `high`, of what `measure` gives per box."""

    name: str
    measure: Callable[[Boxes, tuple[int, int]], NDArray[np.float32]]
    low: float
    high: float

    def holds(self, boxes_xyxy: Boxes, size_wh: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which of the boxes (N, 4) in an image of that size are in the range, bool (N,)."""
        values = self.measure(boxes_xyxy, size_wh)
        return np.asarray((values >= self.low) & (values < self.high))


def side(boxes_xyxy: Boxes, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Return the side in pixels of a square as large as each box."""
    return np.sqrt(area(boxes_xyxy))


def relative_side(boxes_xyxy: Boxes, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Return that side as a share of the image's longer side, which is what the detector sees."""
    return np.asarray(side(boxes_xyxy, size_wh) / np.float32(max(size_wh)))


SIZES = (
    Size("small (below 32 px)", side, 0, 32),
    Size("medium (32 to 96 px)", side, 32, 96),
    Size("large (from 96 px)", side, 96, np.inf),
    Size("below 2.5 % of the longer side", relative_side, 0, 0.025),
    Size("2.5 to 10 %", relative_side, 0.025, 0.1),
    Size("from 10 %", relative_side, 0.1, np.inf),
)
"""COCO's three, by the side of a square as large; then the same at 640 pixels: 16 and 64."""


class SizeRow(NamedTuple):
    """One line of the table; `name` a class or `all`, the mean; recall at the confidence given, and IoU 0.5."""

    size: str
    name: str
    labels: int
    recall: float
    map50: float
    map50_95: float


def measure_sizes(
    samples: Sequence[Sample], names: Sequence[str], detectable: Sequence[bool], confidence: float
) -> list[SizeRow]:
    """Return the table by size and class, without classes that have no labels of a size or that the weights lack.

    Precision is not given by size, since what is false has none but its own.
    """
    matches = [match_labels(s.boxes_xyxy, s.class_ids, s.label_boxes_xyxy, s.label_ids) for s in samples]
    confidences = np.concatenate([np.zeros(0, np.float32)] + [sample.confidences for sample in samples])
    order = np.argsort(-confidences, kind="stable")
    confidences = confidences[order]
    class_ids = np.concatenate([np.zeros(0, np.int64)] + [sample.class_ids for sample in samples])[order]
    label_ids = np.concatenate([np.zeros(0, np.int64)] + [sample.label_ids for sample in samples])
    rows = []
    for size in SIZES:
        correct_parts, counted_parts, label_parts = [], [], []
        for sample, label_of in zip(samples, matches, strict=True):
            labels_in = size.holds(sample.label_boxes_xyxy, sample.size_wh)
            is_match = label_of >= 0
            matches_in = np.append(labels_in, False)[label_of]  # −1 is the last
            unmatched_in = ~is_match & size.holds(sample.boxes_xyxy, sample.size_wh)[:, None]
            unmatched_in &= ~find_ignored(is_match, sample.shares_ignored())
            correct_parts.append(matches_in)
            counted_parts.append(matches_in | unmatched_in)
            label_parts.append(labels_in)
        empty = np.zeros((0, len(IOU_THRESHOLDS)), np.bool_)
        correct, counted = (np.concatenate([empty, *parts])[order] for parts in (correct_parts, counted_parts))
        counts = np.bincount(label_ids[np.concatenate([np.zeros(0, np.bool_), *label_parts])], minlength=len(names))
        class_rows = []
        for class_id in np.flatnonzero((counts > 0) & np.asarray(detectable, np.bool_)).tolist():
            of_class, labels = class_ids == class_id, int(counts[class_id])
            average = _average_precisions(correct[of_class], counted[of_class], labels)
            recall = float((correct[of_class, 0] & (confidences[of_class] >= confidence)).sum() / labels)
            figures = recall, float(average[0]), float(average.mean())
            class_rows.append(SizeRow(size.name, names[class_id], labels, *figures))
        if class_rows:
            means = np.array([row[3:] for row in class_rows]).mean(0).tolist()
            rows += [SizeRow(size.name, "all", sum(row.labels for row in class_rows), *means), *class_rows]
    return rows


def _average_precisions(correct: NDArray[np.bool_], counted: NDArray[np.bool_], labels: int) -> NDArray[np.float64]:
    """Return average precision per IoU threshold (a column each) of one class's detections, by falling confidence."""
    average = np.zeros(correct.shape[1])
    for column in range(correct.shape[1]):
        right = correct[counted[:, column], column]
        true = right.cumsum()
        if len(right):
            average[column] = average_precision(true / labels, true / np.arange(1, len(right) + 1))
    return average
