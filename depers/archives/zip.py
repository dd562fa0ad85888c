"""Zip archives through zipfile (APPNOTE.TXT); where the directory at the end is lost, by the headers of the members.

Written with names and contents alone: no times, comments or extra fields. Names keep their bytes, which are UTF-8 also
where nothing says so; those that are not, in whatever code page, become surrogates, as in names of files.
"""

import io
import itertools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from depers.archives.base import (
    FOLDER,
    ArchiveEnd,
    ArchiveError,
    Chunk,
    Member,
    MemberRules,
    chunk_members,
    read_folder,
    read_member,
)
from depers.imaging import sniffing
from depers.statuses import FileStatus
from depers.storage.failures import UnavailableError

_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7
_HEADER, _GAP = b"PK\3\4", 128  # bytes: fewer are no image, but what belongs to the member before
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1 | 0x40
_SIZE_FOLLOWS = 0x8
_UTF8 = 0x800
_UNICODE_PATH = 0x7075  # an extra field, Info-ZIP's, with the name in UTF-8
_RAW = "latin-1"  # an encoding that gives every byte back


class _NamedInfo(zipfile.ZipInfo):
    """A member whose name is written with the bytes that it has."""

    __slots__ = ()

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 (what zipfile calls)
        raw = self.filename.encode("utf-8", "surrogateescape")
        is_utf8 = not raw.isascii() and not any("\udc80" <= letter <= "\udcff" for letter in self.filename)
        return raw, self.flag_bits & ~_UTF8 | (_UTF8 if is_utf8 else 0)


def read_layout(file: BinaryIO, rules: MemberRules) -> bytes:
    """Return nothing: members say how they are packed."""
    return b""


def read(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the archive in chunks, in the order of its directory, then its end."""
    return chunk_members(_members(file, size, rules), b"")


def _members(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(file, metadata_encoding=_RAW)
    except UnavailableError:
        raise
    except Exception as error:  # whatever a damaged directory makes zipfile raise
        count = 0
        for member in _read_without_directory(file, size, rules):
            yield member
            count += 1
        text = "damaged, or cut off: its directory cannot be read" if count else "not a zip archive"
        raise ArchiveError(f"{text} ({error})") from None
    with archive:
        entries = archive.infolist()
        overlapping = _find_overlapping(entries)
        index = 0
        for entry in entries:
            member = _member(archive, entry, index, rules, entry.header_offset in overlapping)
            yield member
            index += member.status != FOLDER
        if _holds_unlisted(file, entries, archive.start_dir):
            raise ArchiveError("holds members that its directory does not list, such as those of another zip before it")


def _holds_unlisted(file: BinaryIO, entries: Sequence[zipfile.ZipInfo], directory: int) -> bool:
    """Return whether a member's header stands where the directory has none: zips were joined, or members removed."""
    position = -1
    spans = sorted((entry.header_offset, len(entry.orig_filename) + entry.compress_size) for entry in entries)
    for offset, size in [*spans, (directory, 0)]:
        if offset - position >= _GAP:
            file.seek(position + 1)
            if _HEADER in file.read(_GAP):  # perhaps behind an extra field, and the sizes of the member before
                return True
        position = max(position, offset + _LOCAL.size + size - 1)
    return False


def _find_overlapping(entries: Sequence[zipfile.ZipInfo]) -> set[int]:
    """Return the offsets of members that share bytes: a way to pack a bomb (Fifield 2019)."""
    spans = sorted((entry.header_offset, entry.header_offset + _LOCAL.size + entry.compress_size) for entry in entries)
    offsets = set()
    for (start, end), (following, _) in itertools.pairwise(spans):
        if following < end:
            offsets |= {start, following}
    return offsets


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, index: int, rules: MemberRules, overlaps: bool) -> Member:
    name, size = _read_name(entry), entry.file_size
    if name.endswith("/") and not size:
        return read_folder(index, name)
    if name.endswith("/"):
        return Member(index, name, size, None, FileStatus.FAILED, "called as a folder is, but holds bytes")
    if stat.S_ISLNK(entry.external_attr >> 16):
        return Member(index, name, size, None, FileStatus.SKIPPED, "a symbolic link")
    reason = "encrypted" if entry.flag_bits & _ENCRYPTED else "shares its bytes with another member" if overlaps else ""
    if reason:
        return Member(index, name, size, None, FileStatus.FAILED, reason)
    try:
        with archive.open(entry) as file:
            return read_member(index, name, size, file, rules, entry.compress_type != zipfile.ZIP_STORED)  # type: ignore[arg-type]
    except UnavailableError:
        raise
    except Exception as error:  # the decompressors raise kinds of their own
        return Member(
            index, name, size, None, FileStatus.FAILED, f"lost: cannot be unpacked ({error or type(error).__name__})"
        )


def _read_name(entry: zipfile.ZipInfo) -> str:
    """Return the whole name of a member of an archive that was opened with `_RAW`."""
    if entry.flag_bits & _UTF8:
        return entry.orig_filename
    raw, extra = entry.orig_filename.encode(_RAW), entry.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, zlib.crc32(raw)):
            raw = field[5:]
    return _decode_name(raw)


def _decode_name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _read_without_directory(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Member]:
    """Yield the members whose headers can be followed from the first one on, as long as they are whole."""
    offset = index = 0
    while offset + _LOCAL.size <= size:
        file.seek(offset)
        header = file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or header[:4] != _HEADER:
            return
        _, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = _LOCAL.unpack(header)
        name = _decode_name(file.read(name_length))
        offset += _LOCAL.size + name_length + extra_length
        if name.endswith("/") and not packed:
            member = read_folder(index, name)
            yield member
            index -= member.status == FOLDER
        elif flags & (_ENCRYPTED | _SIZE_FOLLOWS) or method not in (0, 8) or 0xFFFFFFFF in (packed, unpacked):
            yield Member(
                index, name, -1, None, FileStatus.FAILED, "lost: only the archive's directory could tell where it ends"
            )
            return
        elif packed > rules.most_bytes or unpacked > rules.most_bytes:
            yield Member(index, name, unpacked, None, FileStatus.FAILED, f"must have at most {rules.most_bytes} bytes")
        else:
            file.seek(offset)
            yield _unpack(index, name, file.read(packed), (method, crc, packed, unpacked), rules)
        offset += packed
        index += 1


def _unpack(index: int, name: str, raw: bytes, header: tuple[int, int, int, int], rules: MemberRules) -> Member:
    method, crc, packed, unpacked = header
    try:
        data = zlib.decompressobj(-15).decompress(raw, unpacked + 1) if method else raw
    except zlib.error:
        data = b""
    if len(raw) != packed or len(data) != unpacked or zlib.crc32(data) != crc:
        return Member(index, name, unpacked, None, FileStatus.FAILED, "lost: the archive is damaged or ends here")
    return read_member(index, name, unpacked, io.BytesIO(data), rules, bool(method))


def encode_chunk(chunk: Chunk, results: Sequence[bytes | None], layout: bytes) -> tuple[bytes, list[int | None]]:
    """Return a zip archive of its own; what was stored stays so, and images that are compressed already are."""
    buffer = io.BytesIO()
    offsets: list[int | None] = []
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in zip(chunk.members, results, strict=True):
            offsets.append(None)
            if data is None and member.status != FOLDER:
                continue
            entry = _NamedInfo(member.name, _EPOCH)
            entry.external_attr = (stat.S_IFDIR | 0o755) << 16 | 0x10 if member.status == FOLDER else 0o644 << 16
            shrinks = member.deflated and not sniffing.is_compressed_media(data or b"")
            entry.compress_type = zipfile.ZIP_DEFLATED if shrinks else zipfile.ZIP_STORED
            archive.NameToInfo.clear()  # a name may come twice, and zipfile would warn
            archive.writestr(entry, data or b"", compresslevel=6)
            if data is not None and not shrinks:
                offsets[-1] = archive.start_dir - len(data)
    return buffer.getvalue(), offsets


def assemble(chunks: Iterable[bytes], layout: bytes, file: BinaryIO) -> list[int]:
    """Write the members of all chunks as they are, then one directory."""
    offsets, size = [], 0
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for chunk in chunks:
            offsets.append(size)
            with zipfile.ZipFile(io.BytesIO(chunk), metadata_encoding=_RAW) as chunk_archive:
                assert archive.fp is not None
                archive.fp.write(chunk[: chunk_archive.start_dir])
                for entry in chunk_archive.infolist():
                    entry.header_offset += size
                    entry.filename, entry.__class__ = _read_name(entry), _NamedInfo
                    archive.filelist.append(entry)
                size += chunk_archive.start_dir
        archive.start_dir = size
        archive._didModify = True  # type: ignore[attr-defined]
    return offsets
