"""Images that are nearly the same, found by their thumbnails.

They are copies that were compressed again, resized, cropped by up to about 5 % on a side or mirrored, and images of one
scene a moment later: their low frequencies (the discrete cosine transform of a thumbnail, as perceptual hashes take it)
correlate nearly perfectly, perhaps after one of them was cropped or mirrored. Only pairs whose signs agree in one of
some random selections of frequencies are compared (locality-sensitive hashing, Charikar 2002), so that a million images
are no million squared.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depers.imaging.likeness import SIDE

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
    from scipy.sparse import coo_matrix  # which takes longer to import than all else that reads thumbnails
    from scipy.sparse.csgraph import connected_components

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
