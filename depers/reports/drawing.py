"""Drawing for reports: boxes on images, contact sheets, and the colors of classes."""

import hashlib
from collections.abc import Sequence

import numpy as np
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
_CLASS_INDICES = {"car": 0, "head": 4, "face": 1, "human": 2, "carplate": 3}


def color(name: str) -> RGB:
    """Return the color of a class, the same in every report."""
    index = _CLASS_INDICES[name] if name in _CLASS_INDICES else hashlib.sha256(name.encode()).digest()[0]
    return _PALETTE[index % len(_PALETTE)]


def fit(image: NDArray[np.uint8], wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return `image` (H, W, 3) reduced, never enlarged, to lie within `wh` pixels, its proportions kept."""
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
    """Return images (uint8 RGB (H, W, 3), any sizes) side by side in rows, captions below them; uint8 RGB.

    Raise ValueError where there is no image, no column, or not one caption per image.
    """
    if not images or columns < 1:
        raise ValueError(f"a contact sheet must have images and columns, but got {len(images)} in {columns}")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions must be one per image, but got {len(captions)} for {len(images)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step_x, step_y = cell_wh[0] + _GAP, cell_wh[1] + _GAP + (_CAPTION if captions is not None else 0)
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), _GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, image in enumerate(images):
        x, y = _GAP + index % columns * step_x, _GAP + index // columns * step_y
        small = fit(image, cell_wh)
        offset = (cell_wh[0] - small.shape[1]) // 2, (cell_wh[1] - small.shape[0]) // 2
        sheet.paste(Image.fromarray(small), (x + offset[0], y + offset[1]))
        if captions is not None:
            text = _shorten(captions[index], cell_wh[0], font)
            draw.text((x + cell_wh[0] / 2, y + cell_wh[1] + _CAPTION / 2), text, _INK, font, anchor="mm")
    return np.asarray(sheet)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return `text` on one line of at most `width` pixels, cut in the middle: the end of a file name tells it apart."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    short, keep = text, len(text)
    while keep > 0 and font.getlength(short) > width:
        keep -= 1
        short = text[: (keep + 1) // 2] + "…" + text[len(text) - keep // 2 :]
    return short


def draw_boxes(
    image: NDArray[np.uint8], boxes_xyxy: ArrayLike, texts: Sequence[str], colors: Sequence[RGB]
) -> NDArray[np.uint8]:
    """Return a copy of `image` (uint8 RGB), every box (N, 4) in pixels outlined in its color, its text on top of it.

    Raise ValueError where boxes, texts and colors do not number the same.
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    longer = max(image.shape[:2])
    line, font = max(1, round(longer / 400)), ImageFont.load_default(max(10, round(longer / 55)))
    for box, text, ink in zip(boxes, texts, colors, strict=True):
        low = np.clip(np.floor(box[:2]), 0, (canvas.width - 1, canvas.height - 1))
        high = np.clip(np.ceil(box[2:]) - 1, low, (canvas.width - 1, canvas.height - 1))
        draw.rectangle((*low, *high), outline=ink, width=line)
        if text:
            text_x, text_y, right, bottom = draw.textbbox((0, 0), text, font)
            width, height = right - text_x + 4, bottom - text_y + 4
            x = max(0, min(low[0], canvas.width - width))
            y = low[1] - height if low[1] >= height else low[1]
            draw.rectangle((x, y, x + width, y + height), fill=ink)
            draw.text((x + 2 - text_x, y + 2 - text_y), text, "white", font)
    return np.asarray(canvas)
