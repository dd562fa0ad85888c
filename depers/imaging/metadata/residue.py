"""What an image's file holds besides image, orientation and color profile: read from its bytes, not decoded."""

import struct
from collections.abc import Iterator, Sequence

from depers.imaging.formats import jpeg_segments, tiff
from depers.imaging.headers import is_heif
from depers.imaging.metadata import exif, icc

_TIFF_IMAGE = set(range(254, 256)) | {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 296, 317}
_TIFF_IMAGE |= {292, 293, 320, 322, 323, 324, 325, 332, 338, 339, 347, 530, 531, 532, 529, 34675}
_TIFF_REDUCED, _TIFF_PROFILE = 254, 34675
_PNG_CHUNKS = "IHDR PLTE IDAT IEND tRNS iCCP acTL fcTL fdAT sRGB gAMA cHRM sBIT bKGD cICP pHYs"
_PNG_IMAGE = set(_PNG_CHUNKS.split())
_WEBP_IMAGE = {"VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP"}
_ISO_IMAGE = {"ftyp", "meta", "mdat", "moov"}
_ISO_FOREIGN_ITEMS = {b"Exif": "EXIF", b"mime": "XMP or another document", b"uri ": "a document"}


def residue(data: bytes, keep: Sequence[str] = ()) -> list[str]:
    """What the file holds besides image, orientation and neutral color profile, one line each; empty where nothing.

    `keep` names groups of `exif.GROUPS` that are allowed. A file of no known format, or damaged, is a line as well.
    """
    try:
        if data[:2] == b"\xff\xd8":
            found = _jpeg(data, keep)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            found = _png(data, keep)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            found = _webp(data, keep)
        elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            found = _tiff(data, keep)
        elif data[:6] in (b"GIF87a", b"GIF89a"):
            found = _gif(data)
        elif data[:2] == b"BM":
            found = _bmp(data)
        elif data[4:8] == b"ftyp" and (is_heif(data) or data[8:12] in (b"avif", b"avis")):
            found = _iso(data, keep)
        else:
            return ["a file of no known format"]
        return list(dict.fromkeys(found))
    except (ValueError, struct.error, IndexError) as error:
        return [f"a damaged structure ({error})"]


def _jpeg(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    profile = b""
    for marker, content, _ in jpeg_segments.segments(data):
        if marker == jpeg_segments.EOI:
            if content:
                yield f"{len(content)} bytes after the end"
        elif marker == jpeg_segments.APP0 and content[:5] == b"JFIF\0":
            if len(content) != 14:
                yield "JFIF thumbnail"
        elif marker == jpeg_segments.APP14 and content[:5] == b"Adobe" and len(content) == 12:
            continue
        elif marker == jpeg_segments.APP1 and content[:6] == b"Exif\0\0":
            yield from _exif(content[6:], keep)
        elif marker == jpeg_segments.APP2 and content[:12] == b"ICC_PROFILE\0":
            profile += content[14:]
        elif marker == jpeg_segments.APP1 and b"ns.adobe.com" in content[:40]:
            yield "XMP"
        elif marker == jpeg_segments.APP2 and content[:4] == b"MPF\0":
            yield "MPF: further images"
        elif marker == jpeg_segments.COM:
            yield "comment"
        elif marker not in jpeg_segments.IMAGE | {jpeg_segments.SOI}:
            name = content[:12].split(b"\0")[0].decode("ascii", "replace")
            yield f"segment 0x{marker:02X} {name}".rstrip()
    if profile:
        yield from _profile(profile)


def _exif(block: bytes, keep: Sequence[str]) -> Iterator[str]:
    """EXIF tags other than the orientation and those that may be kept."""
    allowed = exif.tag_ids(keep)
    pointers = {tiff.EXIF_IFD, tiff.GPS_IFD} & allowed.keys()
    for tag in tiff.walk(block.removeprefix(b"Exif\0\0")):
        main = tag.directory == 0 and tag.page == 0
        if main and (tag.number == exif.ORIENTATION or tag.number in pointers):
            continue
        if tag.page > 0:
            yield "EXIF thumbnail"
        elif tag.number not in allowed.get(tag.directory, set()):
            yield f"EXIF tag 0x{tag.number:04X}" + (f" in directory 0x{tag.directory:04X}" if tag.directory else "")


def _profile(profile: bytes) -> Iterator[str]:
    if not icc.is_neutral(profile):
        yield "color profile with texts"


def _png(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    position = 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        name, content = kind.decode("latin-1"), data[position + 8 : position + 8 + length]
        position += 12 + length
        if name == "eXIf":
            yield from _exif(content, keep)
        elif name == "iCCP":
            yield from _profile(icc.from_png(content))
        elif name == "IEND":
            if position < len(data):
                yield f"{len(data) - position} bytes after the end"
            return
        elif name not in _PNG_IMAGE:
            yield f"PNG chunk {name}"
    yield "no end"


def _webp(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    end += end % 2
    position = 12
    while position + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        name, content = kind.decode("latin-1"), data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if name == "EXIF":
            yield from _exif(content, keep)
        elif name == "ICCP":
            yield from _profile(content)
        elif name not in _WEBP_IMAGE:
            yield f"WebP chunk {name}"
    if len(data) > end:
        yield f"{len(data) - end} bytes after the end"


def _tiff(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    allowed = exif.tag_ids(keep)
    pointers = {tiff.EXIF_IFD, tiff.GPS_IFD} & allowed.keys()
    used = 8
    places: dict[int, dict[int, tuple[int, ...]]] = {}
    for tag in tiff.walk(data):
        used += 12 + (tag.size if tag.size > 4 else 0)
        if tag.number in (273, 279, 324, 325) and tag.directory == 0:
            places.setdefault(tag.page, {})[tag.number] = tiff.numbers(data, tag)
        if tag.directory == 0 and tag.number == _TIFF_REDUCED and any(n & 5 for n in tiff.numbers(data, tag)):
            yield "a reduced image or mask"
        elif tag.directory == 0 and tag.number == _TIFF_PROFILE:
            yield from _profile(data[tag.start : tag.start + tag.size])
        elif tag.directory == 0 and tag.number in _TIFF_IMAGE | pointers:
            continue
        elif tag.number not in allowed.get(tag.directory, set()):
            yield f"TIFF tag {tag.number}" + (f" in directory {tag.directory}" if tag.directory else "")
    used += sum(sum(page.get(279, ())) + sum(page.get(325, ())) for page in places.values())
    slack = 1024 + 64 * sum(len(page.get(273, ())) + len(page.get(324, ())) + 1 for page in places.values())
    if len(data) - used > slack:
        yield f"about {len(data) - used} bytes that no directory refers to"


def _gif(data: bytes) -> Iterator[str]:
    position = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 128 else 0)
    while True:
        kind = data[position]
        if kind == 0x3B:
            if position + 1 < len(data):
                yield f"{len(data) - position - 1} bytes after the end"
            return
        if kind == 0x2C:
            flags = data[position + 9]
            position = _gif_blocks(data, position + 11 + (3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0))
        elif kind == 0x21:
            label = data[position + 1]
            name = data[position + 3 : position + 14]
            if label == 0xFE:
                yield "GIF comment"
            elif label == 0x01:
                yield "GIF text"
            elif label == 0xFF and name not in (b"NETSCAPE2.0", b"ANIMEXTS1.0"):
                yield f"GIF application block {name.decode('ascii', 'replace')}"
            elif label not in (0xF9, 0xFF):
                yield f"GIF extension 0x{label:02X}"
            position = _gif_blocks(data, position + 2)
        else:
            raise ValueError(f"GIF block 0x{kind:02X}")


def _gif_blocks(data: bytes, position: int) -> int:
    while data[position]:
        position += 1 + data[position]
    return position + 1


def _bmp(data: bytes) -> Iterator[str]:
    size, offset = struct.unpack_from("<I4xI", data, 2)
    (header,) = struct.unpack_from("<I", data, 14)
    if len(data) > size:
        yield f"{len(data) - size} bytes after the end"
    if header < 40:
        return
    width, height, bits, compression, colors = struct.unpack_from("<ii2xHI12xI", data, 18)
    palette = 4 * (colors or (2**bits if bits <= 8 else 0)) + (12 if header == 40 and compression == 3 else 0)
    if offset > 14 + header + palette + 4:
        yield "bytes between header and pixels"
    rows = (width * bits + 31) // 32 * 4 * abs(height)
    if compression in (0, 3) and size > offset + rows + 4:
        yield "bytes behind the pixels"
    if header >= 124 and data[14 + 56 : 14 + 60] == b"KNIL":
        yield "link to a color profile"


def _iso(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, position + 8)
        size = size or len(data) - position
        if size < 8 or position + size > len(data):
            yield f"{len(data) - position} bytes after the end"
            return
        name, content = kind.decode("latin-1"), data[position : position + size]
        position += size
        if name not in _ISO_IMAGE:
            yield f"box {name}"
        elif name == "meta":
            for item, what in _ISO_FOREIGN_ITEMS.items():
                if any(content[at + 8 : at + 12] == item for at in _infe(content)) and not (keep and item == b"Exif"):
                    yield what
            if b"thmb" in content:
                yield "thumbnail"
        elif name == "moov" and (b"udta" in content or b"Exif" in content):
            yield "user data of a sequence"


def _infe(content: bytes) -> Iterator[int]:
    """Where the item entries (infe, version 2) begin behind their type: version and flags, id, protection, type."""
    at = content.find(b"infe")
    while at >= 0:
        yield at + 4
        at = content.find(b"infe", at + 4)
