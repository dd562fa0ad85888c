"""What label files say about one image, and the rules by which it is believed, mended or dropped; on record.

A box is written as center and size, cx, cy, w, h, in fractions of the image or in pixels. By rule:

- a box that reaches over the image's edge is clipped, one that is there twice is dropped;
- a box that lies outside, has no area, a number that is none or a wrong class id stands for an object that nobody can
  place: its image is skipped, since without the box it would be taught as background;
- a region whose objects are not told apart (a crowd), or that the annotator calls difficult, is `ignored`: it teaches
  neither that there is an object nor that there is none;
- pixels count in an image of the size that the file declares: one of the same proportions is scaled, a missing one is
  taken from the image; where the proportions differ, nobody knows what the boxes are about, and the image is
  skipped;
- an image that EXIF turns is labelled as it is seen, upright, for so do today's tools, unless the declared size is
  that of the stored pixels: then its boxes are turned. The dataset's labels are always those of the upright image.
"""

import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

from depers.datasets.labels import Labels
from depers.statuses import ProblemAction

_ROUNDING = 1e-5  # an edge this far outside 0…1 comes from writing six decimals, and is clipped without a word
_PROPORTION = 0.02  # how far the factors of width and height may differ where an image was only resized
IMAGE_WH = (-1, -1)
"""A declared size that says: boxes are pixels of the image itself, for the format has no place for a size."""
EVERY_CLASS = "*\n"
"""In place of a class: a region where objects of any class may be."""
EXIF_FRAMES = ("auto", "upright", "stored")


OUTSIDE, NO_AREA = "box outside the image", "box without area"
IN_FRACTIONS = "box in one pixel"  # that of the corner: its numbers are fractions


class Problem(NamedTuple):
    """What was wrong: `path` below RAW, where in it, what was done about it, and the text or the reason.

    `line` counts from 1: the line of a text, the object of an XML file, the annotation of a JSON file; 0: all of it.
    """

    path: str
    line: int
    kind: str
    action: ProblemAction
    detail: str = ""


def clean_name(name: str) -> str:
    """Return a class name without blanks around it, with single ones inside, in one Unicode form (NFC)."""
    return " ".join(unicodedata.normalize("NFC", name).split())


class LabelError(Exception):
    """Why a label file cannot be read at all: its `kind` of problem, and the text or the reason."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


class RawBox(NamedTuple):
    """A box as a file gives it: its class by the source's name, center and size; `line` as in `Problem`.

    `ignored`: a region of such objects that is to teach nothing, as crowds and difficult objects are.
    """

    line: int
    class_name: str
    cx: float
    cy: float
    w: float
    h: float
    ignored: bool = False


class FileLabels(NamedTuple):
    """What one label file says: `declared_wh` is the image's size in pixels, None where the boxes are fractions.

    (0, 0): the boxes are pixels, but the file gives no size, or none that an image can have. `IMAGE_WH`: nor can it.
    """

    boxes: list[RawBox]
    problems: list[Problem]
    declared_wh: tuple[int, int] | None = None


class LabelBox(NamedTuple):
    """A box with the class id of the dataset; `path` is its label file's, `line` and `ignored` as in `RawBox`."""

    path: str
    line: int
    class_id: int
    cx: float
    cy: float
    w: float
    h: float
    ignored: bool = False


class MendedLabels(NamedTuple):
    """The labels and the ignore regions of one image, in fractions of the upright one, and what was wrong."""

    labels: Labels
    ignored: Labels
    problems: list[Problem]


class LabelFrame(NamedTuple):
    """How the boxes of one image become fractions of the upright one: divided by `size_wh`, then turned upright."""

    size_wh: tuple[float, float]
    orientation: int
    problems: list[Problem]


def find_frame(
    path: str,
    declared_wh: tuple[int, int] | None,
    upright_wh: tuple[int, int],
    orientation: int,
    exif_frame: str = "auto",
) -> LabelFrame:
    """Return the frame of the labels of the image at `path`, whose EXIF orientation is 1…8, by the rules above.

    Raise LabelError where the declared size is that of another image.
    """
    problems = []
    stored_wh = upright_wh[::-1] if orientation >= 5 else upright_wh
    turned = exif_frame == "stored" or (
        exif_frame == "auto" and not _same_shape(declared_wh, upright_wh) and _same_shape(declared_wh, stored_wh)
    )
    if orientation != 1:
        action = ProblemAction.TURNED_UPRIGHT if turned else ProblemAction.TAKEN_AS_UPRIGHT
        problems.append(Problem(path, 0, "EXIF-rotated image", action, f"orientation {orientation}"))
    if declared_wh is None:
        return LabelFrame((1.0, 1.0), orientation if turned else 1, problems)
    actual_wh = stored_wh if turned else upright_wh
    size_wh = actual_wh if declared_wh == IMAGE_WH else declared_wh
    if size_wh != actual_wh:
        detail = f"{declared_wh[0]}x{declared_wh[1]}, the image is {actual_wh[0]}x{actual_wh[1]}"
        if min(declared_wh) < 1:
            action, size_wh = ProblemAction.TAKEN_FROM_IMAGE, actual_wh
        elif _same_shape(declared_wh, actual_wh):
            action = ProblemAction.SCALED
        else:
            raise LabelError("wrong image size", detail)
        problems.append(Problem(path, 0, "wrong image size", action, detail))
    return LabelFrame(size_wh, orientation if turned else 1, problems)


def _same_shape(first_wh: tuple[int, int] | None, second_wh: tuple[int, int]) -> bool:
    """Say whether two sizes are those of one image, perhaps resized."""
    if first_wh is None or min(first_wh) < 1:
        return False
    wide, high = first_wh[0] / second_wh[0], first_wh[1] / second_wh[1]
    return abs(wide - high) <= _PROPORTION * max(wide, high)


def turn_upright(cx: float, cy: float, w: float, h: float, orientation: int) -> tuple[float, float, float, float]:
    """Return a box in fractions of the stored image as one of the upright image (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        cx, cy, w, h = cy, cx, h, w
    if orientation in (3, 4, 7, 8):
        cy = 1 - cy
    if orientation in (2, 3, 6, 7):
        cx = 1 - cx
    return cx, cy, w, h


def mend(boxes: Sequence[LabelBox], size_wh: tuple[float, float] = (1, 1), orientation: int = 1) -> MendedLabels:
    """Return the labels of one image as they are to be written.

    `size_wh` is what the boxes are fractions of, `orientation` that of the pixels that they lie on.
    """
    problems: list[Problem] = []
    labels: dict[tuple[int, ...], None] = {}  # as class id and millionths, which is what is written
    regions: dict[tuple[int, ...], None] = {}
    for box in boxes:
        numbers = (box.cx / size_wh[0], box.cy / size_wh[1], box.w / size_wh[0], box.h / size_wh[1])
        inside, kind, action = _clip(*numbers)
        if inside is not None and min(size_wh) > 1 and max(box.cx + box.w / 2, box.cy + box.h / 2) <= 1:
            inside, kind, action = None, IN_FRACTIONS, ProblemAction.SKIPPED_WITH_IMAGE
        if inside is not None:
            if orientation != 1:
                inside = turn_upright(*inside, orientation)
            key = (box.class_id, *(round(value * 1e6) for value in inside))
            if min(key[3:]) < 1:
                kind, action = NO_AREA, ProblemAction.SKIPPED_WITH_IMAGE
            elif key in (keys := regions if box.ignored else labels):
                kind, action = "duplicate", ProblemAction.DROPPED
            else:
                keys[key] = None
        if action:
            text = " ".join(f"{value:g}" for value in box[3:7])
            problems.append(Problem(box.path, box.line, kind, action, text))
    return MendedLabels(_to_labels(labels), _to_labels(regions), problems)


def _to_labels(keys: Collection[tuple[int, ...]]) -> Labels:
    return Labels.of([key[0] for key in keys], [[value / 1e6 for value in key[1:]] for key in keys])


def _clip(
    cx: float, cy: float, width: float, height: float
) -> tuple[tuple[float, float, float, float] | None, str, ProblemAction | None]:
    """Return the box inside 0…1 or None, what is wrong, and what is done about it: "" and None for nothing."""
    if width <= 0 or height <= 0:
        return None, NO_AREA, ProblemAction.SKIPPED_WITH_IMAGE
    corners = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in corners)
    if x0 >= x1 or y0 >= y1:
        return None, OUTSIDE, ProblemAction.SKIPPED_WITH_IMAGE
    outside = max(-corners[0], -corners[1], corners[2] - 1, corners[3] - 1)
    box = (cx, cy, width, height) if outside <= 0 else ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
    if outside > _ROUNDING:
        return box, OUTSIDE, ProblemAction.CLIPPED
    return box, "", None
