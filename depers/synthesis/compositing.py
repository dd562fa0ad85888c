"""Render one synthetic image: plan row + decoded background + cut-out images → pixels → JPEG.

A pure function of these; everything it decides nothing about is in the plan.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from depers.imaging import ycbcr
from depers.imaging.ycbcr import Plane, Planes
from depers.synthesis import blending

NOISE_TILE = 1024
"""Side in pixels of the tile of noise that is laid over images, again and again."""
_NOISE_SEED = 20170807
_LUMA_NOISE, _CHROMA_NOISE = 0.9, 0.25  # together, as much as is asked for in red, green and blue
_STEPS = (1, 2)  # pixels in a row for each sample of luma and of chroma


def render(row: Mapping[str, Any], background: Planes, images: Sequence[Planes]) -> bytes:
    """Return the JPEG of a plan row; `images` of its objects: reduced sprites, a distractor's background."""
    return ycbcr.encode(finish(compose(row["objects"], background, images), row), row["quality"])


def compose(objects: Sequence[Mapping[str, Any]], background: Planes, images: Sequence[Planes]) -> Planes:
    """Return the background with all objects in their places; it is not changed itself."""
    canvas = background.copy()
    for entry, image in zip(objects, images, strict=True):
        tint = ycbcr.convert_difference(entry["red"], entry["green"], entry["blue"])
        for plane, image_plane, color, step in zip(canvas, image, tint, _STEPS, strict=True):
            paint(plane, entry, image_plane, color, step)
    return canvas


def paint(canvas: Plane, entry: Mapping[str, Any], image: Plane, tint: Sequence[float], step: int) -> None:
    """Paint one object into a plane, of which only the region within the seam's reach changes.

    `entry` is the object in the plan. A sample of the plane stands for `step` × `step` pixels; `tint` is added to each
    of its channels.
    """
    height, width = canvas.shape[:2]
    left, top, right, bottom = _samples(entry, step)
    # The part of the scaled image that lies in the frame.
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if x1 <= x0 or y1 <= y0:
        return
    patch = scale(image, entry, step)[y0 - top : y1 - top, x0 - left : x1 - left]
    edge = entry["x_min"] / step, entry["y_min"] / step, entry["x_max"] / step, entry["y_max"] / step
    reach, blending_name, shape = entry["reach"] / step, entry["blending"], entry["shape"]
    ground = canvas[y0:y1, x0:x1]
    if blending_name != "poisson":
        inner = _whole(edge, -reach / 2, (x0, y0, x1, y1))
        difference = blending.ring_difference(patch, ground, inner)
        color = [level * entry["match"] + channel for level, channel in zip(difference, tint, strict=True)]
    # Nothing outside of the seam changes, and the solver's domain is what is painted.
    a, b, c, d = _whole(edge, reach / 2, (x0, y0, x1, y1))
    if c <= a or d <= b:
        return
    patch, ground = patch[b:d, a:c], ground[b:d, a:c]
    pixels = x0 + a, y0 + b, x0 + c, y0 + d
    patch = (
        blending.poisson(patch, ground, edge, pixels, shape)
        if blending_name == "poisson"
        else blending.shift(patch, color)
    )
    blending.blend(patch, ground, edge, pixels, shape, reach, blending_name == "gaussian")


def _samples(entry: Mapping[str, Any], step: int) -> tuple[int, int, int, int]:
    """Return the samples that a placed image has a part in, x_min, y_min, x_max, y_max."""
    x, y = entry["x"], entry["y"]
    return x // step, y // step, -(-(x + entry["width"]) // step), -(-(y + entry["height"]) // step)


def _whole(
    edge: tuple[float, float, float, float], grown: float, frame: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """Return the pixels with centers in `edge`, grown on all sides, counted from the corner of `frame`, inside it."""
    (x0, y0, x1, y1), (x_min, y_min, x_max, y_max) = frame, edge
    return (
        max(0, round(x_min - grown) - x0),
        max(0, round(y_min - grown) - y0),
        min(x1, round(x_max + grown)) - x0,
        min(y1, round(y_max + grown)) - y0,
    )


def reduction(entry: Mapping[str, Any]) -> int:
    """Return by how much a sprite is reduced before it is scaled by less than half, a power of two; else 1."""
    if not entry["sprite"]:
        return 1
    by = min(entry["source_width"] / entry["width"], entry["source_height"] / entry["height"])
    return 1 << max(0, int(by).bit_length() - 1)


def reduce(image: Planes, by: int) -> Planes:
    """Return the image with the means of squares of `by` samples."""
    return Planes(ycbcr.reduce(image.luma, by), ycbcr.reduce(image.chroma, by))


def scale(image: Plane, entry: Mapping[str, Any], step: int) -> Plane:
    """Return the part of a plane, reduced by `reduction`, that is pasted, in its size in the scene, as `_samples`.

    A sample of it stands for `step` × `step` pixels. Where the image begins or ends within one of chroma, it is
    stretched to all of that.
    """
    x, y, width, height = (entry[f"source_{name}"] for name in ("x", "y", "width", "height"))
    left, top, right, bottom = _samples(entry, step)
    by, size = reduction(entry), (right - left, bottom - top)
    part = image if by > 1 else image[y // step : -(-(y + height) // step), x // step : -(-(x + width) // step)]
    if size == (part.shape[1], part.shape[0]):
        return part
    if by == 1 or (width % (by * step) == 0 and height % (by * step) == 0):
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR))
    # The last row and column are only partly the image's.
    scale_x, scale_y = width / entry["width"], height / entry["height"]
    first_x, first_y = ((left + 0.5) * step - entry["x"]) * scale_x, ((top + 0.5) * step - entry["y"]) * scale_y
    back = np.array([[scale_x / by, 0, first_x / step / by - 0.5], [0, scale_y / by, first_y / step / by - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def finish(canvas: Planes, row: Mapping[str, Any]) -> Planes:
    """Add blur and noise to the whole image, so that pasted and real pixels have had the same done to them."""
    if row["blur"] > 0:
        blurred = (
            cv2.GaussianBlur(plane, (3, 3), row["blur"] / step) for plane, step in zip(canvas, _STEPS, strict=True)
        )
        canvas = Planes(*blurred)
    if row["noise"] > 0:
        for plane, noise, step in zip(canvas, noise_tile(row["noise"]), _STEPS, strict=True):
            _add_noise(plane, *noise, row["noise_x"] // step, row["noise_y"] // step)
    return canvas


def _add_noise(plane: Plane, lighter: Plane, darker: Plane, noise_x: int, noise_y: int) -> None:
    """Lay a tile of noise over a plane, again and again."""
    height, width = plane.shape[:2]
    for y, tile_y, rows in _tiles(height, noise_y, len(lighter)):
        for x, tile_x, columns in _tiles(width, noise_x, len(lighter)):
            region = plane[y : y + rows, x : x + columns]
            cv2.add(region, lighter[tile_y : tile_y + rows, tile_x : tile_x + columns], region)
            cv2.subtract(region, darker[tile_y : tile_y + rows, tile_x : tile_x + columns], region)


def _tiles(length: int, offset: int, side: int) -> list[tuple[int, int, int]]:
    """Return (pixel, pixel of the tile, how many) until `length` is covered, from `offset` in the first tile on."""
    pieces, at = [], 0
    while at < length:
        begin = (offset + at) % side
        count = min(length - at, side - begin)
        pieces.append((at, begin, count))
        at += count
    return pieces


@lru_cache(maxsize=8)
def noise_tile(sigma: int) -> tuple[tuple[Plane, Plane], tuple[Plane, Plane]]:
    """Return what noise of `sigma` gray levels adds and takes away, in luma (N, N) and in chroma (N / 2, N / 2, 2)."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(_NOISE_SEED, spawn_key=(sigma,))))
    side = NOISE_TILE // 2
    luma = np.rint(sigma * _LUMA_NOISE * rng.standard_normal((NOISE_TILE, NOISE_TILE), np.float32))
    chroma = np.rint(sigma * _CHROMA_NOISE * rng.standard_normal((side, side, 2), np.float32))
    lighter, darker = ([np.maximum(sign * plane, 0).astype(np.uint8) for plane in (luma, chroma)] for sign in (1, -1))
    return (lighter[0], darker[0]), (lighter[1], darker[1])
