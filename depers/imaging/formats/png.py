"""PNG chunks (ISO/IEC 15948) that say how colors are meant, which Pillow and OpenCV leave behind."""

import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4}
_HEADER_END = 33


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")


def color_chunks(png: bytes) -> bytes:
    """The chunks of a PNG that give its gamma, primaries or color space, each once and of the length it must have."""
    found: dict[bytes, bytes] = {}
    for name, content in _chunks(png):
        if name == b"IDAT":
            break
        if _COLOR.get(name) == len(content):
            found.setdefault(name, chunk(name, content))
    return b"".join(found.values())


def inserted(png: bytes, chunks: bytes) -> bytes:
    """The PNG with further chunks right behind its header."""
    return png[:_HEADER_END] + chunks + png[_HEADER_END:]


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(SIGNATURE)
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        yield png[position + 4 : position + 8], png[position + 8 : position + 8 + length]
        position += 12 + length
