"""What synthesis has to choose from: the bank's backgrounds and sprites, and where instances are in real images.

What images share (a background, a pool of sprites) hangs on the seed and the number of their block, never on how many
images there will be.
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

from depers.datasets.sprite_bank import sprite_id
from depers.seeds import Branch, random_for
from depers.statuses import SourceStatus
from depers.synthesis.instances import MAX_ENLARGEMENT, MIN_SIDE, Place, Sprite
from depers.synthesis.occlusion import Box

_POOL_SIZE = 128  # sprites that the images of a block choose from, each decoded once for several of them
_POOL_PARTS = 8  # files they come from: a block reads little, however large the bank
_MAX_PLACES = 200  # of a group, and of a kind in a block
_OF_SCENE = ["path", "source", "width", "height", "group", "labels", "scene"]


class Assets(NamedTuple):
    """What there is to choose from. `sprites`: rows of the bank without images, with `part`, sorted by it.

    `backgrounds`: the used ones; `scenes` int64 (N,): how many objects a real image has; `weights` float64 (N,): how
    often each sprite is wanted.
    """

    backgrounds: pa.Table
    sprites: pa.Table
    scenes: NDArray[np.int64]
    weights: NDArray[np.float64]
    places: "Places"


class Places(NamedTuple):
    """Where objects are in real images, also those that were too small to be cut: a row for each, sorted by kind.

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


class SpritePool(NamedTuple):
    """Sprites, some of them more than once, the same by their kinds, and where those are in images of any group."""

    sprites: Sequence[Sprite]
    by_kind: Mapping[int, Sequence[Sprite]]
    places: Mapping[int, Sequence[Place]]


class Background(NamedTuple):
    """A background with the boxes of its real labels, and the places of each kind that fit its camera.

    `own`: kind, name as a sprite and box of the instances that its source shows, whether they are still there or not.
    """

    path: str
    size_wh: tuple[int, int]
    labels: list[dict[str, Any]]
    places: Mapping[int, Sequence[Place]]
    own: list[tuple[int, str, Box]]

    @property
    def real(self) -> list[Box]:
        """The boxes of the objects that are there already."""
        return [(b["x_min"], b["y_min"], b["x_max"], b["y_max"]) for b in self.labels]


def sprite_weights(labels: Sequence[Sequence[int]], balance: float) -> NDArray[np.float64]:
    """How often each sprite is wanted, float64 (N,), from the class ids of its labels.

    A sprite counts by its rarest label: `balance` 0 keeps the classes' frequencies, 1 makes them about equal.
    """
    ids = np.concatenate([np.asarray(found, np.int64) for found in labels]) if labels else np.zeros(0, np.int64)
    counts = np.bincount(ids)
    rare = np.zeros(len(counts))
    rare[counts > 0] = counts[counts > 0] ** -float(balance)
    return np.array([rare[list(found)].max() for found in labels], np.float64)


def make_assets(images: pa.Table, sprites: pa.Table, balance: float) -> Assets:
    """Return what to draw from of a bank: all its `images`, as `BACKGROUNDS`, and its sprites, sorted by `part`."""
    ids = sprites["labels"].combine_chunks()
    flat = ids.flatten().field("class_id").to_numpy(zero_copy_only=False)
    bounds = ids.offsets.to_numpy()
    bounds = bounds - bounds[0]
    labels = [flat[low:high].tolist() for low, high in pairwise(bounds)]
    used = images.filter(pc.equal(images["status"], SourceStatus.USED)).sort_by("path")
    scenes = images["objects"].drop_null().to_numpy().astype(np.int64)
    # One chunk each: rows are taken from them again and again.
    weights, places = sprite_weights(labels, balance), find_places(images)
    return Assets(used.combine_chunks(), sprites.combine_chunks(), scenes, weights, places)


def find_places(images: pa.Table) -> Places:
    """The places of all outer labels of the bank's `images`."""
    scenes = images["scene"].combine_chunks()
    flat, rows = scenes.flatten(), scenes.value_parent_indices().to_numpy()
    outer = flat.field("outer").to_numpy(zero_copy_only=False)
    x0, y0, x1, y1 = (flat.field(name).to_numpy()[outer] for name in ("x_min", "y_min", "x_max", "y_max"))
    rows = rows[outer]
    width, height = (images[name].to_numpy()[rows] for name in ("width", "height"))
    values = np.column_stack([(x0 + x1) / 2 / width, y1 / height, (y1 - y0) / height]).astype(np.float32)
    cut = flat.field("truncated").to_numpy(zero_copy_only=False)[outer]
    kinds = kind_of(flat.field("class_id").to_numpy()[outer].astype(np.int64), cut)
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
    aspect = (boxes[0][2] - boxes[0][0]) / height
    return Sprite(row["id"], row["part"], kind, size_wh, labels, hull, heights, aspect, cut)


def background_number(seed: int, count: int, group: int) -> int:
    """The background of the `group`-th handful of images: all `count` in turn, each time in another order."""
    return int(_order(seed, count, group // count)[group % count])


@lru_cache(maxsize=4)
def _order(seed: int, count: int, turn: int) -> NDArray[np.int64]:
    return np.asarray(random_for(seed, Branch.BACKGROUND_ORDER, turn).permutation(count))


def draw_pool(assets: Assets, seed: int, block: int) -> SpritePool:
    """What the images of a block choose from."""
    rng = random_for(seed, Branch.SPRITE_POOL, block)
    starts, weights = _parts(assets.sprites), assets.weights
    totals = np.add.reduceat(weights, starts[:-1])
    count = min(_POOL_PARTS, len(totals))
    chosen = np.sort(rng.choice(len(totals), count, replace=False, p=totals / totals.sum()))
    rows = np.concatenate([np.arange(starts[part], starts[part + 1]) for part in chosen])
    bounds = np.cumsum(weights[rows])
    drawn = rows[np.searchsorted(bounds, rng.random(_POOL_SIZE) * bounds[-1], side="right").clip(max=len(rows) - 1)]
    distinct, which = np.unique(drawn, return_inverse=True)
    table = assets.sprites.take(distinct)
    sprites = [to_sprite(row) for row in table.to_pylist()]
    rows = np.concatenate(
        [
            np.arange(low, high) if high - low <= _MAX_PLACES else rng.integers(low, high, _MAX_PLACES)
            for low, high in (assets.places.of_kind(kind) for kind in sorted({sprite.kind for sprite in sprites}))
        ]
    )
    drawn_sprites, by_kind = [sprites[number] for number in which.tolist()], defaultdict(list)
    for sprite in drawn_sprites:
        by_kind[sprite.kind].append(sprite)
    return SpritePool(drawn_sprites, by_kind, assets.places.some(rows))


def _parts(sprites: pa.Table) -> NDArray[np.int64]:
    """Where each part begins in the table, and its end."""
    codes = sprites["part"].combine_chunks().dictionary_encode().indices.to_numpy()
    return np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1, [len(codes)]]).astype(np.int64)


def read_background(assets: Assets, number: int) -> Background:
    """Background `number` of the assets."""
    row = assets.backgrounds.slice(number, 1).select(_OF_SCENE).to_pylist()[0]
    rows = assets.places.by_group.get(row["group"], np.zeros(0, np.int64))
    places = assets.places.some(rows[:: max(1, len(rows) // _MAX_PLACES)])
    own = []
    for seen in row["scene"]:
        if seen["outer"]:
            box = (seen["x_min"], seen["y_min"], seen["x_max"], seen["y_max"])
            kind = kind_of(seen["class_id"], seen["truncated"])
            own.append((kind, sprite_id(row["source"], seen["class_id"], box), box))
    return Background(row["path"], (row["width"], row["height"]), row["labels"] or [], places, own)
