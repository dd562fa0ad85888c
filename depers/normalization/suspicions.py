"""Sets whose labels, all together, are not what they seem."""

import itertools
from collections import Counter

from depers.errors import UserError
from depers.normalization.catalog import Catalog
from depers.normalization.formats.foreign import advise
from depers.normalization.formats.yolo import CORNERS
from depers.normalization.index import LabelIndex

_NEARLY_ALL, _MANY = 0.95, 0.25  # shares of a set's boxes
_SEVERAL = 3  # boxes from which on a share says anything
_IN_FRACTIONS = ("yolo", "competition")
_WITHOUT_SIZE = ("wider", "crowdhuman")  # of the image, with a corner and a size of each box
_CERTAIN = ("box", CORNERS)  # what a person has said of the columns


def refuse_corners(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set whose boxes may be two corners, where its format has a center or corner and a size.

    In texts anything may stand: nearly all of the boxes must be no corners, or a person says what they are. COCO says
    itself what stands in it: there many boxes must also reach over the edge of their image. In lists that give no size
    of the images, some boxes are enough: few things are larger than they are far from the corner. Raise UserError as
    well for texts of which many reach over the edge: these may be a corner and a size. So may COCO's be a center and a
    size, where many reach over the right or lower edge, and none over the others, as those of objects do that are seen
    in part.
    """
    numbers = itertools.groupby(enumerate(catalog.images), key=lambda item: item[1][0])
    for label_set, group in numbers:
        images = [number for number, _ in group]
        is_coco, is_text = label_set.format == "coco", label_set.format in _IN_FRACTIONS
        if not (is_coco or is_text or label_set.format in _WITHOUT_SIZE) or label_set.columns in _CERTAIN:
            continue
        total, corners, corners_over, over, before = index.count_like_corners(images[0], images[-1], is_text)
        shape = "cx cy w h" if is_text else "x y w h, from the upper left corner"
        is_enough = corners_over > _MANY * total if is_coco else is_text or total >= _SEVERAL
        if total and corners >= _NEARLY_ALL * total and is_enough:
            reach = f", and {over} reach over the edge of their image" if over else ""
            raise UserError(
                f"{label_set.uri}: boxes must be {shape}, but {corners} of {total} could be two corners, x1 y1 x2 y2"
                f"{reach}: {'say which they are with --columns box or corners' if is_text else 'convert them'}"
            )
        if over >= _SEVERAL and over > _MANY * total and not (is_coco and before):
            raise UserError(
                f"{label_set.uri}: boxes must be {shape}, but {over} of {total} reach over the edge of their image: x"
                f" and y may be those of a {'center' if is_coco else 'corner'}, so convert them; else say that they are"
                " right with --columns box"
            )


def refuse_ids_from_one(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set with an id beyond its list of names, and none of the first name: all may be shifted."""
    totals = {number for number, _, _ in index.class_totals()}
    for label_set in catalog.sets:
        if not label_set.lists or not label_set.names:
            continue
        first = index.first_problem(label_set.prefix, "class id without a name")
        if first and catalog.classes.get((label_set.prefix, label_set.names[0])) not in totals:
            raise UserError(
                f"{label_set.uri}: class ids must count the list of names from 0, but {first.path}, line {first.line}"
                f" ({first.detail}) has none, and no box is of {label_set.names[0]}: where ids count from 1, begin"
                " classes.txt with a blank line, else add the names that are missing"
            )


def refuse_mostly_dropped(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set of which more than half of the labels cost their image: it is not what it seems."""
    totals: Counter[str] = Counter()
    prefixes = {number: prefix for (prefix, _), number in catalog.classes.items()}
    for number, boxes, _ in index.class_totals():
        totals[prefixes[number]] += boxes
    for label_set in catalog.sets:
        dropped, outside, first = index.count_dropped(label_set.prefix)
        total = totals[label_set.prefix] + dropped - outside
        if first is not None and (2 * dropped > total or not total):
            share = f"{dropped} of {total} are not" if dropped else "none is"
            place = f"{first.path}, line {first.line}" if first.line else first.path
            raise UserError(
                f"{label_set.uri}: labels must be understood, but {share}, such as {place}:"
                f" {first.kind} ({first.detail}){advise(label_set.format, first)}"
            )
