"""PNG chunks (ISO/IEC 15948): walked, and those that say how colors are meant, which Pillow and OpenCV leave behind."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
EXIF_NAMES = (b"eXIf", b"Raw profile type exif")
"""Of the chunk that holds an EXIF block, and of the text that held one before there was that chunk."""
_COLOR_LENGTHS = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4}
_HEADER_END = 33
_HEADER = struct.Struct(">I4s")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_LONG_TEXT = 1 << 18
_CHANNEL_COLOR_TYPES = (2, 4, 6)  # RGB, gray with opacity, RGB with opacity


class PngChunk(NamedTuple):
    """A chunk's name and content, cut off where the data is, and where in the file it ends with its checksum."""

    name: bytes
    content: bytes
    end: int


def walk(data: bytes) -> Iterator[PngChunk]:
    """Yield the chunks as far as the data reaches, also those behind the end chunk."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        yield PngChunk(name, data[position + 8 : position + 8 + length], end)
        position = end


def remove_texts(data: bytes) -> bytes:
    """Return the data without a PNG's long or packed texts, which Pillow refuses where they are very long.

    What holds an EXIF block stays, unless it is no such thing. Other data is returned as it is.
    """
    if not data.startswith(SIGNATURE):
        return data
    pieces, start, position = [], 0, len(SIGNATURE)
    while position + 8 <= len(data):
        length, name = _HEADER.unpack_from(data, position)
        end = position + 12 + length
        if name in _TEXTS and not _is_harmless(name, data[position + 8 : position + 8 + length]):
            pieces.append(data[start:position])
            start = end
        position = end
    return b"".join([*pieces, data[start:]]) if pieces else data


def _is_harmless(name: bytes, content: bytes) -> bool:
    """Return whether a text is short, also where it is unpacked."""
    if len(content) > _LONG_TEXT:
        return False
    if name == b"tEXt":
        return True
    key, _, rest = content.partition(b"\0")
    if name != b"zTXt" or key not in EXIF_NAMES:
        return False
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(rest[1:], 4 * _LONG_TEXT)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def make_chunk(name: bytes, content: bytes) -> bytes:
    """Return one chunk with its length and checksum."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def copy_color_chunks(data: bytes) -> bytes:
    """Return the chunks that give gamma, primaries or color space, each once and of the length it must have."""
    chunks: dict[bytes, bytes] = {}
    for name, content, _ in walk(data):
        if name == b"IDAT":
            break
        if _COLOR_LENGTHS.get(name) == len(content):
            chunks.setdefault(name, make_chunk(name, content))
    return b"".join(chunks.values())


def insert(data: bytes, chunks: bytes) -> bytes:
    """Return the PNG with further chunks right behind its header."""
    return data[:_HEADER_END] + chunks + data[_HEADER_END:]


def is_sixteen_bit(data: bytes) -> bool:
    """Return whether the header gives 16 bits per channel."""
    return data[24:25] == b"\x10"


def has_sixteen_bit_channels(data: bytes) -> bool:
    """Return whether the header gives several channels of 16 bits."""
    return is_sixteen_bit(data) and len(data) > 25 and data[25] in _CHANNEL_COLOR_TYPES
