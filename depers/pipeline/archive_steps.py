"""The steps of a pass that only archives need: read one in chunks, keep each finished chunk, put them together."""

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depers import storage
from depers.archives import registry
from depers.archives.base import ArchiveEnd, Chunk
from depers.errors import short_reason
from depers.pipeline.steps import Outcome, PassJob, Row
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import tables as storage_tables
from depers.storage.tables import parquet_text

_LENGTH = struct.Struct("<Q")
_AHEAD = 4  # parts that are fetched before they are asked for


class ChunkHeading(NamedTuple):
    """What the driver needs to know of a chunk; the chunk itself goes to a worker without passing through it."""

    number: int
    files: tuple[int, ...]
    """The numbers of its members that are files."""
    layout: bytes


def read_chunks(job: PassJob, unit: Unit, finished: frozenset[int]) -> Iterator[ChunkHeading | Chunk | ArchiveEnd]:
    """The archive's chunks that are not finished, each after its heading, then its end."""
    (entry,) = unit.entries
    kind = unit.archive
    assert kind is not None
    if entry.size < 0:
        yield ArchiveEnd(0, 0, "cannot be read (no such file)", b"", True)
        return
    try:
        with storage.open_entry(job.input, entry) as file:
            layout = registry.load_format(kind).read_layout(file)
            for chunk in registry.load_format(kind).read(file, entry.size, job.rules):
                if isinstance(chunk, Chunk) and chunk.number not in finished:
                    yield ChunkHeading(
                        chunk.number, tuple(one.number for one in chunk.members if one.number >= 0), layout
                    )
                if isinstance(chunk, ArchiveEnd) or chunk.number not in finished:
                    yield chunk
    except Exception as error:  # storage's own kinds
        yield ArchiveEnd(0, 0, f"cannot be read ({short_reason(error)})", b"", True)


def write_chunk(job: PassJob, unit: Unit, chunk: Chunk, outcomes: Sequence[Outcome], layout: bytes) -> list[Row]:
    """Keeps the rows and the part of the new archive that one chunk gives, in one object; gives the rows."""
    rows = [outcome.row for outcome in outcomes]
    part = b""
    if job.mirrors:
        kind = unit.archive
        assert kind is not None
        results = [outcome.data for outcome in outcomes]
        part, offsets = registry.load_format(kind).encode_chunk(chunk, results, layout)
        rows = [row | {"output_offset": offset} for row, offset in zip(rows, offsets, strict=True)]
    files = [row for row, member in zip(rows, chunk.members, strict=True) if member.status != "folder"]
    table = to_table(job, files)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    head = buffer.getvalue()
    storage.write_bytes(units.chunk_uri(job.out, unit.name, chunk.number), _LENGTH.pack(len(head)) + head + part)
    return files


def to_table(job: PassJob, rows: Sequence[Row]) -> pa.Table:
    """RowsByPath as a table of the job's schema; names that are not text are escaped."""
    texts = ("path", "member", "reason")
    safe = [row | {name: parquet_text(row[name]) for name in texts if row.get(name)} for row in rows]
    return pa.Table.from_pylist(safe, schema=job.schema)


class _Digested(io.RawIOBase):
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


def assemble(job: PassJob, unit: Unit, end: ArchiveEnd) -> Row:
    """Puts the finished chunks together: the new archive, then its record, which marks it done.

    Gives the number of rows by status.
    """
    (entry,) = unit.entries
    target = storage.join(job.out, entry.path)
    row: Row = {"path": entry.path, "status": "incomplete" if end.reason else "complete", "reason": end.reason}
    row["input_bytes"] = max(0, entry.size)
    retry = end.retry
    tables: list[pa.Table] = []
    offsets: list[int] = []
    if end.reason and not end.chunks:
        row["status"] = "failed"
        if job.mirrors:
            storage.delete(target)
    else:
        parts = _parts(job, unit, end.chunks, tables)
        if job.mirrors:
            kind = unit.archive
            assert kind is not None
            with storage.writing(target) as file:
                digested = _Digested(file)
                offsets = registry.load_format(kind).assemble(parts, end.layout, digested)  # type: ignore[arg-type]
            row |= {"output_bytes": digested.size, "output_sha256": digested.digest.hexdigest()}
        else:
            for _ in parts:
                pass
    tables = [_shifted(table, offset) for table, offset in zip(tables, offsets or [0] * len(tables), strict=True)]
    table = pa.concat_tables([to_table(job, [row]), *tables])
    storage_tables.write_table(units.record_uri(job.out, unit.name, retry), table)
    if not retry:
        units.remove_chunks(job.out, unit.name, range(end.chunks))
    return {"statuses": [row["status"]], "rows": len(table)}


def _parts(job: PassJob, unit: Unit, count: int, tables: list[pa.Table]) -> Iterator[bytes]:
    """The parts in order, fetched ahead; the rows of each are added to `tables`."""
    with ThreadPoolExecutor(_AHEAD) as pool:
        waiting = []
        for number in range(count + _AHEAD):
            if number < count:
                waiting.append(pool.submit(storage.read_bytes, units.chunk_uri(job.out, unit.name, number)))
            if number >= _AHEAD:
                data = waiting.pop(0).result()
                (length,) = _LENGTH.unpack_from(data)
                body = _LENGTH.size + length
                tables.append(pq.read_table(io.BytesIO(data[_LENGTH.size : body])))
                yield data[body:]


def _shifted(table: pa.Table, offset: int) -> pa.Table:
    """The rows of a part with their offsets in the whole archive."""
    column = table.schema.get_field_index("output_offset")
    return table if column < 0 else table.set_column(column, "output_offset", pc.add(table["output_offset"], offset))
