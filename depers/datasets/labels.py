"""The only reader and writer of YOLO text: a line per box, its class id, center x, center y, width, height.

The numbers are fractions of the image. `data_yaml` says where such files lie.
"""

import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.errors import UserError, short_reason

CLASSES = ("car", "head", "face", "human", "carplate")
"""The classes in the order of their ids."""
SPLITS = ("train", "val", "calibration")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What an image's name in a dataset ends with, in lower case."""
_IMAGES = re.compile(r"(.*)/(images)/(.*)", re.DOTALL)  # greedy: the last folder of that name
_CAPITAL_IMAGES = re.compile(_IMAGES.pattern, re.IGNORECASE | re.DOTALL)
_EDGE = 1e-3  # how far a box may reach over the image's edge: annotation tools round
_FRACTION = r"[01]\.[0-9]{1,17}"
_USUAL_TEXT = re.compile(
    rf"(?:[0-9]{{1,9}} {_FRACTION} {_FRACTION} {_FRACTION} {_FRACTION}\n)*"
)  # as `format_yolo` has it


def find_images(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return which paths end as those of images do, whatever the case."""
    suffixes = "|".join(suffix[1:] for suffix in IMAGE_SUFFIXES)
    return pc.match_substring_regex(paths, rf"\.({suffixes})$", ignore_case=True)


class Labels(NamedTuple):
    """The boxes of one image: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), center and size in 0…1."""

    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]

    @classmethod
    def of(cls, class_ids: Sequence[int], boxes_xywh: Sequence[Sequence[float]]) -> "Labels":
        """Return labels from plain lists, which may be empty."""
        return cls(np.array(class_ids, np.int64), np.array(boxes_xywh, np.float64).reshape(-1, 4))


def parse_yolo(text: str, class_count: int, source: str) -> Labels:
    """Return the labels of YOLO text; blank lines are skipped, either kind of line end is read.

    Raise UserError, which names `source`, the line, the value and what is allowed, for anything but five finite
    numbers per line: a class id below `class_count`, a center in 0…1, and a size in 0…1 that is more than 0.
    """
    if _USUAL_TEXT.fullmatch(text):
        rows = np.array([*map(float, text.split())], np.float64).reshape(-1, 5)
        is_right = (rows[:, 0] < class_count) & (rows[:, 3:] > 0).all(1) & (rows[:, 1:] <= 1 + _EDGE).all(1)
        if is_right.all():
            return Labels(rows[:, 0].astype(np.int64), rows[:, 1:].copy())
    class_ids: list[int] = []
    boxes: list[list[float]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        location = f"{source}, line {number}"
        if len(fields) != 5:
            raise UserError(f"{location}: must be five numbers (class, cx, cy, w, h), but got {line.strip()[:80]!r}")
        class_id = read_number(fields[0])
        if class_id not in range(class_count):
            raise UserError(
                f"{location}: the class id must be a whole number 0…{class_count - 1}, but got {fields[0]!r}"
            )
        box = [read_number(field) for field in fields[1:]]
        for name, field, value in zip(("center x", "center y", "width", "height"), fields[1:], box, strict=True):
            if not 0 <= value <= 1 + _EDGE:
                raise UserError(f"{location}: the {name} must be a number in 0…1, but got {field!r}")
        if min(box[2:]) == 0:
            raise UserError(f"{location}: width and height must be more than 0, but got {fields[3]} and {fields[4]}")
        class_ids.append(int(class_id))
        boxes.append(box)
    return Labels.of(class_ids, boxes)


def drop_doubles(labels: Labels) -> Labels:
    """Return the labels in their order, each box of a class once, as YOLOv5 counts them."""
    if len(labels.class_ids) < 2:
        return labels
    rows = np.column_stack([labels.class_ids, labels.boxes_xywh])
    _, first_rows = np.unique(rows, axis=0, return_index=True)
    first_rows = np.sort(first_rows)
    return Labels(labels.class_ids[first_rows], labels.boxes_xywh[first_rows])


def sort_labels(labels: Labels) -> Labels:
    """Return the labels by class and box, each once: what a training sees does not depend on the order of lines."""
    order = np.lexsort((*labels.boxes_xywh.T[::-1], labels.class_ids))
    class_ids, boxes_xywh = labels.class_ids[order], labels.boxes_xywh[order]
    is_new = np.ones(len(order), np.bool_)
    is_new[1:] = (class_ids[1:] != class_ids[:-1]) | (boxes_xywh[1:] != boxes_xywh[:-1]).any(1)
    return Labels(class_ids[is_new], boxes_xywh[is_new])


def read_number(field: str) -> float:
    """Return a number as YOLO text writes it; NaN for all else, such as `1_0`, `0,5`, and infinity."""
    try:
        value = math.nan if "_" in field else float(field)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def format_yolo(labels: Labels, confidences: NDArray[Any] | None = None) -> str:
    """Return YOLO text, a line per box with six decimals; with `confidences` (N,), those in four as sixth field.

    A width or height is at least a millionth, since a box without area could not be read again.
    """
    boxes = labels.boxes_xywh.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1e-6)
    columns = [labels.class_ids.tolist(), *boxes.T.tolist()]
    line = "%d %.6f %.6f %.6f %.6f"
    if confidences is not None:
        columns.append(confidences.tolist())
        line += " %.4f"
    rows = zip(*columns, strict=True)
    return f"{line}\n" * len(boxes) % (*itertools.chain.from_iterable(rows),)  # one format is twice as fast as many


def label_path(image: str, folder: str = "labels") -> str:
    """Return where the labels of an image are: the last folder named `images` above it is named `folder` instead.

    Where there is none, a folder `Images` or `IMAGES` has its labels in `Labels` or `LABELS`. Raise UserError where no
    such folder is above it.
    """
    match = _IMAGES.match(f"/{image}") or _CAPITAL_IMAGES.match(f"/{image}")
    if not match:
        raise UserError(f"{image}: a dataset's images must be in a folder named images, or below one")
    above, name, below = match.groups()
    folder = folder.upper() if name.isupper() else folder.capitalize() if name[0].isupper() else folder
    return f"{above}/{folder}/{os.path.splitext(below)[0]}.txt"[1:]  # noqa: PTH122 (Path would garble s3://)


def read_labels(uri: str, class_count: int) -> Labels:
    """Return the labels in a file, none where there is no file; raise UserError as `parse_yolo` does."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError:
        return Labels.of([], [])
    except OSError as error:
        raise UserError(f"{uri}: not readable ({short_reason(error)})") from None
    return decode_labels(data, class_count, uri)


def decode_labels(data: bytes, class_count: int, source: str) -> Labels:
    """Return the labels that a file's content says; raise UserError as `parse_yolo` does."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{source}: must be YOLO text, but holds other bytes than UTF-8") from None
    return parse_yolo(text, class_count, source)
