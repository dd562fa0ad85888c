"""Anchors: the box sizes that a model's predictions are relative to, fitted to the labels."""

import numpy as np
from numpy.typing import NDArray

from depers.seeds import Branch, random_for

_MOST_SIZES = 200_000  # that are looked at, evenly picked: more would say the same


def fit_anchors(sizes: NDArray[np.float64], levels: int, seed: int, per_level: int = 3) -> list[list[float]]:
    """Return anchors for box sizes (N, 2) in pixels, flat per level: w, h, w, h, w, h, small to large.

    k-means on the logarithms of width and height, since the loss compares ratios, from quantiles of the area.
    """
    if len(sizes) > _MOST_SIZES:
        sizes = sizes[np.linspace(0, len(sizes) - 1, _MOST_SIZES).astype(int)]
    count = per_level * levels
    points = np.log(np.maximum(sizes, 2.0))
    order = np.argsort(points.sum(1), kind="stable")
    centers = points[order[np.linspace(0, len(order) - 1, count).astype(int)]]
    # Equal boxes must not share a center.
    centers = centers + random_for(seed, Branch.ANCHORS).normal(0, 1e-3, centers.shape)
    for _ in range(30):
        nearest = ((points[:, None] - centers[None]) ** 2).sum(2).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centers[k] = points[nearest == k].mean(0)
    anchors = np.exp(centers[np.argsort(centers.sum(1))]).round(2)
    return [level.ravel().tolist() for level in anchors.reshape(levels, per_level, 2)]


def measure_anchor_recall(sizes: NDArray[np.float64], anchors: NDArray[np.float64], max_ratio: float) -> float:
    """Return the share of box sizes (N, 2) whose sides are within a factor `max_ratio` of an anchor's (A, 2)."""
    if len(sizes) > _MOST_SIZES:
        sizes = sizes[np.linspace(0, len(sizes) - 1, _MOST_SIZES).astype(int)]
    ratio = sizes[:, None] / np.maximum(anchors[None], 1e-3)
    return float((np.maximum(ratio, 1 / ratio).max(2).min(1) < max_ratio).mean())
