"""The boxes of the ISO base media format (ISO/IEC 14496-12), in which AVIF and HEIF come."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

_CONTAINERS = (b"moov", b"trak", b"mdia")
_TIMED = (b"mvhd", b"tkhd", b"mdhd")


class IsoBox(NamedTuple):
    """A box's kind, and where in the file it starts, its content starts, and it ends."""

    kind: bytes
    start: int
    content: int
    end: int


def walk(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[IsoBox]:
    """Yield the boxes that lie side by side in a stretch of the data, not those within them.

    Fewer than 8 bytes behind the last are no box. Raises ValueError for one that does not fit.
    """
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        size, kind = struct.unpack_from(">I4s", data, start)
        header_bytes = 8
        if size == 1 and start + 16 <= stop:
            (size,), header_bytes = struct.unpack_from(">Q", data, start + 8), 16
        end = stop if size == 0 else start + size
        if end < start + header_bytes or end > stop:
            raise ValueError(f"box {kind!r} of {size} bytes does not fit into {stop - start}")
        yield IsoBox(kind, start, start + header_bytes, end)
        start = end


def remove_times(data: bytes) -> bytes:
    """Return the file with its times of creation and modification set to zero: encoders write the present.

    Raises ValueError for boxes that do not fit into each other.
    """
    timeless = bytearray(data)
    for start, length in _times(data, 0, len(data)):
        timeless[start : start + length] = bytes(length)
    return bytes(timeless)


def _times(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield where the two times of each header start, and how many bytes both take."""
    for box in walk(data, start, stop):
        if box.kind in _CONTAINERS:
            yield from _times(data, box.content, box.end)
        elif box.kind in _TIMED:
            yield box.content + 4, 16 if data[box.content] == 1 else 8
