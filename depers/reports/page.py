"""Reports for people: one self-contained HTML page of tables, images and plots.

Pages hold their images as data URIs, run no scripts and carry no dates: the same results give the same bytes. What
these functions give is `Markup`; whatever else is put into them, or into a page, is text and is escaped. They are
called as what they give.
"""

import base64
from collections.abc import Sequence

import jinja2
import numpy as np
import simplejpeg
from markupsafe import Markup
from numpy.typing import NDArray

from depers.reports.drawing import fit

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("depers.reports", ""),
    autoescape=True,
    trim_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)


def image(rgb: NDArray[np.uint8], caption: str = "", max_side: int = 960) -> Markup:
    """Return an image (uint8 RGB) as a figure with the JPEG inside, its longer side at most `max_side` pixels."""
    reduced = np.ascontiguousarray(fit(rgb, (max_side, max_side)))
    height, width = reduced.shape[:2]
    data = base64.b64encode(simplejpeg.encode_jpeg(reduced, quality=85, colorspace="RGB")).decode()
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    return Markup('<figure><img src="data:image/jpeg;base64,{}" width="{}" height="{}" alt="{}">{}</figure>\n').format(
        data, width, height, caption, below
    )


def gallery(figures: Sequence[Markup]) -> Markup:
    """Return images or plots in a grid that fits the window."""
    return Markup('<div class="gallery">\n{}</div>\n').format(Markup().join(figures))


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """Return a table; numbers and their headings are on the right. Raise ValueError for a row of another length."""
    columns = zip(*rows, strict=True) if rows else [("",)] * len(header)
    heads = list(zip(header, (all(map(_is_number, column)) for column in columns), strict=True))
    cells = [[(_format_cell(value), _is_number(value)) for value in row] for row in rows]
    return Markup(_TEMPLATES.get_template("table.html.j2").render(header=heads, rows=cells))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _format_cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (float, np.floating)) else str(value)


def paragraph(content: str) -> Markup:
    """Return plain text as a paragraph."""
    return Markup("<p>{}</p>\n").format(content)


def render(title: str, lead: str, sections: Sequence[tuple[str, Markup]]) -> str:
    """Return a whole HTML page; a section is its heading and what the functions of this room give.

    File names that are not UTF-8 keep what can be shown: the page can be encoded as UTF-8.
    """
    content = _TEMPLATES.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)
    return content.encode("utf-8", "replace").decode()
