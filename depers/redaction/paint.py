"""What boxes are painted with: the colors of cells, flat or interpolated, and noise that depends on their place alone.

The noise makes cells look like the mosaic that people take for redacted.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from depers.redaction.colors import CellEdges, Mosaic
from depers.redaction.regions import Rectangle

SMOOTH = ("blur", "inpaint")
NOISE = 12 / 255
"""Standard deviation of a cell's brightness about its surroundings', as a share of the range of values."""
BLUR_STEP = 4 / 255
"""Blurred values are rounded to multiples of this share of the range, after the noise."""
FINE_NOISE = 2 / 255
_TILE = 256  # the fine noise repeats after so many pixels


class Paint:
    """The paint of a mosaic, at any scale; given out in blocks, so that no mosaic costs much memory."""

    def __init__(
        self,
        values: NDArray[np.float64],
        mosaic: Mosaic,
        mode: str,
        span: float,
        noisy: Sequence[int],
        scale: int = 1,
    ) -> None:
        """Take the colors `values` (rows, columns, C) of a mosaic's cells.

        `span` is the range of values; the first `noisy` channels get noise, which depends on its place alone, so that
        a rerun gives the same bytes. A unit of the mosaic is `scale` units of paint.
        """
        self.across, self.down, self.mode, self.span = mosaic.across * scale, mosaic.down * scale, mode, span
        self.values = values.astype(np.float32)
        self.noisy = list(noisy)
        if not noisy:
            return
        if mode != "inpaint":
            noise = _generator(mosaic.bounds, 0).standard_normal(values.shape[:2]) * NOISE * span
            self.values[:, :, self.noisy] += noise[:, :, None].astype(np.float32)
        if mode in SMOOTH:
            self._shift_xy = _generator(mosaic.bounds, 1).integers(0, _TILE, 2).tolist()

    def block(self, x0: int, y0: int, x1: int, y1: int) -> NDArray[np.float32]:
        """Return a block of the painted mosaic, float32 (y1 - y0, x1 - x0, C)."""
        columns, rows = np.arange(x0, x1), np.arange(y0, y1)
        if self.mode not in SMOOTH:
            column, row = (
                np.searchsorted(edges[1:-1], positions, side="right")
                for edges, positions in ((self.across, columns), (self.down, rows))
            )
            return self.values[np.ix_(row, column)]
        near_rows, row_weights = _interpolation(self.down, rows)
        near_columns, column_weights = _interpolation(self.across, columns)
        values = self.values[near_rows, near_columns]
        high, wide, channels = values.shape
        lines = (row_weights @ values.reshape(high, -1)).reshape(-1, wide, channels).swapaxes(1, 2)
        band = (lines.reshape(-1, wide) @ column_weights.T).reshape(len(rows), channels, len(columns))
        if self.noisy:
            right, down = self._shift_xy
            noise = _fine_noise()[np.ix_((rows + down) % _TILE, (columns + right) % _TILE)]
            band[:, self.noisy] += noise[:, None] * np.float32(FINE_NOISE * self.span)
        if self.mode == "blur":
            step, colors = np.float32(BLUR_STEP * self.span), band[:, : len(self.noisy)]
            colors /= step
            np.rint(colors, out=colors)
            colors *= step
        return np.asarray(band.swapaxes(1, 2))


def _interpolation(edges: CellEdges, positions: NDArray[np.int64]) -> tuple[slice, NDArray[np.float32]]:
    """Return which cells are near some positions in a row, and weights (positions, cells) to interpolate linearly."""
    centers = (edges[1:] + edges[:-1]) / 2
    first, last = np.searchsorted(centers, (positions[0] + 0.5, positions[-1] + 0.5))
    near = slice(max(0, int(first) - 1), int(last) + 1)
    centers = centers[near]
    weights = np.zeros((len(positions), len(centers)), np.float32)
    if len(centers) == 1:
        weights[:] = 1
        return near, weights
    before = (np.searchsorted(centers, positions + 0.5) - 1).clip(0, len(centers) - 2)
    shares = ((positions + 0.5 - centers[before]) / (centers[before + 1] - centers[before])).clip(0, 1)
    numbers = np.arange(len(positions))
    weights[numbers, before], weights[numbers, before + 1] = 1 - shares, shares
    return near, weights


@lru_cache(maxsize=1)
def _fine_noise() -> NDArray[np.float32]:
    """Return normal noise (_TILE, _TILE) that repeats seamlessly; mosaics begin it in different places."""
    return Generator(Philox(0)).standard_normal((_TILE, _TILE), np.float32)


def _generator(place: Rectangle, stage: int) -> Generator:
    """Return a generator of a place and stage: four coordinates of 32 bits are a key, which takes no time to hash."""
    key = sum(coordinate << 32 * index for index, coordinate in enumerate(place))
    return Generator(Philox(key=key, counter=stage << 192))
