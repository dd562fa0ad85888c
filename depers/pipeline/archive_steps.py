"""The steps of a pass that only archives need: read one in chunks, keep each finished chunk, put them together."""

import hashlib
import io
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depers import storage
from depers.archives import registry
from depers.archives.base import FOLDER, ArchiveEnd, ArchiveFormat, Chunk, Member, explain_unsafe_name
from depers.errors import typed_reason
from depers.imaging.headers import ImageError
from depers.observation.meter import count
from depers.observation.metrics import BYTES
from depers.observation.rows import count_rows
from depers.pipeline.box_sources import label_name
from depers.pipeline.box_tables import Row
from depers.pipeline.outcomes import fail, to_table
from depers.pipeline.steps import Outcome, PassJob, unpack
from depers.runtime import units
from depers.runtime.units import RecordNotes, Unit
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage.failures import as_outage, explain, is_of_name, raise_outage
from depers.storage.tables import parquet_text

_LENGTH = struct.Struct("<Q")
_PREFETCH = 4  # chunks that are fetched before they are asked for
_LOST = b"depers.lost"  # in the metadata of the rows of a chunk that the new archive cannot have
_LOOKED_AT = (FileStatus.REDACTED, FileStatus.CLEAN)
_WRITTEN = (FileStatus.REDACTED, FileStatus.CLEAN, FileStatus.PASSED_THROUGH)


class ChunkHeading(NamedTuple):
    """What the driver needs to know of a chunk; the chunk itself goes to a worker without passing through it."""

    number: int
    files: tuple[int, ...]
    """The numbers of its members that are files."""
    layout: bytes


def read_chunks(job: PassJob, unit: Unit, numbers_done: frozenset[int]) -> Iterator[ChunkHeading | Chunk | ArchiveEnd]:
    """Yield the archive's chunks that are not finished, each after its heading, then its end. Raise OutageError."""
    (entry,) = unit.entries
    if entry.size < 0:
        yield ArchiveEnd(0, 0, "cannot be read (no such file)", b"", retry=True)
        return
    chunks = members = 0
    layout = b""
    try:
        archive_format = _load_format(unit)
        with storage.open_entry(job.input, entry) as file:
            layout = archive_format.read_layout(file, job.rules)
            for content in archive_format.read(file, entry.size, job.rules):
                if isinstance(content, ArchiveEnd):
                    yield content
                    return
                chunks, members = chunks + 1, members + len(content.members)
                if content.number not in numbers_done:
                    files = tuple(member.number for member in content.members if member.number >= 0)
                    yield ChunkHeading(content.number, files, layout)
                    yield content
    except OSError as error:
        yield ArchiveEnd(chunks, members, f"cannot be read ({explain(error)})", layout, retry=True)
    except Exception as error:  # of a format's reader, which the archive made raise what nobody thought of
        yield ArchiveEnd(chunks, members, f"cannot be read on ({typed_reason(error)})", layout)


def _load_format(unit: Unit) -> ArchiveFormat:
    assert unit.archive is not None
    return registry.load_format(unit.archive)


def write_chunk(job: PassJob, unit: Unit, chunk: Chunk, outcomes: Sequence[Outcome], layout: bytes) -> list[Row]:
    """Write the rows of a chunk and its bytes of the new archive, in one object; return the rows of its files.

    Raise OSError.
    """
    data, rows, is_lost = b"", [outcome.row for outcome in outcomes], False
    if job.mirrors:
        data, rows, is_lost = _encode(job, unit, chunk, outcomes, layout)
    file_rows = [row for row, member in zip(rows, chunk.members, strict=True) if member.status != FOLDER]
    buffer = io.BytesIO()
    record = to_table(job, file_rows)
    if is_lost:
        record = record.replace_schema_metadata((record.schema.metadata or {}) | {_LOST: b""})
    count_rows(record)
    pq.write_table(record, buffer)
    table = buffer.getvalue()
    storage.write_bytes(units.chunk_uri(job.records, unit.name, chunk.number), _LENGTH.pack(len(table)) + table + data)
    return file_rows


class _EncodedChunk(NamedTuple):
    """The bytes of a chunk in the new archive, the rows of its members, and whether it cannot have any bytes there."""

    data: bytes
    rows: list[Row]
    is_lost: bool


def _encode(job: PassJob, unit: Unit, chunk: Chunk, outcomes: Sequence[Outcome], layout: bytes) -> _EncodedChunk:
    """Return the chunk encoded; what the format cannot have is left out, and its row says why."""
    encode = _load_format(unit).encode_chunk
    results, rows, is_lost = [outcome.data for outcome in outcomes], [outcome.row for outcome in outcomes], False
    path = unit.entries[0].path
    originals = chunk.members
    if job.rename is not None:
        chunk = _rename_members(job, unit, chunk)
        for index, (original, member) in enumerate(zip(originals, chunk.members, strict=True)):
            if results[index] is None:
                continue
            problem = explain_unsafe_name(member.name)
            if problem or member.name.endswith("/"):
                problem = problem or "a name must not end as a folder's does"
                reason = f"{problem}, but it would be called {parquet_text(member.name)!r}"
                rows[index], results[index] = fail(job, unpack(path, original), reason).row, None
            else:
                rows[index] = rows[index] | _name_result(job, path, original.name, member.name)
    try:
        data, offsets = encode(chunk, results, layout)
    except Exception:
        reasons = [
            _try_encoding(encode, chunk._replace(members=(member,)), [result], layout)
            for member, result in zip(chunk.members, results, strict=True)
        ]
        # Only folders are dropped: of a table, what is no member would stay as it is.
        kept = [i for i, member in enumerate(chunk.members) if not reasons[i] or member.status != FOLDER]
        remainder = chunk._replace(members=tuple(chunk.members[i] for i in kept))
        kept_results = [None if reasons[i] else results[i] for i in kept]
        data, offsets = b"", [None] * len(results)
        if reason := _try_encoding(encode, remainder, kept_results, layout):
            reasons, is_lost = [reason] * len(reasons), True
        else:
            data, kept_offsets = encode(remainder, kept_results, layout)
            for index, offset in zip(kept, kept_offsets, strict=True):
                offsets[index] = offset
        for index, reason in enumerate(reasons):
            if reason and results[index] is not None:
                item = unpack(path, originals[index])
                rows[index] = fail(job, item, f"cannot be put into the archive ({reason})").row
    rows = [row | {"output_offset": offset} for row, offset in zip(rows, offsets, strict=True)]
    return _EncodedChunk(data, rows, is_lost)


def _rename_members(job: PassJob, unit: Unit, chunk: Chunk) -> Chunk:
    """Return a chunk whose members have the names of their results; those of tables are names of columns, and stay.

    A folder is called as those of its files are; where these lie in none any more, it is left out.
    """
    if unit.archive == "parquet":
        return chunk

    def rename(member: Member) -> Member:
        if member.status != FOLDER:
            return member._replace(name=job.locate(member.name))
        name = job.locate(f"{member.name.rstrip('/')}/file").rpartition("/")[0]
        if explain_unsafe_name(name):
            return member._replace(status=FileStatus.SKIPPED)
        return member._replace(name=name + "/" * member.name.endswith("/"))

    return chunk._replace(members=tuple(rename(member) for member in chunk.members))


def _name_result(job: PassJob, path: str, member: str | None = None, new_member: str | None = None) -> Row:
    """Return the fields of a row that say where a result is, as far as it is not called as its input is."""
    archive_fields: Row = {} if job.locate(path) == path else {"output_path": job.locate(path)}
    return archive_fields | ({} if member == new_member else {"output_member": new_member})


def _try_encoding(
    encode: Callable[..., tuple[bytes, list[int | None]]], chunk: Chunk, results: Sequence[bytes | None], layout: bytes
) -> str:
    """Return why a format cannot have these members; empty where it can."""
    try:
        encode(chunk, results, layout)
    except Exception as error:
        return typed_reason(error)
    return ""


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


class _DamagedChunkError(Exception):
    """A finished chunk is not what was written."""


def assemble(job: PassJob, unit: Unit, end: ArchiveEnd) -> ArchiveStatus:
    """Put the finished chunks together: the new archive, then its record, which marks it done. Return its status.

    Where storage fails, now or while the archive was read, nothing of OUT is touched, and the chunks wait for the next
    run. Raise OutageError.
    """
    if end.retry:
        return _record(job, unit, ArchiveStatus.FAILED, end.reason, notes=_again(unit))
    try:
        return _assemble(job, unit, end)
    except _DamagedChunkError as error:
        units.remove_chunks(job.records, unit.name, range(end.chunks))
        return _record(job, unit, ArchiveStatus.FAILED, f"{error}: all are done again", notes=_again(unit))
    except OSError as error:
        reason = f"cannot be written ({explain(error)})"
        if not is_of_name(error):
            return _record(job, unit, ArchiveStatus.FAILED, reason, notes=_again(unit))
    except ImageError as error:
        reason = str(error)
    except Exception as error:
        raise_outage(error)
        reason = f"cannot be put together ({typed_reason(error)})"
    return discard(job, unit, end, reason)


def _again(unit: Unit) -> RecordNotes:
    """Return the notes of an archive that the next run tries again."""
    return RecordNotes(retries={unit.entries[0].path: 0})


def discard(job: PassJob, unit: Unit, end: ArchiveEnd, reason: str) -> ArchiveStatus:
    """Record an archive that cannot be put together as failed, with all its members; return its status."""
    chunk_tables: list[pa.Table] = []
    for _ in _fetch_chunks(job, unit, end.chunks, chunk_tables):
        pass
    if job.mirrors:
        with suppress(Exception):  # a name that storage refuses is not there
            storage.delete_below(job.out, job.locate(unit.entries[0].path))
    status = _record(job, unit, ArchiveStatus.FAILED, reason, [_as_failed(table) for table in chunk_tables])
    units.remove_chunks(job.records, unit.name, range(end.chunks))
    return status


def _as_failed(table: pa.Table) -> pa.Table:
    """Return the rows of a chunk whose archive could not be put together."""
    written = pc.is_in(table["status"], pa.array(_WRITTEN, pa.string()))
    reason = pc.if_else(written, "its archive cannot be put together", table["reason"])
    status = pc.if_else(written, FileStatus.FAILED.value, table["status"])
    columns = {"status": status, "reason": reason}
    for index, field in enumerate(table.schema):
        if field.name.startswith("output_"):
            columns[field.name] = pa.nulls(len(table), field.type)
        if field.name in columns:
            table = table.set_column(index, field, columns[field.name])
    return table


def _refuse_shared_names(chunk_tables: Sequence[pa.Table]) -> None:
    """Raise ImageError where two members of other names would have one: one would take the place of the other."""
    members: dict[str, str] = {}
    for table in chunk_tables:
        written = table.filter(pc.is_valid(table["output_sha256"]))
        names = pc.coalesce(written["output_member"], written["member"]).to_pylist()
        for member, name in zip(written["member"].to_pylist(), names, strict=True):
            if (first := members.setdefault(name, member)) != member:
                raise ImageError(f"{first} and {member} would both be called {name}")


def _refuse_shared_texts(job: PassJob, path: str, chunk_tables: Sequence[pa.Table]) -> None:
    """Raise ImageError where two members have one YOLO text: which of them its boxes are about, nothing says."""
    if job.boxes is None or not job.boxes.labels:
        return
    members: dict[str, str] = {}
    for table in chunk_tables:
        looked_at = table.filter(pc.is_in(table["status"], pa.array(_LOOKED_AT, pa.string())))
        for member in looked_at["member"].to_pylist():
            name = label_name(f"{path}/{member}")
            if name in members:
                raise ImageError(f"{members[name]} and {member} share their labels, {name}")
            members[name] = member


def _assemble(job: PassJob, unit: Unit, end: ArchiveEnd) -> ArchiveStatus:
    path = unit.entries[0].path
    out_path = job.locate(path)
    if end.reason and not end.chunks:
        if job.mirrors:
            storage.delete_below(job.out, out_path)
        status = ArchiveStatus.SKIPPED if end.skipped else ArchiveStatus.FAILED
        return _record(job, unit, status, end.reason)
    chunk_tables: list[pa.Table] = []
    with_bytes: list[int] = []
    chunks = _fetch_chunks(job, unit, end.chunks, chunk_tables, with_bytes)
    output_fields: Row = {}
    stamp, offsets = None, list[int]()
    if job.mirrors:
        with storage.open_writer_below(job.out, out_path) as file:
            output = _DigestingFile(file)
            offsets = _load_format(unit).assemble(chunks, end.layout, output)  # type: ignore[arg-type]
            _refuse_shared_texts(job, path, chunk_tables)  # known only now; what is written so far never appears
            if job.rename is not None:
                _refuse_shared_names(chunk_tables)
        count(BYTES, "written", output.size)
        output_fields = {"output_bytes": output.size, "output_sha256": output.digest.hexdigest()}
        output_fields |= _name_result(job, path)
        stamp = storage.read_stamp(job.out, out_path)
    else:
        for _ in chunks:
            pass
    for number, offset in zip(with_bytes, offsets, strict=bool(offsets)):
        chunk_tables[number] = _shift_offsets(chunk_tables[number], offset)
    lost = sum(_LOST in (table.schema.metadata or {}) for table in chunk_tables)
    reasons = [end.reason, f"{lost} of {len(chunk_tables)} parts cannot be put into it" if lost else ""]
    reason = "; ".join(text for text in reasons if text)
    status = ArchiveStatus.INCOMPLETE if reason else ArchiveStatus.COMPLETE
    notes = RecordNotes(stamps={} if stamp is None else {path: stamp})
    _record(job, unit, status, reason, chunk_tables, output_fields, notes)
    units.remove_chunks(job.records, unit.name, range(end.chunks))
    return status


def _record(
    job: PassJob,
    unit: Unit,
    status: ArchiveStatus,
    reason: str,
    chunk_tables: Sequence[pa.Table] = (),
    output_fields: Row | None = None,
    notes: RecordNotes | None = None,
) -> ArchiveStatus:
    """Write the record of an archive: its own row, and those of its members. Return its status. Raise OutageError."""
    (entry,) = unit.entries
    row: Row = {"path": entry.path, "status": status, "reason": reason, "input_bytes": max(0, entry.size)}
    table = pa.concat_tables([to_table(job, [row | (output_fields or {})]), *chunk_tables])
    try:
        units.write_record(job.records, unit.name, table, notes, was_retry=True)
    except OSError as error:
        raise as_outage(error, job.records) from error
    return status


def _fetch_chunks(
    job: PassJob, unit: Unit, count: int, chunk_tables: list[pa.Table], with_bytes: list[int] | None = None
) -> Iterator[bytes]:
    """Yield the chunks' bytes of the new archive in order, fetched ahead, where they have any.

    The rows of each go to `chunk_tables`, the numbers of those that have bytes to `with_bytes`.
    """
    with ThreadPoolExecutor(_PREFETCH) as pool:
        fetches: deque[Future[bytes]] = deque()
        for number in range(count + _PREFETCH):
            if number < count:
                fetches.append(pool.submit(storage.read_bytes, units.chunk_uri(job.records, unit.name, number)))
            if number >= _PREFETCH:
                table, data = _parse_chunk(fetches.popleft().result())
                chunk_tables.append(table)
                if data:
                    if with_bytes is not None:
                        with_bytes.append(len(chunk_tables) - 1)
                    yield data


def _parse_chunk(data: bytes) -> tuple[pa.Table, bytes]:
    try:
        (length,) = _LENGTH.unpack_from(data)
        start = _LENGTH.size + length
        return pq.read_table(io.BytesIO(data[_LENGTH.size : start])), data[start:]
    except (struct.error, pa.ArrowException, OSError) as error:
        raise _DamagedChunkError(f"a finished chunk is damaged ({typed_reason(error)})") from None


def _shift_offsets(table: pa.Table, offset: int) -> pa.Table:
    """Return the rows of a chunk with their offsets in the whole archive."""
    column = table.schema.get_field_index("output_offset")
    return table if column < 0 else table.set_column(column, "output_offset", pc.add(table["output_offset"], offset))
