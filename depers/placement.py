"""Where pasted things go in one picture: boxes in scenes, who covers whom, and which labels are left.

Scalars instead of arrays: a picture holds about ten things, and a plan a million pictures.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from depers.visibility import Box, area, clip, grazes, inside, visible, whole

Uniform = Callable[[], float]
"""The next random number in 0…1."""

MAX_ENLARGEMENT = 1.5
"""More than this and a sprite is visibly blurred beside sharp surroundings."""
MIN_SIDE = 3.0
"""Pixels; no label is made smaller than this, or than it was in its source if that is less."""
MAX_REACH = 24.0
_ATTEMPTS = [1.0] * 4 + [0.8**number for number in range(1, 5)]
"""How large each attempt to find a place is: what is too large for the free space is scaled, not dropped."""
_TRIES = 8  # sprites, until one fits over a thing
_MAX_GROWTH = 1.6  # in area, of what is put over a thing of other proportions
_SPARE = 1.5  # pixels that it is higher on each side: sizes and places are rounded
_JITTER_X, _JITTER_Y = 0.11, 0.028  # shares of the picture; along the ground things move freely, in depth hardly


class Sprite(NamedTuple):
    """A cut-out object, as the bank has it; `labels` are (class id, box in pixels of its picture), the outer first.

    `kind` is the same for what is placed alike. `hull` is the box around all labels; `heights` says how high in pixels
    the outer one may be made, `aspect` is its width as a share of its height, and `cut` says on which sides (left, top,
    right, bottom) the frame cuts it.
    """

    id: str
    part: str
    kind: int
    size_wh: tuple[int, int]
    labels: tuple[tuple[int, Box], ...]
    hull: Box
    heights: tuple[float, float]
    aspect: float
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


def near(place: Place, uniform: Uniform) -> Place:
    """A place that differs a little from one where such a thing was."""
    x, foot, height = place
    return Place(x + _JITTER_X * (2 * uniform() - 1), foot + _JITTER_Y * (2 * uniform() - 1), height)


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


def about(sprite: Sprite, place: Place, factor: float, size_wh: tuple[int, int]) -> Box:
    """The outer box of what `put` gives, where neither the sprite nor the frame sets limits."""
    high, foot, middle = place.height * factor * size_wh[1], place.foot_y * size_wh[1], place.centre_x * size_wh[0]
    half = high * sprite.aspect / 2
    return middle - half, foot - high, middle + half, foot


def crowded(box: Box, things: Sequence[Thing], max_overlap: float) -> bool:
    """Whether a box shares more than `max_overlap` of itself, or of the outer box of a thing, with that."""
    low_x, low_y, high_x, high_y = box
    own = (high_x - low_x) * (high_y - low_y)
    for other in things:
        x0, y0, x1, y1 = other.outer
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            width = (x1 if x1 < high_x else high_x) - (x0 if x0 > low_x else low_x)
            height = (y1 if y1 < high_y else high_y) - (y0 if y0 > low_y else low_y)
            if width * height > max_overlap * (own if own < other.area else other.area):
                return True
    return False


def accept(thing: Thing, things: Sequence[Thing], real: Sequence[Box], rules: Rules, *, replaces: bool = False) -> bool:
    """Whether `thing` may join: little overlap, nothing half hidden, real objects free. If so, `covers` are updated.

    If it `replaces` real objects, those that lie wholly under its opaque box are no obstacle.

    A label of which less than `min_visible` would be left must lie wholly under one other thing's opaque box: then it
    is gone, and so are its pixels. Nearer things, whose lower edge is lower, cover farther ones.
    """
    low_x, low_y, high_x, high_y = thing.widest
    for x0, y0, x1, y1 in real:
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            if replaces and inside((x0, y0, x1, y1), thing.outer):
                continue
            return False
    if crowded(thing.outer, things, rules.max_overlap):
        return False
    touching = []
    for other in things:
        x0, y0, x1, y1 = other.widest
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
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
    edges = [edge for cover in covers for edge in (cover.widest, cover.outer)]
    for number, (_, box) in enumerate(thing.labels):
        if any(grazes(box, edge) for edge in edges):
            return False
        _, share = visible(whole(box), regions)
        hidden = number > 0 and any(inside(box, cover.outer) for cover in covers)
        if (share < rules.min_visible or not share) and not hidden:
            return False
    return True


def place_all(
    wanted: Iterable[tuple[Sprite, bool]],
    propose: Callable[[Sprite, Uniform], Place],
    fit: Callable[[Sprite, Place, Uniform], Sprite],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: Rules,
    uniform: Uniform,
    there: Sequence[Thing] = (),
) -> list[Thing]:
    """The wanted (sprite, whether it is only the measure of a decoy) in their places, with what is `there` already,
    farthest first.

    `propose` gives a place, `fit` the sprite or one like it that can be as large as things are there. What finds no
    place in eight attempts, the later ones smaller, is left out.
    """
    things = list(there)
    jitter = math.log1p(rules.scale_jitter)
    for asked, decoy in wanted:
        for shrunk in _ATTEMPTS:
            factor = math.exp(jitter * (2 * uniform() - 1)) * shrunk
            place = propose(asked, uniform)
            if crowded(about(asked, place, factor, size_wh), things, rules.max_overlap):
                continue  # most are, and this costs little
            thing = put(fit(asked, place, uniform), place, factor, size_wh, 0.3 + 0.7 * uniform())
            if not thing:
                continue
            thing.decoy = decoy
            if accept(thing, things, real, rules):
                things.append(thing)
                break
    return sorted(things, key=lambda thing: thing.outer[3])  # stable: of two on one line the later covers the earlier


def exchange(
    own: Iterable[tuple[int, Box]],
    alike: Mapping[int, Sequence[Sprite]],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: Rules,
    uniform: Uniform,
) -> list[Thing]:
    """Sprites over a picture's `own` things (kind, box), each covered by one of its kind that is hardly larger.

    What fits none of eight sprites, or would hide half of a neighbour, is left alone.
    """
    things: list[Thing] = []
    for kind, box in own:
        x0, y0, x1, y1 = box
        for _ in range(_TRIES if alike.get(kind) else 0):
            sprite = alike[kind][int(uniform() * len(alike[kind]))]
            high, reach = max(y1 - y0, (x1 - x0) / sprite.aspect), 0.3 + 0.7 * uniform()
            if high * high * sprite.aspect > _MAX_GROWTH * area(box):
                continue
            high += 2 * _SPARE
            if not sprite.heights[0] <= high <= sprite.heights[1]:
                continue
            foot = (y0 + y1 + high) / 2
            place = Place((x0 + x1) / 2 / size_wh[0], foot / size_wh[1], high / size_wh[1])
            thing = put(sprite, place, 1.0, size_wh, reach)
            if thing and inside(box, thing.outer) and accept(thing, things, real, rules, replaces=True):
                things.append(thing)
                break
    return things


def labels_of(thing: Thing, softness: Mapping[Thing, float], size_wh: tuple[int, int]) -> list[tuple[int, Box]]:
    """What of a thing's labels can be seen, its boxes shrunk to that; `softness` of the seams of all things."""
    if not thing.covers:
        return [(class_id, clip(box, size_wh)) for class_id, box in thing.labels]
    regions = [whole(cover.region(softness[cover])) for cover in thing.covers]
    found = []
    for class_id, box in thing.labels:
        edges = clip(box, size_wh)
        pixels = whole(edges)
        seen, share = visible(pixels, regions)
        if share > 0 and not any(inside(box, cover.outer) for cover in thing.covers):
            if seen != pixels:
                x0, y0, x1, y1 = (edges[i] if seen[i] == pixels[i] else seen[i] for i in range(4))
                edges = x0, y0, x1, y1
            found.append((class_id, edges))
    return found
