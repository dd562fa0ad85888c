"""Archives that tests make, read in chunks and put together again."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import warnings
import zipfile
from collections.abc import Callable

from depers.archives import registry
from depers.archives.base import ArchiveEnd, Chunk, Member, MemberRules

RULES = MemberRules(("*.txt",), 1 << 20)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
}  # fmt: skip


def image(number: int) -> bytes:
    """Bytes that begin as a JPEG, of a size of their own."""
    return b"\xff\xd8\xff" + random.Random(number).randbytes(1000 + number)


def make_tar(names: dict[str, bytes] | list[tuple[str, bytes]], layout: str = "plain") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in names.items() if isinstance(names, dict) else names:
            header = tarfile.TarInfo(name)
            header.size, header.uname, header.mtime = len(data), "joe", 1.5
            archive.addfile(header, io.BytesIO(data))
    return COMPRESS[layout](buffer.getvalue())


def make_zip(names: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore", UserWarning)  # doubles are meant
        for name, data in names.items() if isinstance(names, dict) else names:
            archive.writestr(name, data)
        archive.comment = b"packed by joe"
    return buffer.getvalue()


def read(kind: str, data: bytes, rules: MemberRules = RULES) -> tuple[list[Chunk], ArchiveEnd]:
    *chunks, end = registry.load_format(kind).read(io.BytesIO(data), len(data), rules)
    assert isinstance(end, ArchiveEnd) and all(isinstance(chunk, Chunk) for chunk in chunks)
    assert end.chunks == len(chunks) and [chunk.number for chunk in chunks] == list(range(len(chunks)))  # type: ignore[union-attr]
    return chunks, end  # type: ignore[return-value]


def members(chunks: list[Chunk]) -> list[Member]:
    found = [member for chunk in chunks for member in chunk.members]
    numbers = [member.number for member in found if member.status != "folder"]
    assert numbers == list(range(len(numbers)))
    return found


def rebuild(
    kind: str,
    data: bytes,
    change: Callable[[Member], bytes | None] = lambda member: member.data,
    rules: MemberRules = RULES,
) -> bytes:
    """The archive with every member changed."""
    form, (chunks, end) = registry.load_format(kind), read(kind, data, rules)
    parts, offsets = [], []
    for chunk in chunks:
        part, places = form.encode_chunk(chunk, [change(member) for member in chunk.members], end.layout)
        parts.append(part)
        offsets.append(places)
    out = io.BytesIO()
    starts = form.assemble(iter(parts), end.layout, out)
    for chunk, places, start in zip(chunks, offsets, starts, strict=False):
        for member, place in zip(chunk.members, places, strict=True):
            content = change(member)
            if place is not None and content is not None:
                assert out.getvalue()[start + place : start + place + len(content)] == content
    return out.getvalue()


def untar(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(one.name, archive.extractfile(one).read()) for one in archive if one.isreg()]  # type: ignore[union-attr]


def unzip(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return [(one.filename, archive.read(one)) for one in archive.infolist()]


NAMES = [f"d/IMG.{number:03}.jpg" for number in range(70)] + ["ü/" + "x" * 150 + ".jpg", "d/IMG.001.jpg", "a b#.png"]
CONTENT = [(name, image(number)) for number, name in enumerate(NAMES)]
