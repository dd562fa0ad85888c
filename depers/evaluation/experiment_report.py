"""What an experiment's trainings say: means, spread, the difference with its interval, as table, plot and text."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from depers.reports import page, plots

REAL, SYNTHETIC = "real", "real+synthetic"
ARMS = (REAL, SYNTHETIC)
_CERTAINTY = 0.95


class TrainingResult(NamedTuple):
    """One training: real images, seed, arm, synthetic images, the figures of its last validation, and its time."""

    size: int
    seed: int
    arm: str
    synthetic: int
    map50: float
    map50_95: float
    seconds: float


class FigureComparison(NamedTuple):
    """One figure at one size: mean and standard deviation over seeds of each arm, and of the difference.

    `low` and `high` bound the difference's mean with 95 % certainty (Student's t over the pairs of one seed);
    deviations and interval are NaN for a single seed.
    """

    real: float
    real_sd: float
    synthetic: float
    synthetic_sd: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if math.isnan(self.low):
            return "one seed says nothing"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"


class SizeComparison(NamedTuple):
    """One training-set size with the seeds that both arms have."""

    size: int
    synthetic: int
    seeds: int
    map50: FigureComparison
    map50_95: FigureComparison

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON; what there is not is null."""
        figures = {name: _numbers(getattr(self, name)) for name in ("map50", "map50_95")}
        return {"real_images": self.size, "synthetic_images": self.synthetic, "seeds": self.seeds, **figures}


def _numbers(figure: FigureComparison) -> dict[str, Any]:
    values = {name: None if math.isnan(value) else value for name, value in figure._asdict().items()}
    return {**values, "verdict": figure.verdict}


def compare_pairs(real: Sequence[float], synthetic: Sequence[float]) -> FigureComparison:
    """Compare two arms seed by seed, which takes out what the seeds have in common."""
    from scipy.stats import t

    first, second = np.asarray(real, np.float64), np.asarray(synthetic, np.float64)
    differences, count = second - first, len(first)
    mean = float(differences.mean())
    deviations, half = [math.nan] * 3, math.nan
    if count > 1:
        deviations = [float(values.std(ddof=1)) for values in (first, second, differences)]
        half = float(t.ppf((1 + _CERTAINTY) / 2, count - 1)) * deviations[2] / math.sqrt(count)
    return FigureComparison(
        float(first.mean()), deviations[0], float(second.mean()), deviations[1], mean, mean - half, mean + half
    )


def compare(results: Sequence[TrainingResult]) -> list[SizeComparison]:
    """Return a row per size, of the seeds that both arms have."""
    by_key = {(result.size, result.seed, result.arm): result for result in results}
    rows = []
    for size in sorted({result.size for result in results}):
        seeds = sorted({result.seed for result in results if result.size == size})
        pairs = [tuple(by_key.get((size, seed, arm)) for arm in ARMS) for seed in seeds]
        whole = [(real, synthetic) for real, synthetic in pairs if real is not None and synthetic is not None]
        if whole:
            arms = list(zip(*whole, strict=True))
            figures = [
                compare_pairs(*([getattr(result, name) for result in arm] for arm in arms))
                for name in ("map50", "map50_95")
            ]
            rows.append(SizeComparison(size, arms[1][0].synthetic, len(whole), *figures))
    return rows


def format_csv(results: Sequence[TrainingResult]) -> str:
    """Return all trainings as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(TrainingResult._fields)
    writer.writerows([f"{value:.6g}" if isinstance(value, float) else value for value in result] for result in results)
    return text.getvalue()


def _cells(row: SizeComparison, figure: FigureComparison) -> tuple[str, ...]:
    if math.isnan(figure.low):
        return (f"{figure.real:.3f}", f"{figure.synthetic:.3f}", f"{figure.difference:+.3f}", "–", figure.verdict)
    interval = f"{figure.low:+.3f} … {figure.high:+.3f}"
    real, synthetic = f"{figure.real:.3f} ± {figure.real_sd:.3f}", f"{figure.synthetic:.3f} ± {figure.synthetic_sd:.3f}"
    return (real, synthetic, f"{figure.difference:+.3f}", interval, figure.verdict)


_HEADS = ("Real", "Synthetic", "Seeds", "Real only", "Real + synthetic", "Difference", "95 % interval", "Verdict")


def format_table(rows: Sequence[SizeComparison]) -> str:
    """Return the mAP@.5 table for the terminal: mean ± standard deviation over seeds."""
    lines = [_HEADS] + [(str(row.size), str(row.synthetic), str(row.seeds), *_cells(row, row.map50)) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    text = "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)
    return f"mAP@.5 of the last validation\n{text}"


def make_report(results: Sequence[TrainingResult], rows: Sequence[SizeComparison], options: Mapping[str, Any]) -> str:
    """Return the page: plot and table for each figure, every training, the options."""
    sections = []
    for title, name in (("mAP@.5", "map50"), ("mAP@.5:.95", "map50_95")):
        figures = [getattr(row, name) for row in rows]
        table = page.table(
            _HEADS,
            [(row.size, row.synthetic, row.seeds, *_cells(row, f)) for row, f in zip(rows, figures, strict=True)],
        )
        sizes = [row.size for row in rows]
        means = {REAL: [f.real for f in figures], SYNTHETIC: [f.synthetic for f in figures]}
        lines = {arm: (sizes, means[arm]) for arm in ARMS}
        for arm in ARMS:
            dots = [result for result in results if result.arm == arm]
            for seed in sorted({dot.seed for dot in dots}):
                of_seed = [dot for dot in dots if dot.seed == seed]
                lines[f"{arm}, seed {seed}"] = ([dot.size for dot in of_seed], [getattr(dot, name) for dot in of_seed])
        differences = {
            "difference": (sizes, [f.difference for f in figures]),
            "low": (sizes, [f.low for f in figures]),
            "high": (sizes, [f.high for f in figures]),
        }
        gallery = page.gallery(
            [
                plots.lines(f"{title}, mean and single seeds", lines, "real training images", title),
                plots.lines("difference and its 95 % interval", differences, "real training images", title),
            ]
        )
        sections.append((title, gallery + table))
    note = "Mean ± standard deviation over seeds. The interval is Student's t over the differences seed by seed."
    sections.append(("How to read it", page.paragraph(note)))
    sections.append(("Every training", page.table(TrainingResult._fields, results)))
    option_rows = [(name, _format_option(value)) for name, value in options.items()]
    sections.append(("Options", page.table(("option", "value"), option_rows)))
    lead = "Real images alone against the same with synthetic ones made of them: same steps, start and validation."
    return page.render("Does synthesis help?", lead, sections)


def _format_option(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
