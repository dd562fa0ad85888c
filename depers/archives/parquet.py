"""Parquet files with images in binary columns, plain or as Hugging Face's `{bytes, path}`, at any depth.

Rows, their order, all other values and the schema with its metadata stay; an image that failed becomes null.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from depers.archives.base import (
    CHUNK_BYTES,
    CHUNK_MEMBERS,
    ArchiveEnd,
    ArchiveError,
    Chunk,
    Member,
    MemberRules,
    append_end,
)
from depers.errors import REASON_LENGTH, one_line
from depers.imaging import sniffing
from depers.resources import MIB
from depers.statuses import FileStatus
from depers.storage.failures import UnavailableError

_ROW_GROUP_BYTES = 128 * MIB  # the most that writing one holds in memory
_CODECS = ("snappy", "gzip", "brotli", "lz4", "zstd", "none")


class _Columns(NamedTuple):
    """Which columns are searched for images, and of those the ones that hold nothing else."""

    searched: tuple[int, ...]
    images: frozenset[int]


def read_layout(file: BinaryIO) -> bytes:
    """Return the schema and the compression of every column."""
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        schema = parquet.schema_arrow.serialize().to_pybytes().hex()
        return json.dumps({"schema": schema, "codecs": _codecs(parquet.metadata)}).encode()
    except UnavailableError:
        raise
    except Exception:  # pyarrow's kinds of error depend on what is damaged; `read` says what it is
        return b""


def read(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the file in chunks of rows, then its end; a row group that cannot be read is lost."""
    layout = read_layout(file)
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        schema, _ = parquet.schema_arrow, _codecs(parquet.metadata)
    except UnavailableError:
        raise
    except Exception as error:
        yield ArchiveEnd(0, 0, f"not a whole Parquet file: {one_line(error, REASON_LENGTH)}", b"")
        return
    yield from append_end(lambda batches: _group_rows(batches, schema, rules), _batches(parquet), layout)


def _codecs(metadata: pq.FileMetaData) -> dict[str, str]:
    """Return the compression of every leaf column, by its path."""
    if not metadata.num_row_groups:
        return {}
    group = metadata.row_group(0)
    leaves = (group.column(index) for index in range(group.num_columns))
    names = {leaf.path_in_schema: leaf.compression.lower() for leaf in leaves}
    return {path: {"uncompressed": "none", "lz4_raw": "lz4"}.get(name, name) for path, name in names.items()}


def _batches(parquet: pq.ParquetFile) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows in batches of about `CHUNK_BYTES`, each with the number of its row group."""
    problems = []
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        rows = max(1, min(CHUNK_MEMBERS, CHUNK_BYTES * group.num_rows // max(1, group.total_byte_size)))
        rows_read = 0
        try:
            for batch in parquet.iter_batches(rows, row_groups=[number], use_threads=False):
                batch.validate(full=True)
                rows_read += len(batch)
                yield number, batch
        except UnavailableError:
            raise
        except Exception as error:
            problems.append(
                f"{group.num_rows - rows_read} rows of row group {number} ({one_line(error, REASON_LENGTH)})"
            )
    if problems:
        raise ArchiveError(f"lost: {'; '.join(problems)}")


def _group_rows(
    batches: Iterator[tuple[int, pa.RecordBatch]], schema: pa.Schema, rules: MemberRules
) -> Iterator[Chunk]:
    columns: _Columns | None = None
    index = first = row = 0
    for number, batch in batches:
        columns = columns or _columns(schema, batch)
        members = tuple(_members(batch, columns, first, row, rules))
        yield Chunk(index, members, _write_stream(batch, number, row))
        index, first, row = index + 1, first + len(members), row + len(batch)


def _columns(schema: pa.Schema, batch: pa.RecordBatch) -> _Columns:
    """Return which columns hold images: where the schema says so, or where the first values are some."""
    searched = tuple(index for index, field in enumerate(schema) if _may_hold_bytes(field.type))
    features = _features(schema)
    images = set()
    for index in searched:
        field = schema.field(index)
        kind = features.get(field.name)
        struct = pa.types.is_struct(field.type) and {"bytes", "path"} <= {child.name for child in field.type}
        if kind == "Image" or (struct and kind is None) or any(
            sniffing.is_image(value) for value in _values(_storage(batch.column(index)).to_pylist())
        ):  # fmt: skip
            images.add(index)
    return _Columns(searched, frozenset(images))


def _features(schema: pa.Schema) -> dict[str, str]:
    """Column → the kind that the metadata of Hugging Face `datasets` gives it."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            name: str(feature["_type"])
            for name, feature in features.items()
            if isinstance(feature, dict) and "_type" in feature
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _may_hold_bytes(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _may_hold_bytes(kind.storage_type)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _may_hold_bytes(kind.value_type)
    return any(_may_hold_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _storage(column: pa.Array) -> pa.Array:
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _values(value: Any) -> Iterator[bytes]:
    """Yield every bytes object in nested lists, tuples and dicts, in order."""
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _values(child)
    elif isinstance(value, dict):
        for child in value.values():
            yield from _values(child)


def _members(batch: pa.RecordBatch, columns: _Columns, first: int, row: int, rules: MemberRules) -> Iterator[Member]:
    """Yield the images of a batch, column by column; `first` and `row` are the numbers of its first member and row."""
    for column in columns.searched:
        name = batch.schema.field(column).name
        for offset, cell in enumerate(_storage(batch.column(column)).to_pylist()):
            values = list(_values(cell))
            for place, data in enumerate(values):
                if column not in columns.images and not sniffing.is_image(data):
                    continue  # a value like any other
                label = f"{name}[{row + offset}]" + (f"[{place}]" if len(values) > 1 else "")
                too_large = len(data) > rules.most_bytes
                reason = f"must have at most {rules.most_bytes} bytes, but has {len(data)}" if too_large else ""
                status = FileStatus.FAILED if too_large else ""
                yield Member(first, label, len(data), None if too_large else data, status, reason)
                first += 1


def _write_stream(batch: pa.RecordBatch, row_group: int, row: int) -> bytes:
    """Return the rows as an Arrow stream that also says which row group they belong to, and the number of the first."""
    annotated = batch.replace_schema_metadata({"row group": str(row_group), "row": str(row)})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, annotated.schema) as stream:
        stream.write_batch(annotated)
    return sink.getvalue()


def _parse_stream(data: bytes) -> tuple[pa.RecordBatch, int, int]:
    batch = pa.ipc.open_stream(data).read_next_batch()
    return batch, int(batch.schema.metadata[b"row group"]), int(batch.schema.metadata[b"row"])


def encode_chunk(chunk: Chunk, results: Sequence[bytes | None], layout: bytes) -> tuple[bytes, list[int | None]]:
    """Return the rows with the results in the place of the images."""
    batch, row_group, row = _parse_stream(chunk.rows)
    by_label = {member.name: data for member, data in zip(chunk.members, results, strict=True)}
    columns = [
        _replace_images(column, field, row, by_label)
        if any(label.startswith(f"{field.name}[") for label in by_label)
        else column
        for column, field in zip(batch.columns, batch.schema, strict=True)
    ]
    result = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    return _write_stream(result, row_group, row), [None] * len(chunk.members)


def _replace_images(array: pa.Array, field: pa.Field, start: int, by_label: dict[str, bytes | None]) -> pa.Array:
    storage = _storage(array)
    cells = []
    for offset, cell in enumerate(storage.to_pylist()):
        values = list(_values(cell))
        label = f"{field.name}[{start + offset}]"
        labels = [label + (f"[{place}]" if len(values) > 1 else "") for place in range(len(values))]
        results = iter([by_label.get(label, value) for label, value in zip(labels, values, strict=True)])
        cells.append(_substitute(cell, field, results))
    result = pa.array(cells, storage.type)
    return pa.ExtensionArray.from_storage(array.type, result) if storage is not array else result


def _substitute(value: Any, field: pa.Field, results: Iterator[bytes | None]) -> Any:
    """Return `value` with its bytes replaced in order; what failed is null, empty where null is not allowed."""
    if isinstance(value, bytes):
        data = next(results)
        return data if data is not None or field.nullable else b""
    if isinstance(value, (list, tuple)):
        return [_substitute(child, field, results) for child in value]
    if isinstance(value, dict):
        original = value.get("bytes")
        inner = {name: _substitute(child, field, results) for name, child in value.items()}
        failed = original is not None and not inner.get("bytes") and "path" in value
        return None if failed and field.nullable else inner  # a path alone would make readers open that file
    return value


def assemble(chunks: Iterable[bytes], layout: bytes, file: BinaryIO) -> list[int]:
    """Write the rows as one file with the row groups of the input, unless they are large, and its compression."""
    description = json.loads(layout)
    schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(description["schema"])))
    # The least and greatest value of a column of images are images: not wanted in the footer, nor as a dictionary.
    bytes_in = {field.name for field in schema if _may_hold_bytes(field.type)}
    plain = [path for path in description["codecs"] if path.split(".")[0] not in bytes_in]
    codecs = {path: name if name in _CODECS else "zstd" for path, name in description["codecs"].items()}
    row_group: list[pa.RecordBatch] = []
    group = size = 0
    with pq.ParquetWriter(
        file, schema, compression=codecs or "snappy", use_dictionary=plain or False, write_statistics=plain or False
    ) as writer:
        for chunk in chunks:
            batch, number, _ = _parse_stream(chunk)
            if row_group and (number != group or size + batch.nbytes > _ROW_GROUP_BYTES):
                _write_row_group(writer, row_group)
                row_group, size = [], 0
            row_group.append(batch.replace_schema_metadata(schema.metadata))
            group, size = number, size + batch.nbytes
        if row_group:
            _write_row_group(writer, row_group)
    return []


def _write_row_group(writer: pq.ParquetWriter, batches: Sequence[pa.RecordBatch]) -> None:
    table = pa.Table.from_batches(batches)
    writer.write_table(table, row_group_size=max(1, len(table)))
