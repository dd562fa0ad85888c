"""The blocks of a GIF (GIF89a specification), found without decoding any of them."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

IMAGE, EXTENSION, TRAILER = 0x2C, 0x21, 0x3B
COMMENT, TEXT, GRAPHIC_CONTROL, APPLICATION = 0xFE, 0x01, 0xF9, 0xFF
_HEADER_BYTES = 13
_DESCRIPTOR_BYTES = 11  # of an image: its introducer, its rectangle, its flags, the least size of a code


class GifBlock(NamedTuple):
    """A block's introducer, and where in the file it starts and ends; it ends past the file where that is cut off.

    An introducer other than IMAGE, EXTENSION and TRAILER is a byte that belongs to no block.
    """

    introducer: int
    start: int
    end: int


def walk(data: bytes) -> Iterator[GifBlock]:
    """Yield the blocks up to the trailer, or to the end of the data where there is none."""
    flags = data[10] if len(data) > 10 else 0
    position = _HEADER_BYTES + _palette_bytes(flags)
    while position < len(data):
        introducer = data[position]
        end = position + 1
        if introducer == IMAGE:
            end = position + _DESCRIPTOR_BYTES
            if end <= len(data):
                end = _sub_blocks_end(data, end + _palette_bytes(data[position + 9]))
        elif introducer == EXTENSION:
            end = _sub_blocks_end(data, position + 2)
        yield GifBlock(introducer, position, end)
        if introducer == TRAILER:
            return
        position = end


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _sub_blocks_end(data: bytes, position: int) -> int:
    try:
        while length := data[position]:
            position += 1 + length
    except IndexError:  # cut off: the end lies past that of the data
        pass
    return position + 1


def measure_canvas(data: bytes) -> tuple[int, int]:
    """Return width and height of the rectangle that holds the screen and all frames, as far as the data reaches."""
    width, height = struct.unpack_from("<HH", data.ljust(_HEADER_BYTES, b"\0"), 6)
    for block in walk(data):
        if block.introducer == IMAGE and block.start + _DESCRIPTOR_BYTES <= len(data):
            x, y, frame_width, frame_height = struct.unpack_from("<HHHH", data, block.start + 1)
            width, height = max(width, x + frame_width), max(height, y + frame_height)
    return int(width), int(height)
