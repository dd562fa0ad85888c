"""What all kinds of archives have in common.

An archive is read once, from front to back, and cut into chunks that are processed anywhere. Each chunk is encoded by
itself, and the encoded chunks, put together in order, are the archive of the results: the same bytes however the chunks
were spread.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from depers.imaging import sniffing
from depers.resources import MIB
from depers.statuses import FileStatus
from depers.storage.failures import UnavailableError, explain

T = TypeVar("T")

FOLDER = "folder"
"""The status of a member that is a folder, not a file."""
CHUNK_MEMBERS = 32
CHUNK_BYTES = 16 * MIB


class Member(NamedTuple):
    """One file of an archive, by its number among its files. `data` is None where nothing needs to be done with it.

    `status` is empty for an image to process, else a `FileStatus` (passed through, skipped or failed), or
    `folder`, which has no number of its own. `deflated`: it is compressed, in a zip.
    """

    number: int
    name: str
    size: int
    data: bytes | None
    status: str = ""
    reason: str = ""
    deflated: bool = False


class Chunk(NamedTuple):
    """Neighbouring members; of a Parquet file with the rows (an Arrow stream) that hold them."""

    number: int
    members: tuple[Member, ...]
    rows: bytes = b""


class ArchiveEnd(NamedTuple):
    """What closes an archive: how many chunks and members it had, and why it is incomplete, if it is.

    `layout` is what the format needs to be written: the compression of a tar, the schema of a Parquet file.
    `retry` says that storage failed, not the archive: another run may get further. `skipped`: it holds no images.
    """

    chunks: int
    members: int
    reason: str
    layout: bytes
    retry: bool = False
    skipped: bool = False


class ArchiveError(Exception):
    """Why an archive cannot be read on, or at all."""


class MemberRules(NamedTuple):
    """What is done with members: globs of those to keep though they are no images, and the most bytes of one.

    `keep_columns` are globs of the columns of tables that are kept; `keep_anyway` says that what is kept may hold
    images.
    """

    keep: tuple[str, ...]
    most_bytes: int
    keep_columns: tuple[str, ...] = ()
    keep_anyway: bool = False


class ArchiveFormat(Protocol):
    """What a module for one kind of archive offers."""

    def read_layout(self, file: BinaryIO, rules: MemberRules) -> bytes:
        """Return what the new archive must know of the old one beyond its members; empty where that is too damaged."""

    def read(self, file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Chunk | ArchiveEnd]:
        """Yield the archive in chunks, then its end."""

    def encode_chunk(
        self, chunk: Chunk, results: Sequence[bytes | None], layout: bytes
    ) -> tuple[bytes, list[int | None]]:
        """Return the bytes of the chunk with `results` in the place of its members, None for what is left out.

        With them the offset in them of each result, where its bytes lie there as they are.
        """

    def assemble(self, chunks: Iterable[bytes], layout: bytes, file: BinaryIO) -> list[int]:
        """Write the archive of the encoded chunks; return the offset in it of each chunk."""


def read_member(
    number: int, name: str, size: int, file: BinaryIO, rules: MemberRules, deflated: bool = False
) -> Member:
    """Return a member, read from its `file` where it needs to be read; `size` is what the archive says that it has.

    Raise ArchiveError where the archive ends before the member does, and what reading raises.
    """
    if reason := explain_unsafe_name(name):
        return Member(number, name, size, None, FileStatus.FAILED, reason)
    head = file.read(min(sniffing.HEAD, size))
    status, reason = sniffing.classify(name, head, rules.keep)
    if status == FileStatus.SKIPPED:
        return Member(number, name, size, None, status, reason)
    if size > rules.most_bytes:
        return Member(
            number, name, size, None, FileStatus.FAILED, f"must have at most {rules.most_bytes} bytes, but has {size}"
        )
    data = head + file.read(size - len(head))
    if len(data) != size:
        raise ArchiveError(f"ends inside {name}")
    return Member(number, name, size, data, status or "", "", deflated)


def read_folder(number: int, name: str) -> Member:
    """Return a member that is a folder; it fails where its name could reach outside, and then has a number."""
    if reason := explain_unsafe_name(name):
        return Member(number, name, 0, None, FileStatus.FAILED, reason)
    return Member(-1, name, 0, None, FOLDER)


def group_members(members: Iterable[Member]) -> Iterator[Chunk]:
    """Yield members in chunks of at most `CHUNK_MEMBERS`, and of `CHUNK_BYTES` unless one alone is larger."""
    batch: list[Member] = []
    size = number = 0
    for member in members:
        length = len(member.data or b"")
        if batch and (len(batch) == CHUNK_MEMBERS or size + length > CHUNK_BYTES):
            yield Chunk(number, tuple(batch))
            batch, size, number = [], 0, number + 1
        batch.append(member)
        size += length
    if batch:
        yield Chunk(number, tuple(batch))


def chunk_members(members: Iterator[Member], layout: bytes) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the members in chunks, then the end."""
    return append_end(group_members, members, layout)


def append_end(
    group: Callable[[Iterator[T]], Iterator[Chunk]], contents: Iterator[T], layout: bytes
) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the chunks that `group` makes of `contents`, then the end; where reading these fails, the end says so."""
    reason, retry = "", False
    chunks = members = 0

    def read_on() -> Iterator[T]:
        nonlocal reason, retry
        try:
            yield from contents
        except ArchiveError as error:
            reason = str(error)
        except UnavailableError as error:
            reason, retry = f"cannot be read on ({explain(error)})", True

    for chunk in group(read_on()):
        chunks, members = chunks + 1, members + len(chunk.members)
        yield chunk
    yield ArchiveEnd(chunks, members, reason, layout, retry)


def explain_unsafe_name(name: str) -> str:
    """Return why a member's name could reach outside the folder that an archive is unpacked in; empty where not."""
    if not name or "\0" in name:
        return "a name must not be empty or hold a zero byte"
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", name):
        return "a name must be relative, but is absolute"
    if ".." in re.split(r"[/\\]", name):
        return "a name must not climb out of its folder"
    return ""
