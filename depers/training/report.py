"""What a training shows of itself: results.csv, TensorBoard events, labelled and predicted images, report.html."""

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from markupsafe import Markup
from numpy.typing import NDArray

from depers.boxes import intersection_over_union
from depers.datasets.ignore_regions import shares_ignored
from depers.evaluation import metrics
from depers.evaluation.metrics import MatchedImage
from depers.reports import drawing, page, plots
from depers.training.images.augmentation import RGB, letterbox_sample
from depers.training.images.batches import Batch, attach_labels
from depers.training.images.data import Splits
from depers.training.validation import ValidationResult

EVENTS = "tensorboard/events.out.tfevents.training"
"""TensorBoard's file below OUT; it is written anew after every epoch, so a resumed run leaves no doubles."""
SAMPLE_COUNT = 12
"""How many images of training, and of validation, are drawn."""
_MIN_CONFIDENCE = 0.25  # of boxes that are drawn and counted in the confusion matrix, as in YOLOv5
_MIN_IOU = 0.45  # above which a box and a label are the same object in the confusion matrix, as in YOLOv5
_BACKGROUND = "background"
_LOSSES = ("box", "obj", "cls")
_METRICS = ("precision", "recall", "map50", "map50_95")

Rows = Sequence[Mapping[str, float]]


def format_csv(rows: Rows) -> str:
    """Return the rows as CSV, a line per epoch."""
    lines = [",".join(rows[0])]
    lines += [",".join(f"{value:.6g}" for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def format_events(rows: Rows) -> bytes:
    """Return the rows as one TensorBoard event file: each column a scalar per epoch."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for row in rows:
                for name, value in row.items():
                    is_loss = name.removeprefix("val_") in _LOSSES
                    group = "loss" if is_loss else "metrics" if name in _METRICS else "run"
                    if name != "epoch" and not math.isnan(value):
                        writer.add_scalar(f"{group}/{name}", value, int(row["epoch"]))
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


def draw_batch(batch: Batch, names: Sequence[str]) -> bytes:
    """Draw the images of a training batch with their labels, as they reach the model: a contact sheet, JPEG."""
    sheet = drawing.contact_sheet(_draw_targets(batch, names), columns=4, cell_wh=(400, 400))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(sheet), quality=88, colorspace="RGB")  # type: ignore[no-any-return]


def _draw_targets(batch: Batch, names: Sequence[str]) -> list[RGB]:
    drawings = []
    for number, image in enumerate(batch.images):
        targets = batch.targets[batch.targets[:, 0] == number]
        sides = np.array(image.shape[1::-1] * 2)
        centers, halves = targets[:, 2:4], targets[:, 4:] / 2
        boxes = np.concatenate([centers - halves, centers + halves], 1) * sides
        drawings.append(_draw(image, boxes, targets[:, 1].astype(int).tolist(), names))
    return drawings


def _draw(
    image: RGB,
    boxes: NDArray[np.floating],
    class_ids: Sequence[int],
    names: Sequence[str],
    confidences: Sequence[float] = (),
) -> RGB:
    texts = [names[class_id] for class_id in class_ids]
    if confidences:
        texts = [f"{text} {confidence:.2f}" for text, confidence in zip(texts, confidences, strict=True)]
    return drawing.draw_boxes(image, boxes, texts, [drawing.color(names[class_id]) for class_id in class_ids])


def compute_curves(images: Sequence[MatchedImage], names: Sequence[str]) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """Return for each class with labels recalls, precisions, confidences (N,) of its detections, best first.

    At IoU 0.5.
    """
    judged = [metrics.drop_ignored(image) for image in images]
    correct = np.concatenate([image.correct[:, 0] for image in judged])
    confidences, ids = (np.concatenate([image[column] for image in judged]) for column in (1, 2))
    counts = np.bincount(np.concatenate([image.label_ids for image in images]), minlength=len(names))
    order = np.argsort(-confidences, kind="stable")
    curves: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for class_id in np.flatnonzero(counts).tolist():
        rows = order[ids[order] == class_id]
        hits = correct[rows].cumsum()
        precision = hits / np.arange(1, len(rows) + 1)
        curves[names[class_id]] = (hits / counts[class_id], precision, confidences[rows].astype(np.float64))
    return curves


def count_confusion(results: Sequence[ValidationResult], class_count: int) -> NDArray[np.int64]:
    """Count how often what is labelled as the column was detected as the row; the last of each is background.

    Boxes above confidence 0.25 are paired with labels whatever their class, best overlap first, from IoU 0.45.
    """
    counts = np.zeros((class_count + 1, class_count + 1), np.int64)
    for result in results:
        mask = result.confidences > _MIN_CONFIDENCE
        boxes, ids = result.boxes_xyxy[mask], result.class_ids[mask]
        overlaps = intersection_over_union(boxes, result.label_boxes_xyxy)
        free_rows, free_columns = set(range(len(ids))), set(range(len(result.label_ids)))
        for place in np.argsort(-overlaps, axis=None, kind="stable").tolist():
            row, column = divmod(place, overlaps.shape[1])
            if overlaps[row, column] <= _MIN_IOU:
                break
            if row in free_rows and column in free_columns:
                counts[ids[row], result.label_ids[column]] += 1
                free_rows.remove(row)
                free_columns.remove(column)
        shares = shares_ignored(boxes, ids, result.ignored_xyxy, result.ignored_ids)
        false = [row for row in sorted(free_rows) if shares[row] < _MIN_IOU]
        counts[:-1, -1] += np.bincount(ids[false], minlength=class_count)
        counts[-1, :-1] += np.bincount(result.label_ids[sorted(free_columns)], minlength=class_count)
    return counts


def make_report(
    rows: Rows,
    splits: Splits,
    results: Sequence[ValidationResult],
    val_images: Callable[[int], RGB],
    canvases_wh: Sequence[tuple[int, int]],
    first_batch: Batch,
) -> bytes:
    """Return report.html: figures and curves of the best weights, the course of the training, images."""
    names = splits.names
    matches = [result.match() for result in results]
    figures = metrics.measure(matches, names)
    mean = figures.mean
    lead = f"{len(rows)} epochs on {len(splits.train)} images; {mean.images} for validation, with {mean.labels} labels:"
    lead += f" mAP@.5 {mean.map50:.3f}, mAP@.5:.95 {mean.map50_95:.3f}."
    header = ("Class", "Images", "Labels", "Precision", "Recall", "mAP@.5", "mAP@.5:.95")
    note = page.paragraph(f"The best weights. Precision and recall at confidence {figures.confidence:.3f}.")
    sections = [
        ("Figures", page.table(header, [mean, *figures.classes]) + note),
        ("The course of the training", page.gallery(_plot_course(rows))),
        ("Precision and recall at IoU 0.5", page.gallery(_plot_curves(matches, names))),
        ("Confusion matrix", _tabulate_confusion(results, names)),
        (
            "Labelled images of the first training batch",
            page.gallery([page.image(image, max_side=480) for image in _draw_targets(first_batch, names)]),
        ),
        (
            "Validation images, labelled and predicted",
            page.gallery(_draw_results(results, splits, val_images, canvases_wh)),
        ),
    ]
    return page.render("Training", lead, sections).encode()


def _tabulate_confusion(results: Sequence[ValidationResult], names: Sequence[str]) -> Markup:
    counts = count_confusion(results, len(names)).tolist()
    rows = [[name, *row] for name, row in zip((*names, _BACKGROUND), counts, strict=True)]
    legend = page.paragraph(
        f"Columns: what is labelled; rows: as what it was found, above confidence {_MIN_CONFIDENCE}, at IoU {_MIN_IOU}."
    )
    return page.table(("found as", *names, _BACKGROUND), rows) + legend


def _draw_results(
    results: Sequence[ValidationResult],
    splits: Splits,
    val_images: Callable[[int], RGB],
    canvases_wh: Sequence[tuple[int, int]],
) -> list[Markup]:
    """Draw the images with most labels, each with its labels and with its detections."""
    names, drawings = splits.names, []
    for result in sorted(results, key=lambda result: (-len(result.label_ids), result.number))[:SAMPLE_COUNT]:
        example = splits.val[result.number]
        sample = letterbox_sample(attach_labels(val_images(result.number), example), canvases_wh[result.number])
        mask = result.confidences > _MIN_CONFIDENCE
        boxes, ids, confidences = result.boxes_xyxy[mask], result.class_ids[mask], result.confidences[mask]
        labels = _draw(sample.image, result.label_boxes_xyxy, result.label_ids.tolist(), names)
        predictions = _draw(sample.image, boxes, ids.tolist(), names, confidences.tolist())
        name = os.path.basename(example.member or example.path)  # noqa: PTH119
        drawings += [page.image(labels, f"{name}: labels"), page.image(predictions, f"{name}: predictions")]
    return drawings


def _plot_course(rows: Rows) -> list[Markup]:
    def plot(title: str, columns: Mapping[str, str]) -> Markup:
        series = {}
        for label, name in columns.items():
            points = [(row["epoch"], row[name]) for row in rows if not math.isnan(row[name])]  # of validated epochs
            series[label] = [epoch for epoch, _ in points], [value for _, value in points]
        return plots.lines(title, series, "epoch")

    return [
        plot("Losses", {"box": "box", "objectness": "obj", "class": "cls"}),
        plot("Losses of validation images", {"box": "val_box", "objectness": "val_obj", "class": "val_cls"}),
        plot("Average precision on validation images", {"mAP@.5": "map50", "mAP@.5:.95": "map50_95"}),
        plot("Precision and recall", {"precision": "precision", "recall": "recall"}),
        plot("Learning rate", {"learning rate": "learning_rate"}),
    ]


def _plot_curves(matches: Sequence[MatchedImage], names: Sequence[str]) -> list[Markup]:
    by_class = {name: _thin_out(curves) for name, curves in compute_curves(matches, names).items()}
    precision_recall = {name: (recall, precision) for name, (recall, precision, _) in by_class.items()}
    f1 = {name: (c, 2 * p * r / np.maximum(p + r, 1e-9)) for name, (r, p, c) in by_class.items()}
    recall = {name: (c, r) for name, (r, _, c) in by_class.items()}
    precision = {name: (c, p) for name, (_, p, c) in by_class.items()}
    ranges = {"x_range": (0.0, 1.0), "y_range": (0.0, 1.0)}
    return [
        plots.lines("Precision over recall", precision_recall, "recall", "precision", **ranges),
        plots.lines("F1 over confidence", f1, "confidence", "F1", **ranges),
        plots.lines("Recall over confidence", recall, "confidence", "recall", **ranges),
        plots.lines("Precision over confidence", precision, "confidence", "precision", **ranges),
    ]


def _thin_out(columns: Sequence[NDArray[np.float64]], max_points: int = 200) -> list[NDArray[np.float64]]:
    """Return evenly picked points, the last among them: a plot is not sharper than that."""
    count = len(columns[0])
    if not count:
        return list(columns)
    points = np.unique(np.linspace(0, count - 1, min(count, max_points)).round().astype(int))
    return [column[points] for column in columns]
