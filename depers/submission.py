"""The competition's file of detections, a text table: read, write, and score against a dataset's labels.

    ImageID;LabelName;Conf;XMin;XMax;YMin;YMax
    24-11-2021_05-31-51_AM.jpg;3;0.825893;0.03593755;0.053645849999999995;0.3055557;0.3731483

ImageID is the picture's path in its split's folder, LabelName the class id, coordinates are fractions of the picture's
width and height; mind the order X, X, Y, Y. Numbers keep the digits they were written with, so that a file that is
read and written again has the same bytes.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depers import storage
from depers.options import UserError

COLUMNS = ("ImageID", "LabelName", "Conf", "XMin", "XMax", "YMin", "YMax")
HEADER = ";".join(COLUMNS)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # what float() takes, less nan, inf, 1_0 and blanks
_EDGE = 1e-3  # how far a box may reach over the picture's edge: detectors round


class Submission(NamedTuple):
    """Detections in the order of the file.

    `rows`: the seven fields of each as they are written; `image_ids` (N of them); `class_ids` int64 (N,);
    `confidences` float64 (N,) in 0…1; `boxes_xyxy` float64 (N, 4) in fractions of the picture.
    """

    rows: tuple[tuple[str, ...], ...]
    image_ids: tuple[str, ...]
    class_ids: NDArray[np.int64]
    confidences: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    line_end: str = "\n"


class Score(NamedTuple):
    """The competition's figure: `mean` over the classes that have labels of their average precision at IoU 0.5.

    `classes`: (average precision, number of labels) by class id, as texts are sorted. `uncounted`: detections on
    pictures without any label, which the definition does not see.
    """

    mean: float
    classes: dict[int, tuple[float, int]]
    uncounted: int


def parse(text: str, class_count: int, source: str) -> Submission:
    """The detections in the text of a file; blank lines at its end are skipped, either kind of line end is read.

    Raises UserError, which names `source`, the line, the value and what is allowed, for a wrong header, another number
    of fields, what is no number, a class id that is not below `class_count`, a confidence outside of 0…1, and a
    box outside of the picture or turned inside out.
    """
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise UserError(f"{source}: must begin with {HEADER}, but the file is empty")
    line_end = "\r\n" if text.partition("\n")[0].endswith("\r") else "\n"
    header, *lines = text.rstrip("\r\n").split(line_end)
    if header != HEADER:
        raise UserError(f"{source}, line 1: the header must be {HEADER}, but is {header[:80]!r}")
    rows = tuple(tuple(line.split(";")) for line in lines)
    numbers = np.array([_read_row(row, class_count, f"{source}, line {n}") for n, row in enumerate(rows, 2)])
    numbers = numbers.reshape(-1, 6)
    images = tuple(row[0] for row in rows)
    return Submission(rows, images, numbers[:, 0].astype(np.int64), numbers[:, 1], numbers[:, [2, 4, 3, 5]], line_end)


def _read_row(row: Sequence[str], class_count: int, where: str) -> list[float]:
    """Class id, confidence, x_min, x_max, y_min, y_max."""
    if len(row) != len(COLUMNS):
        raise UserError(f"{where}: must be {len(COLUMNS)} fields between semicolons, but is {';'.join(row)[:80]!r}")
    if not row[0]:
        raise UserError(f"{where}: ImageID must be a picture's name, but is empty")
    if not row[1].isascii() or not row[1].isdigit() or int(row[1]) >= class_count:
        raise UserError(f"{where}: LabelName must be a class id in 0…{class_count - 1}, but is {row[1]!r}")
    values = []
    for name, field in zip(COLUMNS[2:], row[2:], strict=True):
        value = float(field) if _NUMBER.fullmatch(field) else math.nan
        edge = 0 if name == "Conf" else _EDGE
        if not -edge <= value <= 1 + edge:
            raise UserError(f"{where}: {name} must be a number in 0…1, but is {field!r}")
        values.append(value)
    for low, high in (("XMin", "XMax"), ("YMin", "YMax")):
        first, second = (row[COLUMNS.index(name)] for name in (low, high))
        if float(first) > float(second):
            raise UserError(f"{where}: {low} must be at most {high}, but they are {first} and {second}")
    return [float(row[1]), *values]


def format_submission(submission: Submission) -> str:
    """The text of the file."""
    return "".join(f"{line}{submission.line_end}" for line in (HEADER, *map(";".join, submission.rows)))


def from_table(table: pa.Table, names: Sequence[str]) -> Submission:
    """A table of detections (`detections.SCHEMA`) as a submission, by path and falling confidence.

    Class ids are positions in `names`; boxes of other classes are left out. Raises UserError for a picture's name that
    the file cannot hold.
    """
    ids = {name: str(index) for index, name in enumerate(names)}
    rows = []
    for picture in sorted(table.to_pylist(), key=lambda row: str(row["path"])):
        path, size_wh = picture["path"], (picture["width"], picture["height"])
        if re.search(r"[;\r\n]", path):
            raise UserError(f"{path!r}: a picture's name must hold no semicolon or line end to be in a submission file")
        for box in sorted(picture["boxes"], key=lambda box: -box["confidence"]):
            if box["class"] not in ids:
                continue
            sides = [
                box[f"{axis}_{end}"] / size for axis, size in zip("xy", size_wh, strict=True) for end in ("min", "max")
            ]
            confidence = np.format_float_positional(np.float32(box["confidence"]), trim="0")
            rows.append((path, ids[box["class"]], confidence, *(repr(side) for side in sides)))
    return parse("\n".join([HEADER, *map(";".join, rows)]), len(names), "detections")


def read(uri: str, class_count: int) -> Submission:
    """The detections in a file. Raises UserError as `parse` does, or where it cannot be read."""
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{uri}: no such file of detections") from None
    except UnicodeDecodeError:
        raise UserError(f"{uri}: must be text that begins with {HEADER}, but holds other bytes than UTF-8") from None
    except OSError as error:
        raise UserError(f"{uri}: not readable ({error.strerror or error})") from None
    return parse(text, class_count, uri)


def select(found: Submission, kept: NDArray[np.bool_]) -> Submission:
    """The detections of which the mask (N,) is true."""
    indices = np.flatnonzero(kept)
    rows = tuple(found.rows[index] for index in indices) if found.rows else ()
    images = tuple(found.image_ids[index] for index in indices)
    arrays = (found.class_ids[kept], found.confidences[kept], found.boxes_xyxy[kept])
    return Submission(rows, images, *arrays, found.line_end)


def check_images(submission: Submission, known: Mapping[str, object], source: str, folder: str) -> None:
    """Raises UserError, which names the line, for a detection on a picture that the dataset does not have."""
    for number, image_id in enumerate(submission.image_ids, 2):
        if image_id not in known:
            raise UserError(
                f"{source}, line {number}: ImageID must be one of the {len(known)} pictures in {folder},"
                f" but is {image_id!r}"
            )


def score(
    labels: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    submission: Submission,
    iou_threshold: float = 0.5,
) -> Score:
    """The competition's score, by the definition of the package `map-boxes` (1.0.6), from which it does not differ.

    `labels`: class ids int64 (M,) and boxes float64 (M, 4), x_min, y_min, x_max, y_max in fractions, by image id. The
    definition's own traits:

    - detections on a picture that has no label at all do not count, not even as false ones;
    - the detections of a picture take their labels in the order of the file, whatever their confidence: the first
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
    """Which detections of one class in one picture are right, in the order given."""
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
