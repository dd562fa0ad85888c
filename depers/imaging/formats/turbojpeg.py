"""TurboJPEG's lossless transform by ctypes, which hands out a JPEG's quantized DCT coefficients and writes them back.

Only libjpeg-turbo 3's API (`tj3Transform`) is used; the wheel `turbojpeg` ships the library.
"""

import ctypes
import ctypes.util
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

_INIT_TRANSFORM = 2
STOP_ON_WARNING, SCAN_LIMIT = 0, 13  # parameters of tj3Set
_PROGRESSIVE, _COPY_NONE, _OPTIMIZE = 32, 64, 256
MAX_SCANS = 100
_BLOCK_BYTES = 128


class TransformError(Exception):
    """The reason why the library does not transform a file, in one line."""


class _Area(ctypes.Structure):
    _fields_ = (("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int))


_FILTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, _Area, _Area, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class _Transform(ctypes.Structure):
    _fields_ = (
        ("r", _Area),
        ("op", ctypes.c_int),
        ("options", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("customFilter", _FILTER),
    )


class Coefficients(NamedTuple):
    """The quantized coefficients of one component, in memory of the library: valid while `edit` runs.

    `blocks` is int16 (rows, columns, 64), row order within a block; writing to it changes the image. The first
    `height` rows show something; those behind them fill the last MCUs.
    """

    blocks: NDArray[np.int16]
    height: int


def transform(
    jpeg: bytes,
    edit: Callable[[list[Coefficients]], None],
    rows_per_mcu: list[int],
    *,
    progressive: bool,
    optimize: bool,
) -> bytes:
    """Return the JPEG with its coefficients edited and entropy-coded anew, most of its metadata gone.

    `rows_per_mcu` are the vertical sampling factors of the components. libjpeg-turbo 3 holds the coefficients of all
    components in memory until it writes them (it is built without a backing store), and hands out one row of blocks at
    a time; the rows are noted, and `edit` is called once, when all are known. Each library is tried before it is
    used. Raises TransformError, and whatever `edit` raises; then nothing is given out.
    """
    turbo = load_library()
    if turbo is None:
        raise TransformError("there is no TurboJPEG library 3")
    return _transform(turbo, jpeg, edit, rows_per_mcu, progressive=progressive, optimize=optimize)


def _transform(
    library: Any,
    jpeg: bytes,
    edit: Callable[[list[Coefficients]], None],
    rows_per_mcu: list[int],
    *,
    progressive: bool,
    optimize: bool,
) -> bytes:
    addresses: list[list[int]] = [[] for _ in rows_per_mcu]
    sizes_wh = [(0, 0) for _ in rows_per_mcu]  # in blocks
    failure: list[BaseException] = []
    edited: list[bool] = []

    def collect(address: int, area: _Area, plane: _Area, index: int, _: int, __: int) -> int:
        try:  # an exception would be printed and forgotten here, and the image written as it was
            rows = addresses[index]
            if area.x or area.w != plane.w or area.h != 8 or area.y != 8 * len(rows):
                raise TransformError("coefficients come in an order that is not known")
            rows.append(address)
            sizes_wh[index] = (plane.w // 8, plane.h // 8)
            unit = rows_per_mcu[index]
            if index == len(addresses) - 1 and len(rows) == -(-sizes_wh[index][1] // unit) * unit:
                edit([_coefficients(rows, size_wh) for rows, size_wh in zip(addresses, sizes_wh, strict=True)])
                edited.append(True)
        except BaseException as error:
            failure.append(error)
            return -1
        return 0

    handle = library.tj3Init(_INIT_TRANSFORM)  # a new one each time: settings and errors outlive a transform
    if not handle:
        raise TransformError("the TurboJPEG library cannot start")
    out, size = ctypes.c_void_p(), ctypes.c_size_t()
    try:
        library.tj3Set(handle, STOP_ON_WARNING, 1)
        library.tj3Set(handle, SCAN_LIMIT, MAX_SCANS)
        options = _COPY_NONE | (_PROGRESSIVE if progressive else 0) | (_OPTIMIZE if optimize else 0)
        task = _Transform(_Area(0, 0, 0, 0), 0, options, None, _FILTER(collect))
        status = library.tj3Transform(
            handle, jpeg, len(jpeg), 1, ctypes.byref(out), ctypes.byref(size), ctypes.byref(task)
        )
        if failure:
            raise failure[0]
        if status:
            raise TransformError(" ".join(library.tj3GetErrorStr(handle).decode("latin-1").split()))
        if len(edited) != 1:
            raise TransformError("not all coefficients were seen")
        return ctypes.string_at(out, size.value)
    finally:
        if out:
            library.tj3Free(out)
        library.tj3Destroy(handle)


def _coefficients(addresses: list[int], size_wh: tuple[int, int]) -> Coefficients:
    """Return the rows of blocks at `addresses` as one array. Raises TransformError where they lie apart."""
    width, height = size_wh
    step = addresses[1] - addresses[0] if len(addresses) > 1 else width * _BLOCK_BYTES
    if step < width * _BLOCK_BYTES or any(b - a != step for a, b in pairwise(addresses)):
        raise TransformError("coefficients lie in an order that is not known")
    raw: Any = (ctypes.c_int16 * ((step * (len(addresses) - 1)) // 2 + width * 64)).from_address(addresses[0])
    strides = (step, _BLOCK_BYTES, 2)
    return Coefficients(as_strided(np.frombuffer(raw, np.int16), (len(addresses), width, 64), strides), height)


@lru_cache(maxsize=1)
def load_library() -> Any:
    """Return the wheel's library, or the system's where it is new enough, or None."""
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
            library.tj3Init.restype = ctypes.c_void_p
            library.tj3Init.argtypes = [ctypes.c_int]
            library.tj3Set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
            library.tj3GetErrorStr.restype = ctypes.c_char_p
            library.tj3GetErrorStr.argtypes = [ctypes.c_void_p]
            library.tj3Free.argtypes = library.tj3Destroy.argtypes = [ctypes.c_void_p]
            library.tj3Free.restype = library.tj3Destroy.restype = None
            library.tj3Transform.argtypes = [
                *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int),
                *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p),
            ]
        except (OSError, AttributeError):  # absent, or older than 3
            continue
        if _writes_what_is_edited(library):
            return library
    return None


def _writes_what_is_edited(library: Any) -> bool:
    """Return whether what is written to coefficients when all rows are known is what comes out, in all of them."""
    rng, inputs, outputs = np.random.default_rng(0), list[NDArray[np.int16]](), list[NDArray[np.int16]]()
    jpeg = simplejpeg.encode_jpeg(rng.integers(0, 256, (72, 40, 3), np.uint8), 90, "RGB", "420")

    def write(components: list[Coefficients]) -> None:
        for blocks, height in components:
            inputs.append(rng.integers(-9, 10, blocks[:height].shape, np.int16))
            blocks[:height] = inputs[-1]

    def read(components: list[Coefficients]) -> None:
        outputs.extend(blocks[:height].copy() for blocks, height in components)

    try:
        edited = _transform(library, jpeg, write, [2, 1, 1], progressive=False, optimize=False)
        _transform(library, edited, read, [2, 1, 1], progressive=False, optimize=False)
    except TransformError:
        return False
    return len(outputs) == len(inputs) > 0 and all((a == b).all() for a, b in zip(outputs, inputs, strict=True))


def _candidates() -> list[str]:
    spec = find_spec("turbojpeg")
    shipped = sorted(Path(spec.origin).parent.glob("turbojpeg.libs/libturbojpeg*")) if spec and spec.origin else []
    system = ctypes.util.find_library("turbojpeg")
    return [str(path) for path in shipped] + ([system] if system else [])
