"""A submission scored against a dataset's labels, and the score as text and JSON."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depers import storage, submission
from depers.datasets import Dataset, labelled_classes
from depers.judging import read_unique_labels
from depers.labels import IMAGE_SUFFIXES

_READERS = 16  # threads that mostly wait for storage


def label_fractions(folder: str, dataset: Dataset) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """By a picture's path in the split's folder, class ids int64 (M,) and boxes float64 (M, 4), xyxy in fractions."""
    pictures = [entry.path for entry in storage.list_files(folder) if entry.path.lower().endswith(IMAGE_SUFFIXES)]

    def read(path: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        labels = read_unique_labels(storage.join(folder, path), len(dataset.names))
        half = labels.boxes_xywh[:, 2:] / 2
        return labels.class_ids, np.concatenate([labels.boxes_xywh[:, :2] - half, labels.boxes_xywh[:, :2] + half], 1)

    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(pictures, pool.map(read, pictures), strict=True))


def score_file(found: submission.Submission, source: str, folder: str, dataset: Dataset) -> submission.Score:
    """The competition's score of detections in the pictures of a split's folder.

    What was found of classes that a picture is not labelled for is left out. Raises UserError for a detection on a
    picture that is not there.
    """
    labels = label_fractions(folder, dataset)
    submission.check_images(found, labels, source, folder)
    kept = [
        class_id in labelled_classes(dataset, image_id)
        for image_id, class_id in zip(found.image_ids, found.class_ids.tolist(), strict=True)
    ]
    return submission.score(labels, submission.select(found, np.array(kept, np.bool_)))


def score_text(score: submission.Score, names: Sequence[str]) -> str:
    """The score for the terminal, a line per class."""
    lines = [f"{'Class':>22}{'Labels':>11}{'AP@.5':>11}"]
    lines += [f"{names[index]:>22}{count:11}{average:11.6f}" for index, (average, count) in score.classes.items()]
    lines.append(f"competition's score (mean): {score.mean:.6f}")
    if score.uncounted:
        lines.append(f"{score.uncounted} boxes lie on pictures without any label, which the definition does not count")
    return "\n".join(lines)


def score_dict(score: submission.Score, names: Sequence[str]) -> dict[str, Any]:
    """The score for JSON."""
    classes = {names[index]: {"ap": average, "labels": count} for index, (average, count) in score.classes.items()}
    return {"score": score.mean, "classes": classes, "boxes_on_pictures_without_labels": score.uncounted}
