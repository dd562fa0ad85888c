"""A lower bound on recall from labels that come in clusters: those of one image, or of one group of images.

What is missed in an image tends to be missed together (it is dark, a crowd, far away), so labels are no independent
draws; clusters are. The bound is Clopper and Pearson's (1934) on effective counts, as surveys take it (Korn and
Graubard 1998): misses and labels are divided by the design effect, which Taylor's linearization of the ratio gives.
Where few clusters miss anything, no such estimate can be trusted; so, as Fay and Feuer (1997) do for weighted sums of
rare events, one more cluster is counted, missed whole. It is as large as the cluster of a label drawn at random, and
larger where few clusters hold most of what is missed: the beta distribution is less skewed than such sums.

Where clusters are of one size, and found or missed whole, this is exactly Clopper and Pearson's bound on clusters;
where nothing is missed it rests on the number of clusters and their sizes alone, however many labels they have.
`bench/thresholds.py` compares it with others.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_CLUSTERS = 10**7
_SKEWNESS_WEIGHT = 2.0
"""By how much the third moment of the misses enlarges the extra cluster; 1 would complete the Edgeworth expansion.

Twice as much is what lognormal sizes need, whose largest clusters a sample does not hold; the study says so.
"""


class Moments(NamedTuple):
    """What the bound is computed from, over all clusters: sums of labels n and misses m, their squares and products.

    Numbers, or arrays of one shape.
    """

    labels: NDArray[np.float64]
    labels_squared: NDArray[np.float64]
    misses: NDArray[np.float64]
    misses_squared: NDArray[np.float64]
    misses_cubed: NDArray[np.float64]
    misses_by_labels: NDArray[np.float64]


def sum_clusters(misses: NDArray[np.float64], labels: NDArray[np.float64]) -> Moments:
    """Return the sums over the last axis of how many labels clusters have, and how many of them are missed."""
    moments = labels, labels**2, misses, misses**2, misses**3, misses * labels
    return Moments(*(np.asarray(moment.sum(-1)) for moment in moments))


def bound_recall(moments: Moments, certainty: float) -> NDArray[np.float64]:
    """Return the recall that the clusters show with that certainty, at least; 0 where there are no labels."""
    from scipy.stats import beta

    labels = np.maximum(moments.labels, 1)
    extra = _extra_labels(moments)
    rate = (moments.misses + extra) / (labels + extra)  # with the extra cluster, which is missed whole
    residuals = moments.misses_squared - 2 * rate * moments.misses_by_labels + rate**2 * moments.labels_squared
    variance = (np.maximum(residuals, 0) + ((1 - rate) * extra) ** 2) / (labels + extra) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = rate * (1 - rate) / variance
        bounds = 1 - beta.ppf(certainty, rate * effective, (1 - rate) * effective)
    return np.where((moments.labels > 0) & (moments.misses < moments.labels), np.nan_to_num(bounds), 0.0)


def _extra_labels(moments: Moments) -> NDArray[np.float64]:
    """Return how many labels the cluster has that is added, missed whole."""
    labels, misses, squared = (
        np.maximum(value, 1) for value in (moments.labels, moments.misses, moments.misses_squared)
    )
    skewness = moments.misses_cubed / squared - moments.misses_squared / misses
    return np.asarray(moments.labels_squared / labels + _SKEWNESS_WEIGHT * np.maximum(skewness, 0))


def lower_bound(misses: NDArray[np.int64], labels: NDArray[np.int64], certainty: float) -> float:
    """Return the bound for clusters of so many labels (N,), of which so many are missed (N,)."""
    return float(bound_recall(sum_clusters(misses.astype(np.float64), labels.astype(np.float64)), certainty))


def bound_as_missed(clusters: NDArray[np.int64], certainty: float) -> NDArray[np.float64]:
    """Return the bounds (L + 1,) where the first 0, 1, … L of the labels are missed; `clusters` (L,) are theirs."""
    _, indices, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    order = np.argsort(indices, kind="stable")
    before = np.zeros(len(clusters))  # how many of its cluster are missed before each label
    starts = np.concatenate([np.zeros(1, np.int64), sizes.cumsum()[:-1]])
    before[order] = np.arange(len(clusters)) - np.repeat(starts, sizes)
    steps = np.ones_like(before), 2 * before + 1, 3 * before * (before + 1) + 1, sizes[indices].astype(np.float64)
    misses = [np.concatenate([np.zeros(1), step.cumsum()]) for step in steps]
    unit = np.ones(len(clusters) + 1)
    totals = unit * sizes.sum(), unit * np.square(sizes.astype(np.float64)).sum()
    return bound_recall(Moments(*totals, *misses), certainty)


def least_clusters(labels: NDArray[np.int64], target: float, certainty: float) -> int | None:
    """Return how many clusters of such sizes (N,) it takes to show the target where nothing is missed.

    Without any, clusters of one label. None where no number that can be had would do.
    """
    sizes = labels.astype(np.float64) if len(labels) else np.ones(1)

    def shows(count: int) -> bool:
        scale = count / len(sizes)
        zero = np.zeros(())
        moments = Moments(scale * sizes.sum(), scale * (sizes**2).sum(), zero, zero, zero, zero)
        return float(bound_recall(moments, certainty)) >= target

    low, high = 0, 1
    while not shows(high):
        low, high = high, 2 * high
        if high > MOST_CLUSTERS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high
