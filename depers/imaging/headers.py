"""An image's header: its format, size, frames, orientation and color profile, before any pixel is decoded."""

import importlib
import io
import struct
import warnings
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.metadata import icc

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
MAX_MEGAPIXELS = 80
FRAME_PIXELS = 40_000
"""The least that a frame counts towards the limit: tens of thousands of one-pixel frames are a bomb too."""
_ORIENTATION = 0x0112
_ISO_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_SUBFILE_TYPE = 0x00FE

# Our own limit is checked on every header; Pillow's would only warn, as it does of oddities in metadata.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """Why an image cannot be processed, in one line."""


def open_header(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """The image's header, checked, its pixels not yet decoded. Raises ImageError.

    The limit holds for all frames together.
    """
    if not data:
        raise ImageError("the file is empty")
    if is_heif(data):
        learn_heif()
    if data[:3] == b"GIF" and (pixels := _gif_pixels(data)) > max_megapixels * 1e6:
        raise ImageError(
            f"must have at most {max_megapixels:g} megapixels, but its frames reach over {pixels / 1e6:.0f}"
        )
    try:
        image = Image.open(io.BytesIO(data))
        frames = int(getattr(image, "n_frames", 1))
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them raise
        if is_heif(data) and not find_spec("pillow_heif"):
            raise ImageError("HEIC needs the extra `heif`, which installs pillow-heif") from None
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise ImageError(f"not an image that can be identified ({reason})") from None
    if format_of(image) not in FORMATS:
        raise ImageError(f"format must be one of {', '.join(FORMATS)}, but is {image.format}")
    if image.width < 1 or image.height < 1:
        raise ImageError(f"must have pixels, but declares {image.width}x{image.height}")
    frames = 1 if format_of(image) == "JPEG" else frames
    pixels = image.width * image.height
    if (max(pixels, FRAME_PIXELS) * frames if frames > 1 else pixels) > max_megapixels * 1e6:
        size = f"{image.width}x{image.height}" + (f" in {frames} frames" if frames > 1 else "")
        raise ImageError(f"must have at most {max_megapixels:g} megapixels, but declares {size}")
    return image


def _gif_pixels(data: bytes) -> int:
    """The pixels of the rectangle that holds all frames of a GIF: counting them, Pillow already makes room for it."""
    width, height = struct.unpack_from("<HH", data.ljust(13, b"\0"), 6)
    position = 13 + (3 << ((data[10:11] or b"\0")[0] & 7) + 1 if (data[10:11] or b"\0")[0] & 128 else 0)
    while position < len(data) and data[position] != 0x3B:
        if data[position] == 0x2C and position + 10 < len(data):
            x, y, across, down, flags = struct.unpack_from("<HHHHB", data, position + 1)
            width, height = max(width, x + across), max(height, y + down)
            position = _past_blocks(data, position + 11 + (3 << (flags & 7) + 1 if flags & 128 else 0))
        elif data[position] == 0x21:
            position = _past_blocks(data, position + 2)
        else:
            position += 1  # Pillow goes on too
    return int(width) * int(height)


def _past_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += 1 + data[position]
    return position + 1


@lru_cache(maxsize=1)
def learn_heif() -> None:
    """Lets Pillow read and write HEIF where the extra `heif` is installed."""
    if find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)


def is_heif(data: bytes) -> bool:
    """Whether these are the first bytes of a HEIF file with HEVC images (ISO/IEC 23008-12)."""
    return data[4:8] == b"ftyp" and data[8:12] in _ISO_BRANDS


def format_of(image: Image.Image) -> str:
    """The format's name; a JPEG with further images behind it (MPO) is a JPEG, of which the first counts."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def pages(image: Image.Image) -> list[int]:
    """The indices of the frames that are images of their own: reduced copies and masks in a TIFF are not."""
    count = int(getattr(image, "n_frames", 1))
    if format_of(image) == "JPEG":
        return [0]
    if format_of(image) != "TIFF" or count == 1:
        return list(range(count))
    kept = []
    for index in range(count):
        image.seek(index)
        if index == 0 or not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 5:  # type: ignore[attr-defined]
            kept.append(index)
    image.seek(0)
    return kept


def frame_count(data: bytes) -> int:
    """How many frames or pages the file holds, from its headers alone. Raises ImageError."""
    image = open_header(data, float("inf"))
    try:
        return len(pages(image))
    except Exception as error:
        raise ImageError(f"has frames that cannot be counted ({type(error).__name__}: {error})") from None


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1…8; 1 where there is none, where it cannot be read or where the decoder applied it."""
    if image.format == "HEIF":
        return 1
    try:
        for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would look there too; viewers do not
            image.info.pop(name, None)
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: viewers ignore it too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Applies an EXIF orientation (TIFF 6.0, tag 274) to the pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def stored_boxes(boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int], orientation: int) -> NDArray[np.float32]:
    """Boxes of the upright image of `size_wh` as boxes of the pixels as they are stored: `upright` undone."""
    x0, y0, x1, y1 = boxes_xyxy.T
    width, height = size_wh
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1 = y0, x0, y1, x1
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)


def profile_of(image: Image.Image) -> bytes | None:
    """The color profile, without its texts, where it is one and belongs to pixels of this kind."""
    profile = image.info.get("icc_profile")
    return icc.sanitized(profile, image.mode) if profile else None
