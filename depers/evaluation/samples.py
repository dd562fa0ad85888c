"""One image's detections beside its labels: read, judged, and drawn."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray

from depers import storage
from depers.boxes import EDGES, from_normalized_xywh, intersection_over_union
from depers.datasets.data_yaml import Dataset, labelled_classes
from depers.datasets.ignore_regions import IgnoreFolder, shares_ignored
from depers.datasets.labels import Labels, drop_doubles, label_path, read_labels
from depers.evaluation.metrics import IOU_THRESHOLDS, MatchedImage, find_ignored, match
from depers.imaging.decoding import decode
from depers.reports import drawing, page
from depers.storage.tables import parquet_text

_READERS = 16  # threads that mostly wait for storage
_FOUND, _MISSED, _FALSE = (44, 160, 44), (214, 39, 40), (255, 160, 0)


class Sample(NamedTuple):
    """One image: its path in the split's folder, its detections, highest confidence first, and its labels.

    Boxes float32 (N, 4) and (M, 4) in pixels of the upright image, class ids int64 as the dataset names them.
    `labelled` are the classes that the image is labelled for; detections and labels of others are left out, since
    nobody knows whether they are right. `ignored_xyxy` (R, 4) and `ignored_ids` (R,) are its ignore regions.
    """

    path: str
    size_wh: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_boxes_xyxy: NDArray[np.float32]
    label_ids: NDArray[np.int64]
    labelled: frozenset[int]
    ignored_xyxy: NDArray[np.float32] = np.zeros((0, 4), np.float32)
    ignored_ids: NDArray[np.int64] = np.zeros(0, np.int64)

    def match(self) -> MatchedImage:
        """Return the detections matched with the labels."""
        correct = match(self.boxes_xyxy, self.class_ids, self.label_boxes_xyxy, self.label_ids)
        ignored = find_ignored(correct, self.shares_ignored())
        return MatchedImage(correct, self.confidences, self.class_ids, self.label_ids, self.labelled, ignored)

    def shares_ignored(self) -> NDArray[np.float32]:
        """Return how much of each detection lies in an ignore region of its class, float32 (N,) in 0…1."""
        return shares_ignored(self.boxes_xyxy, self.class_ids, self.ignored_xyxy, self.ignored_ids)


class ImageResult(NamedTuple):
    """One image at one confidence: masks of the labels that were missed, and of the detections that count.

    `correct` are those of them that match a label; what lies in an ignore region and matches none does not count.
    """

    sample: Sample
    missed: NDArray[np.bool_]
    confident: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def read_samples(table: pa.Table, folder: str, dataset: Dataset) -> list[Sample]:
    """Return the rows of a detections table over `folder` with their labels, of the dataset's classes alone.

    Raise UserError for a label file that is not YOLO's.
    """
    column = table["boxes"].combine_chunks()
    values = column.flatten()
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py() if len(column) else np.zeros(1, np.int64)
    class_names = pa.array(dataset.names, pa.string())
    ids = pc.fill_null(pc.index_in(values.field("class"), value_set=class_names), -1).to_numpy()
    boxes = np.stack([values.field(name).to_numpy() for name in EDGES], axis=1)
    confidences = values.field("confidence").to_numpy()
    result, ignore_folder = [], IgnoreFolder(folder, len(dataset.names))
    # A name that is not UTF-8 is escaped in the table.
    paths = {parquet_text(entry.path): entry.path for entry in storage.list_files(folder, follow_links=True)}
    rows = table.select(["path", "width", "height"]).to_pylist()
    with ThreadPoolExecutor(_READERS) as pool:
        uris = [storage.join(folder, paths[row["path"]]) for row in rows]
        image_labels = list(pool.map(lambda uri: read_unique_labels(uri, len(dataset.names)), uris))
        image_regions = list(pool.map(ignore_folder.read, uris))
    for index, (row, labels, ignored) in enumerate(zip(rows, image_labels, image_regions, strict=True)):
        path = paths[row["path"]]
        labelled = labelled_classes(dataset, path)
        detections = np.arange(offsets[index], offsets[index + 1])
        detections = detections[np.isin(ids[detections], list(labelled))]
        known = np.isin(labels.class_ids, list(labelled))
        size_wh = row["width"] or 1, row["height"] or 1  # a failed image has no size, and no boxes to compare
        result.append(
            Sample(
                path=path,
                size_wh=size_wh,
                boxes_xyxy=boxes[detections],
                confidences=confidences[detections],
                class_ids=ids[detections].astype(np.int64),
                label_boxes_xyxy=from_normalized_xywh(labels.boxes_xywh[known], size_wh),
                label_ids=labels.class_ids[known],
                labelled=labelled,
                ignored_xyxy=from_normalized_xywh(ignored.boxes_xywh, size_wh),
                ignored_ids=ignored.class_ids,
            )
        )
    return result


def read_unique_labels(image: str, class_count: int) -> Labels:
    """Return the labels of one image, doubles counted once; none where it has no label file."""
    return drop_doubles(read_labels(label_path(image), class_count))


def judge(sample: Sample, confidence: float) -> ImageResult:
    """Say what of one image is missed and falsely found, at IoU 0.5, where boxes below `confidence` do not count."""
    confident = np.asarray(sample.confidences >= confidence)
    boxes, ids = sample.boxes_xyxy[confident], sample.class_ids[confident]
    labels, label_ids = sample.label_boxes_xyxy, sample.label_ids
    correct = np.zeros(len(confident), np.bool_)
    correct[confident] = match(boxes, ids, labels, label_ids, IOU_THRESHOLDS[:1])[:, 0]
    covered = (intersection_over_union(boxes, labels) >= IOU_THRESHOLDS[0]) & (ids[:, None] == label_ids[None])
    missed = ~covered.any(axis=0)
    confident &= ~find_ignored(correct[:, None], sample.shares_ignored())[:, 0]  # at IoU 0.5
    return ImageResult(sample, missed, confident, correct)


def select_worst(results: Sequence[ImageResult], count: int) -> list[ImageResult]:
    """Return the images with the most missed labels, then the most false alarms; only those with a miss."""
    with_misses = [result for result in results if result.missed.any()]

    def key(result: ImageResult) -> tuple[int, int, str]:
        return (-int(result.missed.sum()), -int((result.confident & ~result.correct).sum()), result.sample.path)

    return sorted(with_misses, key=key)[:count]


def draw_result(image: NDArray[np.uint8], result: ImageResult, names: Sequence[str]) -> NDArray[np.uint8]:
    """Return `image` (uint8 RGB, upright) with what was found in green, missed in red, falsely found in orange."""
    sample, missed = result.sample, result.missed
    correct, false = result.correct, result.confident & ~result.correct
    boxes = [sample.boxes_xyxy[correct], sample.boxes_xyxy[false], sample.label_boxes_xyxy[missed]]
    colors = [_FOUND] * int(correct.sum()) + [_FALSE] * int(false.sum()) + [_MISSED] * int(missed.sum())
    texts = [
        f"{names[class_id]} {confidence:.2f}"
        for mask in (correct, false)
        for class_id, confidence in zip(sample.class_ids[mask].tolist(), sample.confidences[mask].tolist(), strict=True)
    ]
    texts += [names[class_id] for class_id in sample.label_ids[missed].tolist()]
    return drawing.draw_boxes(image, np.concatenate(boxes), texts, colors)


def make_figure(result: ImageResult, folder: str, names: Sequence[str], max_side: int = 800) -> Markup:
    """Return the image with its result as HTML, its longer side at most `max_side` pixels, what was missed below it."""
    sample = result.sample
    image = decode(storage.read_bytes(storage.join(folder, sample.path)), float("inf")).rgb()
    counts = Counter(names[class_id] for class_id in sample.label_ids[result.missed].tolist())
    missed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    caption = f"{sample.path}: {int(result.missed.sum())} of {len(result.missed)} missed ({missed})"
    return page.image(draw_result(image, result, names), caption, max_side=max_side)
