"""Arrays of numbers that may be the pixels of an image: no signature tells, only how many and which."""

import ast
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_SIDE = 16
_LEAST_VALUES, _LEAST_DISTINCT = 1024, 16
_CHANNELS = (1, 3, 4)
_SAMPLE = 65536


def are_pixels(values: NDArray[Any], dimensions: int = 1) -> bool:
    """Return whether numbers, flat, may be pixels: many different ones, all in 0…255, or a grid of them in 0…1.

    Whole numbers below 0 are bytes that somebody took for signed. Embeddings have negative numbers, counts and
    identifiers larger ones.
    """
    if len(values) < _LEAST_VALUES or values.dtype.kind not in "iuf":
        return False
    sample = values[:_SAMPLE]
    if values.dtype.kind == "f":
        if not np.isfinite(sample).all():
            return False
        whole = bool((sample == np.round(sample)).all())
        if not whole and (dimensions < 2 or sample.max() > 1):
            return False
        if sample.min() < 0 or sample.max() > 255:
            return False
    elif int(sample.min()) < -128 or int(sample.max()) > 255 or int(sample.max()) - int(sample.min()) > 255:
        return False
    return len(np.unique(sample)) >= _LEAST_DISTINCT


def is_numpy_image(data: bytes, at: int = 0) -> bool:
    """Return whether a `.npy` (NumPy's format, versions 1 to 3) begins at `at` whose array may be an image."""
    version = data[at + 6 : at + 7]
    size, start = (2, 10) if version == b"\1" else (4, 12)
    length = int.from_bytes(data[at + 8 : at + 8 + size], "little")
    try:
        header = ast.literal_eval(data[at + start : at + start + min(length, 10_000)].decode("latin-1").strip())
        kind, shape = np.dtype(header["descr"]), tuple(header["shape"])
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError):
        return length < 10_000 and b"descr" in data[at : at + 100]
    return may_be_image(kind, shape, data[at + start + length :])


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
    sample = content[: min(count, _SAMPLE) * kind.itemsize]
    values = np.frombuffer(sample[: len(sample) // kind.itemsize * kind.itemsize], kind)
    return are_pixels(values, len([side for side in shape if side >= LEAST_SIDE]))
