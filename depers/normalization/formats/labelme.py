"""LabelMe's JSON, a file per image, as labelme and X-AnyLabeling write it.

    {"imageHeight": 375, "imageWidth": 500,
     "shapes": [{"label": "car", "shape_type": "rectangle", "points": [[8, 12], [352, 298]]}, …]}

A rectangle is given by two corners or four, a circle by its center and a point on it; of a polygon the bounding box is
taken. Other shapes (points, lines) are no boxes. X-AnyLabeling adds `difficult`, and a `score` to what a model found.
"""

import json
import math
import re
from typing import Any

from depers.normalization.formats.remarks import find_score, is_region
from depers.normalization.rules import FileLabels, LabelError, Problem, RawBox, clean_name
from depers.statuses import ProblemAction

_LABELME = re.compile(rb'"shapes"\s*:.*"(?:imagePath|shape_type)"|"(?:imagePath|imageData)"\s*:.*"shapes"', re.DOTALL)
_OUTLINES = ("polygon", "rectangle", "rotation", "quadrilateral", "mask")


def looks_like_labelme(head: bytes) -> bool:
    """Say whether a JSON file is LabelMe's, by its first bytes."""
    return bool(_LABELME.search(head))


def read_labelme(path: str, data: bytes) -> FileLabels:
    """Read the boxes of one file, in pixels. Raise LabelError for what is no JSON, or none of LabelMe's."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise LabelError("broken JSON", str(error)) from None
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise LabelError("no LabelMe file", "it must have a list of shapes, but has none")
    boxes: list[RawBox] = []
    problems: list[Problem] = []
    for number, shape in enumerate(shapes, 1):
        values: dict[str, Any] = shape if isinstance(shape, dict) else {}
        label, kind = values.get("label"), values.get("shape_type") or "polygon"
        text = f"{label} {kind} {values.get('points')}"[:120]
        box, fault = _find_box(kind, values.get("points")), ""
        name = clean_name(label) if isinstance(label, str) else ""
        if not name:
            fault = "object without a name"
        elif box is None:
            fault = "shape that is no box"
        elif (score := find_score(values)) is not None:
            fault, text = "detection, not a label", f"score {score}"
        if box is None or fault:
            problems.append(Problem(path, number, fault, ProblemAction.SKIPPED_WITH_IMAGE, text))
            continue
        if kind != "rectangle":
            problems.append(Problem(path, number, "polygon", ProblemAction.BOUNDING_BOX, text))
        x0, y0, x1, y1 = box
        is_ignored = any(map(is_region, (values, values.get("flags"), values.get("attributes"))))
        boxes.append(RawBox(number, name, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, is_ignored))
    sides = [content.get(side) for side in ("imageWidth", "imageHeight")]
    wide, high = (int(side) if isinstance(side, (int, float)) and side >= 1 else 0 for side in sides)
    return FileLabels(boxes, problems, (wide, high) if wide and high else (0, 0))


def _find_box(kind: object, points: object) -> tuple[float, float, float, float] | None:
    """Return the edges of what a shape's points are about; None for what is no area."""
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    numbers = [value for point in points for value in point]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        return None
    xs, ys = numbers[::2], numbers[1::2]
    if kind == "circle" and len(points) == 2:
        radius = math.dist(points[0], points[1])
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    if kind not in _OUTLINES or len(points) < (2 if kind in ("rectangle", "mask") else 3):
        return None
    return min(xs), min(ys), max(xs), max(ys)
