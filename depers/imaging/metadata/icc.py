"""ICC color profiles (ICC.1:2022): what decides colors is kept, what tells of people and devices is not."""

import io
import struct
import zlib

from PIL import ImageCms

_COLOR_TAG_NAMES = (
    "rXYZ gXYZ bXYZ rTRC gTRC bTRC kTRC wtpt bkpt chad A2B0 A2B1 A2B2 B2A0 B2A1 B2A2 "
    "D2B0 D2B1 D2B2 D2B3 B2D0 B2D1 B2D2 B2D3 gamt lumi cicp"
)
_COLOR_TAGS = frozenset(_COLOR_TAG_NAMES.encode().split())
MAX_BYTES = 16 << 20
_NAME = "colour profile"  # is written into files, whose bytes are not to change
_SPACES = {
    b"RGB ": ("RGB", "RGBA", "P", "RGBX", "RGB;16", "RGBA;16"),
    b"GRAY": ("L", "LA", "I;16", "1"),
    b"CMYK": ("CMYK",),
}
_DATE = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)


def sanitize(profile: bytes, mode: str) -> bytes | None:
    """Return the profile with its color tags alone and neutral texts, or None where it is none for pixels of `mode`.

    Names of makers, models, monitors and dates can tell whose device it was; two files with the same colors get the
    same bytes, and sanitizing again changes nothing.
    """
    try:
        space = profile[16:20]
        if len(profile) > MAX_BYTES or profile[36:40] != b"acsp" or mode not in _SPACES.get(space, (mode,)):
            return None
        tags = _tags(profile)
        if not tags:
            return None
        rebuilt = _build(profile, tags)
        ImageCms.ImageCmsProfile(io.BytesIO(rebuilt))
    except Exception:  # lcms and slicing raise what a damaged profile makes them raise
        return None
    return rebuilt


def is_neutral(profile: bytes) -> bool:
    """Return whether the profile holds nothing that `sanitize` takes away."""
    modes = {space: modes[0] for space, modes in _SPACES.items()}
    return sanitize(profile, modes.get(profile[16:20], "")) == profile


def from_png(content: bytes) -> bytes:
    """Return the profile in a PNG's iCCP chunk (ISO/IEC 15948). Raises ValueError."""
    _, _, packed = content.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(packed[1:], MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if unpacker.unconsumed_tail:
        raise ValueError("a color profile is too large")
    return profile


def _tags(profile: bytes) -> list[tuple[bytes, bytes]]:
    """Return the color tags with their data, in the order of the file."""
    (count,) = struct.unpack_from(">I", profile, 128)
    tags = []
    for index in range(min(count, 200)):
        name, offset, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if name in _COLOR_TAGS:
            if offset < 128 or offset + size > len(profile) or not size:
                raise ValueError("a tag lies outside the profile")
            tags.append((name, profile[offset : offset + size]))
    return tags


def _build(profile: bytes, color: list[tuple[bytes, bytes]]) -> bytes:
    tags = [(b"desc", _text(profile[8], "desc")), (b"cprt", _text(profile[8], "text")), *color]
    table, body, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    start = 132 + 12 * len(tags)
    for name, content in tags:
        if content not in places:  # tags may share their data
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, places[content], len(content))
    header = bytearray(profile[:128])
    header[4:8] = bytes(4)  # the preferred module, the platform, the maker, the model, the creator, the digest
    header[24:36] = _DATE
    header[40:44] = bytes(4)
    header[48:56] = bytes(8)
    header[80:128] = bytes(48)
    header[:4] = struct.pack(">I", start + len(body))
    return bytes(header) + table + body


def _text(version: int, kind: str) -> bytes:
    """Return a neutral text in the type that the profile's version wants."""
    if version >= 4:
        encoded = _NAME.encode("utf-16-be")
        return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(encoded), 28) + encoded
    if kind == "text":
        return b"text" + bytes(4) + _NAME.encode() + b"\0"
    ascii_name = _NAME.encode() + b"\0"
    return b"desc" + bytes(4) + struct.pack(">I", len(ascii_name)) + ascii_name + bytes(4 + 4 + 2 + 1 + 67)
