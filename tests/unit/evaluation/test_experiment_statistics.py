"""What an experiment says: the number of steps that counts, the differences, and intervals that keep their promise."""

import csv
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from depers.evaluation import metrics
from depers.evaluation.experiment_report import describe_contrast, format_csv, format_table, make_report
from depers.evaluation.experiment_statistics import (
    ARMS,
    AUGMENTED,
    REAL,
    SYNTHETIC,
    Key,
    Matches,
    TrainingResult,
    bound,
    choose_validations,
    compare,
    format_matches,
    measure_map50,
    read_matches,
    smooth,
    sort_matches,
)
from depers.evaluation.metrics import MatchedImage

NAMES = ("car", "head", "face")


def draw_images(rng: np.random.Generator, count: int, chance: float = 0.6) -> list[MatchedImage]:
    """Matched images of two of three classes, some without labels, some with ignored detections."""
    images = []
    for _ in range(count):
        labels = rng.integers(0, 2, rng.integers(0, 6))
        detections = rng.integers(0, 12)
        correct = np.repeat(rng.random(detections) < chance, 10).reshape(detections, 10)
        ignored = ~correct & (rng.random((detections, 1)) < 0.2)
        class_ids = rng.integers(0, 3, detections)
        confidences = rng.random(detections).astype(np.float32)
        images.append(MatchedImage(correct, confidences, class_ids, labels, ignored=ignored))
    return images


def test_the_figure_is_that_of_evaluation_and_weights_repeat_images() -> None:
    rng = np.random.default_rng(0)
    images = draw_images(rng, 20)
    matches = sort_matches(images, len(NAMES))
    expected = metrics.measure(images, NAMES).mean.map50
    assert measure_map50(matches, np.ones(20)) == pytest.approx(expected, abs=1e-12)
    counts = rng.integers(0, 3, 20)
    repeated = [image for image, count in zip(images, counts.tolist(), strict=True) for _ in range(count)]
    expected = metrics.measure(repeated, NAMES).mean.map50
    assert measure_map50(matches, counts.astype(np.float64)) == pytest.approx(expected, abs=1e-12)


def test_matches_are_read_as_they_were_written() -> None:
    matches = sort_matches(draw_images(np.random.default_rng(1), 9), len(NAMES))
    copy = read_matches(format_matches(matches))
    for first, second in zip([*matches.images, *matches.correct], [*copy.images, *copy.correct], strict=True):
        assert first.tolist() == second.tolist() and first.dtype == second.dtype
    assert copy.label_counts.tolist() == matches.label_counts.tolist()


def test_a_figure_is_the_mean_of_the_last_three() -> None:
    assert smooth([1, 2, 6, 4]) == pytest.approx([1, 1.5, 3, 4])


def test_no_seed_chooses_for_itself() -> None:
    curves = np.array([[0.1, 0.2, 0.9], [0.1, 0.3, 0.2], [0.1, 0.3, 0.2]])
    assert choose_validations(curves) == [1, 2, 2]  # the first is best at its end, and the others do not know
    assert choose_validations(curves[:1]) == [2]


@pytest.mark.parametrize(("seed_spread", "image_spread"), [(0.03, 0.0), (0.0, 0.03), (0.02, 0.02)])
def test_intervals_hold_the_mean_95_times_in_100(seed_spread: float, image_spread: float) -> None:
    """Of differences that scatter by seed, and by validation images that all seeds share."""
    rng = np.random.default_rng(0)
    seeds, images, draws, hits, trials = 6, 40, 200, 0, 300
    for _ in range(trials):
        by_image = rng.normal(0, image_spread * math.sqrt(images), images)
        by_pair = rng.normal(0.01, seed_spread, seeds)[:, None] + by_image  # (seeds, images)
        image_weights = rng.multinomial(images, np.full(images, 1 / images), draws) / images
        seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
        difference = bound(by_pair.mean(1), ((by_pair @ image_weights.T) * seed_weights.T).sum(0))
        hits += difference.low <= 0.01 <= difference.high
    assert hits / trials > 0.93


def make_results(*rows: tuple[int, int, str, Sequence[float]]) -> list[TrainingResult]:
    return [
        TrainingResult(size, seed, arm, 50 * (arm == SYNTHETIC), 60.0, (10, 20), tuple(values), (0.1, 0.2))
        for size, seed, arm, values in rows
    ]


def repeat_matches(results: Sequence[TrainingResult], rng: np.random.Generator) -> dict[Key, list[Matches]]:
    """Matches for each, the better the later, of the same twelve images."""
    label_ids: list[NDArray[np.int64]] = [np.array([0, 1]) for _ in range(12)]
    validations = {}
    for result in results:
        chance = 0.8 if result.arm == SYNTHETIC else 0.3
        images = [
            image._replace(label_ids=ids) for image, ids in zip(draw_images(rng, 12, chance), label_ids, strict=True)
        ]
        validations[Key(result.size, result.seed, result.arm)] = [sort_matches(images, 2)] * len(result.steps)
    return validations


def test_arms_are_compared_over_seeds_and_sizes() -> None:
    values = {REAL: (0.3, 0.2), AUGMENTED: (0.25, 0.3), SYNTHETIC: (0.3, 0.5)}
    rows = [
        (size, seed, arm, [value + 0.01 * seed for value in values[arm]])
        for size in (10, 20)
        for seed in range(4)
        for arm in ARMS
    ]
    results = make_results(*rows)
    comparison = compare(results, repeat_matches(results, np.random.default_rng(0)), draws=50)
    assert [row.size for row in comparison.sizes] == [10, 20]
    first = comparison.sizes[0]
    # The mean of the last validations: real images alone are best after ten steps, the others after twenty.
    assert {arm: set(figures.steps) for arm, figures in first.arms.items()} == {
        REAL: {10},
        AUGMENTED: {20},
        SYNTHETIC: {20},
    }
    assert first.arms[REAL].map50 == pytest.approx(0.315) and first.arms[SYNTHETIC].map50 == pytest.approx(0.415)
    assert first.over_real.mean == pytest.approx(0.1) == comparison.over_real.mean and first.over_real.wins == 4
    assert first.over_augmented.mean == pytest.approx(0.125)
    assert comparison.over_real.low < 0.1 < comparison.over_real.high
    text = format_table(comparison)
    assert text.splitlines()[2].split()[:4] == ["10", "50", "4", "0.315"] and "+0.100" in text
    assert "higher in 4 of 4 seeds" in describe_contrast(comparison)
    page = make_report(results, comparison, {"sizes": (10, 20)})
    assert page.count("<svg") == 5 and "Every training" in page
    lines = list(csv.DictReader(format_csv(results).splitlines()))
    assert len(lines) == 2 * len(results) and {line["steps"] for line in lines} == {"10", "20"}
    assert comparison.sizes[0].as_dict()["arms"][REAL]["steps"] == (10, 10, 10, 10)


def test_one_seed_says_nothing() -> None:
    results = make_results(*((10, 0, arm, (0.1, 0.2)) for arm in ARMS))
    comparison = compare(results, repeat_matches(results, np.random.default_rng(0)), draws=5)
    assert comparison.over_real.verdict == "one seed says nothing"
    assert comparison.over_real.as_dict()["low"] is None and "–" in format_table(comparison)


@pytest.mark.parametrize(
    ("drawn", "verdict"),
    [([0.1, 0.11, 0.09], "better"), ([-0.1, -0.11, -0.09], "worse"), ([0.3, -0.2, 0.2], "undecided")],
)
def test_verdicts(drawn: list[float], verdict: str) -> None:
    assert bound(np.array(drawn), np.array(drawn)).verdict == verdict
