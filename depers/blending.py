"""Seams: how a patch goes into a picture so that its edge does not say "object". Small regions, uint8 RGB.

Dwibedi et al. 2017, "Cut, Paste and Learn": a detector learns the seam unless it varies; Pérez et al. 2003, "Poisson
Image Editing".
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
_MEMBRANE_SIDE = 32  # Poisson's correction is smooth: it is solved at most this large, and enlarged
_MOST_SHIFT = 48.0  # gray levels; more would make a ghost of the object


def shares(
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
    reach: float,
    gaussian: bool = False,
) -> NDArray[np.float32]:
    """The patch's share, 0…1, in each of the `pixels` (x_min, y_min, x_max, y_max), float32 (H, W): half at the edge.

    The edge is the box `edge`, or the oval or rounded box that fits into it. The share rises over `reach` pixels across
    it, in a line or as the integral of a Gaussian; reach 0 is a step.
    """
    return _seam(edge, pixels, shape, reach, gaussian)(slice(None), slice(None))


def _seam(
    edge: tuple[float, float, float, float], pixels: tuple[int, int, int, int], shape: str, reach: float, gaussian: bool
) -> Callable[[slice, slice], NDArray[np.float32]]:
    """`shares` of some of the rows and columns; what depends on a row or a column alone is found once."""
    x, y = (np.arange(pixels[i], pixels[i + 2], dtype=np.float32) + np.float32(0.5) for i in (0, 1))
    if shape == "box":
        across = rise(np.minimum(x - edge[0], edge[2] - x), reach, gaussian)
        down = rise(np.minimum(y - edge[1], edge[3] - y), reach, gaussian)[:, None]
        return lambda rows, columns: down[rows] * across[columns]
    half_x, half_y = (edge[2] - edge[0]) / 2, (edge[3] - edge[1]) / 2
    u, v = ((x - (edge[0] + half_x)) / half_x) ** 2, ((y - (edge[1] + half_y)) / half_y)[:, None] ** 2
    if shape == "rounded":  # a superellipse of the fourth degree
        u, v = u**2, v**2

    def some(rows: slice, columns: slice) -> NDArray[np.float32]:
        radius = np.sqrt(v[rows] + u[columns])
        if shape == "rounded":
            radius = np.sqrt(radius)
        return rise((1 - radius) * np.float32(min(half_x, half_y)), reach, gaussian)

    return some


def rise(depth: NDArray[np.float32], reach: float, gaussian: bool) -> NDArray[np.float32]:
    """The share at a depth of so many pixels inside the edge, float32 of the same shape."""
    if reach < 0.01:
        return (depth >= 0).astype(np.float32)
    along = np.clip(depth / np.float32(reach) + np.float32(0.5), 0, 1)
    if gaussian:
        along = _GAUSSIAN[(along * (len(_GAUSSIAN) - 1) + 0.5).astype(np.int32)]
    return np.asarray(along, np.float32)


# The integral of a Gaussian over its middle four standard deviations, from 0 to 1, so that a seam has ends.
_GAUSSIAN = np.array([math.erf(t) for t in np.linspace(-2 / 2**0.5, 2 / 2**0.5, 257)], np.float32)
_GAUSSIAN = ((_GAUSSIAN / _GAUSSIAN[-1] + 1) / 2).astype(np.float32)


def lay(
    patch: RGB,
    ground: RGB,
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
    reach: float,
    gaussian: bool,
) -> None:
    """Puts `patch` over `ground` (both (H, W, 3), at `pixels`), which is changed, by its `shares` in each pixel.

    Where these are 1 it is copied: the inner box of the shape, which is most of it. The strips around are mixed.
    """
    height, width = ground.shape[:2]
    half_x, half_y = (edge[2] - edge[0]) / 2, (edge[3] - edge[1]) / 2
    # How much of the half sides the shape's inner box takes, and what the seam takes of that.
    part, taken = {"box": 1.0, "rounded": 0.5**0.25, "oval": 0.5**0.5}[shape], reach / 2
    if shape != "box":
        taken = taken * max(half_x, half_y) / max(min(half_x, half_y), 1e-3) + 1
    inner_x, inner_y = max(0.0, half_x * part - taken), max(0.0, half_y * part - taken)
    x0, x1 = (min(max(math.ceil(edge[0] + half_x + s * inner_x - 0.5) - pixels[0], 0), width) for s in (-1, 1))
    y0, y1 = (min(max(math.ceil(edge[1] + half_y + s * inner_y - 0.5) - pixels[1], 0), height) for s in (-1, 1))
    ground[y0:y1, x0:x1] = patch[y0:y1, x0:x1]
    seam = _seam(edge, pixels, shape, reach, gaussian)
    for a, b, c, d in ((0, 0, width, y0), (0, y1, width, height), (0, y0, x0, y1), (x1, y0, width, y1)):
        if c > a and d > b:
            share = seam(slice(b, d), slice(a, c))
            ground[b:d, a:c] = cv2.blendLinear(patch[b:d, a:c], ground[b:d, a:c], share, 1 - share)


def ring_difference(patch: RGB, ground: RGB, inner: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """How much redder, greener, bluer `ground` is than `patch` (both (H, W, 3)) around the box `inner`, float64 (3,).

    `inner` is x_min, y_min, x_max, y_max in whole pixels; zeros where there is no ring around it.
    """
    x0, y0, x1, y1 = inner
    height, width = patch.shape[:2]
    total, count = np.zeros(3), 0
    for a, b, c, d in ((0, 0, width, y0), (0, y1, width, height), (0, y0, x0, y1), (x1, y0, width, y1)):
        if c > a and d > b:
            rows = slice(b, d, 4 if d - b > c - a else 1)  # of high strips some rows will do
            difference = np.array(cv2.mean(ground[rows, a:c])[:3]) - cv2.mean(patch[rows, a:c])[:3]
            total += difference * ((c - a) * (d - b))
            count += (c - a) * (d - b)
    return np.asarray(np.clip(total / max(count, 16), -_MOST_SHIFT, _MOST_SHIFT), np.float64)


def halved(picture: RGB, times: int) -> RGB:
    """The means of squares of 2^times pixels; much faster than to take them at once."""
    for _ in range(times):
        half = picture.shape[1] // 2, picture.shape[0] // 2
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA))
    return picture


def shift(patch: RGB, rgb: NDArray[np.float64]) -> RGB:
    """The patch with a colour added, in whole levels, saturating."""
    levels = np.rint(rgb)
    for change, how in ((levels, cv2.add), (-levels, cv2.subtract)):  # fast for what is not negative
        if (change > 0).any():
            patch = np.asarray(how(patch, (*change.clip(0).tolist(), 0.0)))
    return patch


def poisson(
    patch: RGB,
    ground: RGB,
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
) -> RGB:
    """The patch's gradients inside the edge, the ground's colours around: seamless cloning; (H, W, 3) at `pixels`.

    What cloning adds to a patch is smooth, so it is found in a small copy and added to the full one.
    """
    height, width = patch.shape[:2]
    halvings = max(0, math.ceil(math.log2(max(height, width) / _MEMBRANE_SIDE)))
    by = 2**halvings
    small_wh = width // by, height // by
    if min(small_wh) < 4:
        return patch
    source, target = (halved(each[: small_wh[1] * by, : small_wh[0] * by], halvings) for each in (patch, ground))
    x_min, y_min, x_max, y_max = ((edge[i] - pixels[i % 2]) / by for i in range(4))
    mask = shares((x_min, y_min, x_max, y_max), (0, 0, *small_wh), shape, 0.0).astype(np.uint8) * 255
    mask[[0, -1]], mask[:, [0, -1]] = 0, 0
    x, y, width_in, height_in = cv2.boundingRect(mask)
    if min(width_in, height_in) < 3:  # nothing to solve
        return patch
    cloned = cv2.seamlessClone(source, target, mask, (x + width_in // 2, y + height_in // 2), cv2.NORMAL_CLONE)
    lighter, darker = (
        cv2.resize(np.minimum(part, np.uint8(_MOST_SHIFT)), (width, height), interpolation=cv2.INTER_LINEAR)
        for part in (cv2.subtract(cloned, source), cv2.subtract(source, cloned))
    )
    return np.asarray(cv2.subtract(cv2.add(patch, lighter), darker))
