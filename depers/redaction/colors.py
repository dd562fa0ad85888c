"""What colors boxes are redacted in: those of what is around them, never of what is inside.

Averages of what is under a box would let anyone who has candidates (a list of plates, a gallery of faces) average those
alike and compare: 6 × 6 averages pick the right one of hundreds. So colors are interpolated from the units around all
boxes, which the image shows anyway. As cells hold nothing, their size is free: each box has cells of its own size, also
in a crowd, where boxes overlap.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.imaging.membrane import interpolate
from depers.redaction.regions import Rectangle, Region

MODES = ("pixelate", "blur", "fill", "inpaint")
CELLS_ACROSS = 6
_GRID_ACROSS = 32  # cells across an inpainted region, more where it holds small boxes
_GRID_MOST = 128
_PART_ACROSS = 8  # cells across the smallest box of an inpainted region
_SAMPLES_MOST = 128  # that color a box; a box by itself has at most 24

CellEdges = NDArray[np.int64]


class Mosaic(NamedTuple):
    """What is colored together: bounds, the edges of its cells, and the parts of them that are painted, largest first.

    The edges may reach beyond the bounds.
    """

    bounds: Rectangle
    across: CellEdges
    down: CellEdges
    parts: tuple[Rectangle, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns of cells there are."""
        return len(self.down) - 1, len(self.across) - 1

    def scale(self, horizontal: int, vertical: int) -> "Mosaic":
        """Return the mosaic in smaller units, of which one of its own holds `horizontal` × `vertical`."""
        bounds, *parts = (
            (x0 * horizontal, y0 * vertical, x1 * horizontal, y1 * vertical)
            for x0, y0, x1, y1 in (self.bounds, *self.parts)
        )
        return Mosaic(bounds, self.across * horizontal, self.down * vertical, tuple(parts))


class Samples(NamedTuple):
    """Means of stretches of free units: where these lie, float64 (N, 2) xy, their colors (N, C), their sizes (N,)."""

    places: NDArray[np.float64]
    colors: NDArray[np.float64]
    sizes: NDArray[np.int64]


def plan_mosaics(region: Region, mode: str, least_cell: int) -> list[Mosaic]:
    """Return the mosaics of a region in the order in which they are painted.

    Each box is one, so that a face that lies in a person has cells of its own; larger ones come first. To inpaint, all
    boxes are one, with square cells of at least `least_cell` units, which reach one cell beyond its bounds.
    """
    parts = tuple(sorted(region.parts, key=lambda part: (-(part[2] - part[0]) * (part[3] - part[1]), part)))
    if mode != "inpaint":
        return [Mosaic(part, *find_cell_edges(part), (part,)) for part in parts]
    x0, y0, x1, y1 = region.bounds
    longest = max(x1 - x0, y1 - y0)
    smallest = min(max(part[2] - part[0], part[3] - part[1]) for part in parts)
    side = min(-(-longest // _GRID_ACROSS), -(-smallest // _PART_ACROSS))
    side = max(least_cell, -(-longest // _GRID_MOST), side)
    across, down = (
        low + side * np.arange(-1, -(-(high - low) // side) + 2, dtype=np.int64) for low, high in ((x0, x1), (y0, y1))
    )
    return [Mosaic(region.bounds, across, down, parts)]


def find_cell_edges(bounds: Rectangle) -> tuple[CellEdges, CellEdges]:
    """Return the edges of the cells of a box in x and in y: about square, at most 6 across."""
    lengths = (bounds[2] - bounds[0], bounds[3] - bounds[1])
    side = max(lengths) / CELLS_ACROSS
    counts = [max(1, min(CELLS_ACROSS, round(length / side), length)) for length in lengths]
    across, down = (
        low + (np.arange(count + 1) * (2 * length) + count) // (2 * count)
        for low, length, count in zip(bounds[:2], lengths, counts, strict=True)
    )
    return across, down


def take_samples(
    patch: NDArray[Any],
    free: NDArray[np.bool_],
    origin_xy: tuple[int, int],
    mosaics: Sequence[Mosaic],
    ring_wh: tuple[int, int],
    palette: NDArray[np.uint8] | None = None,
) -> Samples:
    """Return samples of what is around the parts of mosaics, from the free units of `patch` (H, W, C) alone.

    Around a part is what lies at most `ring_wh` from it; each cell beside that makes a stretch. `patch` begins at
    `origin_xy` and may hold indices into a `palette` (N, C).
    """
    found = [
        _sample_sides(patch, free, origin_xy, part, mosaic, ring_wh, palette)
        for mosaic in mosaics
        for part in mosaic.parts
    ]
    return found[0] if len(found) == 1 else Samples(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def _sample_sides(
    patch: NDArray[Any],
    free: NDArray[np.bool_],
    origin_xy: tuple[int, int],
    part: Rectangle,
    mosaic: Mosaic,
    ring_wh: tuple[int, int],
    palette: NDArray[np.uint8] | None,
) -> Samples:
    x0, y0, x1, y1 = part
    left, top = (max(low - ring, start) for low, ring, start in zip((x0, y0), ring_wh, origin_xy, strict=True))
    near = (
        slice(top - origin_xy[1], y1 + ring_wh[1] - origin_xy[1]),
        slice(left - origin_xy[0], x1 + ring_wh[0] - origin_xy[0]),
    )
    free_near = free[near]
    rows, columns = np.divmod(np.flatnonzero(free_near), free_near.shape[1])
    across = mosaic.across[(mosaic.across > x0) & (mosaic.across < x1)] - left
    down = mosaic.down[(mosaic.down > y0) & (mosaic.down < y1)] - top
    wide, high = len(across) + 1, len(down) + 1
    beside = np.searchsorted(across, columns, side="right")  # the cell above or below which it lies
    level = np.searchsorted(down, rows, side="right")
    level += np.where(columns < x0 - left, 2 * wide, 2 * wide + high)
    beside += np.where(rows < y0 - top, 0, wide)
    stretch = np.where((rows < y0 - top) | (rows >= y1 - top), beside, level)
    colors = patch[near][rows, columns] if palette is None else palette[patch[near][rows, columns, 0]]
    sizes = np.bincount(stretch, minlength=2 * (wide + high))
    sums = [np.bincount(stretch, measure, len(sizes)) for measure in (columns + 0.5, rows + 0.5, *colors.T)]
    filled = sizes > 0
    means = np.stack(sums, axis=1)[filled] / sizes[filled, None]
    return Samples(means[:, :2] + (left, top), means[:, 2:], sizes[filled])


def color(mosaic: Mosaic, samples: Samples, mode: str, middle: float) -> NDArray[np.float64]:
    """Return the colors of a mosaic's cells, float64 (rows, columns, C): `middle` where there are no samples."""
    if not len(samples.sizes):
        return np.full((*mosaic.shape, samples.colors.shape[1]), middle, np.float64)
    return _color_surface(mosaic, samples) if mode == "inpaint" else _color_cells(mosaic, samples)


def _color_cells(mosaic: Mosaic, samples: Samples) -> NDArray[np.float64]:
    """Return the mean of the samples nearby, each by its size and the inverse square of its distance (Shepard 1968).

    Along the edge of a half plane and of a circle, that is what solves Laplace's equation (Poisson's kernel).
    """
    if len(samples.sizes) > _SAMPLES_MOST:
        beyond = np.maximum(mosaic.bounds[:2] - samples.places, samples.places - mosaic.bounds[2:]).clip(0)
        distances = (beyond**2).sum(axis=1)
        near = distances <= np.partition(distances, _SAMPLES_MOST - 1)[_SAMPLES_MOST - 1]
        samples = Samples(*(array[near] for array in samples))
    centers_x, centers_y = ((edges[1:] + edges[:-1]) / 2 for edges in (mosaic.across, mosaic.down))
    (x, y), (columns, rows) = samples.places.T, (centers_x[None, :, None], centers_y[:, None, None])
    weights = samples.sizes / ((columns - x) ** 2 + (rows - y) ** 2 + 1)
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(weights @ samples.colors)


def _color_surface(mosaic: Mosaic, samples: Samples) -> NDArray[np.float64]:
    """Return the smooth surface through the cells in which samples lie."""
    (x, y), channels = samples.places.T, samples.colors.shape[1]
    high, wide = mosaic.shape
    column = np.searchsorted(mosaic.across[1:-1], x, side="right")
    cell = np.searchsorted(mosaic.down[1:-1], y, side="right") * wide + column
    sizes = np.bincount(cell, samples.sizes, high * wide)
    sums = [np.bincount(cell, samples.sizes * values, high * wide) for values in samples.colors.T]
    values = np.zeros((high * wide, 4), np.float32)
    values[:, :channels] = np.stack(sums, axis=1) / np.maximum(sizes, 1)[:, None]
    surface = interpolate(values.reshape(high, wide, 4), sizes.reshape(high, wide) > 0)
    return surface[:, :, :channels].astype(np.float64)
