"""Sprites, places in scenes, and sprites in their places, with their seams and labels.

Scalars instead of arrays: an image holds about ten sprites, and a plan a million images.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from depers.synthesis.occlusion import Box, area, clip, inside, visible, whole

Uniform = Callable[[], float]
"""The next random number in 0…1."""

MAX_ENLARGEMENT = 1.5
"""More than this and a sprite is visibly blurred beside sharp surroundings."""
MIN_SIDE = 3.0
"""Pixels; no label is made smaller than this, or than it was in its source if that is less."""
MAX_REACH = 24.0
_JITTER_X, _JITTER_Y = 0.11, 0.028  # shares of the image; along the ground objects move freely, in depth hardly


class Sprite(NamedTuple):
    """A cut-out object, as the bank has it; `labels` are (class id, box in pixels of its image), the outer first.

    `kind` is the same for what is placed alike. `hull` is the box around all labels; `heights` says how high in pixels
    the outer one may be made, `aspect` is its width as a share of its height, and `cut_sides` says on which sides
    (left, top, right, bottom) the frame cuts it. `unlabelled`: classes of which it may show objects without a label.
    """

    id: str
    part: str
    kind: int
    size_wh: tuple[int, int]
    labels: tuple[tuple[int, Box], ...]
    hull: Box
    heights: tuple[float, float]
    aspect: float
    cut_sides: tuple[bool, bool, bool, bool]
    unlabelled: frozenset[int] = frozenset()


class Place(NamedTuple):
    """Where and how large an object stands: its middle, its lower edge and its height, as shares of the image's."""

    center_x: float
    foot_y: float
    height: float


class SourceObject(NamedTuple):
    """An object that a background's source shows, whether it is still there or not; `sprite`: the id of its sprite."""

    kind: int
    sprite: str
    box: Box


@dataclass(eq=False)
class PlacedSprite:
    """A sprite or a distractor in its place: `corner_xy` and `size_wh` of its scaled image, `outer` the box around its
    labels in the scene, which is opaque.

    `reach` is how many pixels wide its seam may be, half of it on either side of the edge of `region`. `covers` are the
    instances in front of it.
    """

    sprite: Sprite
    corner_xy: tuple[int, int]
    size_wh: tuple[int, int]
    outer: Box
    reach: float
    distractor: bool = False
    covers: list["PlacedSprite"] = field(default_factory=list)
    widest: Box = field(init=False)
    area: float = field(init=False)

    def __post_init__(self) -> None:
        self.widest, self.area = self.region(), area(self.outer)  # used again and again

    @cached_property
    def labels(self) -> list[tuple[int, Box]]:
        """Its labels in the scene, the outer one first; a distractor has none."""
        if self.distractor:
            return []
        x, y = self.corner_xy
        scale_x, scale_y = (a / b for a, b in zip(self.size_wh, self.sprite.size_wh, strict=True))
        return [
            (class_id, (x + b[0] * scale_x, y + b[1] * scale_y, x + b[2] * scale_x, y + b[3] * scale_y))
            for class_id, b in self.sprite.labels
        ]

    def region(self, softness: float = 1.0) -> Box:
        """Return the box in which it gives more than half of a pixel; `softness` 0: a hard edge, 1: the widest seam."""
        half = self.reach * softness / 2
        x0, y0, x1, y1 = self.outer
        return x0 - half, y0 - half, x1 + half, y1 + half


def jitter(place: Place, uniform: Uniform) -> Place:
    """Return a place a little beside that of a real object."""
    x, foot, height = place
    return Place(x + _JITTER_X * (2 * uniform() - 1), foot + _JITTER_Y * (2 * uniform() - 1), height)


def draw_place(sprite: Sprite, size_wh: tuple[int, int], uniform: Uniform) -> Place:
    """Return a place drawn from the whole image, in the sprite's own size: the rule of the original algorithm."""
    box = sprite.labels[0][1]
    height = (box[3] - box[1]) / size_wh[1]
    half = (box[2] - box[0]) / size_wh[0] / 2
    x = half + (1 - 2 * half) * uniform()
    return Place(x, height + (1 - height) * uniform(), height)


def place_at(
    sprite: Sprite, place: Place, factor: float, size_wh: tuple[int, int], reach: float
) -> PlacedSprite | None:
    """Return the sprite at a place, `factor` times as high as that, inside the image; None where a label would vanish.

    A sprite that the frame cut in its source stands at the same edge of the frame again. `reach` 0…1: how much of its
    margin the seam may take.
    """
    (width, height), (sprite_width, sprite_height) = size_wh, sprite.size_wh
    x0, y0, x1, y1 = sprite.hull
    main_x0, main_y0, main_x1, main_y1 = sprite.labels[0][1]
    least, most = sprite.heights
    main_height, largest = main_y1 - main_y0, min(width / (x1 - x0), height / (y1 - y0))
    if largest * main_height < least:
        return None
    scale = min(min(max(place.height * height * factor, least), most) / main_height, largest)
    wide, high = max(1, int(sprite_width * scale)), max(1, int(sprite_height * scale))
    scale_x, scale_y = wide / sprite_width, high / sprite_height
    x0, y0, x1, y1 = x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y
    cut_left, cut_top, cut_right, cut_bottom = sprite.cut_sides
    x = _along(place.center_x * width - (main_x0 + main_x1) / 2 * scale_x, x0, x1, width, cut_left, cut_right)
    y = _along(place.foot_y * height - main_y1 * scale_y, y0, y1, height, cut_top, cut_bottom)
    # A seam beyond the frame cannot be seen.
    margin = min(
        MAX_REACH if cut_left else x0, MAX_REACH if cut_top else y0,
        MAX_REACH if cut_right else wide - x1, MAX_REACH if cut_bottom else high - y1, MAX_REACH,
    )  # fmt: skip
    return PlacedSprite(sprite, (x, y), (wide, high), (x + x0, y + y0, x + x1, y + y1), max(0.0, margin) * reach)


def _along(coordinate: float, low: float, high: float, side: int, cut_low: bool, cut_high: bool) -> int:
    """Return a corner's coordinate along one side with which `low`…`high` of the scaled image lies inside the frame."""
    first, last = math.ceil(-low), math.floor(side - high)
    if last < first:  # as long as the side, up to rounding
        return math.floor(-low)
    if cut_low or cut_high:
        return first if cut_low else last
    return min(max(round(coordinate), first), last)


def rough_box(sprite: Sprite, place: Place, factor: float, size_wh: tuple[int, int]) -> Box:
    """Return the outer box of what `place_at` gives where neither the sprite nor the frame sets limits."""
    high, foot, middle = place.height * factor * size_wh[1], place.foot_y * size_wh[1], place.center_x * size_wh[0]
    half = high * sprite.aspect / 2
    return middle - half, foot - high, middle + half, foot


def visible_labels(
    instance: PlacedSprite, softness: Mapping[PlacedSprite, float], size_wh: tuple[int, int]
) -> list[tuple[int, Box]]:
    """Return the labels that can be seen of an instance, shrunk to what is visible; `softness`: of all seams."""
    if not instance.covers:
        return [(class_id, clip(box, size_wh)) for class_id, box in instance.labels]
    regions = [whole(cover.region(softness[cover])) for cover in instance.covers]
    labels = []
    for class_id, box in instance.labels:
        edges = clip(box, size_wh)
        pixels = whole(edges)
        visible_box, share = visible(pixels, regions)
        if share > 0 and not any(inside(box, cover.outer) for cover in instance.covers):
            if visible_box != pixels:
                x0, y0, x1, y1 = (edges[i] if visible_box[i] == pixels[i] else visible_box[i] for i in range(4))
                edges = x0, y0, x1, y1
            labels.append((class_id, edges))
    return labels
