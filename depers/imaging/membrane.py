"""Smooth surfaces over what is not known, through what is known around it."""

import cv2
import numpy as np
from numpy.typing import NDArray

_SWEEPS = 4  # of relaxation on every level of the pyramid


def interpolate(values: NDArray[np.float32], is_known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return `values` (H, W, 4) where `is_known` (H, W), else a smooth surface between; mid gray if nothing is known.

    Push-pull over a pyramid (Gortler et al. 1996, "The Lumigraph", section 3.4), relaxed on every level toward the
    membrane in which each value is the mean of those around it (Laplace's equation).
    """
    if not is_known.any():
        return np.full_like(values, 127.5)
    return _pull(np.where(is_known[..., None], values, np.float32(0)), is_known.astype(np.float32))


def _pull(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the surface through `values` (H, W, 4), which are 0 where `weights` (H, W) are; elsewhere those are 1."""
    if weights.all():
        return values
    height, width = weights.shape
    bottom, right = height % 2, width % 2
    if bottom or right:
        values = cv2.copyMakeBorder(values, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
        weights = cv2.copyMakeBorder(weights, 0, bottom, 0, right, cv2.BORDER_CONSTANT)
    half = values.shape[1] // 2, values.shape[0] // 2
    sums, shares = (cv2.resize(array, half, interpolation=cv2.INTER_AREA) for array in (values, weights))
    coarse = _pull(sums / np.maximum(shares, 0.25)[..., None], (shares > 0).astype(np.float32))
    surface = cv2.resize(coarse, weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
    anchored = weights.astype(np.uint8)
    cv2.copyTo(values, anchored, surface)
    for _ in range(_SWEEPS):
        surface = cv2.blur(surface, (3, 3))
        cv2.copyTo(values, anchored, surface)
    return np.asarray(surface[:height, :width])
