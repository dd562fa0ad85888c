"""Decides what every synthetic image shows, without looking at a pixel: bank and seed → rows of the plan.

The random numbers of an image depend on the seed and its index only, those of what images share (background, pool
of sprites) on the seed and the block's number: never on how many images there will be.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from depers.seeds import Branch, random_for
from depers.synthesis import plan_table
from depers.synthesis.assets import Assets, Background, SpritePool, background_number, draw_pool, read_background
from depers.synthesis.instances import Place, PlacedSprite, Sprite, Uniform, anywhere, jitter, labels_of
from depers.synthesis.occlusion import inside, intersection
from depers.synthesis.placement import PlacementRules, exchange, place_all

_OWN_CAMERA = 0.85  # how often a place is taken from the background's own group, where its camera is the same
_TRIES = 8
_TINT = 10.0  # gray levels: how far apart the colors added to an object may be
_SOFTNESS = {"hard": 0.0, "feathered": 1.0, "gaussian": 1.0, "poisson": 1.0}
PLACEMENTS = ("scene", "exchange", "uniform")


class Recipe(NamedTuple):
    """What is wanted of the images; see the options of `depers synthesize`."""

    seed: int
    variants: int
    per_background: int
    objects: int | None
    distractors: float
    placement: str
    blendings: tuple[str, ...]
    effects: bool
    quality: int
    rules: PlacementRules


def uniforms(rng: np.random.Generator) -> Uniform:
    """Numbers in 0…1, one at a time; drawn many at a time, which is cheaper."""

    def draw() -> Iterator[float]:
        while True:
            yield from rng.random(512).tolist()

    return draw().__next__


def plan_block(assets: Assets, recipe: Recipe, block: int, count: int) -> pa.Table:
    """The rows of a block's images with an index below `count`, see `plan_table.SCHEMA`."""
    pool = draw_pool(assets, recipe.seed, block)
    rows: list[dict[str, Any]] = []
    scenes: dict[int, Background] = {}

    def scene(group: int) -> Background:
        number = background_number(recipe.seed, len(assets.backgrounds), group)
        if number not in scenes:
            scenes[number] = read_background(assets, number)
        return scenes[number]

    for index in range(block * plan_table.BLOCK, min((block + 1) * plan_table.BLOCK, count)):
        group = index // recipe.per_background
        # The next handful's background, which has to be decoded anyway, gives the distractors.
        rows += plan_image(assets, recipe, index, scene(group), scene(group + 1), pool)
    return plan_table.to_table(rows)


def plan_image(
    assets: Assets,
    recipe: Recipe,
    index: int,
    scene: Background,
    other: Background,
    pool: SpritePool,
) -> list[dict[str, Any]]:
    """The rows of one image, one for each variant."""
    uniform = uniforms(random_for(recipe.seed, Branch.SYNTHETIC_IMAGE, index))
    effects = _effects(recipe, uniform)
    exchanged: list[PlacedSprite] = []
    if recipe.placement == "exchange":
        own = shuffled(scene.own, uniform)[: recipe.objects]
        count, pasted = len(own), 0
        exchanged = exchange(own, pool.by_kind, scene.real, scene.size_wh, recipe.rules, uniform)
        scene = scene._replace(labels=[label for label in scene.labels if not _under(label, exchanged)])
    else:
        count = pasted = _wanted(assets, recipe, scene, uniform)
    distractors = int(count * recipe.distractors + uniform())

    def propose(sprite: Sprite, uniform: Uniform) -> Place:
        if recipe.placement == "uniform":
            return anywhere(sprite, scene.size_wh, uniform)
        chance = uniform()
        own = chance < _OWN_CAMERA and sprite.kind in scene.places
        places = (scene if own else pool).places[sprite.kind]
        number = int((chance / _OWN_CAMERA if own else uniform()) * len(places))
        return jitter(places[min(number, len(places) - 1)], uniform)

    def fit(sprite: Sprite, place: Place, uniform: Uniform) -> Sprite:
        if recipe.placement == "uniform":
            return sprite
        return _fitting(sprite, place.height * scene.size_wh[1], pool.by_kind[sprite.kind], uniform)

    wanted = ((pool.sprites[int(uniform() * len(pool.sprites))], n >= pasted) for n in range(pasted + distractors))
    instances = place_all(wanted, propose, fit, scene.real, scene.size_wh, recipe.rules, uniform, exchanged)
    patches = {instance: _patch(instance, other, uniform) for instance in instances if instance.distractor}
    instances = [instance for instance in instances if not instance.distractor or patches[instance]]
    for instance in instances:
        instance.covers = [cover for cover in instance.covers if not cover.distractor or patches[cover]]
    others = (uniforms(random_for(recipe.seed, Branch.SEAMS, index, variant)) for variant in range(1, recipe.variants))
    image = {"index": index, "background": scene.path, "width": scene.size_wh[0], "height": scene.size_wh[1]}
    image |= {"wanted": count, "quality": recipe.quality, **effects}
    return [
        image | {"variant": variant, **_seams(recipe, instances, patches, other.path, scene, exchanged, random)}
        for variant, random in enumerate([uniform, *others])
    ]


def _wanted(assets: Assets, recipe: Recipe, scene: Background, uniform: Uniform) -> int:
    """How many objects to paste: as many as some real image has, of which those that are there count."""
    if recipe.objects is not None:
        return recipe.objects
    count = int(assets.scenes[int(uniform() * len(assets.scenes))])
    return max(1, count - len(scene.labels)) if scene.labels else count


def shuffled(instances: Sequence[Any], uniform: Uniform) -> list[Any]:
    """The instances in random order."""
    return [
        instance
        for _, _, instance in sorted((uniform(), number, instance) for number, instance in enumerate(instances))
    ]


def _under(label: Mapping[str, Any], instances: Sequence[PlacedSprite]) -> bool:
    """Whether a real label lies wholly under a instance."""
    box = label["x_min"], label["y_min"], label["x_max"], label["y_max"]
    return any(inside(box, instance.outer) for instance in instances)


def _fitting(sprite: Sprite, height: float, by_kind: Sequence[Sprite], uniform: Uniform) -> Sprite:
    """The sprite, or rather another of its kind where it cannot be made `height` pixels high."""
    for _ in range(_TRIES):
        low, high = sprite.heights
        if low <= height <= high:
            break
        sprite = by_kind[int(uniform() * len(by_kind))]
    return sprite


def _patch(distractor: PlacedSprite, other: Background, uniform: Uniform) -> tuple[int, int, int, int] | None:
    """Return what a distractor shows of the other background, x, y, width, height: nothing labelled; or None."""
    width, height = (min(side, most) for side, most in zip(distractor.size_wh, other.size_wh, strict=True))
    for _ in range(_TRIES):
        x, y = int(uniform() * (other.size_wh[0] - width + 1)), int(uniform() * (other.size_wh[1] - height + 1))
        if not any(intersection((x, y, x + width, y + height), box) for box in other.real):
            return x, y, width, height
    return None


def _effects(recipe: Recipe, uniform: Uniform) -> dict[str, Any]:
    """What is done to the whole image in the end: some are a little soft, most are a little noisy."""
    blur = 0.4 + 0.5 * uniform() if uniform() < 0.15 else 0.0
    noise = (0, 0, 1, 1, 2, 3)[int(uniform() * 6)]
    x, y = int(uniform() * 1024), int(uniform() * 1024)
    if not recipe.effects:
        blur, noise = 0.0, 0
    return {"blur": blur, "noise": noise, "noise_x": x, "noise_y": y}


def _shape(instance: PlacedSprite, alone: bool, chance: float) -> str:
    """The shape of a instance's edge: a box unless it stands alone, and where a corner holds one of its labels.

    Faces and people are ovals, roughly; an oval would take the ends off a plate or a car, so what is wide is none.
    """
    shape = plan_table.SHAPES[int(chance * len(plan_table.SHAPES))]
    power = {"rounded": 4, "oval": 2}.get(shape)
    if power is None or not alone:
        return "box"
    x0, y0, x1, y1 = instance.outer
    if shape == "oval" and x1 - x0 > y1 - y0:
        shape, power = "rounded", 4
    middle_x, middle_y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    for _, box in instance.labels[1:]:
        out_x = max(abs(box[0] - middle_x), abs(box[2] - middle_x)) / half_x
        out_y = max(abs(box[1] - middle_y), abs(box[3] - middle_y)) / half_y
        if out_x**power + out_y**power > 1:
            return "box"
    return shape


def _seams(
    recipe: Recipe,
    instances: Sequence[PlacedSprite],
    patches: Mapping[PlacedSprite, tuple[int, int, int, int] | None],
    other: str,
    scene: Background,
    exchanged: Sequence[PlacedSprite],
    uniform: Uniform,
) -> dict[str, Any]:
    """The objects of a variant with their seams, and the labels that can be seen; `exchanged` cover others wholly."""
    blendings = {instance: recipe.blendings[int(uniform() * len(recipe.blendings))] for instance in instances}
    softness = {instance: _SOFTNESS[name] for instance, name in blendings.items()}
    touching = {each for instance in instances if instance.covers for each in (instance, *instance.covers)}.union(
        exchanged
    )
    objects, labels = [], [label | {"object": -1} for label in scene.labels]
    for number, instance in enumerate(instances):
        blending, shape = blendings[instance], _shape(instance, instance not in touching, uniform())
        edge = instance.region(softness[instance])
        patch = patches.get(instance) or (0, 0, *instance.sprite.size_wh)
        match = 0.4 + 0.6 * uniform()
        red, green, blue = uniform(), uniform(), uniform()
        objects.append(
            {
                "sprite": None if instance.distractor else instance.sprite.id,
                "image": other if instance.distractor else instance.sprite.part,
                **{"source_x": patch[0], "source_y": patch[1], "source_width": patch[2], "source_height": patch[3]},
                **{"x": instance.corner_xy[0], "y": instance.corner_xy[1]},
                **{"width": instance.size_wh[0], "height": instance.size_wh[1]},
                **{"x_min": edge[0], "y_min": edge[1], "x_max": edge[2], "y_max": edge[3]},
                "shape": shape,
                "reach": instance.reach if blending in ("feathered", "gaussian") else 0.0,
                "blending": blending,
                "match": match,
                **{"red": _TINT * (red - 0.5), "green": _TINT * (green - 0.5), "blue": _TINT * (blue - 0.5)},
            }
        )
        for class_id, (x0, y0, x1, y1) in labels_of(instance, softness, scene.size_wh):
            labels.append({"class_id": class_id, "x_min": x0, "y_min": y0, "x_max": x1, "y_max": y1, "object": number})
    return {"objects": objects, "labels": labels}
