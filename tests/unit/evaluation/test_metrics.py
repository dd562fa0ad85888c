"""Matching and average precision: equal to the package's own on random input, and right on cases done by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.evaluation.metrics import (
    IOU_THRESHOLDS,
    ClassMetrics,
    MatchedImage,
    ap_per_class,
    average_precision,
    match,
    measure,
)


@pytest.fixture(scope="module")
def theirs() -> Any:
    """yolov5.val, which holds process_batch and ap_per_class, on a numpy that has lost `trapz`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "trapz", np.trapezoid, raising=False)
        import yolov5.val

        yield yolov5.val


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(5, 60, (count, 2))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def near(rng: np.random.Generator, boxes: np.ndarray, count: int) -> np.ndarray:
    """`count` boxes that overlap those given by various degrees."""
    chosen = boxes[rng.integers(0, len(boxes), count)]
    return (chosen + rng.normal(0, rng.choice([0.5, 3, 12], (count, 1)), (count, 4))).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    detected=st.integers(0, 12),
    labels=st.integers(0, 12),
    classes=st.integers(1, 3),
)
def test_match_equals_process_batch(theirs: Any, seed: int, detected: int, labels: int, classes: int) -> None:
    import torch

    rng = np.random.default_rng(seed)
    label_boxes, label_ids = random_boxes(rng, labels), rng.integers(0, classes, labels)
    boxes = near(rng, label_boxes, detected) if labels else random_boxes(rng, detected)
    class_ids = rng.integers(0, classes, detected)
    confidences = np.sort(rng.random(detected).astype(np.float32))[::-1]
    expected = theirs.process_batch(
        torch.from_numpy(np.column_stack([boxes, confidences, class_ids]).astype(np.float32).reshape(-1, 6)),
        torch.from_numpy(np.column_stack([label_ids, label_boxes]).astype(np.float32).reshape(-1, 5)),
        torch.linspace(0.5, 0.95, 10),
    )
    found = match(boxes, class_ids, label_boxes, label_ids)
    np.testing.assert_array_equal(found, expected.numpy())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    detected=st.integers(1, 300),
    labels=st.integers(1, 60),
    classes=st.integers(1, 6),
)
def test_curves_equal_ap_per_class(theirs: Any, seed: int, detected: int, labels: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    confidences = rng.random(detected).astype(np.float32)  # distinct: the package leaves the order of equals open
    # Each threshold is passed by fewer, as with real boxes.
    correct = rng.random((detected, 1)) > np.linspace(0.3, 1, 10)
    class_ids, label_ids = rng.integers(0, classes, detected), rng.integers(0, classes, labels)
    _, _, p, r, _, ap, ids = theirs.ap_per_class(
        correct, confidences, class_ids.astype(float), label_ids.astype(float), names={}
    )
    found = ap_per_class(correct, confidences, class_ids, label_ids)
    np.testing.assert_array_equal(found.class_ids, ids)
    np.testing.assert_allclose(found.average_precisions, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.precisions, p, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.recalls, r, rtol=0, atol=1e-12)


BOX = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("boxes", "class_ids", "labels", "label_ids", "expected"),
    [
        ([], [], [BOX], [0], []),
        ([BOX], [0], [], [], [0]),
        ([BOX], [0], [BOX], [0], [10]),
        ([BOX], [1], [BOX], [0], [0]),
        ([[0, 0, 10, 7.2]], [0], [BOX], [0], [5]),  # IoU 0.72
        ([[0, 0, 10, 8], BOX], [0, 0], [BOX], [0], [6 + 1, 3]),  # the first while it passes (0.80), then the better one
        ([BOX, BOX], [0, 1], [BOX, BOX], [1, 0], [10, 10]),
        ([BOX, [0, 0, 10, 9.2]], [0, 0], [BOX, [0, 0, 10, 9]], [0, 0], [10, 10]),
    ],
    ids=["no detection", "no label", "same", "other class", "0.72", "two for one", "by class", "each its nearest"],
)
def test_match_by_hand(boxes: Any, class_ids: Any, labels: Any, label_ids: Any, expected: list[int]) -> None:
    found = match(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(class_ids, np.int64),
        np.array(labels, np.float32).reshape(-1, 4),
        np.array(label_ids, np.int64),
    )
    assert found.dtype == np.bool_
    assert found.shape == (len(boxes), len(IOU_THRESHOLDS))
    assert found.sum(1).tolist() == expected


@pytest.mark.parametrize(
    ("recall", "precision", "expected"),
    [([1.0], [1.0], 0.995), ([0.5], [1.0], 0.75), ([0.5, 1.0], [1.0, 0.5], 0.8725)],
)
def test_average_precision_by_hand(recall: list[float], precision: list[float], expected: float) -> None:
    # From the last recall it falls off linearly to the sentinel (1, 0); at recall 1 that costs half a percent.
    assert average_precision(np.array(recall), np.array(precision)) == pytest.approx(expected, abs=1e-9)


def images() -> list[MatchedImage]:
    """Two cars found, one missed; a head found by weights that know heads; a false face."""
    every, none = np.ones((1, 10), np.bool_), np.zeros((1, 10), np.bool_)
    return [
        MatchedImage(np.repeat(every, 2, 0), np.float32([0.9, 0.8]), np.array([0, 0]), np.array([0, 0, 0])),
        MatchedImage(np.concatenate([every, none]), np.float32([0.7, 0.6]), np.array([1, 2]), np.array([1])),
        MatchedImage(none[:0], np.float32([]), np.array([], np.int64), np.array([3])),
    ]


def test_measure_counts_and_averages() -> None:
    metrics = measure(images(), ["car", "head", "face", "human"], [True, True, True, False])
    car, head = metrics.classes
    assert (car.name, car.images, car.labels, head.name, head.labels) == ("car", 3, 3, "head", 1)
    assert car.recall == pytest.approx(2 / 3, abs=1e-9)
    assert (car.precision, head.precision, head.recall) == pytest.approx((1, 1, 1), abs=1e-9)
    assert (head.map50, head.map50_95) == pytest.approx((0.995, 0.995), abs=1e-9)
    assert metrics.mean[:3] == ("all", 3, 4)
    expected = [(a + b) / 2 for a, b in zip(car[3:], head[3:], strict=True)]
    assert metrics.mean[3:] == pytest.approx(expected, abs=1e-12)
    assert metrics.undetectable == (("human", 1),)
    assert measure(images(), ["car", "head", "face", "human"]).mean.map50 == pytest.approx(metrics.mean.map50 * 2 / 3)


def test_images_count_for_the_classes_they_are_labelled_for() -> None:
    """A face found where faces are not labelled is neither right nor false."""
    none = np.zeros((1, 10), np.bool_)
    heads_only = MatchedImage(none, np.float32([0.95]), np.array([2]), np.array([], np.int64), frozenset([1]))
    face = MatchedImage(~none, np.float32([0.5]), np.array([2]), np.array([2]), frozenset([2]))
    [row] = measure([heads_only, face], ["car", "head", "face"]).classes
    assert (row.name, row.images, row.labels) == ("face", 1, 1)
    assert row.map50 == pytest.approx(0.995, abs=1e-9) and row.precision == pytest.approx(1)
    [everywhere] = measure([heads_only._replace(labelled=None), face], ["car", "head", "face"]).classes
    assert (everywhere.images, everywhere.map50) == (2, pytest.approx(0.4975, abs=1e-3))


def test_text_reads_like_yolov5() -> None:
    lines = measure(images(), ["car", "head", "face", "human"], [True, True, True, False]).format_text().splitlines()
    assert lines[0].split() == ["Class", "Images", "Labels", "P", "R", "mAP@.5", "mAP@.5:.95"]
    assert [line.split()[:3] for line in lines[1:4]] == [["all", "3", "4"], ["car", "3", "3"], ["head", "3", "1"]]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4] == "not detectable with these weights, so left out of the mean: human (1)"


def test_nothing_at_all() -> None:
    metrics = measure([], ["car"])
    assert metrics.mean == ClassMetrics("all", 0, 0, 0, 0, 0, 0)
    assert metrics.classes == ()
    none = measure(
        [MatchedImage(np.zeros((0, 10), np.bool_), np.float32([]), np.array([], int), np.array([0]))], ["car"]
    )
    assert none.classes == (ClassMetrics("car", 1, 1, 0, 0, 0, 0),)
