"""Figures by size: labels of other sizes neither help nor harm."""

import numpy as np
import pytest

from depers.evaluation.metrics import measure
from depers.evaluation.metrics_by_size import SIZES, SizeRow, measure_sizes, relative_side
from depers.evaluation.samples import Sample

SMALL, LARGE, FAR = [10, 10, 26, 26], [100, 100, 300, 300], [500, 300, 516, 316]


def sample(found: list[tuple[list[float], float]], labelled: list[list[float]]) -> Sample:
    found = sorted(found, key=lambda each: -each[1])
    return Sample(
        "a.jpg",
        (640, 480),
        np.array([box for box, _ in found], np.float32).reshape(-1, 4),
        np.array([confidence for _, confidence in found], np.float32),
        np.zeros(len(found), np.int64),
        np.array(labelled, np.float32).reshape(-1, 4),
        np.zeros(len(labelled), np.int64),
        frozenset([0]),
    )


def by_size(samples: list[Sample], confidence: float = 0.1) -> dict[str, SizeRow]:
    rows = measure_sizes(samples, ["car"], [True], confidence)
    return {row.size.split()[0]: row for row in rows if row.name == "car"}


def test_each_size_has_its_own_figures() -> None:
    rows = by_size([sample([(LARGE, 0.9)], [SMALL, LARGE])])
    assert set(rows) == {"small", "large", "2.5", "from"}
    assert (rows["small"].labels, rows["small"].recall, rows["small"].map50) == (1, 0.0, 0.0)
    assert (rows["large"].labels, rows["large"].recall) == (1, 1.0)
    assert rows["large"].map50 == pytest.approx(0.995) and rows["large"].map50_95 == pytest.approx(0.995)


def test_what_is_false_counts_in_its_own_size_only() -> None:
    rows = by_size([sample([(FAR, 0.9), (LARGE, 0.5), (SMALL, 0.4)], [SMALL, LARGE])])
    assert rows["large"].map50 == pytest.approx(0.995)
    assert rows["small"].map50 == pytest.approx(0.4975, abs=0.01)


def test_recall_is_at_the_confidence() -> None:
    rows = by_size([sample([(LARGE, 0.3)], [LARGE])], confidence=0.4)
    assert rows["large"].recall == 0 and rows["large"].map50 == pytest.approx(0.995)


def test_one_size_alone_equals_the_whole_table() -> None:
    rng = np.random.default_rng(3)
    samples = []
    for _ in range(20):
        labels = np.stack([[x, y, x + 120, y + 150] for x, y in rng.uniform(0, 300, (4, 2))])
        boxes = labels[rng.integers(0, 4, 6)] + rng.normal(0, 5, (6, 4))
        samples.append(sample([(box.tolist(), float(rng.random())) for box in boxes], labels.tolist()))
    row = by_size(samples)["large"]
    whole = measure([each.match() for each in samples], ["car"]).mean
    assert (row.map50, row.map50_95) == pytest.approx((whole.map50, whole.map50_95), abs=1e-9)


def test_sizes_share_all_boxes_out() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 500, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(0, 400, (200, 2))], 1).astype(np.float32)
    for kind in (SIZES[:3], SIZES[3:]):
        assert (sum(size.holds(boxes, (1000, 800)).astype(int) for size in kind) == 1).all()
    assert relative_side(np.array([[0, 0, 100, 100]], np.float32), (1000, 800)).tolist() == pytest.approx([0.1])


def test_nothing_at_all() -> None:
    assert measure_sizes([], ["car"], [True], 0.5) == []
    assert by_size([sample([], [])]) == {}
