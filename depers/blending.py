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
_SIGMAS = 4.0  # of a Gaussian seam, across its reach


def profile(low: float, high: float, start: int, stop: int, reach: float, gaussian: bool) -> NDArray[np.float32]:
    """The patch's share, 0…1, in the pixels `start`…`stop` along one axis: half at the edges `low` and `high`.

    It rises over `reach` pixels across an edge, in a line or as the integral of a Gaussian; reach 0 is a step.
    """
    centres = np.arange(start, stop, dtype=np.float64) + 0.5
    depth = np.minimum(centres - low, high - centres)
    if reach <= 0:
        return (depth >= 0).astype(np.float32)
    if not gaussian:
        return np.clip(depth / reach + 0.5, 0, 1).astype(np.float32)
    sigma = reach / _SIGMAS
    share = np.array([0.5 * math.erfc(-d / (sigma * math.sqrt(2))) for d in depth.tolist()])
    # Cut off at the ends of the reach, so that inside all is the object's.
    share[depth >= reach / 2], share[depth <= -reach / 2] = 1, 0
    return share.astype(np.float32)


def mix(patch: RGB, ground: RGB, across: NDArray[np.float32], down: NDArray[np.float32]) -> RGB:
    """`patch` over `ground` (H, W, 3), by the product of its shares `across` (W,) and `down` (H,)."""
    share = down[:, None] * across[None]
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


def poisson(patch: RGB, ground: RGB) -> RGB:
    """The patch's gradients between the ground's edges (both (H, W, 3)): OpenCV's seamless cloning.

    What cloning adds to a patch is smooth, so it is found in a small copy and added to the full one.
    """
    height, width = patch.shape[:2]
    factor = min(1.0, _MEMBRANE_SIDE / max(height, width))
    small_wh = max(1, round(width * factor)), max(1, round(height * factor))
    if min(small_wh) < 4:
        return patch
    source, target = (cv2.resize(each, small_wh, interpolation=cv2.INTER_AREA) for each in (patch, ground))
    mask = np.zeros(small_wh[::-1], np.uint8)
    mask[1:-1, 1:-1] = 255
    cloned = cv2.seamlessClone(source, target, mask, (small_wh[0] // 2, small_wh[1] // 2), cv2.NORMAL_CLONE)
    added = np.clip(cloned.astype(np.int16) - source, -2 * _MOST_SHIFT, 2 * _MOST_SHIFT).astype(np.int16)
    membrane = cv2.resize(added, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(patch, membrane, dtype=cv2.CV_8U))
