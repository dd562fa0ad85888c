"""Blend a patch into an image so that its edge does not say "object".

All of it happens in one plane of an image (`ycbcr.Plane`, uint8 (H, W) or (H, W, 2)), in the pixels of that plane.

Dwibedi et al. 2017, "Cut, Paste and Learn": a detector learns the seam unless it varies; Pérez et al. 2003, "Poisson
Image Editing".
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.imaging.ycbcr import Plane, halve

_MEMBRANE_SIDE = 32  # Poisson's correction is smooth: it is solved at most this large, and enlarged
# Levels of luma and (48 of red or blue alone are 24) of chroma, by a plane's dimensions; more would make a ghost.
_MOST_SHIFT = {2: 48.0, 3: 24.0}


def shares(
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
    reach: float,
    gaussian: bool = False,
) -> NDArray[np.float32]:
    """Return the patch's share, 0…1, of each of `pixels` (x_min, y_min, x_max, y_max), float32 (H, W): ½ at the edge.

    The edge is the box `edge`, or the oval or rounded box that fits into it. The share rises over `reach` pixels across
    it, in a line or as the integral of a Gaussian; reach 0 is a step.
    """
    return _seam(edge, pixels, shape, reach, gaussian)(slice(None), slice(None))


def _seam(
    edge: tuple[float, float, float, float], pixels: tuple[int, int, int, int], shape: str, reach: float, gaussian: bool
) -> Callable[[slice, slice], NDArray[np.float32]]:
    """Return a function that gives `shares` of some rows and columns; what depends on one alone is computed once."""
    x, y = (np.arange(pixels[i], pixels[i + 2], dtype=np.float32) + np.float32(0.5) for i in (0, 1))
    if shape == "box":
        depth = [np.minimum(at - low, high - at) for at, low, high in ((x, edge[0], edge[2]), (y, edge[1], edge[3]))]
        ramps = ramp(np.concatenate(depth), reach, gaussian)
        across, down = ramps[: len(x)], ramps[len(x) :, None]
        return lambda rows, columns: down[rows] * across[columns]
    half_x, half_y = (edge[2] - edge[0]) / 2, (edge[3] - edge[1]) / 2
    u, v = ((x - (edge[0] + half_x)) / half_x) ** 2, ((y - (edge[1] + half_y)) / half_y)[:, None] ** 2
    if shape == "rounded":  # a superellipse of the fourth degree
        u, v = u**2, v**2

    def shares_of(rows: slice, columns: slice) -> NDArray[np.float32]:
        depth = v[rows] + u[columns]  # one array for all: new ones cost more than what is done in them
        np.sqrt(depth, out=depth)
        if shape == "rounded":
            np.sqrt(depth, out=depth)
        np.subtract(1, depth, out=depth)
        depth *= np.float32(min(half_x, half_y))
        return ramp(depth, reach, gaussian)

    return shares_of


def ramp(depth: NDArray[np.float32], reach: float, gaussian: bool) -> NDArray[np.float32]:
    """Return the share at a depth of so many pixels inside the edge, float32 of the same shape."""
    if reach < 0.01:
        return (depth >= 0).astype(np.float32)
    along = depth * np.float32(1 / reach)
    along += np.float32(0.5)
    np.clip(along, 0, 1, out=along)
    if not gaussian:
        return along
    along *= np.float32(len(_GAUSSIAN) - 1)
    return np.asarray(_GAUSSIAN[np.rint(along, out=along).astype(np.uint8)])


# The integral of a Gaussian over its middle four standard deviations, from 0 to 1, so that a seam has ends.
_GAUSSIAN = np.array([math.erf(t) for t in np.linspace(-2 / 2**0.5, 2 / 2**0.5, 256)], np.float32)
_GAUSSIAN = ((_GAUSSIAN / _GAUSSIAN[-1] + 1) / 2).astype(np.float32)


def blend(
    patch: Plane,
    ground: Plane,
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
    reach: float,
    gaussian: bool,
) -> None:
    """Blend `patch` into `ground` (both at `pixels`), which is changed, by its `shares` in each pixel.

    Where these are 1 it is copied: the inner box of the shape, which is most of it. The strips around are mixed.
    """
    height, width = ground.shape[:2]
    half_x, half_y = (edge[2] - edge[0]) / 2, (edge[3] - edge[1]) / 2
    # How much of the half sides the shape's inner box takes, and what the seam takes of that.
    part, seam_width = {"box": 1.0, "rounded": 0.5**0.25, "oval": 0.5**0.5}[shape], reach / 2
    if shape != "box":
        seam_width = seam_width * max(half_x, half_y) / max(min(half_x, half_y), 1e-3) + 1
    inner_x, inner_y = max(0.0, half_x * part - seam_width), max(0.0, half_y * part - seam_width)
    x0, x1 = (min(max(math.ceil(edge[0] + half_x + s * inner_x - 0.5) - pixels[0], 0), width) for s in (-1, 1))
    y0, y1 = (min(max(math.ceil(edge[1] + half_y + s * inner_y - 0.5) - pixels[1], 0), height) for s in (-1, 1))
    ground[y0:y1, x0:x1] = patch[y0:y1, x0:x1]
    strips = _around((x0, y0, x1, y1), width, height)
    if not strips:
        return
    seam = _seam(edge, pixels, shape, reach, gaussian)
    for a, b, c, d in strips:
        share, under = seam(slice(b, d), slice(a, c)), ground[b:d, a:c]
        under[:] = cv2.blendLinear(patch[b:d, a:c], under, share, 1 - share).reshape(under.shape)


def _around(inner: tuple[int, int, int, int], width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Return the strips above, below, left and right of a box in an image, x_min, y_min, x_max, y_max, unless empty."""
    x0, y0, x1, y1 = inner
    strips = (0, 0, width, y0), (0, y1, width, height), (0, y0, x0, y1), (x1, y0, width, y1)
    return [strip for strip in strips if strip[2] > strip[0] and strip[3] > strip[1]]


def ring_difference(patch: Plane, ground: Plane, inner: tuple[int, int, int, int]) -> list[float]:
    """Return how much more `ground` has of each channel than `patch` (of the same shape) around the box `inner`.

    `inner` is x_min, y_min, x_max, y_max in whole pixels; zeros where there is no ring around it.
    """
    channels = range(patch[:1, :1].size)
    total, count = [0.0 for _ in channels], 0
    for a, b, c, d in _around(inner, patch.shape[1], patch.shape[0]):
        rows = slice(b, d, 4 if d - b > c - a else 1)  # of high strips some rows will do
        ground_mean, patch_mean = cv2.mean(ground[rows, a:c]), cv2.mean(patch[rows, a:c])
        area = (c - a) * (d - b)
        count += area
        for channel in channels:
            total[channel] += (ground_mean[channel] - patch_mean[channel]) * area
    most = _MOST_SHIFT[patch.ndim]
    return [min(max(channel_total / max(count, 16), -most), most) for channel_total in total]


def shift(patch: Plane, color: Sequence[float]) -> Plane:
    """Return the patch with a color added, in whole levels, saturating."""
    levels = [round(level) for level in color]
    if patch.shape[1] == 1:  # OpenCV takes the numbers of a color for a column of four where there is one
        return np.asarray(np.clip(patch + np.array(levels), 0, 255), np.uint8)
    for sign, operation in ((1, cv2.add), (-1, cv2.subtract)):  # fast for what is not negative
        if any(sign * level > 0 for level in levels):
            patch = np.asarray(operation(patch, (*(max(sign * level, 0) for level in levels), 0, 0)))
    return patch


def poisson(
    patch: Plane,
    ground: Plane,
    edge: tuple[float, float, float, float],
    pixels: tuple[int, int, int, int],
    shape: str,
) -> Plane:
    """Return the patch's gradients inside the edge, the ground's colors around: seamless cloning; both are at `pixels`.

    What cloning adds to a patch is smooth, so it is found in a small copy and added to the full one.
    """
    height, width = patch.shape[:2]
    halvings = max(0, math.ceil(math.log2(max(height, width) / _MEMBRANE_SIDE)))
    by = 2**halvings
    small_wh = width // by, height // by
    if min(small_wh) < 3:  # nothing to solve
        return patch
    source, target = (halve(plane[: small_wh[1] * by, : small_wh[0] * by], halvings) for plane in (patch, ground))
    x_min, y_min, x_max, y_max = ((edge[i] - pixels[i % 2]) / by for i in range(4))
    inside = shares((x_min, y_min, x_max, y_max), (0, 0, *small_wh), shape, 0.0) > 0
    most = _MOST_SHIFT[patch.ndim]
    levels = np.rint(membrane(source, target, inside).clip(-most, most) + most).astype(np.uint8)
    change = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.addWeighted(patch, 1, change, 1, -most))


def membrane(source: Plane, target: Plane, inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return what to add to `source` so that it has `target` at its border and its own gradients `inside`, float64.

    All are (H, W), the planes also (H, W, C), as is the result: Poisson's equation, by sine transforms.
    """
    difference = np.subtract(source, target, dtype=np.float64)
    if difference.ndim == 3:
        difference, inside = difference.transpose(2, 0, 1), inside[None]
    # How the source's gradients differ from the target's, and the divergence of that in all but the border.
    down = np.diff(difference, axis=-2) * (inside[..., 1:, :] & inside[..., :-1, :])
    right = np.diff(difference, axis=-1) * (inside[..., 1:] & inside[..., :-1])
    divergence = np.diff(down, axis=-2)[..., 1:-1] + np.diff(right, axis=-1)[..., 1:-1, :]
    (sines_y, values_y), (sines_x, values_x) = (_modes(divergence.shape[axis]) for axis in (-2, -1))
    solved = sines_y @ ((sines_y @ divergence @ sines_x) / (values_y[:, None] + values_x)) @ sines_x
    change = -difference
    change[..., 1:-1, 1:-1] += solved
    return change.transpose(1, 2, 0) if change.ndim == 3 else change


@lru_cache(maxsize=_MEMBRANE_SIDE)
def _modes(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return eigenvectors, float64 (N, N), and eigenvalues (N,) of second differences between two ends that are 0."""
    angles = np.arange(1, count + 1) * np.pi / (count + 1)
    sines = np.sin(np.outer(np.arange(1, count + 1), angles)) * np.sqrt(2 / (count + 1))
    return sines, 2 * np.cos(angles) - 2
