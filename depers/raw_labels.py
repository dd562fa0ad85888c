"""The raw layout: which label file belongs to which image, and what its lines say, forgivingly but on record.

RAW/labels/NAME_CLASS..txt (one dot is accepted too) holds YOLO text for RAW/images/NAME.jpg, its class id always 0:
the class is in the file's name. NAME may hold dots, underscores, spaces and folders.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from depers.labels import IMAGE_SUFFIXES, Labels, read_number

_ROUNDING = 1e-5  # an edge this far outside 0…1 comes from writing six decimals, and is clipped without a word


class Problem(NamedTuple):
    """What was wrong: `path` below RAW, `line` (0: the whole file), what was done about it and what was found."""

    path: str
    line: int
    kind: str
    action: str
    found: str = ""


def label_target(name: str, stems: Mapping[str, str], classes: Sequence[str]) -> tuple[str, str] | None:
    """(image stem, class) of the label file `name`; the stem is "" where no image has it, None: no such class.

    `stems` are those of the images. Where several classes fit, one whose image exists goes first, then the longest.
    """
    base = re.sub(r"\.{1,2}txt$", "", name, flags=re.IGNORECASE)
    fitting = sorted((c for c in classes if base.endswith(f"_{c}") and base != name), key=len, reverse=True)
    for class_name in fitting:
        stem = base[: -len(class_name) - 1]
        if stem in stems:
            return stem, class_name
    return ("", fitting[0]) if fitting else None


def match_files(
    image_paths: Sequence[str], label_paths: Sequence[str], classes: Sequence[str]
) -> tuple[dict[str, list[tuple[str, int]]], list[Problem]]:
    """The label files of every image, with class ids, in the order of the ids; and what belongs to no image."""
    stems: dict[str, str] = {}
    problems = []
    for path in sorted(image_paths):
        stem, suffix = str(PurePosixPath(path).with_suffix("")), PurePosixPath(path).suffix
        if suffix.lower() not in IMAGE_SUFFIXES:
            problems.append(Problem(f"images/{path}", 0, "not an image name", "left out", suffix))
        elif stem in stems:  # their labels could not be told apart
            problems.append(Problem(f"images/{path}", 0, "same name as another image", "left out", stems[stem]))
        else:
            stems[stem] = path
    files: dict[str, list[tuple[str, int]]] = {path: [] for path in stems.values()}
    for path in sorted(label_paths):
        target = label_target(path, stems, classes)
        if target is None:
            wanted = "_CLASS..txt with CLASS one of " + ", ".join(classes)
            problems.append(Problem(f"labels/{path}", 0, "not a label name", "left out", f"must end in {wanted}"))
        elif not target[0]:
            problems.append(Problem(f"labels/{path}", 0, "label without image", "left out", target[1]))
        else:
            files[stems[target[0]]].append((path, classes.index(target[1])))
    return {path: sorted(found, key=lambda file: (file[1], file[0])) for path, found in files.items()}, problems


def merge(files: Sequence[tuple[str, int, str]]) -> tuple[Labels, list[Problem]]:
    """The labels of one image from its files (path below RAW, class id, text), and what was wrong with their lines."""
    problems: list[Problem] = []
    boxes: dict[tuple[int, ...], None] = {}  # as class id and millionths, which is what is written
    for path, class_id, text in files:
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
            if not line.strip():
                continue
            shown = line.strip()[:120]
            box, kind, dropped = _read_line(line)
            if box is not None:
                key = (class_id, *(round(value * 1e6) for value in box))
                if min(key[3:]) < 1:
                    kind, dropped = "box without area", True
                elif key in boxes:
                    kind, dropped = "duplicate", True
                else:
                    boxes[key] = None
            if kind:
                action = "dropped" if dropped else "clipped" if kind == "box outside the image" else "kept"
                problems.append(Problem(path, number, kind, action, shown))
    return Labels.of([key[0] for key in boxes], [[value / 1e6 for value in key[1:]] for key in boxes]), problems


def _read_line(line: str) -> tuple[tuple[float, float, float, float] | None, str, bool]:
    """(cx, cy, w, h) inside 0…1 or None, what is wrong ("" for nothing), and whether that costs the box."""
    fields = line.split()
    if len(fields) != 5:
        return None, "not five fields", True
    class_id, cx, cy, width, height = (read_number(field) for field in fields)
    if cx != cx or cy != cy or width != width or height != height or class_id != class_id:  # NaN
        return None, "not a finite number", True
    if width <= 0 or height <= 0:
        return None, "box without area", True
    corners = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in corners)
    if x0 >= x1 or y0 >= y1:
        return None, "box outside the image", True
    outside = max(-corners[0], -corners[1], corners[2] - 1, corners[3] - 1)
    # The file's name decides the class, so a wrong id costs nothing but is worth a look.
    kind = "box outside the image" if outside > _ROUNDING else "class id is not 0" if class_id != 0 else ""
    box = (cx, cy, width, height) if outside <= 0 else ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    return box, kind, False
