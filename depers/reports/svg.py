"""The parts of a plot in SVG: view box, axes, legend and text, in the units of the view box.

They are `Markup`: what is put into them by `format` is escaped.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COLORS = ("#3b82c4", "#d9602b", "#2b9a69", "#9b6bd3", "#a97c0f", "#d1508f")
"""The series' colors, in order: each stands out (3:1, WCAG 2.2, 1.4.11) from the page's light and dark ground."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 4", "12 4")
WIDTH, HEIGHT = 480, 280  # of the view box; the page scales it
_LEFT, _RIGHT, _BOTTOM = 52, 14, 44  # margins around the axes
TITLE, _LEGEND, _UNIT, ROW = 26, 18, 14, 14  # heights of the title, a line of the legend, the unit, a bar
GLYPH = 6.6  # mean width of a letter at 12 px, on the wide side


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) in `low`…`high`."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough * 0.75), 10 * power)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


class Axes(NamedTuple):
    """Where numbers lie in the view box: `x` and `y` give its units; the plane is `_LEFT`…, `top`…`bottom`."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    top: float
    bottom: float
    log_x: bool

    @classmethod
    def of(
        cls,
        series: Mapping[str, object],
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        log_x: bool = False,
    ) -> "Axes":
        """Return the axes of a plot with the legend of `series`."""
        above = TITLE + legend_height(series) + _UNIT
        return cls(x_range, y_range, above, above + HEIGHT - TITLE - _UNIT - _BOTTOM, log_x)

    def x(self, value: float) -> float:
        """Return where a number of the horizontal axis lies."""
        low, high = (math.log(end) if self.log_x else end for end in self.x_range)
        position = math.log(value) if self.log_x else value
        return _LEFT + (position - low) / ((high - low) or 1) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return where a number of the vertical axis lies: upwards."""
        low, high = self.y_range
        return self.bottom - (value - low) / ((high - low) or 1) * (self.bottom - self.top)

    def frame(self, x_label: str, y_label: str) -> Markup:
        """Return grid lines with their numbers, and what the axes mean."""
        grid = Markup('<path d="M{} {:.1f}H{}" stroke="var(--line, #8886)" fill="none"/>')
        notch = Markup('<path d="M{:.1f} {:.1f}v4" stroke="currentColor" fill="none"/>')
        axis = Markup('<path d="M{} {:.1f}H{}" stroke="currentColor" fill="none"/>')
        parts, right = [], WIDTH - _RIGHT
        for value in ticks(*self.y_range):
            y = self.y(value)
            parts += [grid.format(_LEFT, y, right), label(_LEFT - 6, y + 4, number(value), "end")]
        for value in self._x_ticks():
            x = self.x(value)
            parts += [notch.format(x, self.bottom), label(x, self.bottom + 17, number(value), "middle")]
        parts.append(axis.format(_LEFT, self.bottom, right))
        parts.append(label((_LEFT + right) / 2, self.bottom + 36, x_label, "middle"))
        parts.append(label(4, self.top - 10, y_label, "start"))
        return Markup().join(parts)

    def _x_ticks(self) -> list[float]:
        low, high = self.x_range
        if not self.log_x:
            return ticks(low, high, 6)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            candidates = [factor * 10.0**power for power in powers for factor in factors]
            values = [value for value in candidates if low * 0.999 <= value <= high * 1.001]
            if len(values) >= 4:
                break
        return values if len(values) > 1 else ticks(low, high, 4)


def span(arrays: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the least and the largest finite number in `arrays`; a range around it where there is only one."""
    values = np.concatenate([*arrays, np.empty(0)])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def ink_and_dash(index: int) -> tuple[str, Markup]:
    """Return color and dash attribute of a series."""
    dash = _DASHES[index % len(_DASHES)]
    return COLORS[index % len(COLORS)], Markup(' stroke-dasharray="{}"').format(dash) if dash else Markup()


def _legend_places(series: Mapping[str, object]) -> list[tuple[float, int]]:
    """Return x and line of every name of the legend; none where a single series needs no telling apart."""
    places: list[tuple[float, int]] = []
    x, line = 4.0, 0
    for name in series if len(series) > 1 else ():
        width = 42 + GLYPH * len(shorten(name, 200))
        if x + width > WIDTH and x > 4:
            x, line = 4.0, line + 1
        places.append((x, line))
        x += width
    return places


def legend_height(series: Mapping[str, object]) -> int:
    """Return the height of the legend of `series`, with the gap below it."""
    places = _legend_places(series)
    return _LEGEND * (places[-1][1] + 1) + 8 if places else 12


def legend(series: Mapping[str, object], filled: bool) -> Markup:
    """Return the names of `series` beside their color, as an area or as a dashed line."""
    area = Markup('<rect x="{:.1f}" y="{}" width="18" height="10" rx="2" fill="{}"/>')
    stroke = Markup('<path d="M{:.1f} {}h18" stroke="{}" stroke-width="2" fill="none"{}/>')
    parts = []
    for index, (name, (x, line)) in enumerate(zip(series, _legend_places(series), strict=False)):
        ink, dash = ink_and_dash(index)
        y = TITLE + line * _LEGEND + 8
        parts.append(area.format(x, y - 5, ink) if filled else stroke.format(x, y, ink, dash))
        parts.append(label(x + 23, y + 4, shorten(name, 200), "start"))
    return Markup().join(parts)


def label(x: float, y: float, content: str, anchor: str, tip: str = "") -> Markup:
    """Return text at a place; `anchor` is `start`, `middle` or `end`; nothing for no text."""
    title = Markup("<title>{}</title>").format(tip) if tip else ""
    text = Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}{}</text>')
    return text.format(x, y, anchor, title, content) if content else Markup()


def hotspot(x: float, y: float, width: float, height: float, tip: str) -> Markup:
    """Return an invisible area with a tooltip."""
    area = '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="transparent"><title>{}</title></rect>'
    return Markup(area).format(x, y, width, height, tip)


def shorten(content: str, width: float) -> str:
    """Return text cut to about `width`."""
    room = max(2, round(width / GLYPH - 0.4))
    return content if len(content) <= room else content[: room - 1] + "…"


def number(value: float) -> str:
    """Return a number as people read it: whole ones with all digits, others with four significant ones."""
    value = float(value)
    return f"{value:.0f}" if abs(value - round(value)) < 1e-9 else f"{value:.4g}"


def document(title: str, content: Sequence[Markup], height: float) -> Markup:
    """Return the whole `<svg>`, `height` high."""
    style = "max-width:100%;height:auto;color:var(--ink, currentColor);font:12px system-ui,sans-serif"
    return Markup(
        '<svg role="img" aria-label="{name}" viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
        ' style="{style}" fill="currentColor">'
        '<text x="4" y="16" font-weight="600" font-size="14">{name}</text>{content}</svg>\n'
    ).format(name=title, width=WIDTH, height=height, style=style, content=Markup().join(content))
