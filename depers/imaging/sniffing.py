"""What a file is, by its name and first bytes, and what becomes of it: an image is processed, all else skipped.

A file that is no image can hold anything, so it is passed through only where the user names it; an archive within an
archive never is.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from depers.statuses import FileStatus

HEAD = 4096  # bytes that are enough to tell

_IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif",
    ".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf",
    ".rw2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".pcx", ".sgi", ".raf", ".svg",
)  # fmt: skip
_IMAGE_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"8BPS",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\0",
)  # fmt: skip
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"crx ")
_ARCHIVE_STARTS = (
    b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf'\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd",
    b"PAR1", b"\x04\x22\x4d\x18",
)  # fmt: skip
_ARCHIVE_SUFFIXES = re.compile(
    r"\.(tar|tgz|tbz2?|txz|zip|parquet|7z|rar|gz|bz2|xz|zst|lz4|jar|iso|cab|arrow|tfrecord)$", re.IGNORECASE
)


def is_image(head: bytes) -> bool:
    """Whether the first bytes are those of an image, also of one in a format that cannot be processed."""
    if head.startswith(_IMAGE_STARTS):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    if head[4:8] == b"ftyp":
        return head[8:12] in _IMAGE_BRANDS
    # "BM" alone begins many a text: a bitmap says how long its header is, too.
    return (
        head[:2] == b"BM"
        and len(head) > 18
        and head[14:18] in (b"\x0c\0\0\0", b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")
    )


def is_archive(name: str, head: bytes) -> bool:
    """Whether a file is an archive or compressed, by name or first bytes: whatever it holds has not been looked at."""
    return bool(_ARCHIVE_SUFFIXES.search(name)) or head.startswith(_ARCHIVE_STARTS) or head[257:262] == b"ustar"


def classify(name: str, head: bytes, keep: Sequence[str]) -> tuple[FileStatus | None, str]:
    """Return None for an image, which is to be processed, else what becomes of the file, and the reason.

    `keep` are globs over the whole name or its last part.
    """
    if is_image(head):
        return None, ""
    if is_archive(name, head):
        return FileStatus.SKIPPED, "an archive that is not opened: what it holds is not known"
    if name.lower().endswith(_IMAGE_SUFFIXES):
        return None, ""
    last = name.rsplit("/", 1)[-1]
    if any(fnmatchcase(name, glob) or fnmatchcase(last, glob) for glob in keep):
        return FileStatus.PASSED_THROUGH, ""
    return FileStatus.SKIPPED, "not an image, and not named by --keep"
