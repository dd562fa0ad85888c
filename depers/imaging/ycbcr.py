"""Images as a JPEG holds them: luma for every pixel, the two chroma for squares of four; half the bytes of RGB.

What is composed in these planes is encoded without another conversion, and seams lie in chroma where they lie in luma.
"""

import ctypes
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from depers.imaging.formats.turbojpeg import MAX_SCANS, SCAN_LIMIT, STOP_ON_WARNING, load_library

RGB = NDArray[np.uint8]
Plane = NDArray[np.uint8]
"""Samples of one kind, uint8: luma (H, W), or both chroma side by side (H, W, 2)."""

_BAND = 64  # rows that are converted at a time, so that they stay in a core's own cache
_TO_YCC = (0.299, 0.587, 0.114), (0.5, -0.418688, -0.081312), (-0.168736, -0.331264, 0.5)


class Planes(NamedTuple):
    """An image in JFIF's YCbCr 4:2:0, uint8.

    `luma` is (H, W), `chroma` (H / 2, W / 2, 2), rounded up, in OpenCV's order Cr, Cb: the means of squares of 2×2
    pixels, of which the first begins at the top left corner.
    """

    luma: Plane
    chroma: Plane

    @property
    def nbytes(self) -> int:
        """Return how many bytes of memory it takes."""
        return self.luma.nbytes + self.chroma.nbytes

    def copy(self) -> "Planes":
        """Return a copy, which can be painted on."""
        return Planes(self.luma.copy(), self.chroma.copy())


def from_rgb(rgb: RGB) -> Planes:
    """Return an image of uint8 RGB (H, W, 3) as planes."""
    height, width = rgb.shape[:2]
    luma = np.empty((height, width), np.uint8)
    chroma = np.empty((-(-height // 2), -(-width // 2), 2), np.uint8)
    for y in range(0, height, _BAND):
        band = rgb[y : y + _BAND]
        cv2.cvtColor(band, cv2.COLOR_RGB2GRAY, luma[y : y + _BAND])
        ycc = cv2.cvtColor(reduce(band, 2), cv2.COLOR_RGB2YCrCb)
        cv2.mixChannels([ycc], [chroma[y // 2 : (y + _BAND) // 2]], [1, 0, 2, 1])
    return Planes(luma, chroma)


def to_rgb(planes: Planes) -> RGB:
    """Return the image as uint8 RGB (H, W, 3), each square of pixels in its one chroma."""
    height, width = planes.luma.shape
    chroma = planes.chroma.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.asarray(cv2.cvtColor(np.dstack([planes.luma, chroma]), cv2.COLOR_YCrCb2RGB))


def convert_difference(red: float, green: float, blue: float) -> tuple[list[float], list[float]]:
    """Return a difference of colors as one of luma and one of chroma (Cr, Cb)."""
    luma, *chroma = (r * red + g * green + b * blue for r, g, b in _TO_YCC)
    return [luma], chroma


def encode(planes: Planes, quality: int) -> bytes:
    """Return the planes as a JPEG of 4:2:0."""
    luma, (cr, cb) = planes.luma, cv2.split(planes.chroma)
    height, width = luma.shape
    if height % 2 or width % 2:  # libjpeg-turbo reads whole squares, also those that are only partly the image's
        luma = cv2.copyMakeBorder(luma, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)[:height, :width]
    return bytes(simplejpeg.encode_jpeg_yuv_planes(luma, cb, cr, quality))


def reduce(samples: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    """Return the means of squares of `by` samples, a power of two, which costs little.

    The last of them are filled up.
    """
    bottom, right = -samples.shape[0] % by, -samples.shape[1] % by
    if bottom or right:
        samples = np.asarray(cv2.copyMakeBorder(samples, 0, bottom, 0, right, cv2.BORDER_REPLICATE))
    return halve(samples, by.bit_length() - 1)


def halve(samples: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Return the means of squares of 2^times samples; much faster than to take them at once."""
    if samples.ndim == 3 and samples.shape[2] == 2 and times:  # for these OpenCV has no fast way
        return np.asarray(cv2.merge([halve(channel, times) for channel in cv2.split(samples)]))
    for _ in range(times):
        half = samples.shape[1] // 2, samples.shape[0] // 2
        samples = np.asarray(cv2.resize(samples, half, interpolation=cv2.INTER_AREA))
    return samples


_INIT_DECOMPRESS = 1
_SUBSAMPLING, _WIDTH, _HEIGHT, _COLORS = 4, 5, 6, 8
_YCBCR = 1
_FULL, _QUARTER = 0, 2  # chroma of 4:4:4 and of 4:2:0


def decode(jpeg: bytes) -> Planes | None:
    """Return the planes of a JPEG of YCbCr 4:2:0 or 4:4:4; None for all else, such as is damaged or no JPEG.

    Orientation is not looked at.
    """
    turbo = load_library()
    handle = ctypes.c_void_p(turbo.tj3Init(_INIT_DECOMPRESS)) if turbo else None
    if not handle:
        return None
    try:
        turbo.tj3Set(handle, STOP_ON_WARNING, 1)
        turbo.tj3Set(handle, SCAN_LIMIT, MAX_SCANS)
        size = ctypes.c_size_t(len(jpeg))
        if turbo.tj3DecompressHeader(handle, jpeg, size):
            return None
        width, height, sampling = (turbo.tj3Get(handle, parameter) for parameter in (_WIDTH, _HEIGHT, _SUBSAMPLING))
        if turbo.tj3Get(handle, _COLORS) != _YCBCR or sampling not in (_FULL, _QUARTER):
            return None
        quarter = sampling == _QUARTER
        even = (height + height % 2, width + width % 2) if quarter else (height, width)  # what is written to luma
        chroma_size = (even[0] // 2, even[1] // 2) if quarter else even
        luma, cb, cr = (np.empty(shape, np.uint8) for shape in (even, chroma_size, chroma_size))
        pointers = (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in (luma, cb, cr)))
        if turbo.tj3DecompressToYUVPlanes8(handle, jpeg, size, pointers, None):
            return None
    finally:
        turbo.tj3Destroy(handle)
    if not quarter:
        cr, cb = (reduce(plane, 2) for plane in (cr, cb))
    return Planes(luma[:height, :width], np.asarray(cv2.merge((cr, cb))))
