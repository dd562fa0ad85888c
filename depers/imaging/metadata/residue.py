"""What an image's file holds besides image, orientation and color profile: read from its bytes, not decoded."""

import struct
from collections.abc import Callable, Iterator, Sequence

from depers.imaging import sniffing
from depers.imaging.formats import gif, isobmff, jpeg_segments, png, tiff
from depers.imaging.metadata import exif, icc, panorama

_TIFF_IMAGE_TAGS = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 283, 284, 292, 293, 296, 317}
    | {320, 322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532, 34675}
)
_PNG_IMAGE_CHUNKS = frozenset(b"IHDR PLTE IDAT tRNS acTL fcTL fdAT sRGB gAMA cHRM sBIT bKGD cICP pHYs".split())
_WEBP_IMAGE_CHUNKS = {"VP8 ", "VP8L", "VP8X", "ALPH", "ANIM", "ANMF", "ICCP"}
_GIF_APPLICATIONS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")  # which say how often an animation repeats
_ISO_IMAGE_BOXES = {b"ftyp", b"meta", b"mdat", b"moov"}
_ISO_FOREIGN_ITEMS = {b"Exif": "EXIF", b"mime": "XMP or another document", b"uri ": "a document"}


def find_residue(data: bytes, keep: Sequence[str] = ()) -> list[str]:
    """Return what the file holds besides image, orientation and neutral color profile, one line each; else nothing.

    `keep` names groups of `exif.GROUPS` that are allowed. A file of no known format, or damaged, is a line as well.
    """
    find = _FINDERS.get(sniffing.sniff_format(data[: sniffing.HEAD]))
    if find is None:
        return ["a file of no known format"]
    try:
        return list(dict.fromkeys(find(data, keep)))
    except (ValueError, struct.error, IndexError) as error:
        return [f"a damaged structure ({error})"]


def _find_in_jpeg(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    profile = b""
    for marker, content, _ in jpeg_segments.walk(data):
        if marker == jpeg_segments.EOI:
            if content:
                yield f"{len(content)} bytes after the end"
        elif marker == jpeg_segments.APP0 and content[:5] == b"JFIF\0":
            if len(content) != 14:
                yield "JFIF thumbnail"
        elif marker == jpeg_segments.APP14 and content[:5] == b"Adobe" and len(content) == 12:
            continue
        elif marker == jpeg_segments.APP1 and content[:6] == b"Exif\0\0":
            yield from _find_in_exif(content[6:], keep)
        elif marker == jpeg_segments.APP2 and content[:12] == b"ICC_PROFILE\0":
            profile += content[14:]
        elif marker == jpeg_segments.APP1 and b"ns.adobe.com" in content[:40]:
            if exif.PANORAMA not in keep or content != panorama.PREFIX + panorama.read(content):
                yield "XMP"
        elif marker == jpeg_segments.APP2 and content[:4] == b"MPF\0":
            yield "MPF: further images"
        elif marker == jpeg_segments.COM:
            yield "comment"
        elif marker not in jpeg_segments.IMAGE_MARKERS | {jpeg_segments.SOI}:
            name = content[:12].split(b"\0")[0].decode("ascii", "replace")
            yield f"segment 0x{marker:02X} {name}".rstrip()
    if profile:
        yield from _find_in_profile(profile)


def _find_in_exif(block: bytes, keep: Sequence[str]) -> Iterator[str]:
    """Yield EXIF tags other than the orientation and those that may be kept."""
    kept_tags = exif.list_tag_ids(keep)
    pointers = {tiff.EXIF_IFD, tiff.GPS_IFD} & kept_tags.keys()
    for tag in tiff.walk(block.removeprefix(b"Exif\0\0")):
        main = tag.directory == 0 and tag.page == 0
        if main and (tag.number == exif.ORIENTATION or tag.number in pointers):
            continue
        if tag.page > 0:
            yield "EXIF thumbnail"
        elif tag.number not in kept_tags.get(tag.directory, set()):
            yield f"EXIF tag 0x{tag.number:04X}" + (f" in directory 0x{tag.directory:04X}" if tag.directory else "")


def _find_in_profile(profile: bytes) -> Iterator[str]:
    if not icc.is_neutral(profile):
        yield "color profile with texts"


def _find_in_png(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    for name, content, end in png.walk(data):
        if name == b"eXIf":
            yield from _find_in_exif(content, keep)
        elif name == b"iCCP":
            yield from _find_in_profile(icc.from_png(content))
        elif name == b"IEND":
            if end < len(data):
                yield f"{len(data) - end} bytes after the end"
            return
        elif name not in _PNG_IMAGE_CHUNKS:
            yield f"PNG chunk {name.decode('latin-1')}"
    yield "no end"


def _find_in_webp(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    end += end % 2
    position = 12
    while position + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from("<4sI", data, position)
        name, content = kind.decode("latin-1"), data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
        if name == "EXIF":
            yield from _find_in_exif(content, keep)
        elif name == "ICCP":
            yield from _find_in_profile(content)
        elif name not in _WEBP_IMAGE_CHUNKS:
            yield f"WebP chunk {name}"
    if len(data) > end:
        yield f"{len(data) - end} bytes after the end"


def _find_in_tiff(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    kept_tags = exif.list_tag_ids(keep)
    pointers = {tiff.EXIF_IFD, tiff.GPS_IFD} & kept_tags.keys()
    size = 8  # of what directories refer to
    layouts: dict[int, dict[int, tuple[int, ...]]] = {}  # by page: where its strips or tiles are
    for tag in tiff.walk(data):
        size += 12 + (tag.size if tag.size > 4 else 0)
        if (
            tag.number in (tiff.STRIP_OFFSETS, tiff.STRIP_BYTES, tiff.TILE_OFFSETS, tiff.TILE_BYTES)
            and not tag.directory
        ):
            layouts.setdefault(tag.page, {})[tag.number] = tiff.read_numbers(data, tag)
        if tag.directory == 0 and tag.number == tiff.SUBFILE_TYPE and _is_second_image(data, tag):
            yield "a reduced image or mask"
        elif tag.directory == 0 and tag.number == tiff.ICC_PROFILE:
            yield from _find_in_profile(data[tag.start : tag.start + tag.size])
        elif tag.directory == 0 and tag.number in _TIFF_IMAGE_TAGS | pointers:
            continue
        elif tag.number not in kept_tags.get(tag.directory, set()):
            yield f"TIFF tag {tag.number}" + (f" in directory {tag.directory}" if tag.directory else "")
    size += sum(sum(page.get(tiff.STRIP_BYTES, ())) + sum(page.get(tiff.TILE_BYTES, ())) for page in layouts.values())
    pieces = (len(page.get(tiff.STRIP_OFFSETS, ())) + len(page.get(tiff.TILE_OFFSETS, ())) for page in layouts.values())
    slack = 1024 + 64 * sum(count + 1 for count in pieces)
    if len(data) - size > slack:
        yield f"about {len(data) - size} bytes that no directory refers to"


def _is_second_image(data: bytes, tag: tiff.Tag) -> bool:
    return any(tiff.is_reduced_or_mask(number) for number in tiff.read_numbers(data, tag))


def _find_in_gif(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    for introducer, start, end in gif.walk(data):
        if end > len(data):
            raise ValueError("a GIF block runs past the end")
        if introducer == gif.TRAILER:
            if end < len(data):
                yield f"{len(data) - end} bytes after the end"
            return
        if introducer == gif.EXTENSION:
            yield from _find_in_gif_extension(data[start + 1], data[start + 3 : start + 14])
        elif introducer != gif.IMAGE:
            raise ValueError(f"GIF block 0x{introducer:02X}")
    raise ValueError("a GIF without an end")


def _find_in_gif_extension(label: int, name: bytes) -> Iterator[str]:
    if label == gif.COMMENT:
        yield "GIF comment"
    elif label == gif.TEXT:
        yield "GIF text"
    elif label == gif.APPLICATION and name not in _GIF_APPLICATIONS:
        yield f"GIF application block {name.decode('ascii', 'replace')}"
    elif label not in (gif.GRAPHIC_CONTROL, gif.APPLICATION):
        yield f"GIF extension 0x{label:02X}"


def _find_in_bmp(data: bytes, keep: Sequence[str]) -> Iterator[str]:
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


def _find_in_iso(data: bytes, keep: Sequence[str]) -> Iterator[str]:
    end = 0
    try:
        for kind, start, _, end in isobmff.walk(data):
            yield from _find_in_iso_box(kind, data[start:end], keep)
    except ValueError:  # what follows the last box is none
        pass
    if end < len(data):
        yield f"{len(data) - end} bytes after the end"


def _find_in_iso_box(kind: bytes, box: bytes, keep: Sequence[str]) -> Iterator[str]:
    if kind not in _ISO_IMAGE_BOXES:
        yield f"box {kind.decode('latin-1')}"
    elif kind == b"meta":
        for item, name in _ISO_FOREIGN_ITEMS.items():
            if any(box[at + 8 : at + 12] == item for at in _item_entries(box)) and not (keep and item == b"Exif"):
                yield name
        if b"thmb" in box:
            yield "thumbnail"
    elif kind == b"moov" and (b"udta" in box or b"Exif" in box):
        yield "user data of a sequence"


def _item_entries(box: bytes) -> Iterator[int]:
    """Yield where item entries (infe, version 2) begin behind their type: version and flags, id, protection, type."""
    at = box.find(b"infe")
    while at >= 0:
        yield at + 4
        at = box.find(b"infe", at + 4)


_FINDERS: dict[str, Callable[[bytes, Sequence[str]], Iterator[str]]] = {
    "JPEG": _find_in_jpeg,
    "PNG": _find_in_png,
    "WEBP": _find_in_webp,
    "TIFF": _find_in_tiff,
    "GIF": _find_in_gif,
    "BMP": _find_in_bmp,
    "AVIF": _find_in_iso,
    "HEIF": _find_in_iso,
}
