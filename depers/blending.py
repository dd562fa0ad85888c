"""Seams: how a patch goes into a picture so that its edge does not say "object". Small regions, uint8 RGB.

Dwibedi et al. 2017, "Cut, Paste and Learn": a detector learns the seam unless it varies; Pérez et al. 2003, "Poisson
Image Editing".
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
_MEMBRANE_SIDE = 48  # Poisson's correction is smooth: it is solved at most this large, and enlarged
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
    x, y = (np.arange(pixels[i], pixels[i + 2], dtype=np.float32) + np.float32(0.5) for i in (0, 1))
    if shape == "box":
        across = rise(np.minimum(x - edge[0], edge[2] - x), reach, gaussian)
        down = rise(np.minimum(y - edge[1], edge[3] - y), reach, gaussian)
        return down[:, None] * across[None]
    half_x, half_y = (edge[2] - edge[0]) / 2, (edge[3] - edge[1]) / 2
    u, v = ((x - (edge[0] + half_x)) / half_x) ** 2, ((y - (edge[1] + half_y)) / half_y) ** 2
    if shape == "rounded":  # a superellipse of the fourth degree
        u, v = u**2, v**2
    radius = (v[:, None] + u[None]) ** np.float32(0.25 if shape == "rounded" else 0.5)
    return rise((1 - radius) * np.float32(min(half_x, half_y)), reach, gaussian)


def rise(depth: NDArray[np.float32], reach: float, gaussian: bool) -> NDArray[np.float32]:
    """The share at a depth of so many pixels inside the edge, float32 of the same shape."""
    if reach <= 0:
        return (depth >= 0).astype(np.float32)
    along = np.clip(depth / np.float32(reach) + np.float32(0.5), 0, 1)
    if gaussian:
        along = _GAUSSIAN[(along * (len(_GAUSSIAN) - 1) + 0.5).astype(np.int32)]
    return np.asarray(along, np.float32)


# The integral of a Gaussian over its middle four standard deviations, from 0 to 1, so that a seam has ends.
_GAUSSIAN = np.array([math.erf(t) for t in np.linspace(-2 / 2**0.5, 2 / 2**0.5, 257)], np.float32)
_GAUSSIAN = ((_GAUSSIAN / _GAUSSIAN[-1] + 1) / 2).astype(np.float32)


def mix(patch: RGB, ground: RGB, share: NDArray[np.float32]) -> RGB:
    """`patch` over `ground` (H, W, 3), by its share (H, W) in each pixel."""
    return np.asarray(cv2.blendLinear(patch, ground, share, 1 - share))


def ring_difference(patch: RGB, ground: RGB, inner: tuple[int, int, int, int]) -> NDArray[np.float64]:
    """How much redder, greener, bluer `ground` is than `patch` (both (H, W, 3)) around the box `inner`, float64 (3,).

    `inner` is x_min, y_min, x_max, y_max in whole pixels; zeros where there is no ring around it.
    """
    x0, y0, x1, y1 = inner
    height, width = patch.shape[:2]
    hole = max(0, x1 - x0) * max(0, y1 - y0)
    ring = height * width - hole
    if ring < 16:
        return np.zeros(3)
    total = np.array(cv2.mean(ground)[:3]) - cv2.mean(patch)[:3]
    total *= height * width
    if hole:
        inside = np.array(cv2.mean(ground[y0:y1, x0:x1])[:3]) - cv2.mean(patch[y0:y1, x0:x1])[:3]
        total -= inside * hole
    return np.asarray(np.clip(total / ring, -_MOST_SHIFT, _MOST_SHIFT), np.float64)


def shift(patch: RGB, rgb: NDArray[np.float64]) -> RGB:
    """The patch with a colour added, saturating."""
    return np.asarray(cv2.add(patch, (*rgb.tolist(), 0.0)))


def poisson(patch: RGB, ground: RGB, share: NDArray[np.float32]) -> RGB:
    """The patch's gradients where its share (H, W) is more than half, the ground's colours around: seamless cloning.

    What cloning adds to a patch is smooth, so it is found in a small copy and added to the full one.
    """
    height, width = patch.shape[:2]
    factor = min(1.0, _MEMBRANE_SIDE / max(height, width))
    small_wh = max(1, round(width * factor)), max(1, round(height * factor))
    if min(small_wh) < 4:
        return patch
    source, target = (cv2.resize(each, small_wh, interpolation=cv2.INTER_AREA) for each in (patch, ground))
    mask = (cv2.resize(share, small_wh, interpolation=cv2.INTER_AREA) > 0.5).astype(np.uint8) * 255
    mask[[0, -1]], mask[:, [0, -1]] = 0, 0
    x, y, width_in, height_in = cv2.boundingRect(mask)
    if not width_in:
        return patch
    cloned = cv2.seamlessClone(source, target, mask, (x + width_in // 2, y + height_in // 2), cv2.NORMAL_CLONE)
    added = np.clip(cloned.astype(np.int16) - source, -_MOST_SHIFT, _MOST_SHIFT).astype(np.int16)
    membrane = cv2.resize(added, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(patch, membrane, dtype=cv2.CV_8U))
