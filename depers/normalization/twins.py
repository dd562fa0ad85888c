"""Images that are the same, or nearly: in both splits, they make every figure too good.

Identical images have the same pixels. Near twins are found by thumbnails, as copies that were compressed again,
resized, cropped by up to about 5 % on a side or mirrored, and as images of one scene a moment later: their low
frequencies (the discrete cosine transform of a thumbnail, as perceptual hashes take it) correlate nearly perfectly,
perhaps after one of them was cropped or mirrored. Only pairs whose signs agree in one of some random selections of
frequencies are compared (locality-sensitive hashing, Charikar 2002), so that a million images are no million squared.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from depers import storage
from depers.imaging.likeness import SIDE, read_likeness
from depers.normalization.catalog import Catalog
from depers.normalization.rules import Problem
from depers.runtime.file_guard import FileGuard
from depers.runtime.progress import open_bar
from depers.runtime.tasks import run_file_tasks
from depers.statuses import ProblemAction

KINDS = ("near", "identical", "none")
_IMAGES = 64  # per task
_FREQUENCIES = 8
_CORRELATION = 0.95
"""Of near twins; other pairs of 4105 photographs stay below, but for frames of one camera."""
_CROPS = ((0.0, 1.0), (0.025, 0.975), (0.0, 0.95), (0.05, 1.0), (0.05, 0.95))
"""Of one axis: first and last of what is left."""
_PAIRS = ((0, 0), (1, 1), (2, 2), (3, 3), (2, 3), (3, 2), (4, 4), (0, 2), (0, 3), (2, 0), (3, 0), (0, 4), (4, 0))
"""Crops of rows and of columns: what is in between correlates well enough with one of these."""
_TABLES, _MOST_BITS = 16, 20
_BUCKET = 16  # images of one bucket that others are compared with: they join the group
_FLAT = 3.0  # gray levels: an image that varies less shows nothing to be known by
_CHUNK = 1024


SHAPE = np.dtype([("width", "<i4"), ("height", "<i4"), ("orientation", "<i4")])
"""Of an image: its upright size in pixels and EXIF's number, which is 0 where it was not looked at, or not decoded."""
Guard = Callable[[Iterator[Any]], Iterator[Any]]


class Twins(NamedTuple):
    """By the number of each image that has a twin, that of one; of identical ones, `near` has the first at most.

    `pairs` hold each group together. `shapes` is of every image `SHAPE`, as far as it was looked at: what was decoded
    once need not be decoded again.
    """

    identical: dict[int, int]
    near: dict[int, int]
    pairs: list[tuple[int, int]]
    shapes: NDArray[np.void]


def find_twins(catalog: Catalog, skipped: set[int], kind: str, folder: Path, guard: Guard) -> Twins:
    """Return the twins among the images that are not `skipped`; `kind` is one of `KINDS`, `folder` for scratch files.

    `guard` passes results on, as long as OUT is this run's.

    What cannot be read or decoded has none: who writes it says so.
    """
    shapes = np.zeros(len(catalog.images), SHAPE)
    numbers = np.array([number for number in range(len(catalog.images)) if number not in skipped], np.int64)
    if kind == "none" or not len(numbers):
        return Twins({}, {}, [], shapes)
    digests = np.zeros(len(numbers), np.uint64)
    thumbnails = np.memmap(folder / "thumbnails", np.uint8, "w+", shape=(len(numbers), SIDE, SIDE))

    def calls() -> Iterator[tuple[int, list[str]]]:
        for start in range(0, len(numbers), _IMAGES):
            images = [catalog.images[number] for number in numbers[start : start + _IMAGES].tolist()]
            yield start, [storage.join(label_set.uri, image.path) for label_set, image in images]

    with open_bar(len(numbers), "twins") as bar:
        for start, part_shapes, part_digests, part in guard(run_file_tasks(look_at, calls())):
            rows = slice(start, start + len(part))
            shapes[numbers[rows]], digests[rows], thumbnails[rows] = part_shapes, part_digests, part
            bar.update(len(part))
    places = np.flatnonzero(shapes["orientation"][numbers])
    _, first, of_image = np.unique(digests[places], return_index=True, return_inverse=True)
    firsts = places[first[of_image]]
    identical: dict[int, int] = {}
    for number, first_number in zip(numbers[places].tolist(), numbers[firsts].tolist(), strict=True):
        if number != first_number:
            identical[number] = first_number
            identical.setdefault(first_number, number)
    if kind == "identical":
        return Twins(identical, {}, [*identical.items()], shapes)
    distinct = np.unique(firsts)
    twins = find_near_twins(thumbnails, distinct)
    links = np.array([(image, *pair) for image, pair in twins.items()], np.int64).reshape(-1, 3)
    links = numbers[distinct[links]]
    near = dict(links[:, :2].tolist())
    pairs = [*identical.items(), *((image, leader) for image, _, leader in links.tolist())]
    return Twins(identical, near, pairs, shapes)


def look_at(
    start: int, uris: Sequence[str], guard: FileGuard | None = None
) -> tuple[int, NDArray[np.void], NDArray[np.uint64], NDArray[np.uint8]]:
    """Return `start`, and of each image its `SHAPE`, the digest of its pixels, and its thumbnail."""
    guard = guard or FileGuard()
    shapes, digests = np.zeros(len(uris), SHAPE), np.zeros(len(uris), np.uint64)
    thumbnails = np.zeros((len(uris), SIDE, SIDE), np.uint8)
    for offset, uri in enumerate(uris):
        if guard.find_reason(offset):
            continue
        with guard.watch(offset):
            try:
                likeness = read_likeness(storage.read_bytes(uri))
            except Exception:  # whatever it is, who writes the image meets it, too, and says so
                continue
        digests[offset], thumbnails[offset] = likeness.digest, likeness.thumbnail
        shapes[offset] = (*likeness.size_wh, likeness.orientation)
    return start, shapes, digests, thumbnails


def describe_twins(
    catalog: Catalog, twins: Twins, copies: Mapping[int, int], splits: Sequence[str]
) -> Iterator[Problem]:
    """Yield a problem for each image that is another one, or nearly; `copies` have theirs already.

    Where a twin is in another split than its image, which only given splits can bring about, the problem says so.
    """
    for kind, pairs in (("identical image", twins.identical), ("near twin", twins.near)):
        for number, twin in sorted(pairs.items()):
            if number in copies:
                continue
            path, twin_path = (catalog.images[n][0].prefix + catalog.images[n][1].path for n in (number, twin))
            detail = f"the same {'pixels' if kind == 'identical image' else 'scene'} as {twin_path}"
            if splits[number] and splits[twin] and splits[number] != splits[twin]:
                detail += f", but in {splits[number]}, not in {splits[twin]}: figures are too good"
            yield Problem(path, 0, kind, ProblemAction.ACCEPTED, detail)


def count_shared(twins: Twins, copies: Mapping[int, int], splits: Sequence[str]) -> int:
    """Return how many problems `describe_twins` yields about twins that share a split: nothing is wrong with these."""
    pairs = [*twins.identical.items(), *twins.near.items()]
    return sum(splits[number] == splits[twin] for number, twin in pairs if number not in copies)


def find_near_twins(thumbnails: NDArray[np.uint8], places: NDArray[np.int64]) -> dict[int, tuple[int, int]]:
    """Return by index into `places`, for each image that has near twins, the lowest index of one and of its group.

    `thumbnails` are uint8 (N, SIDE, SIDE), `places` (M,) those that count.
    """
    features = np.zeros((len(places), len(_WEIGHTS)), np.float32)
    for start in range(0, len(places), _CHUNK):
        rows = thumbnails[places[start : start + _CHUNK]].astype(np.float32)
        features[start : start + _CHUNK] = _to_features(_transform(rows, 0, 0))
    distinctive = features.any(axis=1)
    selections = _select_bits(len(places))
    keys = [_pack(features, bits) for bits in selections]
    orders = [np.argsort(np.where(distinctive, key, -1), kind="stable") for key in keys]
    tables = [(order, np.where(distinctive, key, -1)[order]) for order, key in zip(orders, keys, strict=True)]
    edges = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(places), _CHUNK):
        rows = thumbnails[places[start : start + _CHUNK]].astype(np.float32)
        for crop_rows, crop_columns in _PAIRS:
            coefficients = _transform(rows, crop_rows, crop_columns)
            for mirrored in (coefficients, coefficients * _MIRROR):
                variant = _to_features(mirrored)
                images, candidates = _find_candidates(variant, tables, selections)
                is_twin = np.einsum("ij,ij->i", variant[images], features[candidates]) > _CORRELATION
                is_twin &= images + start != candidates
                edges.append(np.stack([images[is_twin] + start, candidates[is_twin]]))
    pairs = np.concatenate(edges, axis=1)
    pairs = np.unique(np.concatenate([pairs, pairs[::-1]], axis=1), axis=1)  # by image, then by the other
    matrix = coo_matrix((np.ones(pairs.shape[1], np.bool_), (pairs[0], pairs[1])), shape=(len(places), len(places)))
    groups = connected_components(matrix, directed=False)[1]
    firsts = np.unique(groups, return_index=True)[1]
    images, rows_of_images = np.unique(pairs[0], return_index=True)
    partners = pairs[1][rows_of_images]
    columns = (images, partners, firsts[groups[images]])
    return {image: (partner, first) for image, partner, first in zip(*(c.tolist() for c in columns), strict=True)}


def _find_candidates(
    variant: NDArray[np.float32],
    tables: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    selections: Sequence[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of a row of `variant` and an image that share a bucket of a table, each pair once."""
    pairs = [np.zeros(0, np.int64)]
    count = len(tables[0][0])
    for (order, sorted_keys), bits in zip(tables, selections, strict=True):
        keys = np.where(variant.any(axis=1), _pack(variant, bits), -2)
        low, high = (np.searchsorted(sorted_keys, keys, side) for side in ("left", "right"))
        sizes = np.minimum(high - low, _BUCKET)
        images = np.repeat(np.arange(len(variant)), sizes)
        steps = np.arange(len(images)) - np.repeat(sizes.cumsum() - sizes, sizes)
        pairs.append(images * count + order[np.repeat(low, sizes) + steps])
    distinct = np.unique(np.concatenate(pairs))
    return distinct // count, distinct % count


def _select_bits(count: int) -> list[NDArray[np.int64]]:
    """Return for each table which features' signs are its key: enough that a bucket holds few of `count` images."""
    rng = np.random.default_rng(0)
    size = min(_MOST_BITS, max(6, int(np.log2(max(count, 1))) + 1))
    return [rng.choice(len(_WEIGHTS), size, replace=False) for _ in range(_TABLES)]


def _pack(features: NDArray[np.float32], bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray((features[:, bits] > 0) @ (1 << np.arange(len(bits), dtype=np.int64)))


def _transform(rows: NDArray[np.float32], crop_rows: int, crop_columns: int) -> NDArray[np.float32]:
    """Return the lowest frequencies (N, F, F) of thumbnails (N, SIDE, SIDE) of which only a part is taken."""
    return np.asarray(_AXES[crop_rows] @ rows @ _AXES[crop_columns].T)


def _to_features(coefficients: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return frequencies weighted, without the mean, of length 1, float32 (N, W); zeros for what is flat."""
    flat = np.square(coefficients).sum((1, 2)) - np.square(coefficients[:, 0, 0]) < (_FLAT * SIDE) ** 2
    features = coefficients[:, _ROWS, _COLUMNS] * _WEIGHTS
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
    return np.where(flat[:, None], np.float32(0), features)


def _make_axis(low: float, high: float) -> NDArray[np.float32]:
    """Return the matrix (F, SIDE) that resamples the part of an axis from `low` to `high` and transforms it."""
    edges = (low + (high - low) * np.arange(SIDE + 1) / SIDE) * SIDE
    cells = np.arange(SIDE)
    overlaps = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    resampling = np.maximum(overlaps, 0)
    resampling /= resampling.sum(axis=1, keepdims=True)
    angles = np.pi * np.outer(np.arange(_FREQUENCIES), 2 * cells + 1) / (2 * SIDE)
    return np.asarray(np.cos(angles) * np.sqrt(2 / SIDE) @ resampling, np.float32)


_AXES = [_make_axis(low, high) for low, high in _CROPS]
_SUMS = np.add.outer(np.arange(_FREQUENCIES), np.arange(_FREQUENCIES))
_ROWS, _COLUMNS = np.nonzero((_SUMS > 0) & (_SUMS <= 9))
_WEIGHTS = np.sqrt(_SUMS[_ROWS, _COLUMNS]).astype(np.float32)  # else skies and shadows say all
_MIRROR = np.where(np.arange(_FREQUENCIES) % 2, np.float32(-1), np.float32(1))[None, None]
