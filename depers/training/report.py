"""What a training shows of itself: results.csv, TensorBoard events, labelled and predicted images, report.html."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from markupsafe import Markup
from numpy.typing import NDArray

from depers.evaluation import metrics
from depers.evaluation.metrics import MatchedImage
from depers.reports import drawing, page, plots
from depers.training.augmentation import RGB, letterboxed
from depers.training.batches import Batch, labelled_image
from depers.training.data import Splits
from depers.training.validation import Found

EVENTS = "tensorboard/events.out.tfevents.training"
"""TensorBoard's file below OUT; it is written anew after every epoch, so a resumed run leaves no doubles."""
SHOWN = 12  # images of either kind
_CONFIDENT = 0.25  # of boxes that are drawn and counted in the confusion matrix, as in YOLOv5
_IOU = 0.45  # above which a box and a label are one thing in the confusion matrix, as in YOLOv5
_BACKGROUND = "background"

Rows = Sequence[Mapping[str, float]]


def csv(rows: Rows) -> str:
    """The rows as CSV, a line per epoch."""
    lines = [",".join(rows[0])]
    lines += [",".join(f"{value:.6g}" for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


def tensorboard(rows: Rows) -> bytes:
    """The rows as one TensorBoard event file: each column a scalar per epoch."""
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for row in rows:
                for name, value in row.items():
                    loss = name.removeprefix("val_") in ("box", "obj", "cls")
                    group = "loss" if loss else "metrics" if name[:3] in _METRICS else "run"
                    if name != "epoch":
                        writer.add_scalar(f"{group}/{name}", value, int(row["epoch"]))
        (path,) = Path(folder).iterdir()
        return path.read_bytes()


_METRICS = ("pre", "rec", "map")


def labelled_batch(batch: Batch, names: Sequence[str]) -> bytes:
    """The images of a training batch with their labels, as they reach the model: a contact sheet, JPEG."""
    sheet = drawing.contact_sheet(_with_labels(batch, names), columns=4, cell_wh=(400, 400))
    return simplejpeg.encode_jpeg(np.ascontiguousarray(sheet), quality=88, colorspace="RGB")  # type: ignore[no-any-return]


def _with_labels(batch: Batch, names: Sequence[str]) -> list[RGB]:
    drawn = []
    for number, image in enumerate(batch.images):
        own = batch.targets[batch.targets[:, 0] == number]
        sides = np.array(image.shape[1::-1] * 2)
        boxes = np.concatenate([own[:, 2:4] - own[:, 4:] / 2, own[:, 2:4] + own[:, 4:] / 2], 1) * sides
        drawn.append(_drawn(image, boxes, own[:, 1].astype(int).tolist(), names))
    return drawn


def _drawn(
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


def curves(images: Sequence[MatchedImage], names: Sequence[str]) -> dict[str, tuple[NDArray[np.float64], ...]]:
    """For each class with labels: recalls, precisions, confidences (N,) of its detections at IoU 0.5, best first."""
    correct = np.concatenate([image.correct[:, 0] for image in images])
    confidences, ids = (np.concatenate([image[column] for image in images]) for column in (1, 2))
    counts = np.bincount(np.concatenate([image.label_ids for image in images]), minlength=len(names))
    order = np.argsort(-confidences, kind="stable")
    result: dict[str, tuple[NDArray[np.float64], ...]] = {}
    for class_id in np.flatnonzero(counts).tolist():
        own = order[ids[order] == class_id]
        true = correct[own].cumsum()
        precision = true / np.arange(1, len(own) + 1)
        result[names[class_id]] = (true / counts[class_id], precision, confidences[own].astype(np.float64))
    return result


def confusion(found: Sequence[Found], class_count: int) -> NDArray[np.int64]:
    """How often what is labelled as the column was found as the row; the last of each is background.

    Boxes above confidence 0.25 are paired with labels whatever their class, best overlap first, from IoU 0.45.
    """
    from depers.boxes import intersection_over_union

    counts = np.zeros((class_count + 1, class_count + 1), np.int64)
    for one in found:
        shown = one.confidences > _CONFIDENT
        boxes, ids = one.boxes_xyxy[shown], one.class_ids[shown]
        overlaps = intersection_over_union(boxes, one.label_boxes_xyxy)
        free_rows, free_columns = set(range(len(ids))), set(range(len(one.label_ids)))
        for at in np.argsort(-overlaps, axis=None, kind="stable").tolist():
            row, column = divmod(at, overlaps.shape[1])
            if overlaps[row, column] <= _IOU:
                break
            if row in free_rows and column in free_columns:
                counts[ids[row], one.label_ids[column]] += 1
                free_rows.remove(row)
                free_columns.remove(column)
        counts[:-1, -1] += np.bincount(ids[sorted(free_rows)], minlength=class_count)
        counts[-1, :-1] += np.bincount(one.label_ids[sorted(free_columns)], minlength=class_count)
    return counts


def make(
    rows: Rows,
    data: Splits,
    found: Sequence[Found],
    images: Callable[[int], RGB],
    canvases_wh: Sequence[tuple[int, int]],
    first: Batch,
) -> bytes:
    """report.html: figures and curves of the best weights, the course of the training, images."""
    names = data.names
    matched = [one.matched() for one in found]
    measured = metrics.measure(matched, names)
    header = ("Class", "Images", "Labels", "Precision", "Recall", "mAP@.5", "mAP@.5:.95")
    mean = measured.mean
    lead = f"{len(rows)} epochs on {len(data.train)} images; {mean.images} for validation, with {mean.labels} labels:"
    lead += f" mAP@.5 {mean.map50:.3f}, mAP@.5:.95 {mean.map50_95:.3f}."
    at = page.paragraph(f"The best weights. Precision and recall at confidence {measured.confidence:.3f}.")
    sections = [("Figures", page.table(header, [mean, *measured.classes]) + at)]
    sections.append(("The course of the training", page.gallery(_course(rows))))
    sections.append(("Precision and recall at IoU 0.5", page.gallery(_curve_plots(matched, names))))
    legend = page.paragraph(
        f"Columns: what is labelled; rows: as what it was found, above confidence {_CONFIDENT}, at IoU {_IOU}."
    )
    counts = [
        [name, *row] for name, row in zip((*names, _BACKGROUND), confusion(found, len(names)).tolist(), strict=True)
    ]
    sections.append(("Confusion matrix", page.table(("found as", *names, _BACKGROUND), counts) + legend))
    sheets = [page.image(batch_image, max_side=480) for batch_image in _with_labels(first, names)]
    sections.append(("Labelled images of the first training batch", page.gallery(sheets)))
    figures = []
    for one in sorted(found, key=lambda one: (-len(one.label_ids), one.number))[:SHOWN]:
        sample = letterboxed(labelled_image(images(one.number), data.val[one.number]), canvases_wh[one.number])
        shown = one.confidences > _CONFIDENT
        confidences = one.confidences[shown].tolist()
        left = _drawn(sample.image, one.label_boxes_xyxy, one.label_ids.tolist(), names)
        right = _drawn(sample.image, one.boxes_xyxy[shown], one.class_ids[shown].tolist(), names, confidences)
        name = os.path.basename(data.val[one.number].path)  # noqa: PTH119
        figures += [page.image(left, f"{name}: labels"), page.image(right, f"{name}: predictions")]
    sections.append(("Validation images, labelled and predicted", page.gallery(figures)))
    return page.render("Training", lead, sections).encode()


def _course(rows: Rows) -> list[Markup]:
    epochs = [row["epoch"] for row in rows]

    def plot(title: str, columns: Mapping[str, str]) -> Markup:
        series = {label: (epochs, [row[name] for row in rows]) for label, name in columns.items()}
        return plots.lines(title, series, "epoch")

    found = {"mAP@.5": "map50", "mAP@.5:.95": "map50_95"}
    return [
        plot("Losses", {"box": "box", "objectness": "obj", "class": "cls"}),
        plot("Losses of validation images", {"box": "val_box", "objectness": "val_obj", "class": "val_cls"}),
        plot("Average precision on validation images", found),
        plot("Precision and recall", {"precision": "precision", "recall": "recall"}),
        plot("Learning rate", {"learning rate": "learning_rate"}),
    ]


def _curve_plots(matched: Sequence[MatchedImage], names: Sequence[str]) -> list[Markup]:
    by_class = {name: _thinned(found) for name, found in curves(matched, names).items()}
    precision_recall = {name: (recall, precision) for name, (recall, precision, _) in by_class.items()}
    f1 = {name: (c, 2 * p * r / np.maximum(p + r, 1e-9)) for name, (r, p, c) in by_class.items()}
    one = {"x_range": (0.0, 1.0), "y_range": (0.0, 1.0)}
    return [
        plots.lines("Precision over recall", precision_recall, "recall", "precision", **one),
        plots.lines("F1 over confidence", f1, "confidence", "F1", **one),
        plots.lines(
            "Recall over confidence", {n: (c, r) for n, (r, _, c) in by_class.items()}, "confidence", "recall", **one
        ),
        plots.lines(
            "Precision over confidence",
            {n: (c, p) for n, (_, p, c) in by_class.items()},
            "confidence",
            "precision",
            **one,
        ),
    ]


def _thinned(columns: Sequence[NDArray[np.float64]], most: int = 200) -> list[NDArray[np.float64]]:
    """Evenly picked points, the last among them: a plot is not sharper than that."""
    count = len(columns[0])
    if not count:
        return list(columns)
    at = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    return [column[at] for column in columns]
