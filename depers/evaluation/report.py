"""The page that `depers evaluate` leaves: figures, sizes, thresholds, and the images with the most misses."""

from collections.abc import Sequence

from markupsafe import Markup

from depers.evaluation.calibration import Calibration
from depers.evaluation.metrics import Metrics
from depers.evaluation.metrics_by_size import SizeRow
from depers.evaluation.samples import Verdict, figure, worst
from depers.reports import page
from depers.storage.tables import parquet_text

_IMAGES_IN_REPORT = 24


def make_report(
    metrics: Metrics,
    sizes: Sequence[SizeRow],
    calibrations: Sequence[Calibration],
    verdicts: Sequence[Verdict],
    failed: Sequence[tuple[str, str]],
    folder: str,
    names: Sequence[str],
) -> str:
    """The HTML page: figures, what could not be measured, and the images with the most misses."""
    header = ("Class", "Images", "Labels", "Precision", "Recall", "mAP@.5", "mAP@.5:.95")
    rows: list[tuple[object, ...]] = [metrics.mean, *metrics.classes]
    rows += [(name, metrics.mean.images, labels, *["not detectable"] * 4) for name, labels in metrics.undetectable]
    mean, confidence = metrics.mean, metrics.confidence
    lead = f"{mean.images} images, {mean.labels} labels: mAP@.5 {mean.map50:.3f}, mAP@.5:.95 {mean.map50_95:.3f}."
    about = f"Precision and recall at confidence {confidence:.3f}, where F1 is best."
    if metrics.undetectable:
        about += " Classes that these weights do not know are left out of the mean."
    sections = [("Figures", page.table(header, rows) + page.paragraph(about))]
    if sizes:
        heads = ("Size", "Class", "Labels", "Recall", "mAP@.5", "mAP@.5:.95")
        note = f"The side is that of a square as large as the box; recall at confidence {confidence:.3f}."
        sections.append(("By size", page.table(heads, sizes) + page.paragraph(note)))
    if calibrations:
        sections.append(("Thresholds for a target recall", _calibration_table(calibrations)))
    if failed:
        note = page.paragraph("They count as images in which nothing was found.")
        sections.append((f"{len(failed)} images failed", note + page.table(("Image", "Reason"), failed[:100])))
    broken = {path for path, _ in failed}
    readable = [verdict for verdict in verdicts if parquet_text(verdict.sample.path) not in broken]
    shown = worst(readable, _IMAGES_IN_REPORT)
    if shown:
        legend = page.paragraph("Red: missed. Orange: found but not labelled. Green: found. IoU at least 0.5.")
        figures = [figure(verdict, folder, names) for verdict in shown]
        sections.append(("Images with the most misses", legend + page.gallery(figures)))
    return page.render("Evaluation", lead, sections)


def _calibration_table(calibrations: Sequence[Calibration]) -> Markup:
    heads = ("Class", "Labels", "Target", "Threshold", "Recall", "at least", "Precision", "False per image")
    rows: list[tuple[object, ...]] = []
    for each in calibrations:
        if each.threshold is None:
            rows.append((each.name, each.labels, each.target, f"none: {each.reason}", "", "", "", ""))
        else:
            recall = each.found / each.labels
            figures = (recall, each.bound, each.precision, each.false_per_image)
            rows.append((each.name, each.labels, each.target, f"{each.threshold:.6f}", *figures))
    note = "A label counts as found where grown boxes of its class cover it; precision at IoU 0.5."
    return page.table(heads, rows) + page.paragraph(note)
