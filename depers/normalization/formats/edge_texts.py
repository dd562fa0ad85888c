"""Texts whose lines are a class by its name and the edges of its box in pixels: KITTI's, and those of OIDv4_ToolKit.

    Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59     type, truncated, occluded,
        alpha, left, top, right, bottom, and seven numbers in three dimensions (cvlibs.net/datasets/kitti, devkit)
    Vehicle registration plate 20.48 30.1 80.0 60.5                                        left, top, right, bottom

Neither says how large its image is: the pixels are those of the image itself. KITTI's `DontCare` is a region where
objects of any class may be.
"""

import math
import re
from collections.abc import Iterable

from depers.datasets.labels import read_number
from depers.normalization.formats.texts import read_lines
from depers.normalization.rules import EVERY_CLASS, IMAGE_WH, FileLabels, Problem, RawBox
from depers.statuses import ProblemAction

EDGE_FORMATS = ("kitti", "oidv4")
_KITTI_FIELDS = (15, 16)  # a result has its score as well
_DONT_CARE = "DontCare"
_RULES = {
    "kitti": "must be KITTI's 15 fields, of which only the first is text",
    "oidv4": "must be a class and four edges in pixels",
}


def recognise_text(texts: Iterable[tuple[str, bytes]]) -> str:
    """Return the format of label texts, given some of them with the beginning of each: yolo unless all say otherwise.

    OIDv4's need their folder's name, `Label`, since four numbers alone could be a center and a size.
    """
    kinds = set()
    for path, head in texts:
        line = next((line for line in head.decode("utf-8", "replace").splitlines() if line.strip()), "")
        if not line:
            continue
        if _read_kitti(line):
            kinds.add("kitti")
        else:
            box = _read_oidv4(line) if re.search(r"(?:^|/)label/", path, re.IGNORECASE) else None
            kinds.add("oidv4" if box and _is_in_pixels(box[1]) else "yolo")
    return kinds.pop() if len(kinds) == 1 else "yolo"


def read_edge_text(kind: str, path: str, data: bytes) -> FileLabels:
    """Read the boxes of one file in KITTI's or OIDv4's format. Raise LabelError for what is no text."""
    boxes = []
    lines, problems = read_lines(path, data)
    for number, line in lines:
        label = _read_kitti(line) if kind == "kitti" else _read_oidv4(line)
        if label is None:
            detail = f"{line.strip()[:80]} ({_RULES[kind]})"
            problems.append(Problem(path, number, "line of another format", ProblemAction.SKIPPED_WITH_IMAGE, detail))
            continue
        name, (x0, y0, x1, y1) = label
        is_region = kind == "kitti" and name == _DONT_CARE
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        boxes.append(RawBox(number, EVERY_CLASS if is_region else name, *box, is_region))
    return FileLabels(boxes, problems, IMAGE_WH)


_Edges = tuple[float, float, float, float]


def _read_kitti(line: str) -> tuple[str, _Edges] | None:
    """Return class and edges of a line; None where it is no KITTI."""
    name, *fields = line.split()
    values = [read_number(field) for field in fields]
    if len(values) + 1 not in _KITTI_FIELDS or _is_number(name) or any(map(math.isnan, values)):
        return None
    return name, (values[3], values[4], values[5], values[6])


def _read_oidv4(line: str) -> tuple[str, _Edges] | None:
    """Return class and edges of a line; None where it is no OIDv4."""
    parts = line.strip().rsplit(None, 4)
    values = [read_number(field) for field in parts[1:]]
    if len(values) != 4 or any(map(math.isnan, values)) or _is_number(parts[0].split()[-1]):
        return None
    return parts[0], (values[0], values[1], values[2], values[3])


def _is_number(field: str) -> bool:
    return not math.isnan(read_number(field))


def _is_in_pixels(edges: _Edges) -> bool:
    x0, y0, x1, y1 = edges
    return x1 > x0 and y1 > y0 and max(edges) > 2
