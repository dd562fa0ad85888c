"""Tar archives, plain or compressed: POSIX.1-1988 ustar, pax and GNU headers, through tarfile.

Written with names and contents alone: no owners, groups, times or links, which say who packed it, and where.
"""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

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
from depers.resources import MIB
from depers.statuses import FileStatus
from depers.storage.failures import UnavailableError

_BLOCK, _RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
_MOST_HEADER_BYTES = MIB  # of one long name or pax header: a damaged one may claim any size, and is read at once
_MOST_RATIO, _FREE_BYTES = 200, 2**32  # unpacked to packed, beyond some GiB: more is a decompression bomb
_STARTS = {b"\x1f\x8b": b"gz", b"BZ": b"bz2", b"\xfd7": b"xz"}
_COMPRESS: dict[bytes, Callable[[bytes], bytes]] = {
    b"": bytes,
    b"gz": lambda data: gzip.compress(data, compresslevel=1, mtime=0),  # images are compressed already
    b"bz2": bz2.compress,
    b"xz": lambda data: lzma.compress(data, preset=1),
}


class _UnpackedStream:
    """The stream that tarfile reads, its damage turned into `ArchiveError`, its length bounded."""

    def __init__(self, file: BinaryIO, compression: bytes, packed_size: int) -> None:
        openers: dict[bytes, Callable[[], Any]] = {
            b"": lambda: file,
            b"gz": lambda: gzip.GzipFile(fileobj=file),
            b"bz2": lambda: bz2.BZ2File(file),
            b"xz": lambda: lzma.LZMAFile(file),  # noqa: SIM115
        }
        unpacked = openers[compression]()
        self._read = unpacked.read1 if compression else unpacked.read  # what precedes damage is given first
        self._bytes_left = max(_FREE_BYTES, _MOST_RATIO * packed_size) if compression else packed_size
        self.problem = ""

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self._read(size)
        except UnavailableError:
            raise
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            self.problem = f"damaged compression, or cut off ({error})"
            return b""
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            self.problem = f"unpacks to more than {_MOST_RATIO} times its size"
            return b""
        return data


def read_layout(file: BinaryIO, rules: MemberRules) -> bytes:
    """Return the compression, empty where there is none."""
    file.seek(0)
    start = file.read(2)
    file.seek(0)
    return _STARTS.get(start, b"")


def read(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the archive in chunks, then its end. Damage is passed over where a whole header follows."""
    compression = read_layout(file, rules)
    return chunk_members(_members(_UnpackedStream(file, compression, size), rules), compression)


def _members(stream: _UnpackedStream, rules: MemberRules) -> Iterator[Member]:
    damaged_headers, is_damaged, has_end_mark = 0, False, False

    class Header(tarfile.TarInfo):
        """Notes what tarfile passes over in silence."""

        @classmethod
        def frombuf(cls, buf: Any, encoding: str, errors: str) -> Any:
            nonlocal damaged_headers, is_damaged, has_end_mark
            try:
                header = super().frombuf(buf, encoding, errors)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                has_end_mark = True
                raise
            except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError:
                damaged_headers, is_damaged = damaged_headers + (not is_damaged), True
                raise
            is_damaged = has_end_mark = False
            long = header.type in (*tarfile.GNU_TYPES[:2], tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
            if header.size < 0 or (long and header.size > _MOST_HEADER_BYTES):
                damaged_headers, is_damaged = damaged_headers + 1, True
                raise tarfile.InvalidHeaderError("size")  # type: ignore[attr-defined]
            return header

    index = 0
    name = ""
    try:
        with tarfile.open(
            fileobj=cast(Any, stream), mode="r|", ignore_zeros=True, tarinfo=Header, bufsize=2**18,
            encoding="utf-8", errors="surrogateescape",
        ) as archive:  # fmt: skip
            while (header := _next(archive)) is not None:
                setattr(archive, "members", [])  # noqa: B010  # else it remembers every one
                name = header.name
                member = _member(archive, header, index, rules)
                yield member
                index += member.status != FOLDER
                name = ""
    except UnavailableError:
        raise
    except (
        tarfile.TarError,
        ArchiveError,
        OSError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        RecursionError,
    ) as error:
        if name:
            yield Member(
                index, name, -1, None, FileStatus.FAILED, f"lost: the archive is damaged or ends here ({error})"
            )
        if not index and not name and not stream.problem:
            raise ArchiveError("not a tar archive") from None
        raise ArchiveError(stream.problem or f"cannot be read on after {index} members ({error})") from None
    if stream.problem:
        raise ArchiveError(stream.problem)
    if damaged_headers:
        raise ArchiveError(
            f"{damaged_headers} damaged headers: what they described is lost" if index else "not a tar archive"
        )
    if not has_end_mark:
        raise ArchiveError(f"ends after {index} members without its end mark: what followed is lost")


def _next(archive: Any) -> tarfile.TarInfo | None:
    """Return the next header; one that is damaged behind its pax header or long name is passed over as others are."""
    while True:
        offset = archive.fileobj.tell()
        try:
            return cast("tarfile.TarInfo | None", archive.next())
        except tarfile.ReadError as error:
            if archive.fileobj.tell() == offset or not isinstance(error.__context__, tarfile.SubsequentHeaderError):  # type: ignore[attr-defined]
                raise
            archive.offset = archive.fileobj.tell()


def _member(archive: tarfile.TarFile, header: tarfile.TarInfo, index: int, rules: MemberRules) -> Member:
    if header.isdir():
        return read_folder(index, header.name)
    if header.islnk() or header.issym():
        kind = "hard" if header.islnk() else "symbolic"
        return Member(index, header.name, 0, None, FileStatus.SKIPPED, f"a {kind} link to {header.linkname}")
    if not header.isreg():
        return Member(index, header.name, header.size, None, FileStatus.SKIPPED, "neither a file nor a folder")
    file = archive.extractfile(header)
    assert file is not None
    return read_member(index, header.name, header.size, file, rules)  # type: ignore[arg-type]


def encode_chunk(chunk: Chunk, results: Sequence[bytes | None], layout: bytes) -> tuple[bytes, list[int | None]]:
    """Return headers and contents, compressed by themselves: compressed streams one after another are one stream."""
    encoded = bytearray()
    offsets: list[int | None] = []
    for member, data in zip(chunk.members, results, strict=True):
        offsets.append(None)
        if member.status == FOLDER:
            folder = tarfile.TarInfo(member.name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            encoded += folder.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        elif data is not None:
            header = tarfile.TarInfo(member.name)
            header.size = len(data)
            encoded += header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
            offsets[-1] = None if layout else len(encoded)
            encoded += data + bytes(-len(data) % _BLOCK)
    return _COMPRESS[layout](bytes(encoded)), offsets


def assemble(chunks: Iterable[bytes], layout: bytes, file: BinaryIO) -> list[int]:
    """Write the chunks one after another, then the end mark."""
    offsets, size = [], 0
    for chunk in chunks:
        offsets.append(size)
        file.write(chunk)
        size += len(chunk)
    end = bytes(2 * _BLOCK if layout else 2 * _BLOCK + -(size + 2 * _BLOCK) % _RECORD)
    file.write(_COMPRESS[layout](end))
    return offsets
