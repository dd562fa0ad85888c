"""Renders one synthetic image: plan row + decoded background + cut-out images → pixels → JPEG.

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
    """The JPEG of a plan row; `images` are those of its objects: sprites `reduced`, of distractors a background."""
    return ycbcr.encode(finish(compose(row["objects"], background, images), row), row["quality"])


def compose(objects: Sequence[Mapping[str, Any]], background: Planes, images: Sequence[Planes]) -> Planes:
    """The background with all objects in their places; it is not changed itself."""
    canvas = background.copy()
    for placed, image in zip(objects, images, strict=True):
        tint = ycbcr.convert_difference(placed["red"], placed["green"], placed["blue"])
        for plane, own, color, step in zip(canvas, image, tint, _STEPS, strict=True):
            paint(plane, placed, own, color, step)
    return canvas


def paint(canvas: Plane, placed: Mapping[str, Any], image: Plane, tint: Sequence[float], step: int) -> None:
    """Puts one object into a plane, of which only the region within the seam's reach changes.

    A sample of the plane stands for `step` × `step` pixels; `tint` is added to each of its channels.
    """
    height, width = canvas.shape[:2]
    left, top, right, bottom = _samples(placed, step)
    # What of the scaled image lies in the frame.
    x0, y0, x1, y1 = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if x1 <= x0 or y1 <= y0:
        return
    patch = scaled(image, placed, step)[y0 - top : y1 - top, x0 - left : x1 - left]
    edge = placed["x_min"] / step, placed["y_min"] / step, placed["x_max"] / step, placed["y_max"] / step
    reach, how, shape = placed["reach"] / step, placed["blending"], placed["shape"]
    ground = canvas[y0:y1, x0:x1]
    if how != "poisson":
        inner = _whole(edge, -reach / 2, (x0, y0, x1, y1))
        difference = blending.ring_difference(patch, ground, inner)
        added = [each * placed["match"] + own for each, own in zip(difference, tint, strict=True)]
    # Nothing outside of the seam changes, and the solver's domain is what is painted.
    a, b, c, d = _whole(edge, reach / 2, (x0, y0, x1, y1))
    if c <= a or d <= b:
        return
    patch, ground = patch[b:d, a:c], ground[b:d, a:c]
    pixels = x0 + a, y0 + b, x0 + c, y0 + d
    patch = blending.poisson(patch, ground, edge, pixels, shape) if how == "poisson" else blending.shift(patch, added)
    blending.lay(patch, ground, edge, pixels, shape, reach, how == "gaussian")


def _samples(placed: Mapping[str, Any], step: int) -> tuple[int, int, int, int]:
    """The samples that a placed image has a part in, x_min, y_min, x_max, y_max."""
    x, y = placed["x"], placed["y"]
    return x // step, y // step, -(-(x + placed["width"]) // step), -(-(y + placed["height"]) // step)


def _whole(
    edge: tuple[float, float, float, float], grown: float, frame: tuple[int, int, int, int]
) -> tuple[int, int, int, int]:
    """The pixels whose centers lie in `edge`, grown on all sides, counted from the corner of `frame` and inside it."""
    (x0, y0, x1, y1), (x_min, y_min, x_max, y_max) = frame, edge
    return (
        max(0, round(x_min - grown) - x0),
        max(0, round(y_min - grown) - y0),
        min(x1, round(x_max + grown)) - x0,
        min(y1, round(y_max + grown)) - y0,
    )


def reduction(placed: Mapping[str, Any]) -> int:
    """By how much a sprite is `reduced` before it is scaled by less than half, a power of two; 1 for a distractor."""
    if not placed["sprite"]:
        return 1
    by = min(placed["source_width"] / placed["width"], placed["source_height"] / placed["height"])
    return 1 << max(0, int(by).bit_length() - 1)


def reduced(image: Planes, by: int) -> Planes:
    """The image with the means of squares of `by` samples."""
    return Planes(ycbcr.reduce(image.luma, by), ycbcr.reduce(image.chroma, by))


def scaled(image: Plane, placed: Mapping[str, Any], step: int) -> Plane:
    """The part of a plane, reduced by `reduction`, that is pasted, in its size in the scene, as `_samples`.

    A sample of it stands for `step` × `step` pixels. Where the image begins or ends within one of chroma, it is
    stretched to all of that.
    """
    x, y, width, height = (placed[f"source_{name}"] for name in ("x", "y", "width", "height"))
    left, top, right, bottom = _samples(placed, step)
    by, size = reduction(placed), (right - left, bottom - top)
    part = image if by > 1 else image[y // step : -(-(y + height) // step), x // step : -(-(x + width) // step)]
    if size == (part.shape[1], part.shape[0]):
        return part
    if by == 1 or (width % (by * step) == 0 and height % (by * step) == 0):
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR))
    # The last row and column are only partly the image's.
    scale_x, scale_y = width / placed["width"], height / placed["height"]
    first_x, first_y = ((left + 0.5) * step - placed["x"]) * scale_x, ((top + 0.5) * step - placed["y"]) * scale_y
    back = np.array([[scale_x / by, 0, first_x / step / by - 0.5], [0, scale_y / by, first_y / step / by - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(part, back, size, flags=flags, borderMode=cv2.BORDER_REPLICATE))


def finish(canvas: Planes, row: Mapping[str, Any]) -> Planes:
    """Blur and noise over the whole image, so that pasted and real pixels have had the same done to them."""
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
    """Lays a tile of noise over a plane, again and again."""
    height, width = plane.shape[:2]
    for y, tile_y, rows in _tiles(height, noise_y, len(lighter)):
        for x, tile_x, columns in _tiles(width, noise_x, len(lighter)):
            region = plane[y : y + rows, x : x + columns]
            cv2.add(region, lighter[tile_y : tile_y + rows, tile_x : tile_x + columns], region)
            cv2.subtract(region, darker[tile_y : tile_y + rows, tile_x : tile_x + columns], region)


def _tiles(length: int, offset: int, side: int) -> list[tuple[int, int, int]]:
    """(pixel, pixel of the tile, how many) until `length` is covered, from `offset` in the first tile on."""
    found, at = [], 0
    while at < length:
        begin = (offset + at) % side
        count = min(length - at, side - begin)
        found.append((at, begin, count))
        at += count
    return found


@lru_cache(maxsize=8)
def noise_tile(sigma: int) -> tuple[tuple[Plane, Plane], tuple[Plane, Plane]]:
    """What noise of `sigma` gray levels adds and what it takes away, in luma (N, N) and in chroma (N / 2, N / 2, 2)."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(_NOISE_SEED, spawn_key=(sigma,))))
    side = NOISE_TILE // 2
    luma = np.rint(sigma * _LUMA_NOISE * rng.standard_normal((NOISE_TILE, NOISE_TILE), np.float32))
    chroma = np.rint(sigma * _CHROMA_NOISE * rng.standard_normal((side, side, 2), np.float32))
    lighter, darker = ([np.maximum(sign * each, 0).astype(np.uint8) for each in (luma, chroma)] for sign in (1, -1))
    return (lighter[0], darker[0]), (lighter[1], darker[1])
