"""An experiment's result for people: the table, the page with its plots, the list of trainings."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from depers.evaluation.experiment_statistics import (
    ARMS,
    CONTRAST,
    INTERVAL,
    RULE,
    SYNTHETIC,
    Comparison,
    Difference,
    SizeComparison,
    TrainingResult,
    smooth,
)
from depers.reports import page, plots

_COLUMNS = ("size", "seed", "arm", "synthetic", "seconds", "steps", "map50", "map50_95")
_HEADS = (
    "Real",
    "Synthetic",
    "Seeds",
    *ARMS,
    "Steps",
    "Over real",
    "95 % interval",
    "Verdict",
    "Over augmented",
    "95 % interval",
    "Verdict",
)


def format_csv(results: Sequence[TrainingResult]) -> str:
    """Return all trainings as CSV: a line per validation."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for result in results:
        for steps, *figures in zip(result.steps, result.map50, result.map50_95, strict=True):
            writer.writerow([*result[:4], f"{result.seconds:.1f}", steps, *(f"{figure:.6g}" for figure in figures)])
    return text.getvalue()


def _describe_row(row: SizeComparison) -> tuple[str, ...]:
    arms = [row.arms[arm] for arm in ARMS]
    figures = [f"{arm.map50:.3f}" + ("" if math.isnan(arm.map50_sd) else f" ± {arm.map50_sd:.3f}") for arm in arms]
    steps = " / ".join(f"{np.median(arm.steps):.0f}" for arm in arms)
    counts = str(row.size), str(row.synthetic), str(row.seeds)
    return (*counts, *figures, steps, *_describe(row.over_real), *_describe(row.over_augmented))


def _describe(difference: Difference) -> tuple[str, str, str]:
    interval = "–" if math.isnan(difference.low) else f"{difference.low:+.3f} … {difference.high:+.3f}"
    return f"{difference.mean:+.3f}", interval, difference.verdict


def format_table(comparison: Comparison) -> str:
    """Return the mAP@.5 table for the terminal: mean ± standard deviation over seeds, then the contrast."""
    lines = [_HEADS] + [_describe_row(row) for row in comparison.sizes]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return f"mAP@.5\n{text}\n{describe_contrast(comparison)}"


def describe_contrast(comparison: Comparison) -> str:
    """Return the contrast in one line."""
    over = comparison.over_real
    mean, interval, verdict = _describe(over)
    return f"{CONTRAST}: {mean}, {interval}, higher in {over.wins} of {over.seeds} seeds: {verdict}"


def make_report(results: Sequence[TrainingResult], comparison: Comparison, options: Mapping[str, Any]) -> str:
    """Return the page: the contrast, the table, plots, every training, the options."""
    sizes = [row.size for row in comparison.sizes]
    means = {arm: (sizes, [row.arms[arm].map50 for row in comparison.sizes]) for arm in ARMS}
    means_strict = {arm: (sizes, [row.arms[arm].map50_95 for row in comparison.sizes]) for arm in ARMS}
    over = [row.over_real for row in comparison.sizes]
    differences = {
        name: (sizes, [getattr(difference, name) for difference in over]) for name in ("mean", "low", "high")
    }
    images = "real training images"
    gallery = [
        plots.lines("mAP@.5", means, images, "mAP@.5"),
        plots.lines("mAP@.5:.95", means_strict, images, "mAP@.5:.95"),
        plots.lines(f"{SYNTHETIC} minus real: mAP@.5 and its 95 % interval", differences, images),
    ]
    gallery += [_plot_steps(results, size) for size in sizes]
    sections = [
        ("The contrast", page.paragraph(f"{describe_contrast(comparison)}.")),
        ("By number of real images", page.table(_HEADS, [_describe_row(row) for row in comparison.sizes])),
        ("Plots", page.gallery(gallery)),
        ("How to read it", page.paragraph(f"Mean ± standard deviation over seeds. {RULE} {INTERVAL}")),
    ]
    rows = [
        (*result[:4], f"{result.seconds:.0f}", f"{result.map50[-1]:.3f}", f"{max(smooth(result.map50)):.3f}")
        for result in results
    ]
    heads = (*_COLUMNS[:5], "mAP@.5 of the last validation", "best figure")
    sections.append(("Every training", page.table(heads, rows)))
    option_rows = [(name, _format_option(value)) for name, value in options.items()]
    sections.append(("Options", page.table(("option", "value"), option_rows)))
    lead = (
        "Real images alone, the same with the strongest augmentation, and the same with synthetic images made of them:"
    )
    lead += " same start, same steps, same validation."
    return page.render("Does synthesis help?", lead, sections)


def _plot_steps(results: Sequence[TrainingResult], size: int) -> Any:
    """Plot the mean figure of each arm over the steps, from which the steps that count are chosen."""
    lines = {}
    for arm in ARMS:
        trainings = [result for result in results if (result.size, result.arm) == (size, arm)]
        curves = np.array([smooth(training.map50) for training in trainings])
        lines[arm] = (trainings[0].steps, curves.mean(0).tolist())
    return plots.lines(f"{size} images: mAP@.5 over steps", lines, "steps", "mAP@.5")


def _format_option(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
