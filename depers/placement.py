"""Where pasted things go in one picture: boxes in scenes, who covers whom, and what of a label can still be seen.

Scalars instead of arrays: a picture holds about ten things, and a plan a million pictures. A box is a tuple x_min,
y_min, x_max, y_max in pixels of the picture.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

Box = tuple[float, float, float, float]
Uniform = Callable[[], float]
"""The next random number in 0…1."""

MAX_ENLARGEMENT = 1.5
"""More than this and a sprite is visibly blurred beside sharp surroundings."""
MIN_SIDE = 3.0
"""Pixels; no label is made smaller than this, or than it was in its source if that is less."""
MAX_REACH = 24.0
_ATTEMPTS = 8
_UNSHRUNK = 3
_SHRINK = 0.8  # with every later attempt: what is too large for the free space is scaled, not dropped
_JITTER_X, _JITTER_Y = 0.08, 0.02  # shares of the picture; along the ground things move freely, in depth hardly


class Sprite(NamedTuple):
    """A cut-out object, as the bank has it; `labels` are (class id, box in pixels of its picture), the outer first.

    `kind` is the same for what is placed alike. `hull` is the box around all labels, `heights` how many pixels high the
    outer one may be made. `cut` says on which sides (left, top, right, bottom) the frame cuts it.
    """

    id: str
    part: str
    kind: int
    size_wh: tuple[int, int]
    labels: tuple[tuple[int, Box], ...]
    hull: Box
    heights: tuple[float, float]
    cut: tuple[bool, bool, bool, bool]


class Place(NamedTuple):
    """Where and how large a thing stands: its middle, its lower edge and its height, as shares of the picture's."""

    centre_x: float
    foot_y: float
    height: float


class Rules(NamedTuple):
    """How things may be placed."""

    scale_jitter: float
    max_overlap: float
    min_visible: float


@dataclass(eq=False)
class Thing:
    """A sprite or a decoy in its place: `corner_xy` and `size_wh` of its scaled picture, `outer` the box around its
    labels in the scene, which is opaque.

    `reach` is how many pixels its seam may be wide, half of it on either side of the edge of `region`. `covers` are
    the things before it.
    """

    sprite: Sprite
    corner_xy: tuple[int, int]
    size_wh: tuple[int, int]
    outer: Box
    reach: float
    decoy: bool = False
    covers: list["Thing"] = field(default_factory=list)
    widest: Box = field(init=False)
    area: float = field(init=False)

    def __post_init__(self) -> None:
        self.widest, self.area = self.region(), area(self.outer)  # asked for again and again

    @cached_property
    def labels(self) -> list[tuple[int, Box]]:
        """Its labels in the scene, the outer one first; none of a decoy."""
        if self.decoy:
            return []
        x, y = self.corner_xy
        scale_x, scale_y = (a / b for a, b in zip(self.size_wh, self.sprite.size_wh, strict=True))
        return [
            (class_id, (x + b[0] * scale_x, y + b[1] * scale_y, x + b[2] * scale_x, y + b[3] * scale_y))
            for class_id, b in self.sprite.labels
        ]

    def region(self, softness: float = 1.0) -> Box:
        """What it paints for more than half; `softness` 0 is a hard edge around its box, 1 the widest seam."""
        half = self.reach * softness / 2
        x0, y0, x1, y1 = self.outer
        return x0 - half, y0 - half, x1 + half, y1 + half


def intersection(first: Box, second: Box) -> float:
    """The area that two boxes share, in square pixels."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width * height if width > 0 and height > 0 else 0.0


def area(box: Box) -> float:
    """In square pixels."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def clip(box: Box, size_wh: tuple[int, int]) -> Box:
    """The part of a box that lies in the picture."""
    width, height = size_wh
    x0, y0, x1, y1 = box
    return min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height)


def whole(box: Box) -> Box:
    """The pixels whose centres lie in a box."""
    return round(box[0]), round(box[1]), round(box[2]), round(box[3])


def visible(box: Box, covers: Sequence[Box]) -> tuple[Box, float]:
    """The box around what of `box` the `covers` leave, and its area as a share of the box's; share 0: nothing."""
    covers = [cover for cover in covers if intersection(box, cover) > 0]
    all_of_it = area(box)
    if not covers or not all_of_it:
        return box, 1.0 if all_of_it else 0.0
    x0, y0, x1, y1 = box
    xs = sorted({x0, x1, *(x for c in covers for x in (c[0], c[2]) if x0 < x < x1)})
    ys = sorted({y0, y1, *(y for c in covers for y in (c[1], c[3]) if y0 < y < y1)})
    left, top, right, bottom, seen = math.inf, math.inf, -math.inf, -math.inf, 0.0
    for low_x, high_x in pairwise(xs):
        for low_y, high_y in pairwise(ys):
            x, y = (low_x + high_x) / 2, (low_y + high_y) / 2
            if not any(c[0] < x < c[2] and c[1] < y < c[3] for c in covers):
                left, top, right, bottom = min(left, low_x), min(top, low_y), max(right, high_x), max(bottom, high_y)
                seen += (high_x - low_x) * (high_y - low_y)
    return ((left, top, right, bottom), seen / all_of_it) if seen else (box, 0.0)


def grazes(box: Box, cover: Box) -> bool:
    """Whether `cover` leaves a line of one pixel at an edge of `box`, both in whole pixels.

    Whether that can be seen is a matter of rounding, and a long line is much of a label.
    """
    return intersection(box, cover) > 0 and (
        cover[0] - box[0] == 1 or cover[1] - box[1] == 1 or box[2] - cover[2] == 1 or box[3] - cover[3] == 1
    )


def inside(box: Box, outer: Box) -> bool:
    """Whether `box` lies in `outer`."""
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def near(place: Place, uniform: Uniform) -> Place:
    """A place that differs a little from one where such a thing was."""
    x = place.centre_x + _JITTER_X * (uniform() + uniform() - 1) * 2
    y = place.foot_y + _JITTER_Y * (uniform() + uniform() - 1) * 2
    return Place(x, y, place.height)


def anywhere(sprite: Sprite, size_wh: tuple[int, int], uniform: Uniform) -> Place:
    """A place drawn from the whole picture, in the sprite's own size: the rule of the original."""
    box = sprite.labels[0][1]
    height = (box[3] - box[1]) / size_wh[1]
    half = (box[2] - box[0]) / size_wh[0] / 2
    x = half + (1 - 2 * half) * uniform()
    return Place(x, height + (1 - height) * uniform(), height)


def put(sprite: Sprite, place: Place, factor: float, size_wh: tuple[int, int], reach: float) -> Thing | None:
    """The sprite at a place, `factor` times as high as that says, but inside the picture; None if a label vanished.

    What the frame cut in its source stands at the same edge of the frame again. `reach` 0…1: how much of its margin
    the seam may take.
    """
    (width, height), (own_width, own_height) = size_wh, sprite.size_wh
    x0, y0, x1, y1 = sprite.hull
    main_x0, main_y0, main_x1, main_y1 = sprite.labels[0][1]
    least, most = sprite.heights
    main_height, largest = main_y1 - main_y0, min(width / (x1 - x0), height / (y1 - y0))
    if largest * main_height < least:
        return None
    scale = min(min(max(place.height * height * factor, least), most) / main_height, largest)
    wide, high = max(1, int(own_width * scale)), max(1, int(own_height * scale))
    scale_x, scale_y = wide / own_width, high / own_height
    x0, y0, x1, y1 = x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y
    left, top, right, bottom = sprite.cut
    x = _along(place.centre_x * width - (main_x0 + main_x1) / 2 * scale_x, x0, x1, width, left, right)
    y = _along(place.foot_y * height - main_y1 * scale_y, y0, y1, height, top, bottom)
    # There is nothing to be seen of a seam beyond the frame.
    least = min(
        MAX_REACH if left else x0, MAX_REACH if top else y0,
        MAX_REACH if right else wide - x1, MAX_REACH if bottom else high - y1, MAX_REACH,
    )  # fmt: skip
    return Thing(sprite, (x, y), (wide, high), (x + x0, y + y0, x + x1, y + y1), max(0.0, least) * reach)


def _along(wanted: float, low: float, high: float, side: int, cut_low: bool, cut_high: bool) -> int:
    """The corner's coordinate along one side, so that `low`…`high` of the scaled picture lies inside the frame."""
    first, last = math.ceil(-low), math.floor(side - high)
    if last < first:  # as long as the side, up to rounding
        return math.floor(-low)
    if cut_low or cut_high:
        return first if cut_low else last
    return min(max(round(wanted), first), last)


def accept(thing: Thing, things: Sequence[Thing], real: Sequence[Box], rules: Rules) -> bool:
    """Whether `thing` may join: little overlap, nothing half hidden, real objects free. If so, `covers` are updated.

    A label of which less than `min_visible` would be left must lie wholly under one other thing's opaque box: then it
    is gone, and so are its pixels. Nearer things, whose lower edge is lower, cover farther ones.
    """
    low_x, low_y, high_x, high_y = thing.widest
    for x0, y0, x1, y1 in real:
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            return False
    touching = []
    for other in things:
        x0, y0, x1, y1 = other.widest
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            shared = intersection(thing.outer, other.outer)
            if shared and shared > rules.max_overlap * min(thing.area, other.area):
                return False
            touching.append(other)
    if not touching:
        return True
    foot = thing.outer[3]
    behind = [other for other in touching if other.outer[3] <= foot]
    before = [other for other in touching if other.outer[3] > foot]
    if not _all_told(thing, before, rules) or not all(_all_told(o, [*o.covers, thing], rules) for o in behind):
        return False
    thing.covers = before
    for other in behind:
        other.covers.append(thing)
    return True


def _all_told(thing: Thing, covers: Sequence[Thing], rules: Rules) -> bool:
    """Whether every label of a thing is well visible or gone, its outer one visible, under these covers."""
    if not covers:
        return True
    regions = [whole(cover.widest) for cover in covers]
    edges = [*regions, *(whole(cover.outer) for cover in covers)]
    for number, (_, box) in enumerate(thing.labels):
        pixels = whole(box)
        if any(grazes(pixels, edge) for edge in edges):
            return False
        _, share = visible(pixels, regions)
        hidden = number > 0 and any(inside(box, cover.outer) for cover in covers)
        if (share < rules.min_visible or not share) and not hidden:
            return False
    return True


def place_all(
    wanted: Iterable[tuple[Sprite, bool]],
    propose: Callable[[Sprite, Uniform], tuple[Sprite, Place]],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: Rules,
    uniform: Uniform,
) -> list[Thing]:
    """The wanted (sprite, whether it is only the measure of a decoy) in their places, farthest first.

    `propose` gives a place, and the sprite or one like it that can be as large as things are there. What finds no
    place in eight attempts, the later ones smaller, is left out.
    """
    things: list[Thing] = []
    jitter = math.log1p(rules.scale_jitter)
    for asked, decoy in wanted:
        for attempt in range(_ATTEMPTS):
            factor = math.exp(jitter * (2 * uniform() - 1)) * _SHRINK ** max(0, attempt - _UNSHRUNK)
            sprite, place = propose(asked, uniform)
            thing = put(sprite, place, factor, size_wh, 0.3 + 0.7 * uniform())
            if not thing:
                continue
            thing.decoy = decoy
            if accept(thing, things, real, rules):
                things.append(thing)
                break
    return sorted(things, key=lambda thing: thing.outer[3])  # stable: of two on one line the later covers the earlier


def labels_of(thing: Thing, softness: Mapping[Thing, float], size_wh: tuple[int, int]) -> list[tuple[int, Box]]:
    """What of a thing's labels can be seen, its boxes shrunk to that; `softness` of the seams of all things."""
    if not thing.covers:
        return [(class_id, clip(box, size_wh)) for class_id, box in thing.labels]
    regions = [whole(cover.region(softness[cover])) for cover in thing.covers]
    found = []
    for class_id, box in thing.labels:
        pixels = whole(clip(box, size_wh))
        seen, share = visible(pixels, regions)
        if share > 0 and not any(inside(box, cover.outer) for cover in thing.covers):
            x0, y0, x1, y1 = (
                edge if seen_edge == old_edge else seen_edge
                for edge, old_edge, seen_edge in zip(clip(box, size_wh), pixels, seen, strict=True)
            )
            found.append((class_id, (x0, y0, x1, y1)))
    return found
