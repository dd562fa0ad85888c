"""Plots as inline SVG: bars, histograms and lines for the pages of `page`.

Every function gives one `<svg>`: plain functions of their numbers, no ids, no scripts, nothing loaded. Ink
follows the page's theme (`currentColor` and the page's own variables), series are told apart by dashes as well as by
color, a title says what a screen reader or a pointer finds, and the exact numbers lie in the tooltips. Several plots
side by side: `page.gallery([bars(…), histogram(…)])`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from depers.reports import svg


def bars(title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> Markup:
    """Draw horizontal bars, one group per label with a bar for each series, its value at the end.

    A single series needs no legend, so its name may be "". Raise ValueError unless every series has one finite value
    of at least 0 per label.
    """
    for name, values in series.items():
        if len(values) != len(labels) or not all(value >= 0 and math.isfinite(value) for value in values):
            raise ValueError(f"values of {name!r} must be {len(labels)} finite numbers from 0, but got {list(values)}")
    margin = min(200.0, 14 + svg.GLYPH * max((len(label) for label in labels), default=0))
    top = svg.TITLE + svg.legend_height(series)
    largest = max((value for values in series.values() for value in values), default=0) or 1
    room = svg.WIDTH - margin - 70  # the longest bar's value stands to its right
    bar = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{}" rx="2" fill="{}"><title>{}</title></rect>')
    parts, group = [], svg.ROW * max(1, len(series)) + 8
    for row, label in enumerate(labels):
        y = top + row * group
        short = svg.shorten(label, margin - 14)
        parts.append(svg.label(margin - 6, y + (group - 8) / 2 + 4, short, "end", "" if short == label else label))
        for index, (name, values) in enumerate(series.items()):
            width, value = values[row] / largest * room, svg.number(values[row])
            tip = f"{label}, {name}: {value}" if name else f"{label}: {value}"
            ink = svg.ink_and_dash(index)[0]
            parts.append(bar.format(margin, y + index * svg.ROW, width, svg.ROW - 3, ink, tip))
            parts.append(svg.label(margin + width + 5, y + index * svg.ROW + 10, value, "start"))
    parts.append(svg.legend(series, filled=True))
    return svg.document(title, parts, top + len(labels) * group + 4)


def histogram(
    title: str,
    series: Mapping[str, ArrayLike],
    x_label: str = "",
    bins: int = 24,
    *,
    log: bool = False,
    share: bool = False,
) -> Markup:
    """Draw how the numbers of each series (N,) are distributed over the same bins; only finite ones count.

    `log`: bins and axis grow by a factor (numbers of 0 and below are left out). `share`: per cent of each series'
    numbers instead of counts, so that series of different lengths compare.
    """
    numbers = {name: np.asarray(values, np.float64).ravel() for name, values in series.items()}
    finite = {name: values[np.isfinite(values) & ((values > 0) | (not log))] for name, values in numbers.items()}
    edges = bin_edges(np.concatenate([*finite.values(), np.empty(0)]), bins, log)
    counts = {name: np.histogram(values, edges)[0] for name, values in finite.items()}
    return histogram_of_counts(title, edges, counts, x_label, log=log, share=share)


def histogram_of_counts(
    title: str,
    edges: ArrayLike,
    counts: Mapping[str, ArrayLike],
    x_label: str = "",
    *,
    log: bool = False,
    share: bool = False,
) -> Markup:
    """Draw a histogram of numbers that are counted already: `counts` (B,) of each series between `edges` (B + 1,)."""
    bounds = np.asarray(edges, np.float64)
    heights = {name: np.asarray(values, np.float64) for name, values in counts.items()}
    for name, values in heights.items():
        if values.shape != (len(bounds) - 1,):
            raise ValueError(f"counts of {name!r} must be one per bin, {len(bounds) - 1}, but got shape {values.shape}")
    totals = {name: values.sum() for name, values in heights.items()}
    if share:
        heights = {name: values * 100 / (totals[name] or 1) for name, values in heights.items()}
    top = max((values.max(initial=0) for values in heights.values()), default=0) or 1
    axes = svg.Axes.of(counts, (bounds[0], bounds[-1]), (0, top), log_x=log)
    xs, parts = [axes.x(edge) for edge in bounds], [axes.frame(x_label, "%" if share else "")]
    area = Markup('<path d="{}" fill="{}" fill-opacity="{}" stroke="{}" stroke-width="1.5"{}/>')
    opacity = 0.3 if len(heights) <= 3 else 0.1  # many areas over each other hide their outlines
    for index, values in enumerate(heights.values()):
        ys = [axes.y(value) for value in values]
        steps = "".join(f"V{y:.1f}H{x:.1f}" for y, x in zip(ys, xs[1:], strict=True))
        ink, dash = svg.ink_and_dash(index)
        path = f"M{xs[0]:.1f} {axes.y(0):.1f}{steps}V{axes.y(0):.1f}"
        parts.append(area.format(path, ink, opacity, ink, dash))
    for index in range(len(bounds) - 1):
        amounts = ", ".join(
            f"{name} {svg.number(values[index])}{'%' if share else ''}".strip() for name, values in heights.items()
        )
        tip = f"{svg.number(bounds[index])} – {svg.number(bounds[index + 1])}: {amounts}"
        parts.append(svg.hotspot(xs[index], axes.top, xs[index + 1] - xs[index], axes.bottom - axes.top, tip))
    parts.append(svg.legend(counts, filled=True))
    return svg.document(title, parts, svg.HEIGHT + svg.legend_height(counts))


def lines(
    title: str,
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    x_label: str = "",
    y_label: str = "",
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """Draw a line through the points `(xs (N,), ys (N,))` of each series; points that are not finite interrupt it.

    Raise ValueError where a series has not as many xs as ys.
    """
    points = {
        name: (np.asarray(xs, np.float64).ravel(), np.asarray(ys, np.float64).ravel())
        for name, (xs, ys) in series.items()
    }
    for name, (xs, ys) in points.items():
        if len(xs) != len(ys):
            raise ValueError(f"{name!r} must have as many xs as ys, but got {len(xs)} and {len(ys)}")
    x_low, x_high = x_range or svg.span([xs for xs, _ in points.values()])
    y_low, y_high = y_range or svg.span([ys for _, ys in points.values()])
    axes = svg.Axes.of(series, (x_low, x_high), (y_low, y_high))
    curve = Markup('<path d="{}" fill="none" stroke="{}" stroke-width="2" stroke-linejoin="round"{}/>')
    dot = Markup('<circle cx="{:.1f}" cy="{:.1f}" r="2.2" fill="{}"><title>{}</title></circle>')
    parts = [axes.frame(x_label, y_label)]
    for index, (name, (xs, ys)) in enumerate(points.items()):
        ink, dash = svg.ink_and_dash(index)
        path, pen_down = "", False
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            visible = math.isfinite(x) and math.isfinite(y)
            if visible:
                path += f"{'L' if pen_down else 'M'}{axes.x(x):.1f} {axes.y(y):.1f}"
            pen_down = visible
        parts.append(curve.format(path, ink, dash))
        every = max(1, len(xs) // 64)  # tooltips, also where the line is only a dot
        for x, y in zip(xs[::every].tolist(), ys[::every].tolist(), strict=True):
            if math.isfinite(x) and math.isfinite(y):
                tip = f"{name}: {svg.number(x)}, {svg.number(y)}" if name else f"{svg.number(x)}, {svg.number(y)}"
                parts.append(dot.format(axes.x(x), axes.y(y), ink, tip))
    parts.append(svg.legend(series, filled=False))
    return svg.document(title, parts, svg.HEIGHT + svg.legend_height(series))


def bin_edges(values: NDArray[np.float64], bins: int, log: bool = False) -> NDArray[np.float64]:
    """Return edges (B + 1,) of at most `bins` equal bins (by factor if `log`) over finite `values`.

    Whole values get whole bins. Raise ValueError for less than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but got {bins}")
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 2.0)
    if log:
        return np.geomspace(low, high if high > low else low * 2, bins + 1)
    if high - low >= 1 and np.array_equal(values, np.round(values)):
        step = math.ceil((high - low + 1) / bins)
        return np.asarray(low - 0.5 + step * np.arange(math.ceil((high - low + 1) / step) + 1), np.float64)
    return np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, 2)
