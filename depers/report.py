"""Reports for people: contact sheets, drawn boxes, and one self-contained HTML page.

Pages hold their pictures as data URIs, run no scripts and carry no dates: the same results give the same bytes.
"""

import base64
import hashlib
import html
from collections.abc import Sequence

import numpy as np
import simplejpeg
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]

_GAP = 8  # pixels around the cells of a contact sheet
_CAPTION = 22  # pixels for one line of text
_GROUND: RGB = (246, 247, 249)
_INK: RGB = (32, 38, 46)
_PALETTE: tuple[RGB, ...] = (
    (31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14),
    (23, 150, 160), (227, 119, 194), (140, 86, 75), (120, 130, 20), (90, 90, 200),
)  # fmt: skip
_KNOWN = {"car": 0, "head": 4, "face": 1, "human": 2, "carplate": 3}


def colour(name: str) -> RGB:
    """The colour of a class, the same in every report."""
    known = _KNOWN.get(name)
    index = known if known is not None else hashlib.sha256(name.encode()).digest()[0]
    return _PALETTE[index % len(_PALETTE)]


def fit(image: NDArray[np.uint8], wh: tuple[int, int]) -> NDArray[np.uint8]:
    """`image` (H, W, 3) reduced, never enlarged, to lie within `wh` pixels, its proportions kept."""
    height, width = image.shape[:2]
    scale = min(1.0, wh[0] / width, wh[1] / height)
    if scale == 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str] | None = None,
    columns: int = 4,
    cell_wh: tuple[int, int] = (320, 240),
) -> NDArray[np.uint8]:
    """Pictures (uint8 RGB (H, W, 3), any sizes) side by side in rows, each with its caption below; uint8 RGB.

    Raises ValueError where there is no picture, no column, or not one caption per picture.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet must have pictures and columns, but got {len(images)} in {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must be one per picture, but got {len(captions)} for {len(images)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = cell_wh[0] + _GAP, cell_wh[1] + _GAP + (_CAPTION if captions is not None else 0)
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), _GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, image in enumerate(images):
        left, top = _GAP + index % columns * step_x, _GAP + index // columns * step_y
        small = fit(image, cell_wh)
        offset = (cell_wh[0] - small.shape[1]) // 2, (cell_wh[1] - small.shape[0]) // 2
        sheet.paste(Image.fromarray(small), (left + offset[0], top + offset[1]))
        if captions is not None:
            text = _shorten(captions[index], cell_wh[0], font)
            draw.text((left + cell_wh[0] / 2, top + cell_wh[1] + _CAPTION / 2), text, _INK, font, anchor="mm")
    return np.asarray(sheet)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """`text` on one line, cut in the middle (the end of a file name tells it apart) to at most `width` pixels."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    short, keep = text, len(text)
    while keep > 0 and font.getlength(short) > width:
        keep -= 1
        short = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
    return short


def draw_boxes(
    image: NDArray[np.uint8], boxes_xyxy: ArrayLike, texts: Sequence[str], colours: Sequence[RGB]
) -> NDArray[np.uint8]:
    """A copy of `image` (uint8 RGB) with every box (N, 4) in pixels outlined in its colour, its text on top of it.

    Raises ValueError where boxes, texts and colours do not number the same.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    longer = max(image.shape[:2])
    line, font = max(1, round(longer / 400)), ImageFont.load_default(max(10, round(longer / 55)))
    for box, text, ink in zip(boxes, texts, colours, strict=True):
        low = np.clip(np.floor(box[:2]), 0, (picture.width - 1, picture.height - 1))
        high = np.clip(np.ceil(box[2:]) - 1, low, (picture.width - 1, picture.height - 1))
        draw.rectangle((*low, *high), outline=ink, width=line)
        if text:
            left, top, right, bottom = draw.textbbox((0, 0), text, font)
            width, height = right - left + 4, bottom - top + 4
            x = max(0, min(low[0], picture.width - width))
            y = low[1] - height if low[1] >= height else low[1]
            draw.rectangle((x, y, x + width, y + height), fill=ink)
            draw.text((x + 2 - left, y + 2 - top), text, "white", font)
    return np.asarray(picture)


def picture(rgb: NDArray[np.uint8], caption: str = "", max_side: int = 960) -> str:
    """A picture (uint8 RGB) as an HTML figure with the JPEG inside, its longer side at most `max_side` pixels."""
    small = np.ascontiguousarray(fit(rgb, (max_side, max_side)))
    height, width = small.shape[:2]
    data = base64.b64encode(simplejpeg.encode_jpeg(small, quality=85, colorspace="RGB")).decode()
    below = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    source = f'src="data:image/jpeg;base64,{data}" width="{width}" height="{height}"'
    return f'<figure><img {source} alt="{_escape(caption)}">{below}</figure>\n'


def gallery(pictures: Sequence[str]) -> str:
    """Figures made by `picture` in a grid that fits the window."""
    return f'<div class="gallery">\n{"".join(pictures)}</div>\n'


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
