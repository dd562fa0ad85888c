"""Images, films, documents and archives by their bytes, wherever in the data they begin.

At the start a few bytes are enough. Elsewhere those occur by chance, so that what follows them has to fit, too.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np

from depers.imaging import sniffing
from depers.imaging.disguise import pixels
from depers.imaging.formats import gif

_STARTS = (
    (b"%!PS", "PostScript"), (b"\xc5\xd0\xd3\xc6", "PostScript"), (b"\x1aE\xdf\xa3", "film"), (b"FLV\1", "film"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "film"), (b"\0\0\1\xba", "film"), (b"\0\0\1\xb3", "film"),
    (b"SIMPLE  =", "FITS"), (b"v/1\1", "EXR"), (b"#?RADIANCE", "HDR"), (b"#?RGBE", "HDR"), (b"DDS ", "DDS"),
    (b"qoif", "QOI"), (b"gimp xcf", "XCF"), (b"II\xbc", "JPEG XR"), (b"\x8aMNG", "MNG"), (b"\x8bJNG", "JNG"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"\x01\xda\0\1", "SGI"), (b"\x01\xda\1\1", "SGI"), (b"FLIF", "FLIF"),
    (b"BPG\xfb", "BPG"), (b"AT&TFORM", "DjVu"), (b"\xd7\xcd\xc6\x9a", "WMF"), (b"farbfeld", "farbfeld"),
    (b"\xabKTX ", "KTX"), (b"II\x1a\0\0\0HEAPCCDR", "CIFF"), (b"IIIIwaR", "IIQ"),
    (b"MMMMRaw", "IIQ"), (b"\0MRM", "MRW"), (b"FOVb", "X3F"),
    (b"/* XPM */", "XPM"), (b"NRRD000", "NRRD"), (b"MATLAB 5.0 MAT-file", "MATLAB file"),
    (b"YUV4MPEG2", "film"), (b".RMF", "film"), (b"\x06\x0e\x2b\x34", "film"), (b"\0\0\0\1\x67", "film"),
    (b"\0\0\0\1\x27", "film"), (b"FWS", "film"), (b"CWS", "film"), (b"ZWS", "film"),
    (b"ARROW1\0\0", "archive"), (b"FEA1", "archive"), (b"Obj\1", "archive"), (b"MSCF\0\0\0\0", "archive"),
    (b"LZIP\1", "archive"), (b"hsqs", "archive"), (b"MSWIM\0\0\0", "archive"), (b"xar!\0", "archive"),
    (b"\xff\6\0\0sNaPpY", "archive"),
)  # fmt: skip
_START = re.compile(b"|".join(re.escape(start) for start, _ in _STARTS))  # none begins another
_START_NAMES = dict(_STARTS)
_START_PATTERNS = (
    (re.compile(rb"ORC[\x00-\x1f]"), "archive"),
    (re.compile(rb"\x5d\x00\x00.{2}(?:\xff{8}|.{4}\x00{4})", re.DOTALL), "archive"),  # LZMA without a container
    (re.compile(rb"(?:.{4})?\x47(?:.{187}\x47.{187}\x47|.{191}\x47.{191}\x47)", re.DOTALL), "film"),  # MPEG-TS
    (re.compile(rb"\x00.{3}(?:moov|mdat|wide|pnot)", re.DOTALL), "film"),  # of QuickTime before it had a type
    (re.compile(rb"OggS\x00.{0,200}(?:theora|fishead|BBCD|OVP80)", re.DOTALL), "film"),
    (re.compile(rb"\x00\x00[\x01\x02]\x00[\x01-\x40]\x00.{3}\x00", re.DOTALL), "ICO"),
    (re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]"), "PCX"),
    (re.compile(rb"P[1-6]\s(?:#[^\n]*\n|\s)*\d+\s+\d+\s"), "PNM"),
    (re.compile(rb"P7\nWIDTH"), "PNM"),
    (re.compile(rb".{128}DICM", re.DOTALL), "DICOM"),
)
_PICKLES = (b"\2", b"\3", b"\4", b"\5")  # versions; before, all was text
_ARRAYS = re.compile(rb"multiarray|PIL\.\w*Image|_rebuild_tensor")
_BITMAP = re.compile(rb"BM.{4}\x00{4}.{2}\x00\x00[\x0c\x28\x34\x38\x40\x6c\x7c]\x00{3}", re.DOTALL)
_SHORT_STARTS = (b"\xff\xd8", b"\xff\x0a", b"\x1f\x8b", b"BZh")  # looked for by what follows them, too
_LEAST_JXL = 512
_PNM = re.compile(rb"P[456]\s\d{1,6}\s\d{1,6}\s\d{1,5}\s")
_JPEG_MARKERS = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_JPEG_NAMES = (b"JFIF", b"Exif", b"ICC_", b"Adob", b"http", b"Duck", b"MPF\0")
_PDF = re.compile(rb"%PDF-[12]\.")
_ZIP_METHODS = (0, 1, 6, 8, 9, 12, 14, 93, 95, 97, 98, 99)
_BRANDS = re.compile(
    rb"avi[fs]|he[iv][cxms]|hevx|mif1|msf1|miaf|crx |isom|iso\d|mp4\d|M4V |qt  |avc1|dash|3g[p2]\d|jp2 |jxl "
)
_MAX_UNPACKED = 1 << 26
_PIECE = 4096  # bytes of a stream that are unpacked at a time
_MOST_FILLS = 64  # of 0xFF before the first marker of a JPEG
_WINDOW = 1 << 18  # bytes, even


def find(data: bytes) -> str:
    """Return what kind of image, or of what may hold images, begins in the data; empty where none does."""
    return find_at_start(data) or find_inside(data)


def find_at_start(data: bytes, is_file: bool = True) -> str:
    """Return what the data as a whole is, if that is an image or may hold some.

    What is no file, but bytes that a stretch of text may mean, has to show more than two or three of the right ones.
    """
    head = data[: sniffing.HEAD]
    name = sniffing.sniff_format(head)
    if name and (is_file or not head.startswith(_SHORT_STARTS) or (name == "JPEG XL" and len(data) >= _LEAST_JXL)):
        return name
    if is_file and head[4:8] == b"ftyp":
        return "film"
    if sniffing.is_archive("", head) and (is_file or not head.startswith(_SHORT_STARTS)):
        return "archive"
    if match := _START.match(head):
        return _START_NAMES[match[0]]
    for pattern, name in _START_PATTERNS:
        if pattern.match(head):
            return name
    if head[:1] == b"\x80" and head[1:2] in _PICKLES and _ARRAYS.search(data):
        return "pickled array, of which nothing tells what it is"
    return "PDF" if b"%PDF-" in head[:1030] else ""


def find_inside(data: bytes) -> str:
    """Return what begins somewhere in the data; whatever is binary holds a zero byte in its first few."""
    if b"%" in data and _PDF.search(data):
        return "PDF"
    if b"\0" not in data:
        return ""
    if _PNM.search(data):
        return "PNM"
    for position in _find_pairs(data):
        for needle, name, fits in _INSIDE[data[position : position + 2]]:
            start = position - needle.index(data[position : position + 2])
            if start >= 0 and data.startswith(needle, start) and fits(data, start):
                return name
    return ""


def unpack(data: bytes) -> bytes:
    """Return what is in a zlib or deflate stream, nothing where the data is none; of a damaged one what comes before.

    Raises ValueError where that is too much.
    """
    if len(data) < 8:
        return b""
    is_zlib = data[0] & 15 == 8 and data[0] >> 4 <= 7 and (data[0] << 8 | data[1]) % 31 == 0
    unpacker = zlib.decompressobj() if is_zlib else zlib.decompressobj(-zlib.MAX_WBITS)
    content = bytearray()
    try:
        for start in range(0, len(data), _PIECE):  # an error gives nothing of the piece that it is in
            content += unpacker.decompress(data[start : start + _PIECE], max(1, _MAX_UNPACKED - len(content)))
            if unpacker.unconsumed_tail:
                raise ValueError("unpacks to too much to be searched")
    except zlib.error:
        return bytes(content) if is_zlib else b""  # a bare stream has no header: whatever begins well may be none
    return bytes(content)


def _find_pairs(data: bytes) -> Iterator[int]:
    """Yield where two neighboring bytes are the telling ones of a signature: one look-up each instead of a search."""
    for first in range(0, len(data), _WINDOW):
        window = data[first : first + _WINDOW + 1]
        for shift in (0, 1):
            pairs = np.frombuffer(window, "<u2", (len(window) - shift) // 2, shift) if len(window) > 2 else _NO_PAIRS
            for position in np.flatnonzero(_PAIRS[pairs]).tolist():
                yield first + 2 * position + shift


def _is_bitmap(data: bytes, position: int) -> bool:
    return bool(_BITMAP.match(data, position))


def _is_jpeg(data: bytes, position: int) -> bool:
    """Return whether a first segment follows, and behind it a second one; fill bytes may precede it."""
    fills = 0
    while fills < _MOST_FILLS and data[position + 3 : position + 4] == b"\xff":
        position, fills = position + 1, fills + 1
    head = data[position + 3 : position + 12]
    if len(head) < 9 or head[0] not in _JPEG_MARKERS:
        return False
    if head[3:7] in _JPEG_NAMES:
        return True
    length = head[1] << 8 | head[2]
    following = data[position + 4 + length : position + 6 + length]
    if length < 2 or (len(following) == 2 and (following[0] != 0xFF or following[1] < 0xC0)):
        return False
    return len(following) == 2 or (head[0] in (0xC4, 0xDB) and length in (67, 132, 0x1A2, 31, 181))


def _is_gif(data: bytes, position: int) -> bool:
    if data[position + 4 : position + 6] not in (b"7a", b"9a") or position + 14 > len(data):
        return False
    flags = data[position + 10]
    first = position + 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    return first >= len(data) or data[first] in (gif.IMAGE, gif.EXTENSION)


def _is_tiff(data: bytes, position: int) -> bool:
    """Return whether the first directory lies in the data and begins with entries in order."""
    order = "<" if data[position : position + 1] == b"I" else ">"
    big = b"+" in data[position : position + 4]
    try:
        (first,) = struct.unpack_from(order + ("Q" if big else "I"), data, position + (8 if big else 4))
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, position + first)
        width = 20 if big else 12
        start = position + first + (8 if big else 2)
        tags = [struct.unpack_from(order + "HH", data, start + width * index) for index in range(min(count, 4))]
    except (struct.error, OverflowError):
        return False
    numbers = [number for number, _ in tags]
    return bool(tags) and count < 1000 and numbers == sorted(numbers) and all(0 < kind < 19 for _, kind in tags)


def _is_iso(data: bytes, position: int) -> bool:
    return position >= 4 and data[position - 4 : position - 1] == b"\0\0\0" and bool(_BRANDS.match(data, position + 4))


def _is_zip(data: bytes, position: int) -> bool:
    head = data[position + 4 : position + 30]
    if len(head) < 26:
        return False
    version, _, method = struct.unpack_from("<3H", head)
    return (version & 255) < 64 and method in _ZIP_METHODS and 0 < struct.unpack_from("<H", head, 22)[0] < 4096


def _is_gzip(data: bytes, position: int) -> bool:
    if position + 18 > len(data) or data[position + 3] > 31:
        return False
    try:
        return bool(zlib.decompressobj(31).decompress(data[position : position + 4096], 64))
    except zlib.error:
        return False


def _is_webp(data: bytes, position: int) -> bool:
    return position >= 8 and data[position - 8 : position - 4] == b"RIFF"


def _always(data: bytes, position: int) -> bool:
    return True


_SIGNATURES: tuple[tuple[bytes, bytes, str, Callable[[bytes, int], bool]], ...] = (
    (b"\xff\xd8\xff", b"\xff\xd8", "JPEG", _is_jpeg),
    (b"\x89PNG\r\n\x1a", b"\x89P", "PNG", _always),
    (b"GIF8", b"F8", "GIF", _is_gif),
    (b"WEBPVP8", b"PV", "WEBP", _is_webp),
    (b"II*\0", b"*\0", "TIFF", _is_tiff),
    (b"MM\0*", b"\0*", "TIFF", _is_tiff),
    (b"II+\0\x08\0\0\0", b"+\0", "TIFF", _is_tiff),
    (b"MM\0+\0\x08\0\0", b"\0+", "TIFF", _is_tiff),
    (b"ftyp", b"yp", "HEIF, AVIF or a film", _is_iso),
    (b"\0\0\0\x0cjP  \r\n\x87\n", b"\n\x87", "JPEG 2000", _always),
    (b"\xff\x4f\xff\x51\0", b"\xff\x4f", "JPEG 2000", _always),
    (b"\0\0\0\x0cJXL \r\n\x87\n", b"\n\x87", "JPEG XL", _always),
    (b"8BPS\0\1\0\0\0\0\0\0", b"8B", "PSD", _always),
    (b"8BPS\0\2\0\0\0\0\0\0", b"8B", "PSD", _always),
    (b"\x93NUMPY", b"\x93N", "array of pixels", pixels.is_numpy_image),
    (b"AVI LIST", b"I ", "film", _is_webp),
    (b"BM", b"BM", "BMP", _is_bitmap),
    (b"PK\3\4", b"\3\4", "archive", _is_zip),
    (b"\x1f\x8b\x08", b"\x1f\x8b", "archive", _is_gzip),
    (b"7z\xbc\xaf\x27\x1c", b"z\xbc", "archive", _always),
    (b"Rar!\x1a\x07", b"!\x1a", "archive", _always),
    (b"\xfd7zXZ\0", b"\xfd7", "archive", _always),
    (b"1AY&SY", b"Y&", "archive", _always),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"\xcf\x11", "Office document", _always),
)
"""Of each signature its bytes, two of them that are rare elsewhere, its name, and what checks what follows."""
_INSIDE = {
    pair: tuple((needle, name, fits) for needle, rare, name, fits in _SIGNATURES if rare == pair)
    for _, pair, _, _ in _SIGNATURES
}
_PAIRS = np.zeros(65536, np.uint8)
_PAIRS[[int.from_bytes(pair, "little") for pair in _INSIDE]] = 1
_NO_PAIRS = np.zeros(0, "<u2")
