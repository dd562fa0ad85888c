"""Decides what every synthetic picture shows, without looking at a pixel: bank and seed → rows of the plan.

The random numbers of a picture depend on the seed and its index only, those of what pictures share (background, pool
of sprites) on the seed and the block's number: never on how many pictures there will be.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import bank, plan
from depers.placement import (
    MAX_ENLARGEMENT,
    MIN_SIDE,
    Box,
    Place,
    Rules,
    Sprite,
    Thing,
    Uniform,
    anywhere,
    intersection,
    labels_of,
    near,
    place_all,
)

_BACKGROUNDS, _POOL, _IMAGE, _SEAMS = range(10, 14)  # branches of the seed tree
_POOL_SIZE = 256  # sprites that the pictures of a block choose from
_POOL_PARTS = 8  # files they come from: a block reads little, however large the bank
_OWN_CAMERA = 0.85  # how often a place is taken from the background's own group, where its camera is the same
_MAX_PLACES = 200  # of a group, and of a kind in a block
_OF_SCENE = ["path", "width", "height", "group", "labels"]
_TRIES = 8
_TINT = 10.0  # gray levels: how far apart the colours added to an object may be
_SOFTNESS = {"hard": 0.0, "feathered": 1.0, "gaussian": 1.0, "poisson": 1.0}


class Recipe(NamedTuple):
    """What is wanted of the pictures; see the options of `depers synthesize`."""

    seed: int
    variants: int
    per_background: int
    objects: int | None
    decoys: float
    uniform: bool
    blendings: tuple[str, ...]
    effects: bool
    quality: int
    rules: Rules


class Material(NamedTuple):
    """What there is to choose from. `sprites`: rows of the bank without pictures, with `part`, sorted by it.

    `backgrounds`: the used ones; `scenes` int64 (N,): how many objects a real picture has; `weights` float64 (N,): how
    often each sprite is wanted.
    """

    backgrounds: pa.Table
    sprites: pa.Table
    scenes: NDArray[np.int64]
    weights: NDArray[np.float64]
    places: "Places"


class Places(NamedTuple):
    """Where objects are in real pictures, also those that were too small to be cut: a row for each, sorted by kind.

    `values` float32 (N, 3) as `Place`; `kinds` int64 (N,) as `Sprite.kind`; `by_group`: the rows of each group.
    """

    values: NDArray[np.float32]
    kinds: NDArray[np.int64]
    by_group: Mapping[str, NDArray[np.int64]]

    def some(self, rows: NDArray[np.int64]) -> dict[int, list[Place]]:
        """Those rows, by their kinds."""
        found: dict[int, list[Place]] = defaultdict(list)
        for kind, place in zip(self.kinds[rows].tolist(), self.values[rows].tolist(), strict=True):
            found[kind].append(Place(*place))
        return found

    def of_kind(self, kind: int) -> tuple[int, int]:
        """The first row of a kind, and the one after the last."""
        low, high = np.searchsorted(self.kinds, [kind, kind + 1]).tolist()
        return low, high


class Scene(NamedTuple):
    """A background with the boxes of its real labels, and the places of each kind that fit its camera."""

    path: str
    size_wh: tuple[int, int]
    labels: list[dict[str, Any]]
    places: Mapping[int, Sequence[Place]]

    @property
    def real(self) -> list[Box]:
        """The boxes of the objects that are there already."""
        return [(b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in self.labels]


def random_for(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one thing, whoever asks for them and in whatever order."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def uniforms(rng: np.random.Generator) -> Uniform:
    """Numbers in 0…1, one at a time; drawn many at a time, which is cheaper."""

    def draw() -> Iterator[float]:
        while True:
            yield from rng.random(256).tolist()

    return draw().__next__


def sprite_weights(labels: Sequence[Sequence[int]], balance: float) -> NDArray[np.float64]:
    """How often each sprite is wanted, float64 (N,), from the class ids of its labels.

    A sprite counts by its rarest label: `balance` 0 keeps the classes' frequencies, 1 makes them about equal.
    """
    ids = np.concatenate([np.asarray(found, np.int64) for found in labels]) if labels else np.zeros(0, np.int64)
    counts = np.bincount(ids)
    rare = np.zeros(len(counts))
    rare[counts > 0] = counts[counts > 0] ** -float(balance)
    return np.array([rare[list(found)].max() for found in labels], np.float64)


def make_material(pictures: pa.Table, sprites: pa.Table, balance: float) -> Material:
    """The bank ready to be drawn from: all its `pictures`, as `bank.BACKGROUNDS`, and its sprites, sorted by `part`."""
    ids = sprites["labels"].combine_chunks()
    flat = ids.flatten().field("class_id").to_numpy(zero_copy_only=False)
    bounds = ids.offsets.to_numpy()
    bounds = bounds - bounds[0]
    labels = [flat[low:high].tolist() for low, high in pairwise(bounds)]
    used = pictures.filter(pc.equal(pictures["status"], bank.USED)).sort_by("path")
    scenes = pictures["objects"].drop_null().to_numpy().astype(np.int64)
    # One chunk each: rows are taken from them again and again.
    weights, places = sprite_weights(labels, balance), find_places(pictures)
    return Material(used.combine_chunks(), sprites.combine_chunks(), scenes, weights, places)


def find_places(pictures: pa.Table) -> Places:
    """The places of all outer labels of the bank's `pictures`."""
    scenes = pictures["scene"].combine_chunks()
    flat, rows = scenes.flatten(), scenes.value_parent_indices().to_numpy()
    outer = flat.field("outer").to_numpy(zero_copy_only=False)
    x0, y0, x1, y1 = (flat.field(name).to_numpy()[outer] for name in ("x_min", "y_min", "x_max", "y_max"))
    rows = rows[outer]
    width, height = (pictures[name].to_numpy()[rows] for name in ("width", "height"))
    values = np.column_stack([(x0 + x1) / 2 / width, y1 / height, (y1 - y0) / height]).astype(np.float32)
    cut = flat.field("truncated").to_numpy(zero_copy_only=False)[outer]
    kinds = kind_of(flat.field("class_id").to_numpy()[outer].astype(np.int64), cut)
    order = np.argsort(kinds, kind="stable")
    groups = pictures["group"].combine_chunks().dictionary_encode()
    codes = groups.indices.to_numpy()[rows[order]]
    by_code = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[by_code], np.arange(len(groups.dictionary) + 1))
    by_group = {
        group: by_code[low:high]
        for group, (low, high) in zip(groups.dictionary.to_pylist(), pairwise(bounds.tolist()), strict=True)
        if low < high
    }
    return Places(values[order], kinds[order], by_group)


def kind_of(class_id: Any, truncated: Any) -> Any:
    """The number of what is placed alike, of one or of arrays: the class, and whether the frame cuts it."""
    return 2 * class_id + truncated


def to_sprite(row: Mapping[str, Any]) -> Sprite:
    """A row of the bank as the planner needs it."""
    labels = tuple((b["class_id"], (b["x_min"], b["y_min"], b["x_max"], b["y_max"])) for b in row["labels"])
    boxes = [box for _, box in labels]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    x0, y0, x1, y1 = hull = min(lefts), min(tops), max(rights), max(bottoms)
    smallest = min(min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes)
    left, top = row["source_x"] + x0, row["source_y"] + y0
    right, bottom = row["source_x"] + x1, row["source_y"] + y1
    edges = (left <= 1, top <= 1, right >= row["source_width"] - 1, bottom >= row["source_height"] - 1)
    cut = edges if row["truncated"] else (False,) * 4
    size_wh, kind = (row["width"], row["height"]), kind_of(row["class_id"], row["truncated"])
    height = boxes[0][3] - boxes[0][1]
    heights = height * min(1.0, MIN_SIDE / smallest), height * MAX_ENLARGEMENT
    return Sprite(row["id"], row["part"], kind, size_wh, labels, hull, heights, cut)


def background_number(seed: int, count: int, group: int) -> int:
    """The background of the `group`-th handful of pictures: all `count` in turn, each time in another order."""
    return int(_order(seed, count, group // count)[group % count])


@lru_cache(maxsize=4)
def _order(seed: int, count: int, turn: int) -> NDArray[np.int64]:
    return np.asarray(random_for(seed, _BACKGROUNDS, turn).permutation(count))


def draw_pool(material: Material, seed: int, block: int) -> tuple[list[Sprite], dict[int, list[Place]]]:
    """The sprites that the pictures of a block choose from, some of them more than once, and where their kinds are."""
    rng = random_for(seed, _POOL, block)
    starts, weights = _parts(material.sprites), material.weights
    totals = np.add.reduceat(weights, starts[:-1])
    count = min(_POOL_PARTS, len(totals))
    chosen = np.sort(rng.choice(len(totals), count, replace=False, p=totals / totals.sum()))
    rows = np.concatenate([np.arange(starts[part], starts[part + 1]) for part in chosen])
    bounds = np.cumsum(weights[rows])
    drawn = rows[np.searchsorted(bounds, rng.random(_POOL_SIZE) * bounds[-1], side="right").clip(max=len(rows) - 1)]
    distinct, which = np.unique(drawn, return_inverse=True)
    table = material.sprites.take(distinct)
    sprites = [to_sprite(row) for row in table.to_pylist()]
    rows = np.concatenate(
        [
            np.arange(low, high) if high - low <= _MAX_PLACES else rng.integers(low, high, _MAX_PLACES)
            for low, high in (material.places.of_kind(kind) for kind in sorted({sprite.kind for sprite in sprites}))
        ]
    )
    return [sprites[number] for number in which.tolist()], material.places.some(rows)


def _parts(sprites: pa.Table) -> NDArray[np.int64]:
    """Where each part begins in the table, and its end."""
    codes = sprites["part"].combine_chunks().dictionary_encode().indices.to_numpy()
    return np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]]).astype(np.int64)


def read_scene(material: Material, number: int) -> Scene:
    """Background `number` of the material."""
    row = material.backgrounds.slice(number, 1).select(_OF_SCENE).to_pylist()[0]
    rows = material.places.by_group.get(row["group"], np.zeros(0, np.int64))
    places = material.places.some(rows[:: max(1, len(rows) // _MAX_PLACES)])
    return Scene(row["path"], (row["width"], row["height"]), row["labels"] or [], places)


def plan_block(material: Material, recipe: Recipe, block: int, count: int) -> pa.Table:
    """The rows of a block's pictures with an index below `count`, see `plan.SCHEMA`."""
    pool, usual = draw_pool(material, recipe.seed, block)
    rows: list[dict[str, Any]] = []
    scenes: dict[int, Scene] = {}

    def scene(group: int) -> Scene:
        number = background_number(recipe.seed, len(material.backgrounds), group)
        if number not in scenes:
            scenes[number] = read_scene(material, number)
        return scenes[number]

    for index in range(block * plan.BLOCK, min((block + 1) * plan.BLOCK, count)):
        group = index // recipe.per_background
        # The next handful's background, which has to be decoded anyway, gives the decoys.
        rows += plan_picture(material, recipe, index, scene(group), scene(group + 1), pool, usual)
    return pa.Table.from_pylist(rows, schema=plan.SCHEMA)


def plan_picture(
    material: Material,
    recipe: Recipe,
    index: int,
    scene: Scene,
    other: Scene,
    pool: Sequence[Sprite],
    usual: Mapping[int, Sequence[Place]],
) -> list[dict[str, Any]]:
    """The rows of one picture, one for each variant."""
    uniform = uniforms(random_for(recipe.seed, _IMAGE, index))
    effects = _effects(recipe, uniform)
    count = recipe.objects
    if count is None:
        count = int(material.scenes[int(uniform() * len(material.scenes))])
        count = max(1, count - len(scene.labels)) if scene.labels else count  # real ones count as well
    decoys = int(count * recipe.decoys + uniform())

    def propose(sprite: Sprite, uniform: Uniform) -> tuple[Sprite, Place]:
        if recipe.uniform:
            return sprite, anywhere(sprite, scene.size_wh, uniform)
        kind, own = sprite.kind, uniform() < _OWN_CAMERA and sprite.kind in scene.places
        places = left[kind, own] = left.get((kind, own)) or list(scene.places[kind] if own else usual[kind])
        place = places.pop(int(uniform() * len(places)))
        return _fitting(sprite, place.height * scene.size_wh[1], alike[kind], uniform), near(place, uniform)

    left: dict[tuple[int, bool], list[Place]] = {}  # none is tried again before all the others
    alike: dict[int, list[Sprite]] = defaultdict(list)
    for sprite in pool:
        alike[sprite.kind].append(sprite)
    wanted = ((pool[int(uniform() * len(pool))], number >= count) for number in range(count + decoys))
    things = place_all(wanted, propose, scene.real, scene.size_wh, recipe.rules, uniform)
    patches = {thing: _patch(thing, other, uniform) for thing in things if thing.decoy}
    things = [thing for thing in things if not thing.decoy or patches[thing]]
    for thing in things:
        thing.covers = [cover for cover in thing.covers if not cover.decoy or patches[cover]]
    picture = {"index": index, "background": scene.path, "width": scene.size_wh[0], "height": scene.size_wh[1]}
    picture |= {"wanted": count, "quality": recipe.quality, **effects}
    return [
        picture | {"variant": variant, **_seams(recipe, index, variant, things, patches, other.path, scene)}
        for variant in range(recipe.variants)
    ]


def _fitting(sprite: Sprite, height: float, alike: Sequence[Sprite], uniform: Uniform) -> Sprite:
    """The sprite, or rather another of its kind where it cannot be made `height` pixels high."""
    for _ in range(_TRIES):
        low, high = sprite.heights
        if low <= height <= high:
            break
        sprite = alike[int(uniform() * len(alike))]
    return sprite


def _patch(decoy: Thing, other: Scene, uniform: Uniform) -> tuple[int, int, int, int] | None:
    """What a decoy shows, x, y, width, height in the other background: nothing labelled; None where there is no room"""
    width, height = (min(side, most) for side, most in zip(decoy.size_wh, other.size_wh, strict=True))
    for _ in range(_TRIES):
        x, y = int(uniform() * (other.size_wh[0] - width + 1)), int(uniform() * (other.size_wh[1] - height + 1))
        if not any(intersection((x, y, x + width, y + height), box) for box in other.real):
            return x, y, width, height
    return None


def _effects(recipe: Recipe, uniform: Uniform) -> dict[str, Any]:
    """What is done to the whole picture in the end: some are a little soft, most are a little noisy."""
    blur = 0.4 + 0.5 * uniform() if uniform() < 0.15 else 0.0
    noise = (0, 0, 1, 1, 2, 3)[int(uniform() * 6)]
    x, y = int(uniform() * 1024), int(uniform() * 1024)
    if not recipe.effects:
        blur, noise = 0.0, 0
    return {"blur": blur, "noise": noise, "noise_x": x, "noise_y": y}


def _shape(thing: Thing, alone: bool, chance: float) -> str:
    """The shape of a thing's edge: a box unless it stands alone, and where a corner holds one of its labels.

    Faces and people are ovals, roughly; an oval would take the ends off a plate or a car, so what is wide is none.
    """
    shape = plan.SHAPES[int(chance * len(plan.SHAPES))]
    power = {"rounded": 4, "oval": 2}.get(shape)
    if power is None or not alone:
        return "box"
    x0, y0, x1, y1 = thing.outer
    if shape == "oval" and x1 - x0 > y1 - y0:
        shape, power = "rounded", 4
    middle_x, middle_y, half_x, half_y = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
    for _, box in thing.labels[1:]:
        out_x = max(abs(box[0] - middle_x), abs(box[2] - middle_x)) / half_x
        out_y = max(abs(box[1] - middle_y), abs(box[3] - middle_y)) / half_y
        if out_x**power + out_y**power > 1:
            return "box"
    return shape


def _seams(
    recipe: Recipe,
    index: int,
    variant: int,
    things: Sequence[Thing],
    patches: Mapping[Thing, tuple[int, int, int, int] | None],
    other: str,
    scene: Scene,
) -> dict[str, Any]:
    """The objects of a variant with their seams, and the labels that can be seen."""
    uniform = uniforms(random_for(recipe.seed, _SEAMS, index, variant))
    blendings = {thing: recipe.blendings[int(uniform() * len(recipe.blendings))] for thing in things}
    softness = {thing: _SOFTNESS[name] for thing, name in blendings.items()}
    touching = {each for thing in things if thing.covers for each in (thing, *thing.covers)}
    objects, labels = [], [label | {"object": -1} for label in scene.labels]
    for number, thing in enumerate(things):
        blending, shape = blendings[thing], _shape(thing, thing not in touching, uniform())
        edge = thing.region(softness[thing])
        patch = patches.get(thing) or (0, 0, *thing.sprite.size_wh)
        match = 0.4 + 0.6 * uniform()
        red, green, blue = uniform(), uniform(), uniform()
        objects.append(
            {
                "sprite": None if thing.decoy else thing.sprite.id,
                "picture": other if thing.decoy else thing.sprite.part,
                **{"source_x": patch[0], "source_y": patch[1], "source_width": patch[2], "source_height": patch[3]},
                **{"x": thing.corner_xy[0], "y": thing.corner_xy[1]},
                **{"width": thing.size_wh[0], "height": thing.size_wh[1]},
                **{"x_min": edge[0], "y_min": edge[1], "x_max": edge[2], "y_max": edge[3]},
                "shape": shape,
                "reach": thing.reach if blending in ("feathered", "gaussian") else 0.0,
                "blending": blending,
                "match": match,
                **{"red": _TINT * (red - 0.5), "green": _TINT * (green - 0.5), "blue": _TINT * (blue - 0.5)},
            }
        )
        for class_id, (x0, y0, x1, y1) in labels_of(thing, softness, scene.size_wh):
            labels.append({"class_id": class_id, "x_min": x0, "y_min": y0, "x_max": x1, "y_max": y1, "object": number})
    return {"objects": objects, "labels": labels}
