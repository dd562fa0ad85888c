"""What an image looks like at a glance: a digest of its pixels and a small gray picture, to find it again by."""

import hashlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from depers.imaging.decoding import decode
from depers.imaging.headers import read_header

SIDE = 32
_LEAST = 64  # pixels: JPEGs are decoded at the smallest fraction of their size that has as many


class Likeness(NamedTuple):
    """`digest` is of the upright pixels in gray, of a JPEG of a fraction of them; `thumbnail` uint8 (SIDE, SIDE)."""

    digest: int
    thumbnail: NDArray[np.uint8]


def read_likeness(data: bytes) -> Likeness:
    """Return what an image looks like. Raise ImageError for what cannot be decoded."""
    gray = _read_gray(data)
    text = repr(gray.shape).encode()
    digest = int.from_bytes(hashlib.blake2b(text + gray.tobytes(), digest_size=8).digest(), "big")
    return Likeness(digest, cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8))


def _read_gray(data: bytes) -> NDArray[np.uint8]:
    """Return the upright image in gray, uint8 (H, W)."""
    header = read_header(data)
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        try:
            gray = simplejpeg.decode_jpeg(data, "GRAY", min_height=_LEAST, min_width=_LEAST, strict=True)
            return np.ascontiguousarray(_turn_upright(gray[..., 0], header.orientation))
        except ValueError:
            pass  # what `decode` accepts counts
    return np.ascontiguousarray(cv2.cvtColor(decode(data, header=header).rgb(), cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def _turn_upright(gray: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return stored pixels as they are seen, by EXIF's number, 1 to 8."""
    if orientation >= 5:  # rows and columns change places
        gray = gray.T
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return gray[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]
