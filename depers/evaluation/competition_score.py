"""A submission scored against a dataset's labels, and the score as text and JSON."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.boxes import from_normalized_xywh, intersection_over_union
from depers.datasets.data_yaml import Dataset, labelled_classes
from depers.datasets.ignore_regions import IgnoreFolder, shares_ignored
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.evaluation import submission
from depers.evaluation.samples import read_unique_labels
from depers.evaluation.submission import Submission


class Score(NamedTuple):
    """The competition's figure: `mean` over the classes that have labels of their average precision at IoU 0.5.

    `classes`: (average precision, number of labels) by class id, as texts are sorted. `uncounted`: detections on
    images without any label, which the definition does not see.
    """

    mean: float
    classes: dict[int, tuple[float, int]]
    uncounted: int


_READERS = 16  # threads that mostly wait for storage
_INSIDE = 0.5  # share of a box from which it is in a region, and overlap from which it is that of a label


def read_label_fractions(folder: str, dataset: Dataset) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return class ids int64 (M,) and boxes float64 (M, 4), xyxy in fractions, by an image's path in the folder."""
    images = [
        entry.path
        for entry in storage.list_files(folder, follow_links=True)
        if entry.path.lower().endswith(IMAGE_SUFFIXES)
    ]

    def read(path: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        labels = read_unique_labels(storage.join(folder, path), len(dataset.names))
        half = labels.boxes_xywh[:, 2:] / 2
        return labels.class_ids, np.concatenate([labels.boxes_xywh[:, :2] - half, labels.boxes_xywh[:, :2] + half], 1)

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(images, pool.map(read, images), strict=True))


def find_ignored(
    detections: Submission,
    labels: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    folder: str,
    class_count: int,
) -> NDArray[np.bool_]:
    """Return which detections (N,) lie in an ignore region of their class and overlap no label of it, at IoU 0.5."""
    ignored = np.zeros(len(detections.image_ids), np.bool_)
    rows_of: dict[str, list[int]] = {}
    for row, image_id in enumerate(detections.image_ids):
        rows_of.setdefault(image_id, []).append(row)
    ignore_folder, square = IgnoreFolder(folder, class_count), (1, 1)
    with ThreadPoolExecutor(_READERS) as pool:
        all_regions = list(pool.map(lambda image_id: ignore_folder.read(storage.join(folder, image_id)), rows_of))
    for (image_id, rows), regions in zip(rows_of.items(), all_regions, strict=True):
        if len(regions.class_ids):
            boxes, ids = detections.boxes_xyxy[rows].astype(np.float32), detections.class_ids[rows]
            label_ids, label_boxes = labels[image_id]
            overlaps = intersection_over_union(boxes, label_boxes.astype(np.float32)) * (ids[:, None] == label_ids)
            shares = shares_ignored(boxes, ids, from_normalized_xywh(regions.boxes_xywh, square), regions.class_ids)
            ignored[rows] = (shares >= _INSIDE) & ~(overlaps >= _INSIDE).any(axis=1)
    return ignored


def score_file(detections: submission.Submission, source: str, folder: str, dataset: Dataset) -> Score:
    """Return the competition's score of detections in the images of a split's folder.

    Detections of classes that an image is not labelled for, or in an ignore region, are left out. Raise UserError for
    a detection on an image that is not there.
    """
    labels = read_label_fractions(folder, dataset)
    submission.check_images(detections, labels, source, folder)
    labelled = [
        class_id in labelled_classes(dataset, image_id)
        for image_id, class_id in zip(detections.image_ids, detections.class_ids.tolist(), strict=True)
    ]
    counted = np.array(labelled, np.bool_) & ~find_ignored(detections, labels, folder, len(dataset.names))
    return score(labels, submission.select(detections, counted))


def format_score(score: Score, names: Sequence[str]) -> str:
    """Return the score for the terminal, a line per class."""
    lines = [f"{'Class':>22}{'Labels':>11}{'AP@.5':>11}"]
    lines += [f"{names[index]:>22}{count:11}{average:11.6f}" for index, (average, count) in score.classes.items()]
    lines.append(f"competition's score (mean): {score.mean:.6f}")
    if score.uncounted:
        lines.append(f"{score.uncounted} boxes lie on images without any label, which the definition does not count")
    return "\n".join(lines)


def score_as_dict(score: Score, names: Sequence[str]) -> dict[str, Any]:
    """Return the score for JSON."""
    classes = {names[index]: {"ap": average, "labels": count} for index, (average, count) in score.classes.items()}
    return {"score": score.mean, "classes": classes, "boxes_on_images_without_labels": score.uncounted}


def score(
    labels: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    submission: Submission,
    iou_threshold: float = 0.5,
) -> Score:
    """Return the competition's score, which does not differ from that of the package `map-boxes` (1.0.6).

    `labels`: class ids int64 (M,) and boxes float64 (M, 4), x_min, y_min, x_max, y_max in fractions, by image id. The
    definition's own traits:

    - detections on an image that has no label at all do not count, not even as false ones;
    - the detections of an image take their labels in the order of the file, whatever their confidence: the first
      that fits is right, a more confident one further down is then false;
    - a detection goes for the one label that it overlaps most, of equals the first, and is false where that is taken,
      also when another one would do;
    - coordinates and confidences are rounded to float32; detections of equal confidence count in numpy's order;
    - the precision is the envelope at every point of the recall (VOC 2010), and classes without labels do not count.
    """
    indices_of: dict[tuple[str, int], list[int]] = {}
    for index, key in enumerate(zip(submission.image_ids, submission.class_ids.tolist(), strict=True)):
        indices_of.setdefault(key, []).append(index)
    boxes = submission.boxes_xyxy.astype(np.float32).astype(np.float64)
    confidences = submission.confidences.astype(np.float32)
    labels_of = {image_id: image_labels for image_id, image_labels in labels.items() if len(image_labels[0])}
    class_ids = {class_id for ids, _ in labels_of.values() for class_id in ids.tolist()}
    classes = {}
    for class_id in sorted(class_ids, key=str):
        right, order, count = [], [], 0
        for image_id, (label_ids, label_boxes) in labels_of.items():
            label_boxes_of_class = label_boxes[label_ids == class_id].astype(np.float32).astype(np.float64)
            indices = indices_of.get((image_id, class_id), [])
            right += _match_first_come(boxes[indices], label_boxes_of_class, iou_threshold)
            order += indices
            count += len(label_boxes_of_class)
        classes[class_id] = (_area(np.array(right, np.bool_), confidences[order], count), count)
    uncounted = sum(image_id not in labels_of for image_id in submission.image_ids)
    mean = sum(average for average, _ in classes.values()) / len(classes) if classes else 0.0
    return Score(float(mean), classes, uncounted)


def _match_first_come(boxes: NDArray[np.float64], labels: NDArray[np.float64], iou_threshold: float) -> list[bool]:
    """Return which detections of one class in one image are right, in their order."""
    if not len(boxes) or not len(labels):
        return [False] * len(boxes)
    low, high = np.maximum(boxes[:, None, :2], labels[None, :, :2]), np.minimum(boxes[:, None, 2:], labels[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    areas, label_areas = (np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (boxes, labels))
    union = areas[:, None] + label_areas[None] - shared
    overlaps = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    best = overlaps.argmax(1)
    matched_labels: set[int] = set()
    right = []
    for index, overlap in zip(best.tolist(), overlaps[np.arange(len(best)), best].tolist(), strict=True):
        right.append(overlap >= iou_threshold and index not in matched_labels)
        if right[-1]:
            matched_labels.add(index)
    return right


def _area(right: NDArray[np.bool_], confidences: NDArray[np.float32], labels: int) -> float:
    """Return the area below the precision envelope over recall, at every point where the recall changes."""
    sorted_right = right[np.argsort(-confidences)]  # not stable, as the definition's
    true, false = sorted_right.cumsum(), (~sorted_right).cumsum()
    recall = np.concatenate(([0.0], true / labels, [1.0]))
    precision = np.concatenate(([0.0], true / np.maximum(true + false, np.finfo(np.float64).eps), [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps + 1]))
