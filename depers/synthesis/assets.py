"""The assets of synthesis: the bank's backgrounds and sprites, and the places of objects in real images.

The assets that images share (a background, a pool of sprites) depend on the seed and the number of their block, never
on how many images there will be.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers.boxes import EDGES
from depers.datasets.sprite_bank import sprite_id
from depers.seeds import Branch, random_for
from depers.statuses import SourceStatus
from depers.synthesis.instances import MAX_ENLARGEMENT, MIN_SIDE, Place, SourceObject, Sprite
from depers.synthesis.occlusion import Box

_POOL_SIZE = 128  # sprites that the images of a block choose from, each decoded once for several of them
_POOL_PARTS = 8  # files they come from: a block reads little, however large the bank
_MAX_PLACES = 200  # of a group, and of a kind in a block
_BACKGROUND_COLUMNS = ["path", "source", "width", "height", "group", "labels", "scene", "unlabelled"]


class Assets(NamedTuple):
    """A bank ready to be drawn from. `sprites`: rows of the bank without images, with `part`, sorted by it.

    `backgrounds`: the rows of images that have one; `object_counts` int64 (N,): how many objects each real image has;
    `weights` float64 (N,): how often each sprite is drawn.
    """

    backgrounds: pa.Table
    sprites: pa.Table
    object_counts: NDArray[np.int64]
    weights: NDArray[np.float64]
    places: "Places"


class Places(NamedTuple):
    """Places of objects in real images, also of those too small for a sprite: a row for each, sorted by kind.

    `values` float32 (N, 3) as `Place`; `kinds` int64 (N,) as `Sprite.kind`; `by_group`: the rows of each group.
    """

    values: NDArray[np.float32]
    kinds: NDArray[np.int64]
    by_group: Mapping[str, NDArray[np.int64]]

    def take(self, rows: NDArray[np.int64]) -> dict[int, list[Place]]:
        """Return the places of some rows, by their kinds."""
        by_kind: dict[int, list[Place]] = defaultdict(list)
        for kind, place in zip(self.kinds[rows].tolist(), self.values[rows].tolist(), strict=True):
            by_kind[kind].append(Place(*place))
        return by_kind

    def rows_of_kind(self, kind: int) -> tuple[int, int]:
        """Return the first row of a kind, and the one after the last."""
        low, high = np.searchsorted(self.kinds, [kind, kind + 1]).tolist()
        return low, high


class SpritePool(NamedTuple):
    """Sprites, some of them more than once, the same by their kinds, and the places of those kinds in all images."""

    sprites: Sequence[Sprite]
    by_kind: Mapping[int, Sequence[Sprite]]
    places: Mapping[int, Sequence[Place]]


class Background(NamedTuple):
    """A background with its real labels, the objects of its source, and the places of each kind that fit its camera.

    `unlabelled`: classes of which it may show objects without a label.
    """

    path: str
    size_wh: tuple[int, int]
    labels: list[dict[str, Any]]
    places: Mapping[int, Sequence[Place]]
    objects: list[SourceObject]
    unlabelled: frozenset[int] = frozenset()

    @property
    def real_boxes(self) -> list[Box]:
        """The boxes of the objects that are still there."""
        return [(b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in self.labels]


def sprite_weights(labels: Sequence[Sequence[int]], balance: float) -> NDArray[np.float64]:
    """Return how often each sprite is to be drawn, float64 (N,), from the class ids of its labels.

    A sprite counts by its rarest label: `balance` 0 keeps the classes' frequencies, 1 makes them about equal.
    """
    ids = np.concatenate([np.asarray(class_ids, np.int64) for class_ids in labels]) if labels else np.zeros(0, np.int64)
    counts = np.bincount(ids)
    rarity = np.zeros(len(counts))
    rarity[counts > 0] = counts[counts > 0] ** -float(balance)
    return np.array([rarity[list(class_ids)].max() for class_ids in labels], np.float64)


def make_assets(images: pa.Table, sprites: pa.Table, balance: float) -> Assets:
    """Return what to draw from of a bank: all its `images`, as `BACKGROUNDS`, and its sprites, sorted by `part`."""
    ids = sprites["labels"].combine_chunks()
    flat = ids.flatten().field("class_id").to_numpy(zero_copy_only=False)
    bounds = ids.offsets.to_numpy()
    bounds = bounds - bounds[0]
    labels = [flat[low:high].tolist() for low, high in pairwise(bounds)]
    backgrounds = images.filter(pc.equal(images["status"], SourceStatus.USED)).sort_by("path")
    object_counts = images["objects"].drop_null().to_numpy().astype(np.int64)
    # One chunk each: rows are taken from them again and again.
    weights, places = sprite_weights(labels, balance), find_places(images)
    return Assets(backgrounds.combine_chunks(), sprites.combine_chunks(), object_counts, weights, places)


def find_places(images: pa.Table) -> Places:
    """Return the places of all outer labels of the bank's `images`."""
    scenes = images["scene"].combine_chunks()
    flat, rows = scenes.flatten(), scenes.value_parent_indices().to_numpy()
    outer = flat.field("outer").to_numpy(zero_copy_only=False)
    x0, y0, x1, y1 = (flat.field(name).to_numpy()[outer] for name in EDGES)
    rows = rows[outer]
    width, height = (images[name].to_numpy()[rows] for name in ("width", "height"))
    values = np.column_stack([(x0 + x1) / 2 / width, y1 / height, (y1 - y0) / height]).astype(np.float32)
    truncated = flat.field("truncated").to_numpy(zero_copy_only=False)[outer]
    kinds = kind_of(flat.field("class_id").to_numpy()[outer].astype(np.int64), truncated)
    order = np.argsort(kinds, kind="stable")
    groups = images["group"].combine_chunks().dictionary_encode()
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
    """Return the number of a kind, or of an array of them: objects of one class that the frame cuts, or does not."""
    return 2 * class_id + truncated


def to_sprite(row: Mapping[str, Any]) -> Sprite:
    """Return a row of the bank as the planner needs it."""
    labels = tuple((b["class_id"], (b["x_min"], b["y_min"], b["x_max"], b["y_max"])) for b in row["labels"])
    boxes = [box for _, box in labels]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    x0, y0, x1, y1 = hull = min(lefts), min(tops), max(rights), max(bottoms)
    smallest = min(min(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes)
    left, top = row["source_x"] + x0, row["source_y"] + y0
    right, bottom = row["source_x"] + x1, row["source_y"] + y1
    edges = (left <= 1, top <= 1, right >= row["source_width"] - 1, bottom >= row["source_height"] - 1)
    cut_sides = edges if row["truncated"] else (False,) * 4
    size_wh, kind = (row["width"], row["height"]), kind_of(row["class_id"], row["truncated"])
    height = boxes[0][3] - boxes[0][1]
    heights = height * min(1.0, MIN_SIDE / smallest), height * MAX_ENLARGEMENT
    aspect = (boxes[0][2] - boxes[0][0]) / height
    unlabelled = frozenset(row["unlabelled"])
    return Sprite(row["id"], row["part"], kind, size_wh, labels, hull, heights, aspect, cut_sides, unlabelled)


def background_number(seed: int, count: int, group: int) -> int:
    """Return the background of the `group`-th handful of images: all `count` in turn, each time in another order."""
    return int(_order(seed, count, group // count)[group % count])


@lru_cache(maxsize=4)
def _order(seed: int, count: int, turn: int) -> NDArray[np.int64]:
    return np.asarray(random_for(seed, Branch.BACKGROUND_ORDER, turn).permutation(count))


def draw_pool(assets: Assets, seed: int, block: int) -> SpritePool:
    """Return the pool that the images of a block choose from."""
    rng = random_for(seed, Branch.SPRITE_POOL, block)
    starts, weights = _part_bounds(assets.sprites), assets.weights
    totals = np.add.reduceat(weights, starts[:-1])
    count = min(_POOL_PARTS, len(totals))
    parts = np.sort(rng.choice(len(totals), count, replace=False, p=totals / totals.sum()))
    rows = np.concatenate([np.arange(starts[part], starts[part + 1]) for part in parts])
    bounds = np.cumsum(weights[rows])
    draws = rows[np.searchsorted(bounds, rng.random(_POOL_SIZE) * bounds[-1], side="right").clip(max=len(rows) - 1)]
    distinct, positions = np.unique(draws, return_inverse=True)
    table = assets.sprites.take(distinct)
    sprites = [to_sprite(row) for row in table.to_pylist()]
    rows = np.concatenate(
        [
            np.arange(low, high) if high - low <= _MAX_PLACES else rng.integers(low, high, _MAX_PLACES)
            for low, high in (assets.places.rows_of_kind(kind) for kind in sorted({sprite.kind for sprite in sprites}))
        ]
    )
    pool, by_kind = [sprites[position] for position in positions.tolist()], defaultdict(list)
    for sprite in pool:
        by_kind[sprite.kind].append(sprite)
    return SpritePool(pool, by_kind, assets.places.take(rows))


def _part_bounds(sprites: pa.Table) -> NDArray[np.int64]:
    """Return the row where each part begins in the table, and the number of rows."""
    codes = sprites["part"].combine_chunks().dictionary_encode().indices.to_numpy()
    return np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]]).astype(np.int64)


def read_background(assets: Assets, number: int) -> Background:
    """Return background `number` of the assets."""
    row = assets.backgrounds.slice(number, 1).select(_BACKGROUND_COLUMNS).to_pylist()[0]
    rows = assets.places.by_group.get(row["group"], np.zeros(0, np.int64))
    places = assets.places.take(rows[:: max(1, len(rows) // _MAX_PLACES)])
    objects = []
    for label in row["scene"]:
        if label["outer"]:
            box = (label["x_min"], label["y_min"], label["x_max"], label["y_max"])
            kind = kind_of(label["class_id"], label["truncated"])
            objects.append(SourceObject(kind, sprite_id(row["source"], label["class_id"], box), box))
    size_wh, unlabelled = (row["width"], row["height"]), frozenset(row["unlabelled"])
    return Background(row["path"], size_wh, row["labels"] or [], places, objects, unlabelled)
