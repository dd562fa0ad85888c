"""Plots: well-formed, self-contained SVG whose marks stand where the numbers say, readable on both grounds."""

import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.reports.page import render
from depers.reports.plots import bars, bin_edges, histogram, histogram_of_counts, lines
from depers.reports.svg import COLORS, ticks

finite = st.floats(-1e9, 1e9, allow_subnormal=False)


def marks(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(tag))


def tips(svg: str) -> list[str]:
    return [element.text or "" for element in marks(svg, "title")]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in marks(svg, "text")]


def heights(path: str) -> list[float]:
    return [float(value) for value in re.findall(r"V([-\d.]+)H", path)]


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars("Boxes", ["car", "head"], {"real": [10, 0], "synthetic": [40, 20]})
    drawn = [element for element in marks(svg, "rect") if element.find("title") is not None]
    widths = [float(element.get("width", "nan")) for element in drawn]
    assert widths == pytest.approx([widths[1] / 4, widths[1], 0, widths[1] / 2], abs=0.1)
    assert tips(svg) == ["car, real: 10", "car, synthetic: 40", "head, real: 0", "head, synthetic: 20"]
    assert {"Boxes", "car", "head", "real", "synthetic", "40"} <= set(texts(svg))
    assert [element.get("fill") for element in drawn] == [COLORS[0], COLORS[1]] * 2


def test_a_single_series_has_no_legend() -> None:
    assert "real" not in texts(bars("Boxes", ["car"], {"real": [1]}))
    assert tips(bars("Boxes", ["car"], {"": [1.5]})) == ["car: 1.5"]


@pytest.mark.parametrize("values", [[1], [1, -1], [1, math.nan], [1, math.inf]])
def test_bars_refuse(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values of 'real' must be 2 finite numbers"):
        bars("Boxes", ["car", "head"], {"real": values})


def test_histogram_counts_over_common_bins() -> None:
    svg = histogram("Objects", {"real": [1, 1, 2], "synthetic": [3, 3, 3, 3, math.nan]}, "objects")
    assert tips(svg) == [
        "0.5 – 1.5: real 2, synthetic 0",
        "1.5 – 2.5: real 1, synthetic 0",
        "2.5 – 3.5: real 0, synthetic 4",
    ]
    real, synthetic = (heights(path.get("d", "")) for path in marks(svg, "path") if path.get("fill-opacity"))
    base = real[2]
    assert base - np.array(real) == pytest.approx((base - synthetic[2]) * np.array([0.5, 0.25, 0]), abs=0.2)
    assert tips(histogram("Objects", {"real": [1, 1, 2, 3]}, share=True))[0] == "0.5 – 1.5: real 50%"


def test_histogram_by_factors() -> None:
    svg = histogram("Sizes", {"": [0, -1, 1, 10, 100, 1000]}, "pixels", 3, log=True)
    assert tips(svg) == ["1 – 10: 1", "10 – 100: 1", "100 – 1000: 2"]
    assert {"1", "10", "100", "1000"} <= set(texts(svg))


def test_histogram_of_counts_wants_a_count_per_bin() -> None:
    assert tips(histogram_of_counts("x", [0, 1, 3], {"a": [5, 0]})) == ["0 – 1: a 5", "1 – 3: a 0"]
    with pytest.raises(ValueError, match=r"counts of 'a' must be one per bin, 2, but got shape \(3,\)"):
        histogram_of_counts("x", [0, 1, 3], {"a": [5, 0, 1]})


def test_lines_go_through_their_points_and_break_at_what_is_not_finite() -> None:
    svg = lines("Loss", {"train": ([0, 1, 2, 3], [1, math.nan, 0, 0.5]), "val": ([0, 3], [0, 1])}, "epoch", "loss")
    train, val = (path for path in marks(svg, "path") if path.get("stroke-linejoin"))
    assert re.findall("[ML]", train.get("d", "")) == ["M", "M", "L"]
    points = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", val.get("d", "")), float)
    low, high = points  # the two ends of the plane
    middle = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", train.get("d", "")), float)[2]
    assert middle == pytest.approx([high[0], (low[1] + high[1]) / 2], abs=0.1)
    assert train.get("stroke-dasharray") is None and val.get("stroke-dasharray")
    assert "train: 3, 0.5" in tips(svg)
    with pytest.raises(ValueError, match="'a' must have as many xs as ys, but got 2 and 1"):
        lines("x", {"a": ([1, 2], [1])})


@settings(max_examples=60, deadline=None)
@given(
    st.text(),
    st.lists(st.tuples(st.text(max_size=30), st.integers(0, 10**9)), max_size=5),
    st.lists(st.one_of(finite, st.just(math.nan)), max_size=20),
    st.booleans(),
)
def test_every_plot_is_well_formed_whatever_it_shows(
    name: str, rows: Sequence[tuple[str, int]], values: list[float], log: bool
) -> None:
    name = "".join(c for c in name if c.isprintable())
    rows = [("".join(c for c in label if c.isprintable()), count) for label, count in rows]
    plots = [
        bars(name, [label for label, _ in rows], {name: [count for _, count in rows], "b": [0] * len(rows)}),
        histogram(name, {name: values, f"{name}b": []}, name, log=log),
        lines(name, {name: (range(len(values)), values)}, name, name),
    ]
    for svg in plots:
        root = ElementTree.fromstring(svg)
        assert (root.get("role"), root.get("aria-label")) == ("img", name)
        assert not re.search(
            r"\bnan\b|\binf\b|http|url\(|<script|\bid=", re.sub(r">[^<]*<|aria-label=\"[^\"]*\"", "", svg)
        )


def test_hostile_names_stay_text() -> None:
    plot = bars('<script>"&', ['"><script>', "caf\udce9"], {"<b>": [1, 2], "c": [1, 2]})
    svg = re.findall("<svg.*</svg>", render("", "", [("", plot)]))[0]
    assert not marks(svg, "script") and not marks(svg, "b")
    assert "<b>" in texts(svg) and "caf?" in texts(svg)


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two colors (WCAG 2.2, relative luminance)."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("ground", ["#ffffff", "#1c2127"])
def test_colors_stand_out_on_both_grounds(color: str, ground: str) -> None:
    assert contrast(color, ground) >= 3


@given(st.lists(st.integers(-1000, 1000), max_size=50), st.integers(1, 30))
def test_bin_edges_hold_all_values(values: list[int], bins: int) -> None:
    edges = bin_edges(np.array(values, float), bins)
    assert 2 <= len(edges) <= bins + 1
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == len(values)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        bin_edges(np.array(values, float), 0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 40, [0, 10, 20, 30, 40]),
        (3, 9, [3, 4, 5, 6, 7, 8, 9]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (5, 5, [5]),
    ],
)
def test_ticks(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
