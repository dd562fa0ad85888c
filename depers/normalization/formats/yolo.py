"""YOLO text as tools and people write it: what is certain is read, what is not is asked for.

A line is `class cx cy w h` in fractions of the image. The class is an id: the place of its name in the list of names.
More numbers than these may be

- a confidence: one more, above 0 and up to 1, in whose order detectors write the lines of a file; in no order it may be
  an angle;
- points of the object that the box holds, such as landmarks or corners, with or without a visibility (0, 1 or 2);
- the points of a polygon, `class x1 y1 x2 y2 x3 y3 …`, in place of the box: its bounding box is taken.

Four numbers may be two corners, `x1 y1 x2 y2`, where a person says so (`suspicions` asks).

A line of many numbers can often be either, and all lines of a set are alike: where some can be nothing else, they say
what all are (`decide_columns`).
"""

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.datasets.labels import read_number
from depers.errors import UserError
from depers.normalization.formats.texts import read_lines
from depers.normalization.rules import FileLabels, Problem, RawBox
from depers.statuses import ProblemAction

AUTO = "auto"
CORNERS = "corners"
COLUMNS = (AUTO, "box", "box+points", "polygon", CORNERS)
"""What the numbers of a line may be said to be."""
_FAR = 4.0  # how many times larger than the box the polygon of the same numbers must be, to be none
_OVER = 0.1  # how far a box with points may reach over the image's edge, as a share of its size
_NEAR_EDGE = 0.02  # how far a polygon may reach outside 0…1
_OF_NUMBERS = b"0123456789.+-eE"
_PIXELS = 2.0  # from here on a number is no fraction
_MOST_IDS = 2**31  # of classes without names


class Shape(StrEnum):
    """What the numbers of one line are, as far as the line itself says."""

    BOX = "a box"
    CONFIDENCE = "a box and a confidence"
    FLAG = "a box and 1"
    NUMBER = "a box and a number that is no confidence"
    UNSORTED = "boxes and numbers in no order"
    POINTS = "a box and points"
    POLYGON = "a polygon"
    UNDECIDED = "a box and points, or a polygon"


class UndecidedBox(NamedTuple):
    """A line that may be a box and points, or a polygon: what it is read as."""

    points: RawBox
    polygon: RawBox


class PlainBoxes(NamedTuple):
    """The boxes (N, 4) of a file that holds one in each line; `classes` (N,) are places in `names`."""

    names: tuple[str, ...]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]


class YoloLabels(NamedTuple):
    """What one file says, and what its set has to decide: lines that may be one or the other.

    `shapes`: what its lines with more than five numbers are, and the first of each, as text.
    """

    labels: FileLabels
    undecided: list[UndecidedBox]
    shapes: dict[Shape, str]


def read_yolo(
    path: str, data: bytes, names: Sequence[str] | None = None, file_class: str = "", columns: str = AUTO
) -> YoloLabels:
    """Read the boxes of one label file.

    The ids count `names`, of which empty ones are those of no class; without names, a class is called by its id.
    `file_class`: the class is that of the file, and its ids must be 0, as in the competition's layout. `columns` is one
    of `COLUMNS`. Raise LabelError for what is no text.
    """
    boxes: list[RawBox] = []
    undecided: list[UndecidedBox] = []
    shapes: dict[Shape, str] = {}
    confidences: list[float] = []
    lines, problems = read_lines(path, data)
    for number, line in lines:
        values = [read_number(field) for field in line.split()]
        is_odd = len(values) != 5 and not any(map(math.isnan, values))
        shape = find_shape(values[1:], columns) if is_odd else Shape.BOX
        kind, action = _find_fault(values, shape, names, file_class), ProblemAction.SKIPPED_WITH_IMAGE
        if kind:
            problems.append(Problem(path, number, kind, action, line.strip()[:120]))
            continue
        if file_class and values[0] != 0:  # the file's name decides, so a wrong id costs nothing but is worth a look
            problems.append(Problem(path, number, "class id is not 0", ProblemAction.ACCEPTED, line.strip()[:120]))
        name = file_class or (names[int(values[0])] if names is not None else str(int(values[0])))
        box = RawBox(number, name, *(_bounding_box if columns == CORNERS else _first_four)(values[1:5]))
        if shape is not Shape.BOX and shape is not None:
            shapes.setdefault(shape, f"{path}, line {number}: {line.strip()[:80]}")
            if shape in (Shape.CONFIDENCE, Shape.FLAG):
                confidences.append(values[5])
            if shape in (Shape.POLYGON, Shape.UNDECIDED):
                polygon = RawBox(number, name, *_bounding_box(values[1:]))
                if shape == Shape.UNDECIDED:
                    undecided.append(UndecidedBox(box, polygon))
                    continue
                problems.append(Problem(path, number, "polygon", ProblemAction.BOUNDING_BOX, line.strip()[:120]))
                box = polygon
        boxes.append(box)
    if confidences not in (sorted(confidences), sorted(confidences, reverse=True)):
        shapes[Shape.UNSORTED] = f"{path}: {', '.join(f'{value:g}' for value in confidences[:6])}"
    return YoloLabels(FileLabels(boxes, problems), undecided, shapes)


def read_plain_yolo(
    data: bytes, names: Sequence[str] | None = None, file_class: str = "", columns: str = AUTO
) -> PlainBoxes | None:
    """Return what `read_yolo` does, much faster, of a text with five right numbers in each line, a blank between them.

    None for all others, whatever they are.
    """
    ends, blanks = data.count(b"\n"), data.translate(None, _OF_NUMBERS)
    whole_lines, fields = b"    \n" * ends, data.split()
    is_even = (blanks == whole_lines and len(fields) == 5 * ends) or (
        blanks == whole_lines + b"    " and len(fields) == 5 * ends + 5
    )
    if not is_even or columns not in (AUTO, "box"):
        return None
    try:
        values = np.array([*map(float, fields)]).reshape(-1, 5)
    except ValueError:
        return None
    ids, boxes = values[:, 0], values[:, 1:]
    if not (np.isfinite(ids).all() and (np.abs(boxes) < _PIXELS).all()):
        return None
    different_ids, classes = np.unique(ids, return_inverse=True)
    ids_of_classes = different_ids.tolist()
    if file_class:
        is_right = ids_of_classes in ([], [0])
        names_of_classes = [file_class] * len(ids_of_classes)
    else:
        id_count = _MOST_IDS if names is None else len(names)
        is_right = all(_is_id(class_id, id_count) for class_id in ids_of_classes)
        if is_right:
            names_of_classes = [str(int(i)) if names is None else names[int(i)] for i in ids_of_classes]
            is_right = all(names_of_classes)
    return PlainBoxes(tuple(names_of_classes), classes, boxes) if is_right else None


def _is_id(value: float, count: int) -> bool:
    """Say whether a number is a whole one below `count`; a float is looked for in a range one by one."""
    return 0 <= value < count and float(value).is_integer()


def _find_fault(values: Sequence[float], shape: Shape | None, names: Sequence[str] | None, file_class: str) -> str:
    """Return what is wrong with a line that cannot be read: a class id, and numbers of this shape; "" for nothing."""
    if len(values) < 5:
        return "not five fields"
    if any(map(math.isnan, values)):
        return "not a finite number"
    class_id = values[0]
    is_known = _is_id(class_id, _MOST_IDS if names is None else len(names))
    if not file_class and not (is_known and (names is None or names[int(class_id)])):
        return "class id without a name"
    if shape is None:
        return "numbers that are no box"
    if shape is Shape.BOX and (max(values[1:]) >= _PIXELS or min(values[1:]) <= -_PIXELS):
        return "not fractions of the image"
    return ""


def find_shape(values: Sequence[float], columns: str = AUTO) -> Shape | None:
    """Return what the numbers after a class are; None: neither a box, alone or with more, nor a polygon.

    `columns` is one of `COLUMNS`: a person knows what a line cannot say.
    """
    count = len(values)
    if count <= 4 or columns == CORNERS:
        return Shape.BOX if count == 4 else None
    if columns == "polygon":
        return Shape.POLYGON if count >= 6 and count % 2 == 0 and _lies_inside(values, 1) else None
    if columns != AUTO:
        is_box = count > 4 and (count == 5 or columns == "box+points") and _lies_inside(values[:4], 1)
        return Shape.POINTS if is_box else None
    if count == 5:
        return _find_shape_of_five(values)
    can_be_points = _is_box_with_points(values, 2) or _is_box_with_points(values, 3) or _is_tracked(values)
    if count < 6 or count % 2 or not _lies_inside(values, _NEAR_EDGE):
        return Shape.POINTS if can_be_points else None
    if not can_be_points:
        return Shape.POLYGON
    _, _, width, height = _bounding_box(values)
    return Shape.POINTS if width * height >= _FAR * values[2] * values[3] else Shape.UNDECIDED


def _find_shape_of_five(values: Sequence[float]) -> Shape | None:
    if not _lies_inside(values[:4], _NEAR_EDGE):
        return None
    if not _is_box(values) and _is_box(values[1:]):  # the confidence comes first
        return None
    if not 0 < values[4] <= 1:
        return Shape.NUMBER
    return Shape.FLAG if values[4] == 1 else Shape.CONFIDENCE


def _is_box_with_points(values: Sequence[float], dimensions: int) -> bool:
    """Say whether four numbers are a box of the image that holds the points after them, but for unknown ones."""
    if (len(values) - 4) % dimensions or not _is_box(values):
        return False
    cx, cy, w, h = values[:4]
    xs, ys = values[4::dimensions], values[5::dimensions]
    visible = values[6::3] if dimensions == 3 else [1.0] * len(xs)
    if any(value not in (0, 1, 2) for value in visible):
        return False
    return all(
        flag == 0 or (x, y) in ((-1, -1), (0, 0)) or (abs(x - cx) <= w and abs(y - cy) <= h)
        for x, y, flag in zip(xs, ys, visible, strict=True)
    )


def _is_tracked(values: Sequence[float]) -> bool:
    """Say whether six numbers may be a box, a confidence and the number of a track."""
    return len(values) == 6 and values[5] == int(values[5]) and 0 <= values[4] <= 1 and _is_box(values)


def _is_box(values: Sequence[float]) -> bool:
    """Say whether the first four numbers are a box that lies in the image."""
    cx, cy, w, h = values[:4]
    if min(w, h) <= 0:
        return False
    return max(w / 2 - cx, cx + w / 2 - 1) <= _OVER * w and max(h / 2 - cy, cy + h / 2 - 1) <= _OVER * h


def _lies_inside(values: Sequence[float], margin: float) -> bool:
    return all(-margin <= value <= 1 + margin for value in values)


def _first_four(values: Sequence[float]) -> tuple[float, float, float, float]:
    return values[0], values[1], values[2], values[3]


def _bounding_box(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Return center and size of the box around x1, y1, x2, y2, …"""
    xs, ys = points[::2], points[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


def decide_columns(uri: str, shapes: Mapping[Shape, str]) -> Shape:
    """Return what the undecided lines of a set are, of whose lines these shapes are some, with an example of each.

    Raise UserError where the lines do not say, or contradict one another.
    """
    pairs = ((Shape.POINTS, Shape.POLYGON), (Shape.CONFIDENCE, Shape.NUMBER))
    for first, second in pairs:
        if first in shapes and second in shapes:
            raise UserError(
                f"{uri}: lines must be of one kind, but some are {first} ({shapes[first]}) and some {second}"
                f" ({shapes[second]}): {_ADVICE}"
            )
    if Shape.UNDECIDED in shapes and Shape.POINTS not in shapes and Shape.POLYGON not in shapes:
        raise UserError(
            f"{uri}: lines with more than five numbers may be {Shape.UNDECIDED} ({shapes[Shape.UNDECIDED]}): {_ADVICE}"
        )
    for shape in (Shape.FLAG, Shape.NUMBER, Shape.UNSORTED):
        if shape in shapes and (shape == Shape.UNSORTED or Shape.CONFIDENCE not in shapes):
            raise UserError(
                f"{uri}: a sixth number must be a confidence, but may be a flag, a track or an angle"
                f" ({shapes[shape]}): {_ADVICE}"
            )
    return Shape.POLYGON if Shape.POLYGON in shapes else Shape.POINTS


_ADVICE = "say what stands in them with --columns box, box+points or polygon"
