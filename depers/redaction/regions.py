"""Where boxes are redacted, and with what: cells that take their colors from around them, never from inside.

Averages of what is under a box would let anyone who has candidates (a list of plates, a gallery of faces) average those
alike and compare: 6 × 6 averages pick the right one of hundreds. So a cell's color is interpolated from the pixels
around the region, which the image shows anyway, and noise that depends on the box alone makes it look like the mosaic
that people take for redacted.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray

from depers.imaging.headers import ImageError

MODES = ("pixelate", "blur", "fill")
CELLS_ACROSS = 6
NOISE = 12 / 255
"""Standard deviation of a cell's brightness about its surroundings', as a share of the range of values."""
BLUR_STEP = 4 / 255
"""Blurred values are rounded to multiples of this share of the range, after the noise."""
FINE_NOISE = 2 / 255
_TILE = 256  # the fine noise repeats after so many pixels

Rectangle = tuple[int, int, int, int]


class Region(NamedTuple):
    """Boxes that overlap or touch, as one: whole-unit rectangles (x0, y0, x1, y1) and the rectangle about them."""

    bounds: Rectangle
    parts: tuple[Rectangle, ...]


def check_painted(boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> None:
    """Raise ImageError for a box that would paint no pixel: turned inside out, empty, outside, or not finite."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    inside = np.clip(boxes, 0, np.array(size_wh * 2, np.float32))
    for box in boxes[~(np.isfinite(boxes).all(axis=1) & (inside[:, 2:] > inside[:, :2]).all(axis=1))].tolist():
        edges = ", ".join(f"{edge:g}" for edge in box)
        raise ImageError(f"has a box ({edges}) that covers none of its {size_wh[0]} × {size_wh[1]} pixels")


def find_regions(
    boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int], unit_wh: tuple[int, int] = (1, 1)
) -> list[Region]:
    """Return the regions that cover the boxes inside an image, in units of `unit_wh` pixels, empty boxes left out."""
    unit = np.array(unit_wh * 2, np.float64)
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite")
    low = np.floor(np.clip(boxes[:, :2], 0, size_wh) / unit[:2])
    high = np.ceil(np.clip(boxes[:, 2:], 0, size_wh) / unit[2:])
    rectangles = np.unique(np.concatenate([low, high], axis=1)[(high > low).all(axis=1)].astype(np.int64), axis=0)
    regions = []
    for group in _groups(rectangles):
        members = rectangles[group]
        bounds = (*members[:, :2].min(axis=0).tolist(), *members[:, 2:].max(axis=0).tolist())
        regions.append(Region(bounds, tuple(tuple(part) for part in members.tolist())))
    return regions


def _groups(rectangles: NDArray[np.int64]) -> list[list[int]]:
    """Return the indices of rectangles that overlap or touch, group by group, ordered by the first of each group."""
    low, high = rectangles[:, :2], rectangles[:, 2:]
    remaining, groups = np.arange(len(rectangles)), []
    while len(remaining):
        group, frontier, remaining = [], [int(remaining[0])], remaining[1:]
        while frontier:
            index = frontier.pop()
            group.append(index)
            touches = ((low[remaining] <= high[index]) & (high[remaining] >= low[index])).all(axis=1)
            frontier += remaining[touches].tolist()
            remaining = remaining[~touches]
        groups.append(sorted(group))
    return groups


def stack_parts(regions: Sequence[Region]) -> NDArray[np.int64]:
    """Return the rectangles of all regions, int64 (N, 4)."""
    return np.array([part for region in regions for part in region.parts], np.int64).reshape(-1, 4)


def find_cell_edges(bounds: Rectangle) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the edges of the cells, from 0 to the width and from 0 to the height: about square, at most 6 across."""
    lengths = (bounds[2] - bounds[0], bounds[3] - bounds[1])
    side = max(lengths) / CELLS_ACROSS
    counts = [max(1, min(CELLS_ACROSS, round(length / side), length)) for length in lengths]
    across, down = (
        np.linspace(0, length, count + 1).round().astype(np.int64)
        for length, count in zip(lengths, counts, strict=True)
    )
    return across, down


def grow_bounds(bounds: Rectangle, size_wh: tuple[int, int], thickness: int) -> Rectangle:
    """Return the bounds grown by `thickness` on each side, inside the image."""
    x0, y0, x1, y1 = bounds
    low = (max(0, x0 - thickness), max(0, y0 - thickness))
    return (*low, min(size_wh[0], x1 + thickness), min(size_wh[1], y1 + thickness))


def mark_free(parts: NDArray[np.int64], window: Rectangle, bounds: Rectangle) -> NDArray[np.bool_]:
    """Return which units of `window`, bool (H, W), lie outside `bounds` and outside of all `parts` of regions."""
    x0, y0, x1, y1 = window
    free = np.ones((y1 - y0, x1 - x0), bool)
    overlaps = (parts[:, :2] < (x1, y1)).all(axis=1) & (parts[:, 2:] > (x0, y0)).all(axis=1)
    for part_x0, part_y0, part_x1, part_y1 in [*parts[overlaps].tolist(), bounds]:
        free[max(0, part_y0 - y0) : max(0, part_y1 - y0), max(0, part_x0 - x0) : max(0, part_x1 - x0)] = False
    return free


def color_cells(
    patch: NDArray[Any],
    free: NDArray[np.bool_],
    inner: Rectangle,
    edges: tuple[NDArray[np.int64], NDArray[np.int64]],
    middle: float,
    palette: NDArray[np.uint8] | None = None,
) -> NDArray[np.float64]:
    """Return the cells' colors, float64 (rows, columns, C), from the free pixels of `patch` (H, W, C) around `inner`.

    `patch` may hold indices into a `palette` (N, C).
    Each stretch of the surroundings beside a cell is averaged; a cell weighs these averages by the inverse square of
    their distance (Shepard 1968). `middle` where nothing is free.
    """
    (x0, y0, _, y1), (across, down) = inner, edges
    wide, high = len(across) - 1, len(down) - 1
    rows, columns = np.nonzero(free)
    channels = patch.shape[2] if palette is None else palette.shape[1]
    if not len(rows):
        return np.full((high, wide, channels), middle, np.float64)
    beside = np.searchsorted(across[1:-1] + x0, columns, side="right")  # the cell above or below which it lies
    level = np.searchsorted(down[1:-1] + y0, rows, side="right")
    sides = [rows < y0, rows >= y1, columns < x0]
    stretch = np.select(sides, [beside, wide + beside, 2 * wide + level], 2 * wide + high + level)
    samples = patch[rows, columns] if palette is None else palette[patch[rows, columns, 0]]
    measures = [columns + 0.5 - x0, rows + 0.5 - y0, *samples.T]
    sums = np.stack([np.bincount(stretch, measure, 2 * (wide + high)) for measure in measures], axis=1)
    counts = np.bincount(stretch, minlength=2 * (wide + high))
    means = sums[counts > 0] / counts[counts > 0, None]
    centers_x, centers_y = (across[1:] + across[:-1]) / 2, (down[1:] + down[:-1]) / 2
    squares = (centers_x[None, :, None] - means[:, 0]) ** 2 + (centers_y[:, None, None] - means[:, 1]) ** 2
    weights = 1 / (squares + 1)
    weights /= weights.sum(axis=2, keepdims=True)
    return np.asarray(weights @ means[:, 2:])


class Paint:
    """The paint of a region, at any scale; given out in bands of rows, so that no region costs much memory."""

    def __init__(
        self,
        values: NDArray[np.float64],
        edges: tuple[NDArray[np.int64], NDArray[np.int64]],
        bounds: Rectangle,
        mode: str,
        span: float,
        noisy: Sequence[int],
    ) -> None:
        """Take the cells' colors `values` (rows, columns, C) and their edges as of `find_cell_edges`, or scaled.

        `span` is the range of values; the first `noisy` channels get noise, which depends on the region's place alone,
        so that a rerun gives the same bytes.
        """
        self.across, self.down, self.mode, self.span = *edges, mode, span
        self.values = values.copy()
        self.noisy = list(noisy)
        if noisy:
            noise = _generator(bounds, 0).standard_normal(values.shape[:2]) * NOISE * span
            self.values[:, :, self.noisy] += noise[:, :, None]
        if mode == "blur":
            self._columns = _interpolation(self.across, np.arange(int(self.across[-1])))
            if noisy:
                self._shift_xy = _generator(bounds, 1).integers(0, _TILE, 2).tolist()

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Return rows of the painted region, float32 (bottom - top, W, C)."""
        positions = np.arange(top, bottom)
        if self.mode != "blur":
            row = np.searchsorted(self.down, positions, side="right") - 1
            return np.repeat(self.values[row].astype(np.float32), np.diff(self.across), axis=1)
        width, channels = int(self.across[-1]), self.values.shape[2]
        lines = _interpolation(self.down, positions) @ self.values.reshape(len(self.down) - 1, -1).astype(np.float32)
        lines = lines.reshape(len(positions), -1, channels).swapaxes(1, 2)
        band = (lines.reshape(len(positions) * channels, -1) @ self._columns.T).reshape(len(positions), channels, width)
        if self.noisy:
            right, down = self._shift_xy
            noise = _fine_noise()[np.ix_((positions + down) % _TILE, (np.arange(width) + right) % _TILE)]
            band[:, self.noisy] += noise[:, None] * np.float32(FINE_NOISE * self.span)
        step, colors = np.float32(BLUR_STEP * self.span), band[:, : len(self.noisy)]
        colors /= step
        np.rint(colors, out=colors)
        colors *= step
        return np.asarray(band.swapaxes(1, 2))


def _interpolation(edges: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return weights (positions, cells) that interpolate linearly between the cells' centers."""
    centers = (edges[1:] + edges[:-1]) / 2
    weights = [np.interp(positions + 0.5, centers, unit) for unit in np.eye(len(centers))]
    return np.stack(weights, axis=1).astype(np.float32)


@lru_cache(maxsize=1)
def _fine_noise() -> NDArray[np.float32]:
    """Return normal noise (_TILE, _TILE) that repeats seamlessly; regions begin it in different places."""
    return Generator(Philox(0)).standard_normal((_TILE, _TILE), np.float32)


def _generator(bounds: Rectangle, stage: int) -> Generator:
    return Generator(Philox(SeedSequence(bounds, spawn_key=(stage,))))
