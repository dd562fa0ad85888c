"""Arrange sprites in one image: find places, decide who covers whom, and drop what finds no place."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from depers.synthesis.instances import Place, PlacedSprite, SourceObject, Sprite, Uniform, place_at, rough_box
from depers.synthesis.occlusion import Box, area, grazes, inside, visible, whole

_ATTEMPTS = [1.0] * 4 + [0.8**number for number in range(1, 5)]
"""How large each attempt to find a place is: what is too large for the free space is scaled, not dropped."""
_TRIES = 8  # sprites, until one fits over an object
_MAX_GROWTH = 1.6  # in area, of a sprite over an object of other proportions
_SPARE = 1.0  # pixel by which it is larger on each side: sizes and places are rounded


class PlacementRules(NamedTuple):
    """How sprites may be placed; see the options of `depers synthesize`."""

    scale_jitter: float
    max_overlap: float
    min_visible: float


def is_crowded(box: Box, instances: Sequence[PlacedSprite], max_overlap: float) -> bool:
    """Return whether a box and an instance's outer box share more than `max_overlap` of either."""
    low_x, low_y, high_x, high_y = box
    box_area = (high_x - low_x) * (high_y - low_y)
    for neighbor in instances:
        x0, y0, x1, y1 = neighbor.outer
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            width = (x1 if x1 < high_x else high_x) - (x0 if x0 > low_x else low_x)
            height = (y1 if y1 < high_y else high_y) - (y0 if y0 > low_y else low_y)
            if width * height > max_overlap * (box_area if box_area < neighbor.area else neighbor.area):
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
    """Return whether `instance` may join: little overlap, nothing half hidden, real objects free; update `covers` then.

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
    if is_crowded(instance.outer, instances, rules.max_overlap):
        return False
    neighbors = []
    for neighbor in instances:
        x0, y0, x1, y1 = neighbor.widest
        if x0 < high_x and x1 > low_x and y0 < high_y and y1 > low_y:
            neighbors.append(neighbor)
    if not neighbors:
        return True
    foot = instance.outer[3]
    back = [neighbor for neighbor in neighbors if neighbor.outer[3] <= foot]
    front = [neighbor for neighbor in neighbors if neighbor.outer[3] > foot]
    if not _labels_are_clear(instance, front, rules):
        return False
    if not all(_labels_are_clear(neighbor, [*neighbor.covers, instance], rules) for neighbor in back):
        return False
    instance.covers = front
    for neighbor in back:
        neighbor.covers.append(instance)
    return True


def _labels_are_clear(instance: PlacedSprite, covers: Sequence[PlacedSprite], rules: PlacementRules) -> bool:
    """Return whether under these covers every label of an instance is well visible or gone, its outer one visible."""
    if not covers:
        return True
    regions = [whole(cover.widest) for cover in covers]
    edges = [edge for cover in covers for edge in (cover.widest, cover.outer)]
    for number, (_, box) in enumerate(instance.labels):
        if any(grazes(box, edge) for edge in edges):
            return False
        _, share = visible(whole(box), regions)
        is_gone = number > 0 and any(inside(box, cover.outer) for cover in covers)
        if (share < rules.min_visible or not share) and not is_gone:
            return False
    return True


def place_all(
    candidates: Iterable[tuple[Sprite, bool]],
    propose: Callable[[Sprite, Uniform], Place],
    fit: Callable[[Sprite, Place, Uniform], Sprite],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: PlacementRules,
    uniform: Uniform,
    initial: Sequence[PlacedSprite] = (),
) -> list[PlacedSprite]:
    """Return the candidates (sprite, whether it is only the measure of a distractor) in their places, farthest first.

    `propose` gives a place, `fit` the sprite or one like it that can be as large as objects are there. A candidate that
    finds no place in eight attempts, the later ones smaller, is dropped. `initial` instances are in the image already,
    and among the results.
    """
    instances = list(initial)
    jitter = math.log1p(rules.scale_jitter)
    for candidate, is_distractor in candidates:
        for reduction in _ATTEMPTS:
            factor = math.exp(jitter * (2 * uniform() - 1)) * reduction
            place = propose(candidate, uniform)
            if is_crowded(rough_box(candidate, place, factor, size_wh), instances, rules.max_overlap):
                continue  # most are, and this costs little
            instance = place_at(fit(candidate, place, uniform), place, factor, size_wh, 0.3 + 0.7 * uniform())
            if not instance:
                continue
            instance.distractor = is_distractor
            if accept(instance, instances, real, rules):
                instances.append(instance)
                break
    # The sort is stable: of two on one line the later covers the earlier.
    return sorted(instances, key=lambda instance: instance.outer[3])


def exchange(
    objects: Iterable[SourceObject],
    by_kind: Mapping[int, Sequence[Sprite]],
    real: Sequence[Box],
    size_wh: tuple[int, int],
    rules: PlacementRules,
    uniform: Uniform,
) -> list[PlacedSprite]:
    """Return sprites over a background's `objects`, each covered by another of its kind that is hardly larger.

    An object that none of eight sprites fits, or whose sprite would hide half of a neighbor, stays as it is.
    """
    instances: list[PlacedSprite] = []
    for source in objects:
        x0, y0, x1, y1 = source.box
        sprites = by_kind.get(source.kind, ())
        for _ in range(_TRIES if sprites else 0):
            sprite = sprites[int(uniform() * len(sprites))]
            wide, high = x1 - x0 + 2 * _SPARE, y1 - y0 + 2 * _SPARE
            high, reach = max(high, wide / sprite.aspect), 0.3 + 0.7 * uniform()
            if sprite.id == source.sprite or high * high * sprite.aspect > _MAX_GROWTH * area(source.box):
                continue
            if not sprite.heights[0] <= high <= sprite.heights[1]:
                continue
            foot = (y0 + y1 + high) / 2
            place = Place((x0 + x1) / 2 / size_wh[0], foot / size_wh[1], high / size_wh[1])
            instance = place_at(sprite, place, 1.0, size_wh, reach)
            if (
                instance
                and inside(source.box, instance.outer)
                and accept(instance, instances, real, rules, replaces=True)
            ):
                instances.append(instance)
                break
    return instances
