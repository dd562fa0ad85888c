"""YOLO text as tools and people write it, read forgivingly but on record.

A line is `class cx cy w h` in fractions of the image, or a polygon, `class x1 y1 x2 y2 x3 y3 …`, whose bounding box
is taken. The class is an id: the place of its name in the set's list of names.
"""

import re
from collections.abc import Sequence

from depers.datasets.labels import read_number
from depers.normalization.rules import FileLabels, Problem, RawBox
from depers.statuses import ProblemAction

_BOM = "\ufeff"
_POLYGON = 7  # fields of the smallest: a class and three points


def read_yolo(path: str, data: bytes, names: Sequence[str] | None = None, file_class: str = "") -> FileLabels:
    """Read the boxes of one label file.

    The ids count `names`; without names, a class is called by its id. `file_class`: the class is that of the file, and
    its ids must be 0, as in the competition's layout.
    """
    text = data.decode("utf-8", "replace")
    boxes: list[RawBox] = []
    problems = []
    if text.startswith(_BOM):
        problems.append(Problem(path, 0, "byte order mark", ProblemAction.MENDED))
    if "\r" in text:
        problems.append(Problem(path, 0, "Windows line ends", ProblemAction.MENDED))
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix(_BOM)), 1):
        fields = line.split()
        if not fields:
            continue
        values = [read_number(field) for field in fields]
        kind, action = "", ProblemAction.SKIPPED_WITH_IMAGE
        if len(fields) != 5 and (len(fields) < _POLYGON or len(fields) % 2 == 0):
            kind = "not five fields"
        elif any(value != value for value in values):  # NaN
            kind = "not a finite number"
        elif file_class:
            if values[0] != 0:  # the file's name decides, so a wrong id costs nothing but is worth a look
                kind, action = "class id is not 0", ProblemAction.ACCEPTED
        elif values[0] not in range(len(names) if names is not None else 2**31):
            kind = "class id without a name"
        elif len(fields) > 5:
            kind, action = "polygon", ProblemAction.BOUNDING_BOX
        if kind:
            problems.append(Problem(path, number, kind, action, line.strip()[:120]))
        if not kind or action != ProblemAction.SKIPPED_WITH_IMAGE:
            name = file_class or (names[int(values[0])] if names is not None else str(int(values[0])))
            boxes.append(RawBox(number, name, *(values[1:] if len(values) == 5 else _bounding_box(values[1:]))))
    return FileLabels(boxes, problems)


def _bounding_box(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Return center and size of the box around x1, y1, x2, y2, …"""
    xs, ys = points[::2], points[1::2]
    return (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)
