"""The steps of a pass that only archives need: read one in chunks, keep each finished chunk, put them together."""

import hashlib
import io
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depers import storage
from depers.archives import registry
from depers.archives.base import FOLDER, ArchiveEnd, ArchiveFormat, Chunk
from depers.errors import short_reason
from depers.pipeline.box_sources import Row
from depers.pipeline.steps import Outcome, PassJob
from depers.runtime import units
from depers.runtime.units import Unit
from depers.statuses import ArchiveStatus
from depers.storage import tables
from depers.storage.tables import parquet_text, plain_schema

_LENGTH = struct.Struct("<Q")
_PREFETCH = 4  # chunks that are fetched before they are asked for
_TEXTS = ("path", "member", "reason")  # columns with text that a file name may be part of


class ChunkHeading(NamedTuple):
    """What the driver needs to know of a chunk; the chunk itself goes to a worker without passing through it."""

    number: int
    files: tuple[int, ...]
    """The numbers of its members that are files."""
    layout: bytes


def read_chunks(job: PassJob, unit: Unit, numbers_done: frozenset[int]) -> Iterator[ChunkHeading | Chunk | ArchiveEnd]:
    """Yield the archive's chunks that are not finished, each after its heading, then its end."""
    (entry,) = unit.entries
    if entry.size < 0:
        yield ArchiveEnd(0, 0, "cannot be read (no such file)", b"", retry=True)
        return
    try:
        archive_format = _load_format(unit)
        with storage.open_entry(job.input, entry) as file:
            layout = archive_format.read_layout(file)
            for content in archive_format.read(file, entry.size, job.rules):
                if isinstance(content, ArchiveEnd):
                    yield content
                elif content.number not in numbers_done:
                    files = tuple(member.number for member in content.members if member.number >= 0)
                    yield ChunkHeading(content.number, files, layout)
                    yield content
    except Exception as error:  # storage's own kinds
        yield ArchiveEnd(0, 0, f"cannot be read ({short_reason(error)})", b"", retry=True)


def _load_format(unit: Unit) -> ArchiveFormat:
    assert unit.archive is not None
    return registry.load_format(unit.archive)


def write_chunk(job: PassJob, unit: Unit, chunk: Chunk, outcomes: Sequence[Outcome], layout: bytes) -> list[Row]:
    """Write the rows of a chunk and its bytes of the new archive, in one object; return the rows of its files."""
    rows = [outcome.row for outcome in outcomes]
    data = b""
    if job.mirrors:
        results = [outcome.data for outcome in outcomes]
        data, offsets = _load_format(unit).encode_chunk(chunk, results, layout)
        rows = [row | {"output_offset": offset} for row, offset in zip(rows, offsets, strict=True)]
    file_rows = [row for row, member in zip(rows, chunk.members, strict=True) if member.status != FOLDER]
    buffer = io.BytesIO()
    pq.write_table(to_table(job, file_rows), buffer)
    table = buffer.getvalue()
    storage.write_bytes(units.chunk_uri(job.records, unit.name, chunk.number), _LENGTH.pack(len(table)) + table + data)
    return file_rows


def to_table(job: PassJob, rows: Sequence[Row]) -> pa.Table:
    """Return the rows as a table of the job's schema; names that are not text are escaped."""
    texts = [row | {name: parquet_text(row[name]) for name in _TEXTS if row.get(name)} for row in rows]
    return pa.Table.from_pylist(texts, schema=plain_schema(job.schema))


class _DigestingFile(io.RawIOBase):
    """Passes on what is written, and knows its digest and size."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest, self.size = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        self._file.write(data)
        return len(data)


def assemble(job: PassJob, unit: Unit, end: ArchiveEnd) -> ArchiveStatus:
    """Put the finished chunks together: the new archive, then its record, which marks it done. Return its status."""
    (entry,) = unit.entries
    target = storage.join(job.out, entry.path)
    status = ArchiveStatus.INCOMPLETE if end.reason else ArchiveStatus.COMPLETE
    if end.reason and not end.chunks:
        status = ArchiveStatus.FAILED
    row: Row = {
        "path": entry.path, "status": status, "reason": end.reason, "input_bytes": max(0, entry.size),
    }  # fmt: skip
    chunk_tables: list[pa.Table] = []
    offsets: list[int] = []
    if status == ArchiveStatus.FAILED:
        if job.mirrors:
            storage.delete(target)
    else:
        chunks = _fetch_chunks(job, unit, end.chunks, chunk_tables)
        if job.mirrors:
            with storage.open_writer(target) as file:
                output = _DigestingFile(file)
                offsets = _load_format(unit).assemble(chunks, end.layout, output)  # type: ignore[arg-type]
            row |= {"output_bytes": output.size, "output_sha256": output.digest.hexdigest()}
        else:
            for _ in chunks:
                pass
    offsets = offsets or [0] * len(chunk_tables)
    chunk_tables = [_shift_offsets(table, offset) for table, offset in zip(chunk_tables, offsets, strict=True)]
    record = pa.concat_tables([to_table(job, [row]), *chunk_tables])
    tables.write_table(units.record_uri(job.records, unit.name, end.retry), record)
    if not end.retry:
        units.remove_chunks(job.records, unit.name, range(end.chunks))
    return status


def _fetch_chunks(job: PassJob, unit: Unit, count: int, chunk_tables: list[pa.Table]) -> Iterator[bytes]:
    """Yield the chunks' bytes of the new archive in order, fetched ahead; add the rows of each to `chunk_tables`."""
    with ThreadPoolExecutor(_PREFETCH) as pool:
        fetches: deque[Future[bytes]] = deque()
        for number in range(count + _PREFETCH):
            if number < count:
                fetches.append(pool.submit(storage.read_bytes, units.chunk_uri(job.records, unit.name, number)))
            if number >= _PREFETCH:
                data = fetches.popleft().result()
                (length,) = _LENGTH.unpack_from(data)
                start = _LENGTH.size + length
                chunk_tables.append(pq.read_table(io.BytesIO(data[_LENGTH.size : start])))
                yield data[start:]


def _shift_offsets(table: pa.Table, offset: int) -> pa.Table:
    """Return the rows of a chunk with their offsets in the whole archive."""
    column = table.schema.get_field_index("output_offset")
    return table if column < 0 else table.set_column(column, "output_offset", pc.add(table["output_offset"], offset))
