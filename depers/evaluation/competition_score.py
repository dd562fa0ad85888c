"""A submission scored against a dataset's labels, and the score as text and JSON."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.datasets.data_yaml import Dataset, labelled_classes
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


def label_fractions(folder: str, dataset: Dataset) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """By an image's path in the split's folder, class ids int64 (M,) and boxes float64 (M, 4), xyxy in fractions."""
    images = [entry.path for entry in storage.list_files(folder) if entry.path.lower().endswith(IMAGE_SUFFIXES)]

    def read(path: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        labels = read_unique_labels(storage.join(folder, path), len(dataset.names))
        half = labels.boxes_xywh[:, 2:] / 2
        return labels.class_ids, np.concatenate([labels.boxes_xywh[:, :2] - half, labels.boxes_xywh[:, :2] + half], 1)

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(images, pool.map(read, images), strict=True))


def score_file(found: submission.Submission, source: str, folder: str, dataset: Dataset) -> Score:
    """The competition's score of detections in the images of a split's folder.

    What was found of classes that an image is not labelled for is left out. Raises UserError for a detection on a
    image that is not there.
    """
    labels = label_fractions(folder, dataset)
    submission.check_images(found, labels, source, folder)
    kept = [
        class_id in labelled_classes(dataset, image_id)
        for image_id, class_id in zip(found.image_ids, found.class_ids.tolist(), strict=True)
    ]
    return score(labels, submission.select(found, np.array(kept, np.bool_)))


def score_text(score: Score, names: Sequence[str]) -> str:
    """The score for the terminal, a line per class."""
    lines = [f"{'Class':>22}{'Labels':>11}{'AP@.5':>11}"]
    lines += [f"{names[index]:>22}{count:11}{average:11.6f}" for index, (average, count) in score.classes.items()]
    lines.append(f"competition's score (mean): {score.mean:.6f}")
    if score.uncounted:
        lines.append(f"{score.uncounted} boxes lie on images without any label, which the definition does not count")
    return "\n".join(lines)


def score_dict(score: Score, names: Sequence[str]) -> dict[str, Any]:
    """The score for JSON."""
    classes = {names[index]: {"ap": average, "labels": count} for index, (average, count) in score.classes.items()}
    return {"score": score.mean, "classes": classes, "boxes_on_images_without_labels": score.uncounted}


def score(
    labels: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    submission: Submission,
    iou_threshold: float = 0.5,
) -> Score:
    """The competition's score, by the definition of the package `map-boxes` (1.0.6), from which it does not differ.

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
    found: dict[tuple[str, int], list[int]] = {}
    for index, key in enumerate(zip(submission.image_ids, submission.class_ids.tolist(), strict=True)):
        found.setdefault(key, []).append(index)
    boxes = submission.boxes_xyxy.astype(np.float32).astype(np.float64)
    confidences = submission.confidences.astype(np.float32)
    seen = {image_id: each for image_id, each in labels.items() if len(each[0])}
    class_ids = {class_id for ids, _ in seen.values() for class_id in ids.tolist()}
    classes = {}
    for class_id in sorted(class_ids, key=str):
        right, order, count = [], [], 0
        for image_id, (label_ids, label_boxes) in seen.items():
            own = label_boxes[label_ids == class_id].astype(np.float32).astype(np.float64)
            indices = found.get((image_id, class_id), [])
            right += _first_come(boxes[indices], own, iou_threshold)
            order += indices
            count += len(own)
        classes[class_id] = (_area(np.array(right, np.bool_), confidences[order], count), count)
    uncounted = sum(image_id not in seen for image_id in submission.image_ids)
    mean = sum(average for average, _ in classes.values()) / len(classes) if classes else 0.0
    return Score(float(mean), classes, uncounted)


def _first_come(boxes: NDArray[np.float64], labels: NDArray[np.float64], iou_threshold: float) -> list[bool]:
    """Which detections of one class in one image are right, in the order given."""
    if not len(boxes) or not len(labels):
        return [False] * len(boxes)
    low, high = np.maximum(boxes[:, None, :2], labels[None, :, :2]), np.minimum(boxes[:, None, 2:], labels[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    mine, theirs = ((each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, labels))
    union = mine[:, None] + theirs[None] - shared
    overlaps = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
    best = overlaps.argmax(1)
    taken: set[int] = set()
    right = []
    for index, overlap in zip(best.tolist(), overlaps[np.arange(len(best)), best].tolist(), strict=True):
        right.append(overlap >= iou_threshold and index not in taken)
        if right[-1]:
            taken.add(index)
    return right


def _area(right: NDArray[np.bool_], confidences: NDArray[np.float32], labels: int) -> float:
    """The area below the precision envelope over recall, at every point where the recall changes."""
    ordered = right[np.argsort(-confidences)]  # not stable, as the definition's
    true, false = ordered.cumsum(), (~ordered).cumsum()
    recall = np.concatenate(([0.0], true / labels, [1.0]))
    precision = np.concatenate(([0.0], true / np.maximum(true + false, np.finfo(np.float64).eps), [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps + 1]))
