"""How good detections are: YOLOv5's matching, precision, recall and average precision, in plain numpy.

The same input gives the same figures as `yolov5 val`: interpolation at 101 points, IoU 0.50:0.05:0.95, precision and
recall at the confidence where the mean F1 of the classes, smoothed, is best.

Ignore regions count as COCO's crowds do: at each threshold, a detection that matches no label and of which that share
lies in a region of its class is neither right nor false.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import intersection_over_union

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10, dtype=np.float32)
_CONFIDENCES = np.linspace(0, 1, 1000)  # where precision and recall are compared between classes
_RECALLS = np.linspace(0, 1, 101)
_EPS = 1e-16


class MatchedImage(NamedTuple):
    """The matched detections of one image: `correct` bool (N, 10), one column per IoU threshold, `confidences`
    float32 (N,), `class_ids` int64 (N,), and the classes of its labels, int64 (M,).

    `labelled` are the classes that it is labelled for (None: all); only of those can a detection be false. `ignored`
    bool (N, 10), None for none, are detections that are not correct, but in an ignore region: those are not false.
    """

    correct: NDArray[np.bool_]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_ids: NDArray[np.int64]
    labelled: frozenset[int] | None = None
    ignored: NDArray[np.bool_] | None = None

    def select(self, mask: NDArray[np.bool_]) -> "MatchedImage":
        """Return the image with some of its detections, bool (N,)."""
        return self._replace(
            correct=self.correct[mask],
            confidences=self.confidences[mask],
            class_ids=self.class_ids[mask],
            ignored=None if self.ignored is None else self.ignored[mask],
        )


class Curves(NamedTuple):
    """Figures per class that has labels: `class_ids` int64 (C,), `precisions` and `recalls` float64 (C,) at
    `confidence`, where F1 is best, and average precision float64 (C, 10), one column per IoU threshold."""

    class_ids: NDArray[np.int64]
    precisions: NDArray[np.float64]
    recalls: NDArray[np.float64]
    average_precisions: NDArray[np.float64]
    confidence: float


class ClassMetrics(NamedTuple):
    """One line of the table: `map50` at IoU 0.5, `map50_95` the mean over the thresholds; a class's own or the mean.

    `images` are those labelled for the class, whether it is there or not.
    """

    name: str
    images: int
    labels: int
    precision: float
    recall: float
    map50: float
    map50_95: float


class Metrics(NamedTuple):
    """The mean over the classes that have labels and could be detected, those classes, and the labelled rest.

    `confidence` is the threshold that the precisions and recalls belong to.
    """

    mean: ClassMetrics
    classes: tuple[ClassMetrics, ...]
    undetectable: tuple[tuple[str, int], ...]
    confidence: float

    def format_text(self) -> str:
        """Return the table as `yolov5 val` prints it, and a line on what these weights cannot find."""
        heads = ("Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95")
        lines = [f"{'Class':>22}" + "".join(f"{head:>11}" for head in heads)]
        for row in (self.mean, *self.classes):
            figures = "".join(f"{value:11.3g}" for value in row[3:])
            lines.append(f"{row.name:>22}{row.images:11}{row.labels:11}{figures}")
        if self.undetectable:
            named = ", ".join(f"{name} ({count})" for name, count in self.undetectable)
            lines.append(f"not detectable with these weights, so left out of the mean: {named}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures for JSON: the mean and each class, and how many labels the weights do not know."""
        rows = {
            row.name: {name: value for name, value in row._asdict().items() if name != "name"} for row in self.classes
        }
        return {
            "best_f1_confidence": self.confidence,
            "all": {name: value for name, value in self.mean._asdict().items() if name != "name"},
            "classes": rows,
            "not_detectable": dict(self.undetectable),
        }

    def format_csv(self) -> str:
        """Return the table as CSV; classes that the weights do not know have labels but no figures."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", *ClassMetrics._fields[1:]])
        writer.writerows([self.mean, *self.classes])
        writer.writerows([name, self.mean.images, labels, "", "", "", ""] for name, labels in self.undetectable)
        return text.getvalue()


def match(
    boxes_xyxy: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    label_boxes_xyxy: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    thresholds: NDArray[np.float32] = IOU_THRESHOLDS,
) -> NDArray[np.bool_]:
    """Return which detections of one image are correct, bool (N, T), one column per IoU threshold.

    The boxes (N, 4) come with falling confidence, in the same units as the labels (M, 4). Every detection goes for
    the label of its class that it overlaps most; of several that go for one label, the most confident is correct.
    """
    return match_labels(boxes_xyxy, class_ids, label_boxes_xyxy, label_ids, thresholds) >= 0


def match_labels(
    boxes_xyxy: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    label_boxes_xyxy: NDArray[np.float32],
    label_ids: NDArray[np.int64],
    thresholds: NDArray[np.float32] = IOU_THRESHOLDS,
) -> NDArray[np.int64]:
    """Return the index of the label that each detection matches, as `match` decides: int64 (N, T), −1 for none."""
    labels_of = np.full((len(boxes_xyxy), len(thresholds)), -1, np.int64)
    if not len(boxes_xyxy) or not len(label_boxes_xyxy):
        return labels_of
    overlaps = intersection_over_union(boxes_xyxy, label_boxes_xyxy)
    overlaps = np.where(class_ids[:, None] == label_ids[None], overlaps, np.float32(-1))
    best = overlaps.shape[1] - 1 - overlaps[:, ::-1].argmax(1)  # of equals the last, as YOLOv5
    overlap = overlaps[np.arange(len(best)), best]
    for column, threshold in enumerate(thresholds):
        candidates = np.flatnonzero(overlap >= threshold)
        label_indices, first = np.unique(best[candidates], return_index=True)
        labels_of[candidates[first], column] = label_indices
    return labels_of


def find_ignored(correct: NDArray[np.bool_], shares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which detections do not count, bool (N, 10): not correct, and (`shares` (N,)) in an ignore region."""
    return np.asarray(~correct & (shares[:, None] >= IOU_THRESHOLDS))


def drop_ignored(image: MatchedImage) -> MatchedImage:
    """Return the image without the detections that do not count at IoU 0.5."""
    return image if image.ignored is None else image.select(~image.ignored[:, 0])


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    """Return the area below the precision envelope over recall, interpolated at 101 points (the way of COCO)."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    envelope = np.maximum.accumulate(np.concatenate(([1.0], precision, [0.0]))[::-1])[::-1]
    return float(np.trapezoid(np.interp(_RECALLS, recall, envelope), _RECALLS))


def ap_per_class(
    correct: NDArray[np.bool_],
    confidences: NDArray[np.float32],
    class_ids: NDArray[np.int64],
    label_ids: NDArray[np.int64],
    ignored: NDArray[np.bool_] | None = None,
) -> Curves:
    """Return the figures of all detections (N of them, in any order) against all labels' classes (M,), as YOLOv5's.

    Classes without labels do not count, nor do detections at the thresholds at which they are `ignored`, bool (N, 10).
    """
    order = np.argsort(-confidences, kind="stable")
    correct, confidences, class_ids = correct[order], confidences[order], class_ids[order]
    counted = np.ones_like(correct) if ignored is None else ~ignored[order]
    classes, label_counts = np.unique(label_ids, return_counts=True)
    precisions, recalls = np.zeros((2, len(classes), len(_CONFIDENCES)))
    average = np.zeros((len(classes), correct.shape[1]))
    for index, (class_id, labels) in enumerate(zip(classes, label_counts, strict=True)):
        of_class = class_ids == class_id
        for column in range(correct.shape[1]):
            rows = np.flatnonzero(of_class & counted[:, column])
            if not len(rows):
                continue
            true = correct[rows, column].cumsum()
            recall, precision = true / (labels + _EPS), true / np.arange(1, len(rows) + 1)
            average[index, column] = average_precision(recall, precision)
            if column == 0:
                at = -confidences[rows]  # np.interp wants rising x
                recalls[index] = np.interp(-_CONFIDENCES, at, recall, left=0)
                precisions[index] = np.interp(-_CONFIDENCES, at, precision, left=1)
    if not len(classes):
        return Curves(classes, np.zeros(0), np.zeros(0), average, 0.0)
    f1 = 2 * precisions * recalls / (precisions + recalls + _EPS)
    best = int(_smooth(f1.mean(0)).argmax())
    return Curves(classes, precisions[:, best], recalls[:, best], average, float(_CONFIDENCES[best]))


def _smooth(values: NDArray[np.float64], fraction: float = 0.1) -> NDArray[np.float64]:
    """Return a running mean over a window of `fraction` of the values, the ends padded with the end values."""
    size = round(len(values) * fraction * 2) // 2 + 1
    ends = np.ones(size // 2)
    padded = np.concatenate((ends * values[0], values, ends * values[-1]))
    return np.convolve(padded, np.ones(size) / size, mode="valid")


def measure(images: Sequence[MatchedImage], names: Sequence[str], detectable: Sequence[bool] | None = None) -> Metrics:
    """Return the table over all images; class ids index `names`; `detectable`: which of them the weights know."""
    detectable_mask = np.ones(len(names), np.bool_) if detectable is None else np.asarray(detectable, np.bool_)
    judged = [_drop_unlabelled(image) for image in images]
    correct = np.concatenate([_EMPTY.correct, *(image.correct for image in judged)])
    confidences = np.concatenate([_EMPTY.confidences, *(image.confidences for image in judged)])
    class_ids = np.concatenate([_EMPTY.class_ids, *(image.class_ids for image in judged)])
    label_ids = np.concatenate([_EMPTY.label_ids, *(image.label_ids for image in judged)])
    ignored = np.concatenate([_EMPTY.correct, *map(_list_ignored, judged)])
    counts = np.bincount(label_ids, minlength=len(names))
    curves = ap_per_class(correct, confidences, class_ids, label_ids[detectable_mask[label_ids]], ignored)
    counts_of_images = [
        sum(image.labelled is None or index in image.labelled for image in judged) for index in range(len(names))
    ]
    rows = []
    for index, class_id in enumerate(curves.class_ids):
        average = curves.average_precisions[index]
        figures = (curves.precisions[index], curves.recalls[index], average[0], average.mean())
        rows.append(
            ClassMetrics(
                names[int(class_id)],
                counts_of_images[class_id],
                int(counts[class_id]),
                *(float(value) for value in figures),
            )
        )
    means = np.array([row[3:] for row in rows]).mean(0).tolist() if rows else [0.0] * 4
    mean = ClassMetrics("all", len(images), sum(row.labels for row in rows), *means)
    indices = np.flatnonzero((counts > 0) & ~detectable_mask).tolist()
    undetectable = tuple((names[index], int(counts[index])) for index in indices)
    return Metrics(mean, tuple(rows), undetectable, curves.confidence)


def _drop_unlabelled(image: MatchedImage) -> MatchedImage:
    """Return the image without the detections of classes that it is not labelled for."""
    if image.labelled is None:
        return image
    return image.select(np.isin(image.class_ids, list(image.labelled)))


def _list_ignored(image: MatchedImage) -> NDArray[np.bool_]:
    return np.zeros_like(image.correct) if image.ignored is None else image.ignored


_EMPTY = MatchedImage(
    np.zeros((0, len(IOU_THRESHOLDS)), np.bool_), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64)
)
