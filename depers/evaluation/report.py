"""The page that `depers evaluate` leaves: figures, sizes, thresholds, and the images with the most misses."""

from collections.abc import Sequence

from markupsafe import Markup

from depers.evaluation.calibration import Calibration, describe_certainty
from depers.evaluation.conditions import Slice, SliceRow, select_slices
from depers.evaluation.metrics import Metrics
from depers.evaluation.metrics_by_size import SizeRow
from depers.evaluation.samples import ImageResult, make_figure, select_worst
from depers.reports import page
from depers.storage.tables import parquet_text

_IMAGES_IN_REPORT = 24
_SLICES = 100
_SHEETS, _IMAGES_IN_SHEET = 3, 8  # slices of a condition that have a sheet of images, and how many


def make_report(
    metrics: Metrics,
    sizes: Sequence[SizeRow],
    calibrations: Sequence[Calibration],
    certainty: float,
    results: Sequence[ImageResult],
    failed: Sequence[tuple[str, str]],
    folder: str,
    names: Sequence[str],
    warnings: Sequence[str] = (),
    slices: Sequence[Slice] = (),
    slice_rows: Sequence[SliceRow] = (),
) -> str:
    """Return the HTML page: warnings, figures, what could not be measured, and the images with the most misses."""
    header = ("Class", "Images", "Labels", "Precision", "Recall", "mAP@.5", "mAP@.5:.95")
    rows: list[tuple[object, ...]] = [metrics.mean, *metrics.classes]
    rows += [(name, metrics.mean.images, labels, *["not detectable"] * 4) for name, labels in metrics.undetectable]
    mean, confidence = metrics.mean, metrics.confidence
    lead = f"{mean.images} images, {mean.labels} labels: mAP@.5 {mean.map50:.3f}, mAP@.5:.95 {mean.map50_95:.3f}."
    lead = " ".join([lead, *warnings])
    note = f"Precision and recall at confidence {confidence:.3f}, where F1 is best."
    if metrics.undetectable:
        note += " Classes that these weights do not know are left out of the mean."
    sections = [("Figures", page.table(header, rows) + page.paragraph(note))]
    if sizes:
        heads = ("Size", "Class", "Labels", "Recall", "mAP@.5", "mAP@.5:.95")
        note = f"The side is that of a square as large as the box; recall at confidence {confidence:.3f}."
        sections.append(("By size", page.table(heads, sizes) + page.paragraph(note)))
    if slice_rows:
        header = ("Condition", "", "Images", "Labels", "Recall", "mAP@.5", "mAP@.5:.95")
        note = f"Of each condition the lowest recall first; at confidence {confidence:.3f}."
        sections.append(("By condition", page.table(header, slice_rows[:_SLICES]) + page.paragraph(note)))
    if calibrations:
        sections.append(("Thresholds for a target recall", _calibration_table(calibrations, certainty)))
    if failed:
        note = page.paragraph("They count as images in which nothing was found.")
        sections.append((f"{len(failed)} images failed", note + page.table(("Image", "Reason"), failed[:100])))
    failed_paths = {path for path, _ in failed}
    readable = [result for result in results if parquet_text(result.sample.path) not in failed_paths]
    worst_results = select_worst(readable, _IMAGES_IN_REPORT)
    if worst_results:
        legend = page.paragraph("Red: missed. Orange: found but not labelled. Green: found. IoU at least 0.5.")
        figures = [make_figure(result, folder, names) for result in worst_results]
        sections.append(("Images with the most misses", legend + page.gallery(figures)))
    for title, indices in select_slices(slice_rows, slices, _SHEETS).items():
        slice_results = [results[index] for index in indices]
        slice_results = [result for result in slice_results if parquet_text(result.sample.path) not in failed_paths]
        if worst_of_slice := select_worst(slice_results, _IMAGES_IN_SHEET):
            figures = [make_figure(result, folder, names, max_side=400) for result in worst_of_slice]
            sections.append((f"Most misses by {title}", page.gallery(figures)))
    return page.render("Evaluation", lead, sections)


def _calibration_table(calibrations: Sequence[Calibration], certainty: float) -> Markup:
    heads = ["Class", "Groups", "Images", "Labels", "Target", "Threshold", "Recall", "at least"]
    heads += ["Images without a miss", "at least", "Precision", "False per image"]
    rows: list[tuple[object, ...]] = []
    for row in calibrations:
        counts = (row.name, row.groups, row.images, row.labels, row.target)
        if row.threshold is None:
            rows.append((*counts, f"none: {row.reason}", *[""] * 6))
        else:
            shares = (row.found / row.labels, row.bound, row.whole_images / row.images, row.whole_bound)
            rows.append((*counts, f"{row.threshold:.6f}", *shares, row.precision, row.false_per_image))
    note = "A label counts as found where grown boxes of its class cover it; precision at IoU 0.5."
    promise = page.paragraph(describe_certainty(calibrations, certainty))
    return page.table(heads, rows) + page.paragraph(note) + promise
