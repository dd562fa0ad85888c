"""Remove boxes from an image so that it can serve as background: smooth, confetti or mean.

What is removed is more than the boxes: they are grown, then made up to whole blocks of the image's compression, since
a JPEG smears colors and ringing within its blocks, and decoders interpolate chroma beyond them. The result depends on
the pixels outside alone: two images that differ within their boxes only give the same bytes.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, grow
from depers.imaging.membrane import interpolate

FILLS = ("smooth", "confetti", "mean")
CELL = 4
"""Side in pixels of the cells in which images are filled and masks are kept."""
BLOCK = 16
"""Side in pixels of the largest block of a JPEG with subsampled chroma, and of WebP's macroblocks."""
RGB = NDArray[np.uint8]
Rects = NDArray[np.int64]

_REACH = 4  # px beyond a block that a decoder's interpolation of chroma (2) and the noise measure (1) look at
_NEARBY = 9  # cells, within which the plainest place gives the grain
_STRONGEST = 2.0  # gray levels; stronger grain is texture, which noise does not resemble
_TILE = 512  # px, side of the noise tiles
_SQUARES = (6, 24)  # px, sides of the confetti
_LAYERS = (1.0, 0.4, 0.2)  # of confetti: the share of their squares that is drawn; the first leaves nothing


def rects_to_fill(boxes_xyxy: Boxes, size_wh: tuple[int, int], dilate: float, block: int = BLOCK) -> Rects:
    """Return the rectangles to fill for boxes in pixels: int64 (N, 4) x0, y0, x1, y1 in cells, without empty ones.

    The boxes are grown by `dilate` times their sides on each side, then to whole blocks (`block` 1: not compressed in
    blocks), counted from either edge of the image, since rotating it may have moved the first one; then to cells.
    """
    size = np.array(size_wh)
    grown = grow(boxes_xyxy, dilate, size_wh)
    grown = grown[(grown[:, 2:] > grown[:, :2]).all(axis=1)].astype(np.float64)
    low, high = grown[:, :2], grown[:, 2:]
    low = np.minimum(np.floor(low / block) * block, size - np.ceil((size - low) / block) * block)
    high = np.maximum(np.ceil(high / block) * block, size - np.floor((size - high) / block) * block)
    cells = -(-size // CELL)
    low = np.floor((low - _REACH) / CELL).clip(0, cells)
    high = np.ceil((high + _REACH) / CELL).clip(0, cells)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def fill_rects(rgb: RGB, rects: Rects, fill: str, rng: np.random.Generator) -> RGB:
    """Return a copy of an image, uint8 RGB (H, W, 3), with rectangles (N, 4) in cells filled from around them."""
    if not len(rects):
        return rgb.copy()
    height, width = rgb.shape[:2]
    padded = _pad(rgb)
    is_known = np.ones((padded.shape[0] // CELL, padded.shape[1] // CELL), np.bool_)
    for x0, y0, x1, y1 in rects.tolist():
        is_known[y0:y1, x0:x1] = False
    filled = padded.copy() if padded is rgb else padded
    if fill == "smooth":
        _fill_smooth(filled, rects, is_known, rng)
    elif fill == "mean":
        _fill_mean(filled, rects, is_known)
    else:
        _fill_confetti(filled, rects, rng)
    return np.ascontiguousarray(filled[:height, :width])


def _pad(rgb: RGB) -> RGB:
    """Return the image made up to whole cells by repeating its last pixels."""
    bottom, right = -rgb.shape[0] % CELL, -rgb.shape[1] % CELL
    if not bottom and not right:
        return rgb
    return np.asarray(cv2.copyMakeBorder(rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE))


def _means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of every cell, float32."""
    height, width = pixels.shape[:2]
    for halves in (2, 4):  # twice by half is four times as fast as once by a quarter
        pixels = cv2.resize(pixels, (width // halves, height // halves), interpolation=cv2.INTER_AREA)
    return np.asarray(pixels, np.float32)


def _fill_smooth(rgb: RGB, rects: Rects, is_known: NDArray[np.bool_], rng: np.random.Generator) -> None:
    """Fill with color and strength of the grain, interpolated at the scale of cells, and with grain drawn anew."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    cells = interpolate(np.dstack([_means(rgb), _grain_strength(gray, is_known)]), is_known)
    colors, strengths = np.rint(cells[..., :3]).astype(np.uint8), np.minimum(cells[..., 3], _STRONGEST)
    tile = np.roll(_grain(), rng.integers(0, _TILE, 2), axis=(0, 1))
    for rect in rects.tolist():
        x0, y0, x1, y1 = (CELL * edge for edge in rect)
        beyond = max(y1 - y0 - _TILE, 0), max(x1 - x0 - _TILE, 0)
        wrapped = cv2.copyMakeBorder(tile, 0, beyond[0], 0, beyond[1], cv2.BORDER_WRAP) if any(beyond) else tile
        grain = cv2.multiply(_enlarge(strengths, rect), wrapped[: y1 - y0, : x1 - x0], dtype=cv2.CV_16S)
        cv2.add(_enlarge(colors, rect), cv2.merge([grain] * 3), rgb[y0:y1, x0:x1], dtype=cv2.CV_8U)


def _enlarge(cells: NDArray[Any], rect: list[int]) -> NDArray[Any]:
    """Return the cells of a rectangle as pixels, interpolated toward the cells around it."""
    x0, y0, x1, y1 = rect
    height, width = cells.shape[:2]
    around = cells[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1]
    edges = int(y0 == 0), int(y1 == height), int(x0 == 0), int(x1 == width)
    around = cv2.copyMakeBorder(around, *edges, cv2.BORDER_REPLICATE)
    size = around.shape[1] * CELL, around.shape[0] * CELL
    return np.asarray(cv2.resize(around, size, interpolation=cv2.INTER_LINEAR)[CELL:-CELL, CELL:-CELL])


def _grain_strength(gray: NDArray[np.uint8], is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return how far pixels stray from the mean of those around them, per cell, float32.

    The least of the known cells nearby: that of the plainest place is grain, whereas a mean would be that of edges.
    """
    strays = cv2.convertScaleAbs(cv2.absdiff(gray, cv2.blur(gray, (3, 3))), alpha=16)  # means are whole numbers
    strength = np.where(is_known, _means(strays) / 16, np.float32(16))
    return np.asarray(cv2.erode(strength, np.ones((_NEARBY, _NEARBY), np.uint8)))


@lru_cache(maxsize=1)
def _grain() -> NDArray[np.float32]:
    """Return a tile of grain, float32 (512, 512), that wraps around, of strength 1 as `_grain_strength` measures it."""
    white = np.random.Generator(np.random.Philox(0)).standard_normal((_TILE, _TILE)).astype(np.float32)
    grain = cv2.GaussianBlur(np.pad(white, CELL, mode="wrap"), (0, 0), 0.6)  # a pixel's noise spreads in demosaicing
    scale = np.float32(4 / grain.std())  # it is measured in whole steps of 8 bits, up to 16 of them
    is_known = np.ones((len(grain) // CELL, len(grain) // CELL), np.bool_)
    strength = _grain_strength(np.rint(grain * scale + 128).clip(0, 255).astype(np.uint8), is_known).mean()
    return np.asarray(grain[CELL:-CELL, CELL:-CELL] * scale / strength)


def _fill_mean(rgb: RGB, rects: Rects, is_known: NDArray[np.bool_]) -> None:
    """Fill with one color: the mean of the rest of the image, mid gray where there is none."""
    color = np.rint(_means(rgb)[is_known].mean(axis=0)).tolist() if is_known.any() else (128, 128, 128)
    for x0, y0, x1, y1 in (rects * CELL).tolist():
        cv2.rectangle(rgb, (x0, y0), (x1 - 1, y1 - 1), color, cv2.FILLED)


def _fill_confetti(rgb: RGB, rects: Rects, rng: np.random.Generator) -> None:
    """Fill with squares of random sizes and colors: a layer without gaps, then scattered ones, inside the rectangle."""
    for x0, y0, x1, y1 in (rects * CELL).tolist():
        inside = rgb[y0:y1, x0:x1]
        for share in _LAYERS:
            side, shift = int(rng.integers(*_SQUARES)), rng.random(2)
            grid = (y1 - y0) // side + 2, (x1 - x0) // side + 2
            y, x = (int(part * side) for part in shift)
            colors = rng.integers(0, 256, (*grid, 3), np.uint8)
            is_drawn = (rng.random(grid) < share).astype(np.uint8)
            whole = grid[1] * side, grid[0] * side
            layer, mask = (cv2.resize(array, whole, interpolation=cv2.INTER_NEAREST) for array in (colors, is_drawn))
            visible = slice(y, y + y1 - y0), slice(x, x + x1 - x0)
            cv2.copyTo(layer[visible], mask[visible], inside)
