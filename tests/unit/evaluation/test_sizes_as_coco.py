"""Average precision, also by size, beside pycocotools' COCOeval, on random boxes, with crowds as ignore regions.

What differs by definition, and how far apart the figures may therefore lie:

- COCOeval gives a detection the best label that is still free; here, as in YOLOv5, it goes for the label that it
  overlaps most, and is false where a more confident one has that label. Where no detection overlaps two labels, both
  agree, so one case keeps labels apart; the other lets them overlap, and allows 0.02.
- COCOeval takes the precision at 101 recalls as steps, and 0 beyond the highest recall; here, as in YOLOv5, it is
  interpolated between the points of the curve, the last of which is precision 0 at recall 1. That adds a triangle
  below the line from the end of the curve to there, which the test adds to COCOeval's figure. What remains lies within
  0.015 on the hundred labels and more of a class and a size.
- COCOeval's sizes hold both of their ends, here a box of exactly 32² or 96² pixels is of the larger size alone: no
  random box has just that area.
- COCOeval looks at the 100 most confident detections of an image: no image here has more.
"""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from depers.evaluation.metrics import measure
from depers.evaluation.metrics_by_size import measure_sizes
from depers.evaluation.samples import Sample

NAMES = ("car", "face")
SIDE = 1200  # pixels of an image
CELL = 300  # pixels around a label that stands apart
IMAGES = 120


def draw_labels(rng: np.random.Generator, *, apart: bool) -> np.ndarray:
    """Return boxes of all sizes, float32 (M, 4): one in every cell, or anywhere."""
    sides = np.exp(rng.uniform(np.log(12), np.log(250), (16, 2)))
    if apart:
        cells = np.stack(np.divmod(np.arange(16), SIDE // CELL), 1) * CELL
        low = cells + rng.uniform(0, CELL - sides)
    else:
        low = rng.uniform(0, 300 - sides)
    return np.concatenate([low, low + sides], 1).astype(np.float32)


def draw_sample(rng: np.random.Generator, number: int, *, apart: bool) -> Sample:
    """Return labels, detections that miss some of them by more or less, and false ones; falling confidences."""
    labels = draw_labels(rng, apart=apart)
    label_ids = rng.integers(0, len(NAMES), len(labels))
    targets = np.repeat(np.arange(len(labels)), rng.integers(0, 3, len(labels)))
    sides = np.tile(labels[targets, 2:] - labels[targets, :2], 2)
    hits = labels[targets] + rng.normal(0, 0.08, sides.shape) * sides
    false = draw_labels(rng, apart=apart)[: rng.integers(0, 8)]
    boxes = np.concatenate([hits, false]).astype(np.float32)
    class_ids = np.concatenate([label_ids[targets], rng.integers(0, len(NAMES), len(false))])
    confidences = np.concatenate([rng.beta(3, 2, len(hits)), rng.beta(2, 3, len(false))]).astype(np.float32)
    order = np.argsort(-confidences)
    crowd_rng = np.random.default_rng(number)
    crowds = draw_labels(crowd_rng, apart=False)[: 4 * (number % 2)] + np.float32([0, 0, 200, 200])
    return Sample(
        path=str(number),
        size_wh=(SIDE, SIDE),
        boxes_xyxy=boxes[order],
        confidences=confidences[order],
        class_ids=class_ids[order],
        label_boxes_xyxy=labels,
        label_ids=label_ids,
        labelled=frozenset(range(len(NAMES))),
        ignored_xyxy=crowds,
        ignored_ids=crowd_rng.integers(0, len(NAMES), len(crowds)),
    )


def to_xywh(box: np.ndarray) -> list[float]:
    x_min, y_min, x_max, y_max = box.tolist()
    return [x_min, y_min, x_max - x_min, y_max - y_min]


def evaluate_as_coco(samples: list[Sample]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return AP at IoU 0.5 and its mean over the thresholds, by size and class, with the triangle of YOLOv5."""
    annotations, detections = [], []
    for number, sample in enumerate(samples):
        boxes = np.concatenate([sample.label_boxes_xyxy, sample.ignored_xyxy])
        ids = np.concatenate([sample.label_ids, sample.ignored_ids]).tolist()
        for index, (box, class_id) in enumerate(zip(boxes, ids, strict=True)):
            _, _, width, height = xywh = to_xywh(box)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": class_id, "bbox": xywh}
                | {"area": width * height, "iscrowd": int(index >= len(sample.label_ids))}
            )
        for box, class_id, score in zip(sample.boxes_xyxy, sample.class_ids.tolist(), sample.confidences, strict=True):
            detections.append(
                {"image_id": number, "category_id": class_id, "bbox": to_xywh(box), "score": float(score)}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": number} for number in range(len(samples))],
            "annotations": annotations,
            "categories": [{"id": class_id, "name": name} for class_id, name in enumerate(NAMES)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precisions = evaluation.eval["precision"][..., -1]  # IoU threshold, recall, class, size
    recalls = evaluation.eval["recall"][..., -1]  # IoU threshold, class, size
    ends = np.floor(recalls * 100).astype(int)
    triangles = np.take_along_axis(precisions, ends[:, None], 1)[:, 0] * (1 - recalls) / 2
    average = precisions.mean(1) + triangles
    sizes = evaluation.params.areaRngLbl
    return {
        (size, name): (float(average[0, index, column]), float(average[:, index, column].mean()))
        for column, size in enumerate(sizes)
        for index, name in enumerate(NAMES)
    }


@pytest.mark.parametrize(("apart", "tolerance"), [(True, 0.015), (False, 0.02)])
@pytest.mark.parametrize("seed", range(3))
def test_sizes_as_coco(seed: int, apart: bool, tolerance: float) -> None:
    rng = np.random.default_rng(seed)
    samples = [draw_sample(rng, number, apart=apart) for number in range(IMAGES)]
    rows = measure_sizes(samples, NAMES, [True] * len(NAMES), 0.5)
    measured = {(row.size.split()[0], row.name): (row.map50, row.map50_95) for row in rows}
    all_sizes = measure([sample.match() for sample in samples], NAMES)
    measured |= {("all", row.name): (row.map50, row.map50_95) for row in all_sizes.classes}
    expected = evaluate_as_coco(samples)
    assert len(expected) == 8 and min(map50_95 for _, map50_95 in expected.values()) > 0.1
    bare = [
        sample._replace(ignored_xyxy=sample.ignored_xyxy[:0], ignored_ids=sample.ignored_ids[:0]) for sample in samples
    ]
    assert measure([sample.match() for sample in bare], NAMES).mean.map50 < all_sizes.mean.map50
    for key, figures in expected.items():
        assert measured[key] == pytest.approx(figures, abs=tolerance), key
