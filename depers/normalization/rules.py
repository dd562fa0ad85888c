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
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from depers.datasets.labels import Labels
from depers.statuses import ProblemAction

N = TypeVar("N", float, NDArray[np.float64])
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


BOX_ROW = np.dtype(
    [
        ("path", "<i4"),
        ("line", "<i4"),
        ("class_id", "<i4"),
        ("box", "<f8", (4,)),
        ("ignored", "?"),
    ]
)
"""A box among others, as `LabelBox` has it; `path` is the place of its label file's in a list."""


class LabelBoxes(NamedTuple):
    """The boxes of one image: `rows` are `BOX_ROW` (N,), `paths` those of its label files."""

    paths: tuple[str, ...]
    rows: NDArray[np.void]

    @classmethod
    def of(cls, boxes: Sequence[LabelBox]) -> "LabelBoxes":
        """Return boxes one by one as a table."""
        paths = {path: place for place, path in enumerate(dict.fromkeys(box.path for box in boxes))}
        rows = [(paths[box.path], box.line, box.class_id, box[3:7], box.ignored) for box in boxes]
        return cls(tuple(paths), np.array(rows, BOX_ROW))


NO_BOXES = LabelBoxes.of(())
"""Those of an image that shows nothing."""


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


def turn_upright(cx: N, cy: N, w: N, h: N, orientation: int) -> tuple[N, N, N, N]:
    """Return a box in fractions of the stored image as one of the upright image (TIFF 6.0, tag 274); also many."""
    if orientation in (5, 6, 7, 8):
        cx, cy, w, h = cy, cx, h, w
    if orientation in (3, 4, 7, 8):
        cy = 1 - cy
    if orientation in (2, 3, 6, 7):
        cx = 1 - cx
    return cx, cy, w, h


def mend(boxes: LabelBoxes, size_wh: tuple[float, float] = (1, 1), orientation: int = 1) -> MendedLabels:
    """Return the labels of one image as they are to be written.

    `size_wh` is what the boxes are fractions of, `orientation` that of the pixels that they lie on.
    """
    rows = boxes.rows
    inside, has_area, is_inside, is_clipped = _clip(rows["box"] / np.array([*size_wh, *size_wh], np.float64))
    is_placed = has_area & is_inside
    in_fractions = np.zeros(len(rows), np.bool_)
    if min(size_wh) > 1:
        with np.errstate(over="ignore", invalid="ignore"):
            corners = rows["box"][:, :2] + rows["box"][:, 2:] / 2
        in_fractions = is_placed & (corners.max(axis=1, initial=-np.inf) <= 1)
    places = np.flatnonzero(is_placed & ~in_fractions)
    cx, cy, w, h = inside[places].T
    upright = turn_upright(cx, cy, w, h, orientation) if orientation != 1 else (cx, cy, w, h)
    millionths = np.rint(np.stack(upright, axis=1) * 1e6).astype(np.int64)  # which is what is written
    is_wide = millionths[:, 2:].min(axis=1, initial=1) >= 1
    has_area[places[~is_wide]] = False
    keys = np.column_stack([rows["class_id"][places], millionths])[is_wide]
    places = places[is_wide]
    is_region = rows["ignored"][places]
    is_new = _find_new(keys, is_region)
    kinds = np.full(len(rows), "", object)
    actions = np.full(len(rows), None, object)
    for chosen, kind, action in (
        (is_clipped, OUTSIDE, ProblemAction.CLIPPED),
        (~is_inside, OUTSIDE, ProblemAction.SKIPPED_WITH_IMAGE),
        (~has_area, NO_AREA, ProblemAction.SKIPPED_WITH_IMAGE),
        (in_fractions, IN_FRACTIONS, ProblemAction.SKIPPED_WITH_IMAGE),
        (places[~is_new], "duplicate", ProblemAction.DROPPED),
    ):
        kinds[chosen], actions[chosen] = kind, action
    problems = []
    for place in np.flatnonzero(kinds):
        row = rows[place]
        text = " ".join(f"{value:g}" for value in row["box"].tolist())
        problems.append(Problem(boxes.paths[row["path"]], int(row["line"]), kinds[place], actions[place], text))
    return MendedLabels(_to_labels(keys[is_new & ~is_region]), _to_labels(keys[is_new & is_region]), problems)


def _find_new(keys: NDArray[np.int64], is_region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows are the first of their kind, labels and regions each for themselves."""
    rows = [*map(tuple, np.column_stack([keys, is_region]).tolist())]
    if len(set(rows)) == len(rows):
        return np.ones(len(rows), np.bool_)
    firsts: dict[tuple[int, ...], int] = {}
    return np.array([firsts.setdefault(row, place) == place for place, row in enumerate(rows)])


def _to_labels(keys: NDArray[np.int64]) -> Labels:
    return Labels(keys[:, 0], keys[:, 1:] / 1e6)


class _Clipped(NamedTuple):
    """Boxes (N, 4) inside 0…1, and of each whether it has an area, lies inside, and reached over the edge."""

    boxes: NDArray[np.float64]
    has_area: NDArray[np.bool_]
    is_inside: NDArray[np.bool_]
    is_clipped: NDArray[np.bool_]


def _clip(boxes: NDArray[np.float64]) -> _Clipped:
    centers, sizes = boxes[:, :2], boxes[:, 2:]
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that lie far outside
        low, high = centers - sizes / 2, centers + sizes / 2
        inner_low, inner_high = np.clip(low, 0, 1), np.clip(high, 0, 1)
        over = np.maximum(-low, high - 1).max(axis=1, initial=-np.inf)
        clipped = np.hstack([(inner_low + inner_high) / 2, inner_high - inner_low])
    return _Clipped(
        np.where(over[:, None] <= 0, boxes, clipped),
        np.all(sizes > 0, axis=1),
        np.all(inner_low < inner_high, axis=1),
        over > _ROUNDING,
    )
