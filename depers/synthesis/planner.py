"""Decides what every synthetic image shows, without looking at a pixel: bank and seed → rows of the plan.

The random numbers of an image depend on the seed and its index only, those of what images share (background, pool
of sprites) on the seed and the block's number: never on how many images there will be.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from depers.boxes import EDGES
from depers.seeds import Branch, random_for
from depers.synthesis import plan_table
from depers.synthesis.assets import Assets, Background, SpritePool, background_number, draw_pool, read_background
from depers.synthesis.instances import Place, PlacedSprite, Sprite, Uniform, draw_place, jitter, visible_labels
from depers.synthesis.occlusion import Box, clip, inside, intersection
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


def stream_uniforms(rng: np.random.Generator) -> Uniform:
    """Return a source of numbers in 0…1, one at a time; they are drawn many at a time, which is cheaper."""

    def draw() -> Iterator[float]:
        while True:
            yield from rng.random(512).tolist()

    return draw().__next__


def plan_block(assets: Assets, recipe: Recipe, block: int, count: int) -> pa.Table:
    """Return the rows of a block's images with an index below `count`, see `plan_table.SCHEMA`."""
    pool = draw_pool(assets, recipe.seed, block)
    rows: list[dict[str, Any]] = []
    backgrounds: dict[int, Background] = {}

    def background_of(group: int) -> Background:
        number = background_number(recipe.seed, len(assets.backgrounds), group)
        if number not in backgrounds:
            backgrounds[number] = read_background(assets, number)
        return backgrounds[number]

    for index in range(block * plan_table.BLOCK, min((block + 1) * plan_table.BLOCK, count)):
        group = index // recipe.per_background
        # The next handful's background, which has to be decoded anyway, gives the distractors.
        rows += plan_image(assets, recipe, index, background_of(group), background_of(group + 1), pool)
    return plan_table.to_table(rows)


def plan_image(
    assets: Assets,
    recipe: Recipe,
    index: int,
    background: Background,
    donor: Background,
    pool: SpritePool,
) -> list[dict[str, Any]]:
    """Return the rows of one image, one for each variant; `donor` is the background that distractors are cut from."""
    uniform = stream_uniforms(random_for(recipe.seed, Branch.SYNTHETIC_IMAGE, index))
    effects = _draw_effects(recipe, uniform)
    exchanged: list[PlacedSprite] = []
    if recipe.placement == "exchange":
        objects = shuffle(background.objects, uniform)[: recipe.objects]
        object_count, sprite_count = len(objects), 0
        exchanged = exchange(objects, pool.by_kind, background.real_boxes, background.size_wh, recipe.rules, uniform)
        labels = [label for label in background.labels if not _is_under(label, exchanged)]
        background = background._replace(labels=labels)
    else:
        object_count = sprite_count = _draw_object_count(assets, recipe, background, uniform)
    distractor_count = int(object_count * recipe.distractors + uniform())

    def propose(sprite: Sprite, uniform: Uniform) -> Place:
        if recipe.placement == "uniform":
            return draw_place(sprite, background.size_wh, uniform)
        chance = uniform()
        same_camera = chance < _OWN_CAMERA and sprite.kind in background.places
        places = (background if same_camera else pool).places[sprite.kind]
        number = int((chance / _OWN_CAMERA if same_camera else uniform()) * len(places))
        return jitter(places[min(number, len(places) - 1)], uniform)

    def fit(sprite: Sprite, place: Place, uniform: Uniform) -> Sprite:
        if recipe.placement == "uniform":
            return sprite
        return _fitting_sprite(sprite, place.height * background.size_wh[1], pool.by_kind[sprite.kind], uniform)

    candidates = (  # drawn one by one, each before its place is
        (pool.sprites[int(uniform() * len(pool.sprites))], number >= sprite_count)
        for number in range(sprite_count + distractor_count)
    )
    instances = place_all(
        candidates, propose, fit, background.real_boxes, background.size_wh, recipe.rules, uniform, exchanged
    )
    patches = {instance: _draw_patch(instance, donor, uniform) for instance in instances if instance.distractor}
    instances = [instance for instance in instances if not instance.distractor or patches[instance]]
    for instance in instances:
        instance.covers = [cover for cover in instance.covers if not cover.distractor or patches[cover]]
    width, height = background.size_wh
    image = {"index": index, "background": background.path, "width": width, "height": height}
    image |= {"ignored": find_ignored(background, donor, instances)}
    image |= {"wanted": object_count, "quality": recipe.quality, **effects}
    seams = [uniform]
    seams += [
        stream_uniforms(random_for(recipe.seed, Branch.SEAMS, index, variant)) for variant in range(1, recipe.variants)
    ]
    return [
        image
        | {"variant": variant, **_draw_seams(recipe, instances, patches, donor.path, background, exchanged, numbers)}
        for variant, numbers in enumerate(seams)
    ]


def find_ignored(background: Background, donor: Background, instances: Sequence[PlacedSprite]) -> list[dict[str, Any]]:
    """Return where objects may be that have no label, as `sprite_bank.LABEL`, in pixels.

    Of the classes that the background is not labelled for, that is anywhere; of those that it is labelled for, in what
    was cut from images that are not: sprites, and the distractors of the `donor`.
    """
    width, height = size_wh = background.size_wh
    ignored = [_region(class_id, (0.0, 0.0, width, height)) for class_id in sorted(background.unlabelled)]
    for instance in instances:
        unlabelled = donor.unlabelled if instance.distractor else instance.sprite.unlabelled
        box = clip(instance.widest, size_wh)
        ignored += [_region(class_id, box) for class_id in sorted(unlabelled - background.unlabelled)]
    return ignored


def _region(class_id: int, box: Box) -> dict[str, Any]:
    return dict(zip(("class_id", *EDGES), (class_id, *box), strict=True))


def _draw_object_count(assets: Assets, recipe: Recipe, background: Background, uniform: Uniform) -> int:
    """Return how many objects to paste: as many as some real image has, less those that are still there."""
    if recipe.objects is not None:
        return recipe.objects
    count = int(assets.object_counts[int(uniform() * len(assets.object_counts))])
    return max(1, count - len(background.labels)) if background.labels else count


def shuffle(values: Sequence[Any], uniform: Uniform) -> list[Any]:
    """Return the values in random order."""
    return [value for _, _, value in sorted((uniform(), number, value) for number, value in enumerate(values))]


def _is_under(label: Mapping[str, Any], instances: Sequence[PlacedSprite]) -> bool:
    """Return whether a real label lies wholly under an instance."""
    box = label["x_min"], label["y_min"], label["x_max"], label["y_max"]
    return any(inside(box, instance.outer) for instance in instances)


def _fitting_sprite(sprite: Sprite, height: float, sprites: Sequence[Sprite], uniform: Uniform) -> Sprite:
    """Return the sprite, or rather another of its kind's `sprites` where it cannot be made `height` pixels high."""
    for _ in range(_TRIES):
        low, high = sprite.heights
        if low <= height <= high:
            break
        sprite = sprites[int(uniform() * len(sprites))]
    return sprite


def _draw_patch(distractor: PlacedSprite, donor: Background, uniform: Uniform) -> tuple[int, int, int, int] | None:
    """Return what a distractor shows of a background, x, y, width, height: nothing labelled; None without room."""
    width, height = (min(side, limit) for side, limit in zip(distractor.size_wh, donor.size_wh, strict=True))
    for _ in range(_TRIES):
        x, y = int(uniform() * (donor.size_wh[0] - width + 1)), int(uniform() * (donor.size_wh[1] - height + 1))
        if not any(intersection((x, y, x + width, y + height), box) for box in donor.real_boxes):
            return x, y, width, height
    return None


def _draw_effects(recipe: Recipe, uniform: Uniform) -> dict[str, Any]:
    """Return the blur and noise over the whole image: some images are a little soft, most are a little noisy."""
    blur = 0.4 + 0.5 * uniform() if uniform() < 0.15 else 0.0
    noise = (0, 0, 1, 1, 2, 3)[int(uniform() * 6)]
    x, y = int(uniform() * 1024), int(uniform() * 1024)
    if not recipe.effects:
        blur, noise = 0.0, 0
    return {"blur": blur, "noise": noise, "noise_x": x, "noise_y": y}


def _choose_shape(instance: PlacedSprite, isolated: bool, chance: float) -> str:
    """Return the shape of an instance's edge: a box unless it is `isolated`, or where a corner holds a label of it.

    Faces and people are ovals, roughly; an oval would take the ends off a plate or a car, so what is wide is none.
    """
    shape = plan_table.SHAPES[int(chance * len(plan_table.SHAPES))]
    power = {"rounded": 4, "oval": 2}.get(shape)
    if power is None or not isolated:
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


def _draw_seams(
    recipe: Recipe,
    instances: Sequence[PlacedSprite],
    patches: Mapping[PlacedSprite, tuple[int, int, int, int] | None],
    donor: str,
    background: Background,
    exchanged: Sequence[PlacedSprite],
    uniform: Uniform,
) -> dict[str, Any]:
    """Return the objects of a variant with their seams, and the visible labels; `exchanged` cover objects wholly.

    `patches` are those of the distractors, in the background at `donor`.
    """
    blendings = {instance: recipe.blendings[int(uniform() * len(recipe.blendings))] for instance in instances}
    softness = {instance: _SOFTNESS[name] for instance, name in blendings.items()}
    touching = set(exchanged)
    for instance in instances:
        if instance.covers:
            touching |= {instance, *instance.covers}
    objects, labels = [], [label | {"object": -1} for label in background.labels]
    for number, instance in enumerate(instances):
        blending, shape = blendings[instance], _choose_shape(instance, instance not in touching, uniform())
        edge = instance.region(softness[instance])
        patch = patches.get(instance) or (0, 0, *instance.sprite.size_wh)
        match = 0.4 + 0.6 * uniform()
        red, green, blue = uniform(), uniform(), uniform()
        objects.append(
            {
                "sprite": None if instance.distractor else instance.sprite.id,
                "image": donor if instance.distractor else instance.sprite.part,
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
        for class_id, (x0, y0, x1, y1) in visible_labels(instance, softness, background.size_wh):
            labels.append({"class_id": class_id, "x_min": x0, "y_min": y0, "x_max": x1, "y_max": y1, "object": number})
    return {"objects": objects, "labels": labels}
