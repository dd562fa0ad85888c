"""Images of 16 bits per color channel, which Pillow would cut to 8: read by OpenCV, written by it and tifffile."""

import io
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from depers.imaging.formats import png, tiff
from depers.imaging.headers import ImageError

_PHOTOMETRIC = {"L": "minisblack", "LA": "minisblack", "I;16": "minisblack", "CMYK": "separated"}

_RARE = 0.001  # the share of an image's values at either end that its range leaves out
_SAMPLE = 1_000_000  # pixels that are enough to find the range


class Page(NamedTuple):
    """Pixels (H, W) or (H, W, C) in Pillow's channel order, their mode and the color profile."""

    pixels: NDArray[Any]
    mode: str
    icc_profile: bytes | None


def find_range(values: NDArray[np.uint16]) -> tuple[int, int]:
    """Return the least and the greatest value that are not rare, of one in a thousand each: hot pixels do not count."""
    counts = np.bincount(values.ravel(), minlength=1).cumsum()
    low, high = np.searchsorted(counts, (counts[-1] * _RARE, counts[-1] * (1 - _RARE)), side="right")
    return int(low), int(min(high, len(counts) - 1))


def stretch(pixels: NDArray[np.uint16], mode: str) -> NDArray[np.uint8]:
    """Return the pixels (H, W) or (H, W, C) in 8 bits, their range stretched over all of them.

    Sensors give 10, 12 or 14 bits: of the highest 8 of 16, nothing would be left to see. Opacity is not stretched.
    """
    colors = pixels[..., :3] if mode == "RGBA;16" else pixels
    step = max(1, math.isqrt(pixels.shape[0] * pixels.shape[1] // _SAMPLE))
    low, high = find_range(colors[::step, ::step])
    if low == high:
        return (pixels >> 8).astype(np.uint8)
    levels = (np.arange(1 << 16, dtype=np.float32) - low) * np.float32(255 / (high - low))
    stretched = np.clip(np.round(levels), 0, 255).astype(np.uint8)[pixels]
    if mode == "RGBA;16":
        stretched[..., 3] = pixels[..., 3] >> 8
    return stretched


def has_sixteen_bit_channels(data: bytes, image: Any) -> bool:
    """Return whether the frame that `image` stands at has 16 bits per color channel."""
    if image.format == "PNG":
        return png.has_sixteen_bit_channels(data)
    return image.format == "TIFF" and tiff.has_sixteen_bit_channels(image)


def read(data: bytes, image: Any) -> tuple[NDArray[np.uint16], str]:
    """Return pixels uint16 (H, W, 3 or 4) as they are stored, and their mode.

    Raises ImageError, and what decoders raise.
    """
    if "transparency" in image.info:
        raise ImageError("16 bits per channel with one color that means transparent cannot be kept")
    image.load()  # OpenCV would give a part of a truncated file
    buffer = np.frombuffer(data, np.uint8)
    if image.format == "TIFF" and image.tag_v2.get(tiff.PLANES, 1) != 1:  # OpenCV gives memory that it never wrote to
        raise ImageError("16 bits per channel in separate planes cannot be read")
    if image.format == "TIFF":
        page = image.tell()
        success, decoded = cv2.imdecodemulti(buffer, cv2.IMREAD_UNCHANGED, range=(page, page + 1))
        pixels = decoded[0] if success and len(decoded) == 1 else None
    else:
        pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ImageError("16 bits per channel in a form that cannot be read")
    code, mode = (cv2.COLOR_BGR2RGB, "RGB;16") if pixels.shape[2] == 3 else (cv2.COLOR_BGRA2RGBA, "RGBA;16")
    return np.asarray(cv2.cvtColor(pixels, code)), mode


def encode_png(pixels: NDArray[Any], icc_profile: bytes | None, exif: bytes) -> bytes:
    """Return pixels uint16 (H, W, 3 or 4) as a PNG (ISO/IEC 15948). Raises ImageError."""
    code = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    success, encoded = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(pixels), code))
    if not success:
        raise ImageError("cannot be written as PNG")
    data = encoded.tobytes()
    chunks = png.make_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)) if icc_profile else b""
    chunks += png.make_chunk(b"eXIf", exif) if exif else b""
    return png.insert(data, chunks)


def encode_tiff(pages: Sequence[Page]) -> bytes:
    """Return pages of any mode as a TIFF, compressed without loss."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, mode, icc_profile in pages:
            writer.write(
                np.ascontiguousarray(pixels),
                photometric=_PHOTOMETRIC.get(mode, "rgb"),
                extrasamples=["unassalpha"] if mode in ("LA", "RGBA", "RGBA;16") else None,
                compression="zlib",
                iccprofile=icc_profile,
                metadata=None,
                software=False,
                contiguous=False,
            )
    return buffer.getvalue()
