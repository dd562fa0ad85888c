"""When a file of the ISO base media format (ISO/IEC 14496-12, as AVIF sequences are) says it was made: never."""

import struct
from collections.abc import Iterator

_CONTAINERS = (b"moov", b"trak", b"mdia")
_TIMED = (b"mvhd", b"tkhd", b"mdhd")


def without_times(data: bytes) -> bytes:
    """The file with its times of creation and modification set to zero: encoders write the present.

    Raises ValueError for boxes that do not fit into each other.
    """
    changed = bytearray(data)
    for start, wide in _timed(data, 0, len(data)):
        changed[start : start + (16 if wide else 8)] = bytes(16 if wide else 8)
    return bytes(changed)


def _timed(data: bytes, start: int, stop: int) -> Iterator[tuple[int, bool]]:
    """Where the two times of each header stand, and whether they have 8 bytes each, not 4."""
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, start + 8), 16
        end = stop if size == 0 else start + size
        if size and (size < head or end > stop):
            raise ValueError(f"box {kind!r} of {size} bytes does not fit into {stop - start}")
        if kind in _CONTAINERS:
            yield from _timed(data, start + head, end)
        elif kind in _TIMED:
            yield start + head + 4, data[start + head] == 1
        start = end
