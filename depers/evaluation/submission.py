"""The competition's file of detections, a text table: read, write, and score against a dataset's labels.

    ImageID;LabelName;Conf;XMin;XMax;YMin;YMax
    24-11-2021_05-31-51_AM.jpg;3;0.825893;0.03593755;0.053645849999999995;0.3055557;0.3731483

ImageID is the image's path in its split's folder, LabelName the class id, coordinates are fractions of the image's
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
from depers.errors import UserError, short_reason

COLUMNS = ("ImageID", "LabelName", "Conf", "XMin", "XMax", "YMin", "YMax")
HEADER = ";".join(COLUMNS)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # what float() takes, less nan, inf, 1_0 and blanks
_EDGE = 1e-3  # how far a box may reach over the image's edge: detectors round


class Submission(NamedTuple):
    """Detections in the order of the file.

    `rows`: the seven fields of each as they are written; `image_ids` (N of them); `class_ids` int64 (N,);
    `confidences` float64 (N,) in 0…1; `boxes_xyxy` float64 (N, 4) in fractions of the image.
    """

    rows: tuple[tuple[str, ...], ...]
    image_ids: tuple[str, ...]
    class_ids: NDArray[np.int64]
    confidences: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    line_end: str = "\n"


def parse(text: str, class_count: int, source: str) -> Submission:
    """Return the detections in the text of a file; blank lines at its end are skipped, either kind of line end is read.

    Raise UserError, which names `source`, the line, the value and what is allowed, for a wrong header, another number
    of fields, what is no number, a class id that is not below `class_count`, a confidence outside of 0…1, and a
    box outside of the image or turned inside out.
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


def _read_row(row: Sequence[str], class_count: int, place: str) -> list[float]:
    """Return class id, confidence, x_min, x_max, y_min, y_max."""
    if len(row) != len(COLUMNS):
        raise UserError(f"{place}: must be {len(COLUMNS)} fields between semicolons, but is {';'.join(row)[:80]!r}")
    if not row[0]:
        raise UserError(f"{place}: ImageID must be an image's name, but is empty")
    if not row[1].isascii() or not row[1].isdigit() or int(row[1]) >= class_count:
        raise UserError(f"{place}: LabelName must be a class id in 0…{class_count - 1}, but is {row[1]!r}")
    values = []
    for name, field in zip(COLUMNS[2:], row[2:], strict=True):
        value = float(field) if _NUMBER.fullmatch(field) else math.nan
        edge = 0 if name == "Conf" else _EDGE
        if not -edge <= value <= 1 + edge:
            raise UserError(f"{place}: {name} must be a number in 0…1, but is {field!r}")
        values.append(value)
    for low, high in (("XMin", "XMax"), ("YMin", "YMax")):
        first, second = (row[COLUMNS.index(name)] for name in (low, high))
        if float(first) > float(second):
            raise UserError(f"{place}: {low} must be at most {high}, but they are {first} and {second}")
    return [float(row[1]), *values]


def format_submission(submission: Submission) -> str:
    """Return the text of the file."""
    return "".join(f"{line}{submission.line_end}" for line in (HEADER, *map(";".join, submission.rows)))


def from_table(table: pa.Table, names: Sequence[str]) -> Submission:
    """Return a table of detections (`detections.SCHEMA`) as a submission, by path and falling confidence.

    Class ids are positions in `names`; boxes of other classes are left out. Raise UserError for an image's name that
    the file cannot hold.
    """
    ids = {name: str(index) for index, name in enumerate(names)}
    rows = []
    for image in sorted(table.to_pylist(), key=lambda row: str(row["path"])):
        path, size_wh = image["path"], (image["width"], image["height"])
        if re.search(r"[;\r\n]", path):
            raise UserError(f"{path!r}: an image's name must hold no semicolon or line end to be in a submission file")
        for box in sorted(image["boxes"], key=lambda box: -box["confidence"]):
            if box["class"] not in ids:
                continue
            sides = [
                box[f"{axis}_{end}"] / size for axis, size in zip("xy", size_wh, strict=True) for end in ("min", "max")
            ]
            confidence = np.format_float_positional(np.float32(box["confidence"]), trim="0")
            rows.append((path, ids[box["class"]], confidence, *(repr(side) for side in sides)))
    return parse("\n".join([HEADER, *map(";".join, rows)]), len(names), "detections")


def read(uri: str, class_count: int) -> Submission:
    """Read the detections in a file. Raise UserError as `parse` does, or where it cannot be read."""
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{uri}: no such file of detections") from None
    except UnicodeDecodeError:
        raise UserError(f"{uri}: must be text that begins with {HEADER}, but holds other bytes than UTF-8") from None
    except OSError as error:
        raise UserError(f"{uri}: not readable ({short_reason(error)})") from None
    return parse(text, class_count, uri)


def select(submission: Submission, mask: NDArray[np.bool_]) -> Submission:
    """Return the detections of which the mask (N,) is true."""
    indices = np.flatnonzero(mask)
    rows = tuple(submission.rows[index] for index in indices) if submission.rows else ()
    images = tuple(submission.image_ids[index] for index in indices)
    arrays = (submission.class_ids[mask], submission.confidences[mask], submission.boxes_xyxy[mask])
    return Submission(rows, images, *arrays, submission.line_end)


def check_images(submission: Submission, images: Mapping[str, object], source: str, folder: str) -> None:
    """Raise UserError, which names the line, for a detection on an image that the dataset does not have."""
    for number, image_id in enumerate(submission.image_ids, 2):
        if image_id not in images:
            raise UserError(
                f"{source}, line {number}: ImageID must be one of the {len(images)} images in {folder},"
                f" but is {image_id!r}"
            )
