"""What an image looks like at a glance: a digest of its pixels and a small gray thumbnail, to find it again by."""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from depers.imaging.decoding import decode
from depers.imaging.headers import ImageHeader, read_header

SIDE = 32
_LEAST = 64  # pixels: JPEGs are decoded at the smallest fraction of their size that has as many


class Likeness(NamedTuple):
    """`digest` is of the upright pixels in gray, of a JPEG of a fraction of them; `thumbnail` uint8 (SIDE, SIDE).

    `size_wh` is the upright size, `orientation` EXIF's number: both say that the image can be decoded whole.
    """

    digest: int
    thumbnail: NDArray[np.uint8]
    size_wh: tuple[int, int]
    orientation: int


def read_likeness(data: bytes) -> Likeness:
    """Return what an image looks like. Raise ImageError for what cannot be decoded."""
    header = read_header(data)
    gray, size_wh = _read_gray(data, header)
    text = repr(gray.shape).encode()
    digest = int.from_bytes(hashlib.blake2b(text + gray.tobytes(), digest_size=8).digest(), "big")
    thumbnail = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8)
    return Likeness(digest, thumbnail, size_wh, header.orientation)


def _read_gray(data: bytes, header: ImageHeader) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return the upright image in gray, uint8 (H, W), of a JPEG a fraction of it, and its full size."""
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        try:
            gray = simplejpeg.decode_jpeg(data, "GRAY", min_height=_LEAST, min_width=_LEAST, strict=True)
            return np.ascontiguousarray(_turn_upright(gray[..., 0], header.orientation)), header.upright_wh
        except ValueError:
            pass  # what `decode` accepts counts
    image = decode(data, header=header)
    return np.ascontiguousarray(cv2.cvtColor(image.rgb(), cv2.COLOR_RGB2GRAY), dtype=np.uint8), image.size_wh


def _turn_upright(gray: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return stored pixels as they are seen, by EXIF's number, 1 to 8."""
    if orientation >= 5:  # rows and columns change places
        gray = gray.T
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return gray[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
