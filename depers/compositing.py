"""Renders one synthetic picture: plan row + decoded background + cut-out pictures → pixels → JPEG.

A pure function of these; everything it decides nothing about is in the plan.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import simplejpeg

from depers import blending
from depers.blending import RGB

NOISE_TILE = 1024
"""Side in pixels of the tile of noise that is laid over pictures, again and again."""
_NOISE_SEED = 20170807


def render(row: Mapping[str, Any], background: RGB, pictures: Sequence[RGB]) -> bytes:
    """The JPEG of a plan row; `pictures` are those of its objects: sprites `reduced`, of decoys a background."""
    finished = finish(compose(row["objects"], background, pictures), row)
    return bytes(simplejpeg.encode_jpeg(finished, row["quality"], "RGB", "420"))


def compose(objects: Sequence[Mapping[str, Any]], background: RGB, pictures: Sequence[RGB]) -> RGB:
    """The background with all objects in their places, uint8 RGB (H, W, 3); it is not changed itself."""
    canvas = background.copy()
    for placed, picture in zip(objects, pictures, strict=True):
        paint(canvas, placed, picture)
    return canvas


def paint(canvas: RGB, placed: Mapping[str, Any], picture: RGB) -> None:
    """Puts one object into `canvas` (H, W, 3), of which only the region within the seam's reach changes."""
    height, width = canvas.shape[:2]
    left, top = placed["x"], placed["y"]
    # What of the scaled picture lies in the frame.
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + placed["width"]), min(height, top + placed["height"])
    if x1 <= x0 or y1 <= y0:
        return
    patch = scaled(picture, placed)[y0 - top : y1 - top, x0 - left : x1 - left]
    edge = placed["x_min"], placed["y_min"], placed["x_max"], placed["y_max"]
    reach, how = placed["reach"], placed["blending"]
    ground = canvas[y0:y1, x0:x1]
    if how != "poisson":
        inner = _whole(edge, -reach / 2, (x0, y0, x1, y1))
        difference = blending.ring_difference(patch, ground, inner) * placed["match"]
        added = difference + [placed["red"], placed["green"], placed["blue"]]
    # Nothing outside of the seam changes, and the solver's domain is what is painted.
    a, b, c, d = _whole(edge, reach / 2, (x0, y0, x1, y1))
    if c <= a or d <= b:
        return
    patch, ground = patch[b:d, a:c], ground[b:d, a:c]
    pixels = x0 + a, y0 + b, x0 + c, y0 + d
    if how == "poisson":
        patch = blending.poisson(patch, ground, edge, pixels, placed["shape"])
    else:
        patch = blending.shift(patch, added)
    blending.lay(patch, ground, edge, pixels, placed["shape"], reach, how == "gaussian")


def _whole(
    edge: tuple[float, float, float, float], grown: float, frame: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The pixels whose centres lie in `edge`, grown on all sides, counted from the corner of `frame` and inside it."""
    x0, y0, x1, y1 = frame
    low_x, low_y = (max(0, round(edge[i] - grown) - (x0, y0)[i]) for i in (0, 1))
    high_x, high_y = (min((x1 - x0, y1 - y0)[i], round(edge[i + 2] + grown) - (x0, y0)[i]) for i in (0, 1))
    return low_x, low_y, high_x, high_y


def reduction(placed: Mapping[str, Any]) -> int:
    """By how much a sprite is `reduced` before it is scaled by less than half, a power of two; 1 for a decoy."""
    if not placed["sprite"]:
        return 1
    by = min(placed["source_width"] / placed["width"], placed["source_height"] / placed["height"])
    return 1 << max(0, int(by).bit_length() - 1)


def reduced(picture: RGB, by: int) -> RGB:
    """The means of squares of `by` pixels, a power of two, which costs little; the last of them are filled up."""
    bottom, right = -picture.shape[0] % by, -picture.shape[1] % by
    if bottom or right:
        picture = np.asarray(cv2.copyMakeBorder(picture, 0, bottom, 0, right, cv2.BORDER_REPLICATE))
    return blending.halved(picture, by.bit_length() - 1)


def scaled(picture: RGB, placed: Mapping[str, Any]) -> RGB:
    """The part of a picture, reduced by `reduction`, that is pasted, in its size in the scene, (height, width, 3)."""
    x, y, width, height = (placed[f"source_{name}"] for name in ("x", "y", "width", "height"))
    by, size = reduction(placed), (placed["width"], placed["height"])
    part = picture if by > 1 else picture[y : y + height, x : x + width]
    if size == (part.shape[1], part.shape[0]):
        return part
    scale_x, scale_y = width / by / size[0], height / by / size[1]
    if width % by == 0 and height % by == 0:
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR))
    # The last row and column are only partly the picture's.
    back = np.array([[scale_x, 0, (scale_x - 1) / 2], [0, scale_y, (scale_y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def finish(canvas: RGB, row: Mapping[str, Any]) -> RGB:
    """Blur and noise over the whole picture, so that pasted and real pixels have had the same done to them."""
    if row["blur"] > 0:
        canvas = cv2.GaussianBlur(canvas, (3, 3), row["blur"])
    if row["noise"] > 0:
        lighter, darker = noise_tile(row["noise"])
        height, width = canvas.shape[:2]
        for y, tile_y, rows in _tiles(height, row["noise_y"]):
            for x, tile_x, columns in _tiles(width, row["noise_x"]):
                region = canvas[y : y + rows, x : x + columns]
                cv2.add(region, lighter[tile_y : tile_y + rows, tile_x : tile_x + columns], region)
                cv2.subtract(region, darker[tile_y : tile_y + rows, tile_x : tile_x + columns], region)
    return canvas


def _tiles(length: int, offset: int) -> list[tuple[int, int, int]]:
    """(pixel, pixel of the tile, how many) until `length` is covered, from `offset` in the first tile on."""
    found, at = [], 0
    while at < length:
        begin = (offset + at) % NOISE_TILE
        count = min(length - at, NOISE_TILE - begin)
        found.append((at, begin, count))
        at += count
    return found


@lru_cache(maxsize=8)
def noise_tile(sigma: int) -> tuple[RGB, RGB]:
    """What noise of `sigma` gray levels adds and what it takes away, uint8 (1024, 1024, 3) each."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(_NOISE_SEED, spawn_key=(sigma,))))
    gray = rng.standard_normal((NOISE_TILE, NOISE_TILE, 1), np.float32)
    colour = rng.standard_normal((NOISE_TILE, NOISE_TILE, 3), np.float32)
    noise = np.rint(sigma * (0.8 * gray + 0.6 * colour))
    return np.maximum(noise, 0).astype(np.uint8), np.maximum(-noise, 0).astype(np.uint8)
