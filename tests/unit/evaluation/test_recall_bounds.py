"""The bound on recall for labels in clusters: what it equals, and that it holds on clustered populations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.evaluation.recall_bounds import bound_as_missed, bound_recall, least_clusters, lower_bound, sum_clusters

ONE = np.ones(1, np.int64)


@pytest.mark.parametrize(("target", "least"), [(0.99, 299), (0.95, 59), (0.9, 29), (0.999, 2995), (0.8, 14)])
def test_how_many_images_it_takes(target: float, least: int) -> None:
    """The numbers of the classic tolerance tables (95 % certain, none missed), however many labels an image has."""
    assert least_clusters(ONE, target, 0.95) == least == least_clusters(ONE * 7, target, 0.95)
    assert least_clusters(ONE[:0], target, 0.95) == least
    assert lower_bound(np.zeros(least, np.int64), np.full(least, 7), 0.95) >= target
    assert lower_bound(np.zeros(least - 1, np.int64), np.full(least - 1, 7), 0.95) < target
    assert (least_clusters(np.array([1, 1, 1, 17]), target, 0.95) or 0) > 2 * least  # where crowds have most labels


def test_the_bound_is_clopper_and_pearsons_where_clusters_have_one_label_or_stand_together() -> None:
    from scipy.stats import binomtest

    for missed, clusters in ((5, 5), (0, 5), (2, 20), (10, 600)):
        expected = binomtest(clusters - missed, clusters, alternative="greater").proportion_ci(0.95, "exact").low
        misses = np.repeat([1, 0], [missed, clusters - missed])
        for size in (1, 3):
            bound = lower_bound(misses * size, np.full(clusters, size), 0.95)
            assert bound == pytest.approx(expected, abs=1e-9)
    assert lower_bound(ONE[:0], ONE[:0], 0.95) == 0


@given(seed=st.integers(0, 2**32 - 1), labels=st.integers(1, 60), clusters=st.integers(1, 20))
def test_bounds_along_the_way_are_those_of_what_is_missed_so_far(seed: int, labels: int, clusters: int) -> None:
    of_label = np.random.default_rng(seed).integers(0, clusters, labels)
    sizes = np.bincount(of_label, minlength=clusters)
    bounds = bound_as_missed(of_label, 0.95)
    for count in range(labels + 1):
        missed = np.bincount(of_label[:count], minlength=clusters)
        assert bounds[count] == pytest.approx(lower_bound(missed, sizes, 0.95), abs=1e-9)
    assert (bounds >= 0).all() and (bounds < 1).all()


@pytest.mark.parametrize("size", [1, 4, 10])
@pytest.mark.parametrize("together", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
def test_the_promise_holds_where_labels_come_in_images(size: int, together: float, target: float) -> None:
    """A recall just below the target is taken for it in 6 of 100 samples at most, at design effects from 1 to 10."""
    rng, images, draws = np.random.default_rng(0), 150, 2000
    own, shared = rng.random((draws, images, size)), rng.random((draws, images, 1))
    missed = np.where(rng.random(own.shape) < np.sqrt(together), shared, own) < 1 - target + 1e-9
    labels = np.full((draws, images), size)
    bounds = bound_recall(sum_clusters(missed.sum(2).astype(np.float64), labels.astype(np.float64)), 0.95)
    assert np.mean(bounds >= target) <= 0.06
    assert np.median(bounds) > 1 - 2.2 * (1 - target)  # and is of use
