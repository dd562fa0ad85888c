"""Reports for people: contact sheets, drawn boxes, and one self-contained HTML page.

Pages hold their images as data URIs, run no scripts and carry no dates: the same results give the same bytes.
"""

import base64
import html
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from depers.reports.drawing import fit


def image(rgb: NDArray[np.uint8], caption: str = "", max_side: int = 960) -> str:
    """An image (uint8 RGB) as an HTML figure with the JPEG inside, its longer side at most `max_side` pixels."""
    small = np.ascontiguousarray(fit(rgb, (max_side, max_side)))
    height, width = small.shape[:2]
    data = base64.b64encode(simplejpeg.encode_jpeg(small, quality=85, colorspace="RGB")).decode()
    below = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    source = f'src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
    return f'<figure><img {source} alt="{_escape(caption)}">{below}</figure>\n'


def gallery(images: Sequence[str]) -> str:
    """Figures made by `image` in a grid that fits the window."""
    return f'<div class="gallery">\n{"".join(images)}</div>\n'


_NUMBER = ' class="number"'


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; numbers and their headings are on the right. Raises ValueError for a row of another length."""
    columns = zip(*rows, strict=True) if rows else [("",)] * len(header)
    heads = zip(header, (all(map(_is_number, column)) for column in columns), strict=True)
    head = "".join(f'<th scope="col"{_NUMBER if right else ""}>{_escape(name)}</th>' for name, right in heads)
    body = []
    for row in rows:
        cells = [_cell(value) for _, value in zip(header, row, strict=True)]
        body.append(f"<tr>{''.join(cells)}</tr>\n")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(body)}</tbody></table></div>\n'


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if not _is_number(value):
        return f"<td>{_escape(str(value))}</td>"
    return f"<td{_NUMBER}>{f'{value:.3f}' if isinstance(value, (float, np.floating)) else value}</td>"


def paragraph(content: str) -> str:
    """Plain text as an HTML paragraph."""
    return f"<p>{_escape(content)}</p>\n"


def page(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole HTML page: title and lead are plain text, a section is (plain heading, HTML made by this module)."""
    parts = [f"<section>\n<h2>{_escape(heading)}</h2>\n{content}</section>\n" for heading, content in sections]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header><h1>{_escape(title)}</h1>\n<p class="lead">{_escape(lead)}</p></header>\n'
        f"{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _escape(content: str) -> str:
    """Safe in text and in quoted attributes; file names that are not UTF-8 keep what can be shown."""
    return html.escape(content.encode("utf-8", "replace").decode(), quote=True)


_STYLE = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #20262e; --soft: #5d6875; --line: #dfe3e8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --card: #1c2127; --ink: #e6e9ed; --soft: #9aa5b1; --line: #313840; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
.lead { color: var(--soft); margin: 0; max-width: 70ch; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.2rem; }
section { margin-top: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .7rem; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
.wide + .gallery { margin-top: 1rem; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; border-radius: 8px; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .35rem; overflow-wrap: anywhere; }
"""
