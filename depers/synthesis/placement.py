"""How instances are arranged in one image: who stands where, who covers whom, and what is left out for that."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from depers.synthesis.instances import Place, PlacedSprite, Sprite, Uniform, about, place_at
from depers.synthesis.occlusion import Box, area, grazes, inside, visible, whole

_ATTEMPTS = [1.0] * 4 + [0.8**number for number in range(1, 5)]
"""How large each attempt to find a place is: what is too large for the free space is scaled, not dropped."""
_TRIES = 8  # sprites, until one fits over a instance
_MAX_GROWTH = 1.6  # in area, of what is place_at over a instance of other proportions
_SPARE = 1.0  # pixel that it is larger on each side: sizes and places are rounded


class PlacementRules(NamedTuple):
    """How instances may be placed."""

    scale_jitter: float
    max_overlap: float
    min_visible: float


def crowded(box: Box, instances: Sequence[PlacedSprite], max_overlap: float) -> bool:
    """Whether a box shares more than `max_overlap` of itself, or of the outer box of a instance, with that."""
    low_x, low_y, high_x, high_y = box
    own = (high_x - low_x) * (high_y - low_y)
    for other in instances:
        x0, y0, x1, y1 = other.outer
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            width = (x1 if x1 < high_x else high_x) - (x0 if x0 > low_x else low_x)
            height = (y1 if y1 < high_y else high_y) - (y0 if y0 > low_y else low_y)
            if width * height > max_overlap * (own if own < other.area else other.area):
                return True
    return False


def accept(
    instance: PlacedSprite,
    instances: Sequence[PlacedSprite],
    real: Sequence[Box],
    rules: PlacementRules,
    *,
    replaces: bool = False,
) -> bool:
    """Whether `instance` may join: little overlap, nothing half hidden, real objects free. If so, `covers` are updated.

    If it `replaces` real objects, those that lie wholly under its opaque box are no obstacle.

    A label of which less than `min_visible` would be left must lie wholly under the opaque box of one other instance:
    then it is gone, and so are its pixels. Nearer instances, whose lower edge is lower, cover farther ones.
    """
    low_x, low_y, high_x, high_y = instance.widest
    for x0, y0, x1, y1 in real:
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            if replaces and inside((x0, y0, x1, y1), instance.outer):
                continue
            return False
    if crowded(instance.outer, instances, rules.max_overlap):
        return False
    touching = []
    for other in instances:
        x0, y0, x1, y1 = other.widest
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            touching.append(other)
    if not touching:
        return True
    foot = instance.outer[3]
    behind = [other for other in touching if other.outer[3] <= foot]
    before = [other for other in touching if other.outer[3] > foot]
    if not _all_told(instance, before, rules) or not all(_all_told(o, [*o.covers, instance], rules) for o in behind):
        return False
    instance.covers = before
    for other in behind:
        other.covers.append(instance)
    return True


def _all_told(instance: PlacedSprite, covers: Sequence[PlacedSprite], rules: PlacementRules) -> bool:
    """Whether every label of a instance is well visible or gone, its outer one visible, under these covers."""
    if not covers:
        return True
    regions = [whole(cover.widest) for cover in covers]
    edges = [edge for cover in covers for edge in (cover.widest, cover.outer)]
    for number, (_, box) in enumerate(instance.labels):
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
    rules: PlacementRules,
    uniform: Uniform,
    there: Sequence[PlacedSprite] = (),
) -> list[PlacedSprite]:
    """The wanted (sprite, whether it is only the measure of a distractor) in their places, with what is `there`,
    farthest first.

    `propose` gives a place, `fit` the sprite or one like it that can be as large as instances are there. What finds no
    place in eight attempts, the later ones smaller, is left out.
    """
    instances = list(there)
    jitter = math.log1p(rules.scale_jitter)
    for asked, distractor in wanted:
        for shrunk in _ATTEMPTS:
            factor = math.exp(jitter * (2 * uniform() - 1)) * shrunk
            place = propose(asked, uniform)
            if crowded(about(asked, place, factor, size_wh), instances, rules.max_overlap):
                continue  # most are, and this costs little
            instance = place_at(fit(asked, place, uniform), place, factor, size_wh, 0.3 + 0.7 * uniform())
            if not instance:
                continue
            instance.distractor = distractor
            if accept(instance, instances, real, rules):
                instances.append(instance)
                break
    return sorted(
        instances, key=lambda instance: instance.outer[3]
    )  # stable: of two on one line the later covers the earlier


def exchange(
    own: Iterable[tuple[int, str, Box]],
    by_kind: Mapping[int, Sequence[Sprite]],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: PlacementRules,
    uniform: Uniform,
) -> list[PlacedSprite]:
    """Sprites over an image's `own` instances (kind, name of its sprite, box), each covered by another of its kind that
    is hardly larger.

    What fits none of eight sprites, or would hide half of a neighbor, is left alone.
    """
    instances: list[PlacedSprite] = []
    for kind, name, box in own:
        x0, y0, x1, y1 = box
        for _ in range(_TRIES if by_kind.get(kind) else 0):
            sprite = by_kind[kind][int(uniform() * len(by_kind[kind]))]
            wide, high = x1 - x0 + 2 * _SPARE, y1 - y0 + 2 * _SPARE
            high, reach = max(high, wide / sprite.aspect), 0.3 + 0.7 * uniform()
            if sprite.id == name or high * high * sprite.aspect > _MAX_GROWTH * area(box):
                continue
            if not sprite.heights[0] <= high <= sprite.heights[1]:
                continue
            foot = (y0 + y1 + high) / 2
            place = Place((x0 + x1) / 2 / size_wh[0], foot / size_wh[1], high / size_wh[1])
            instance = place_at(sprite, place, 1.0, size_wh, reach)
            if instance and inside(box, instance.outer) and accept(instance, instances, real, rules, replaces=True):
                instances.append(instance)
                break
    return instances
