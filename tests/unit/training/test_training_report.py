"""What a training shows: curves, confusion matrix, results as text and as TensorBoard events."""

from pathlib import Path

import numpy as np
import pytest
from training_sets import write_dataset

from depers.detection.yolo import read_hyperparameters
from depers.evaluation.metrics import measure
from depers.training import report
from depers.training.images import image_cache
from depers.training.images.batches import Batches
from depers.training.images.data import read_splits
from depers.training.report import compute_curves, count_confusion, format_csv, format_events
from depers.training.validation import ValidationResult, choose_canvases, compute_fitness

ROWS = [
    {"epoch": n + 1.0, "box": 0.1 / (n + 1), "obj": 0.02, "cls": 0.03, "precision": 0.5, "recall": 0.4,
     "map50": 0.1 * n, "map50_95": 0.05 * n, "val_box": 0.1, "val_obj": 0.02, "val_cls": 0.03,
     "learning_rate": 0.01, "images_per_s": 40.0, "seconds": 3.0}
    for n in range(3)
]  # fmt: skip


def make_result(
    boxes: list[list[float]], ids: list[int], labels: list[list[float]], label_ids: list[int], number: int = 0
) -> ValidationResult:
    """Return detections with confidences 0.9, 0.8, … and labels, boxes xyxy."""
    confidences = np.array([0.9 - 0.1 * n for n in range(len(ids))], np.float32)
    return ValidationResult(
        number,
        np.array(boxes, np.float32).reshape(-1, 4),
        confidences,
        np.array(ids, np.int64),
        np.array(labels, np.float32).reshape(-1, 4),
        np.array(label_ids, np.int64),
    )


A, B, C = [0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("result", "counts"),
    [
        (make_result([A, B], [0, 1], [A, B], [0, 1]), [[1, 0, 0], [0, 1, 0], [0, 0, 0]]),
        (make_result([A], [1], [A], [0]), [[0, 0, 0], [1, 0, 0], [0, 0, 0]]),
        (make_result([A, C], [0, 0], [A, B], [0, 1]), [[1, 0, 1], [0, 0, 0], [0, 1, 0]]),
        (make_result([A, A], [0, 0], [A], [0]), [[1, 0, 1], [0, 0, 0], [0, 0, 0]]),
        (make_result([], [], [A], [0]), [[0, 0, 0], [0, 0, 0], [1, 0, 0]]),
        (make_result([A], [0], [], []), [[0, 0, 1], [0, 0, 0], [0, 0, 0]]),
    ],
)
def test_confusion(result: ValidationResult, counts: list[list[int]]) -> None:
    assert count_confusion([result], 2).tolist() == counts


def test_what_is_found_in_an_ignore_region_is_no_confusion() -> None:
    result = make_result([A, B, C], [0, 1, 1], [A], [0])
    region = result._replace(ignored_xyxy=np.array([[15, 15, 45, 45]], np.float32), ignored_ids=np.array([1]))
    assert count_confusion([result], 2).tolist() == [[1, 0, 0], [0, 0, 2], [0, 0, 0]]
    assert count_confusion([region], 2).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    recall, precision, _ = compute_curves([region.match()], ["x", "y"])["x"]
    assert (recall.tolist(), precision.tolist()) == ([1.0], [1.0])


def test_curves_follow_the_detections() -> None:
    images = [make_result([A, B, C], [0, 0, 0], [A, C], [0, 0]).match()]
    recall, precision, confidences = compute_curves(images, ["x", "y"])["x"]
    np.testing.assert_allclose(recall, [0.5, 0.5, 1])
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(confidences, [0.9, 0.8, 0.7], rtol=1e-6)
    assert compute_fitness(measure(images, ["x", "y"]).mean) > 0.5


def test_results_are_read_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    header, *lines = format_csv(ROWS).splitlines()
    assert header.split(",")[:3] == ["epoch", "box", "obj"] and len(lines) == 3
    (tmp_path / "events.out.tfevents.training").write_bytes(format_events(ROWS))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "metrics/map50" in events.Tags()["scalars"] and {"loss/box", "loss/val_box"} <= {*events.Tags()["scalars"]}
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("metrics/map50")] == [
        (1, 0),
        (2, 0.1),
        (3, 0.2),
    ]


def test_the_page_shows_all_of_it(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    data = read_splits(str(root))
    images = {
        name: image_cache.ScaledImages(split, [image_cache.fit_size(e.size_wh, 96) for e in split], "none")
        for name, split in (("train", data.train), ("val", data.val))
    }
    batches = Batches(
        data, images["train"], read_hyperparameters(), imgsz=96, stride=32, batch_size=4, seed=0, rectangular=False
    )
    results = [make_result([A], [0], [A, B], [0, 3], number) for number in range(3)]
    first = batches.make_batch(batches.plan(0))
    page = report.make_report(ROWS, data, results, images["val"], choose_canvases(data.val, 96, 32), first).decode()
    for text in ("Confusion matrix", "Precision over recall", "mAP@.5", "Labelled images", "100000.jpg: predictions"):
        assert text in page
    assert page.count("<svg") == 9 and page.count("data:image/jpeg") == 4 + 2 * 3
    assert report.draw_batch(first, data.names).startswith(b"\xff\xd8")
