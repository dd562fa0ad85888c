"""Arrays of numbers that may be the pixels of an image: no signature tells, only how many and which."""

import ast
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depers.imaging.disguise import number_lists

LEAST_SIDE = 16
_LEAST_VALUES, _LEAST_DISTINCT = 1024, 16
_CHANNELS = (1, 3, 4)
_SAMPLE = 65536


def are_pixels(numbers: NDArray[Any], dimensions: int = 1) -> bool:
    """Return whether numbers, flat, may be pixels: alike as those are, or a grid of many in 0…255 or 0…1.

    Whole numbers below 0 are bytes that somebody took for signed. Embeddings have negative numbers.
    """
    if numbers.dtype.kind not in "iuf":
        return False
    if number_lists.are_pixels(numbers):
        return True
    if dimensions < 2 or len(numbers) < _LEAST_VALUES:
        return False
    sample = numbers[:_SAMPLE].astype(np.float64)
    low, high = float(sample.min()), float(sample.max())
    is_whole = bool((sample == np.round(sample)).all())
    in_range = (low >= -128 and high <= 255 and high - low <= 255) if is_whole else (low >= 0 and high <= 1)
    return in_range and len(np.unique(sample)) >= _LEAST_DISTINCT


def is_whole_array(data: bytes) -> bool:
    """Return whether data is a `.npy` of numbers and nothing else."""
    header = _read_header(data, 0)
    if header is None:
        return False
    kind, shape, start = header
    return kind.kind in "iufb" and len(data) == start + kind.itemsize * math.prod(shape)


def is_numpy_image(data: bytes, at: int = 0) -> bool:
    """Return whether a `.npy` begins at `at` whose array may be an image, or of which nothing can be said."""
    header = _read_header(data, at)
    if header is None:
        return b"descr" in data[at : at + 100]
    kind, shape, start = header
    return may_be_image(kind, shape, data[start:])


def _read_header(data: bytes, at: int) -> tuple[np.dtype[Any], tuple[int, ...], int] | None:
    """Return type and shape of the array of a `.npy` (NumPy's format, versions 1 to 3), and where its values begin."""
    if data[at : at + 6] != b"\x93NUMPY":
        return None
    version = data[at + 6 : at + 7]
    size, start = (2, 10) if version == b"\1" else (4, 12)
    length = int.from_bytes(data[at + 8 : at + 8 + size], "little")
    try:
        header = ast.literal_eval(data[at + start : at + start + min(length, 10_000)].decode("latin-1").strip())
        return np.dtype(header["descr"]), tuple(header["shape"]), at + start + length
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return None


def may_be_image(kind: np.dtype[Any], shape: tuple[int, ...], content: bytes) -> bool:
    """Return whether an array of this type and shape may hold an image."""
    if kind.hasobject or kind.kind not in "iufb":
        return kind.hasobject  # pickled objects may be anything
    count = math.prod(shape)
    if count < _LEAST_VALUES:
        return False
    has_channels = len(shape) >= 3 and (shape[-1] in _CHANNELS or shape[-3] in _CHANNELS)
    if has_channels and sorted(shape)[-2] >= LEAST_SIDE:
        return True
    if kind.itemsize == 1 and kind.kind != "b":
        return True
    content = content[: count * kind.itemsize]
    numbers = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    return are_pixels(numbers, len([side for side in shape if side >= LEAST_SIDE]))
