"""The planes of a JPEG as they are in the file: no colours are converted, and no chroma is enlarged and reduced again.

By ctypes of TurboJPEG 3, since neither simplejpeg nor OpenCV hands them out.
"""

import ctypes

import cv2
import numpy as np

from depers.planes import Planes, reduced
from depers.turbojpeg import MAX_SCANS, SCAN_LIMIT, STOP_ON_WARNING, library

_INIT_DECOMPRESS = 1
_SUBSAMPLING, _WIDTH, _HEIGHT, _COLOURS = 4, 5, 6, 8
_YCBCR = 1
_FULL, _QUARTER = 0, 2  # chroma of 4:4:4 and of 4:2:0


def decode(jpeg: bytes) -> Planes | None:
    """The planes of a JPEG of YCbCr 4:2:0 or 4:4:4; None for everything else, such as is damaged or no JPEG.

    Orientation is not looked at.
    """
    turbo = library()
    handle = ctypes.c_void_p(turbo.tj3Init(_INIT_DECOMPRESS)) if turbo else None
    if not handle:
        return None
    try:
        turbo.tj3Set(handle, STOP_ON_WARNING, 1)
        turbo.tj3Set(handle, SCAN_LIMIT, MAX_SCANS)
        size = ctypes.c_size_t(len(jpeg))
        if turbo.tj3DecompressHeader(handle, jpeg, size):
            return None
        width, height, sampling = (turbo.tj3Get(handle, each) for each in (_WIDTH, _HEIGHT, _SUBSAMPLING))
        if turbo.tj3Get(handle, _COLOURS) != _YCBCR or sampling not in (_FULL, _QUARTER):
            return None
        quarter = sampling == _QUARTER
        even = (height + height % 2, width + width % 2) if quarter else (height, width)  # what is written to luma
        chroma_size = (even[0] // 2, even[1] // 2) if quarter else even
        luma, cb, cr = (np.empty(each, np.uint8) for each in (even, chroma_size, chroma_size))
        pointers = (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in (luma, cb, cr)))
        if turbo.tj3DecompressToYUVPlanes8(handle, jpeg, size, pointers, None):
            return None
    finally:
        turbo.tj3Destroy(handle)
    if not quarter:
        cr, cb = (reduced(plane, 2) for plane in (cr, cb))
    return Planes(luma[:height, :width], np.asarray(cv2.merge((cr, cb))))
