"""What a file is, by its name and first bytes, and what becomes of it: an image is processed, all else skipped.

A file that is no image can hold anything, so it is passed through only where the user names it; an archive within an
archive never is. The first bytes that tell formats apart stand here.
"""

import re
import struct
from collections.abc import Sequence
from fnmatch import fnmatchcase

from depers.statuses import FileStatus

HEAD = 4096  # bytes that are enough to tell

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf",
    ".rw2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".sgi", ".raf", ".svg",
)  # fmt: skip
_IMAGE_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    "PSD": (b"8BPS",),
    "RAF": (b"FUJIFILMCCD-RAW",),
    "ORF": (b"IIRO",),
    "RW2": (b"IIU\0",),
}
_ISO_BRANDS: dict[str, tuple[bytes, ...]] = {  # of the ISO base media format: what follows its box `ftyp`
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"),
    "CR3": (b"crx ",),
}
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # how many bytes a bitmap's second header may have
_ARCHIVE_STARTS = (
    b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf'\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd",
    b"PAR1", b"\x04\x22\x4d\x18",
)  # fmt: skip
_RESOURCE_FORKS = (b"\0\5\x16\7", b"\0\5\x16\0")  # AppleDouble, AppleSingle (RFC 1740)
_COMPRESSED_STARTS = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8")  # RIFF holds sound, too
_ARCHIVE_SUFFIXES = re.compile(
    r"\.(tar|tgz|tbz2?|txz|zip|parquet|7z|rar|gz|bz2|xz|zst|lz4|jar|iso|cab|arrow|tfrecord)$", re.IGNORECASE
)


def has_image_suffix(name: str) -> bool:
    """Return whether a name ends as those of images do, also of images that cannot be processed."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def sniff_format(head: bytes) -> str:
    """Return the image format that the first bytes begin, also one that cannot be processed; empty for none.

    Formats that Pillow reads have its names. A file of the brand `mif1`, which AVIF may have too, is given as HEIF.
    """
    for name, starts in _IMAGE_SIGNATURES.items():
        if head.startswith(starts):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return next((name for name, brands in _ISO_BRANDS.items() if head[8:12] in brands), "")
    # "BM" alone begins many a text: a bitmap says how long its header is, too.
    if head[:2] == b"BM" and len(head) > 18 and struct.unpack_from("<I", head, 14)[0] in _BITMAP_HEADERS:
        return "BMP"
    return ""


def is_image(head: bytes) -> bool:
    """Return whether the first bytes are those of an image, also of one in a format that cannot be processed."""
    return bool(sniff_format(head))


def is_compressed_media(head: bytes) -> bool:
    """Return whether a file begins like a JPEG, PNG, WebP or GIF, which compressing again makes no smaller."""
    return head.startswith(_COMPRESSED_STARTS)


def is_archive(name: str, head: bytes) -> bool:
    """Return whether a file is an archive or compressed, by name or first bytes: nobody knows what it holds."""
    return bool(_ARCHIVE_SUFFIXES.search(name)) or head.startswith(_ARCHIVE_STARTS) or head[257:262] == b"ustar"


def classify(name: str, head: bytes, keep: Sequence[str]) -> tuple[FileStatus | None, str]:
    """Return None for an image, which is to be processed, else what becomes of the file, and the reason.

    `keep` are globs over the whole name or its last part; a resource fork, which says where its image came from and may
    hold a preview of it, is never passed through.
    """
    if is_image(head):
        return None, ""
    if head.startswith(_RESOURCE_FORKS):
        return FileStatus.SKIPPED, "a resource fork of macOS"
    if is_archive(name, head):
        return FileStatus.SKIPPED, "an archive that is not opened: what it holds is not known"
    if has_image_suffix(name):
        return None, ""
    last = name.rsplit("/", 1)[-1]
    if any(fnmatchcase(name, glob) or fnmatchcase(last, glob) for glob in keep):
        return FileStatus.PASSED_THROUGH, ""
    return FileStatus.SKIPPED, "not an image, and not named by --keep"
