"""Parquet files with images in binary columns, plain or as Hugging Face's `{bytes, path}`, in structs and lists.

Images alone are written, and what `--keep-columns` names: a column can hold anything. Rows and their order stay, an
image that failed becomes null, and so does a value that is kept and turns out to hold an image.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depers.archives import table_columns
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
from depers.archives.table_columns import Column
from depers.errors import REASON_LENGTH, one_line
from depers.resources import MIB
from depers.statuses import FileStatus
from depers.storage.failures import UnavailableError

_ROW_GROUP_BYTES = 128 * MIB  # the most that writing one holds in memory
_CODECS = ("snappy", "gzip", "brotli", "lz4", "zstd", "none")
_PLACE = re.compile(r"\[\d+\]")
_NOT_NAMED = "a column that holds no images, and is not named by --keep-columns"


class _Plan(NamedTuple):
    """What becomes of a table: the columns that are written, and why others are not; its new schema."""

    columns: tuple[Column, ...]
    reasons: dict[str, str]
    schema: pa.Schema


def read_layout(file: BinaryIO, rules: MemberRules) -> bytes:
    """Return the schema of what is written, and the compression of every column."""
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        return _make_layout(parquet, _make_plan(parquet, rules))
    except UnavailableError:
        raise
    except Exception:  # pyarrow's kinds of error depend on what is damaged; `read` says what it is
        return b""


def _make_layout(parquet: pq.ParquetFile, plan: _Plan) -> bytes:
    schema = plan.schema.serialize().to_pybytes().hex()
    return json.dumps({"schema": schema, "codecs": _codecs(parquet.metadata)}).encode()


def read(file: BinaryIO, size: int, rules: MemberRules) -> Iterator[Chunk | ArchiveEnd]:
    """Yield the file in chunks of rows, then its end; a row group that cannot be read is lost.

    The last chunk has no rows, but a member for each column, and for each value that was kept and holds an image.
    """
    try:
        parquet = pq.ParquetFile(file, pre_buffer=False)
        plan = _make_plan(parquet, rules)
        layout = _make_layout(parquet, plan)
    except UnavailableError:
        raise
    except Exception as error:
        yield ArchiveEnd(0, 0, f"not a whole Parquet file: {one_line(error, REASON_LENGTH)}", b"")
        return
    if not any(column.images for column in plan.columns):
        yield ArchiveEnd(0, 0, "a table without a column of images", b"", skipped=True)
        return
    yield from append_end(lambda batches: _group_rows(batches, plan, rules), _batches(parquet, plan), layout)


def _make_plan(parquet: pq.ParquetFile, rules: MemberRules) -> _Plan:
    """Return what becomes of the columns. Raise ArchiveError for names that come twice."""
    schema = parquet.schema_arrow
    if len(set(schema.names)) < len(schema.names):
        raise ArchiveError("names of columns must differ")
    features = table_columns.read_features(schema)
    columns: list[Column] = []
    fields: list[pa.Field] = []
    reasons: dict[str, str] = {}
    for field in schema:
        try:
            kind = table_columns.simplify_type(field.type)
            images, is_empty = _find_images(parquet, field, kind, features.get(field.name))
            leaf_types = list(table_columns.list_leaf_types(kind, field.name))
            leaves, has_map = [path for path, _, _ in leaf_types], any(in_map for _, _, in_map in leaf_types)
            kept = frozenset(path for path in leaves if table_columns.matches(path, field.name, rules.keep_columns))
            is_whole = not images and kept == frozenset(leaves)
            if not (images or is_empty or kept) or (kept and has_map and not is_whole):
                reasons[field.name] = _NOT_NAMED
                continue
            column = Column(field.name, kind, images, None if is_whole else kept - images)
            table_columns.find_hidden_images(pa.nulls(1, kind), field.name)
            fields.append(table_columns.make_field(field, column))
            columns.append(column)
        except UnavailableError:
            raise
        except Exception as error:  # a type that pyarrow, or this, knows not enough of
            reasons[field.name] = f"a column that cannot be looked into ({one_line(error, REASON_LENGTH)})"
    _refuse_equal_names(columns)
    metadata = table_columns.make_metadata(features, columns)
    return _Plan(tuple(columns), reasons, pa.schema(fields, metadata))


def _refuse_equal_names(columns: Sequence[Column]) -> None:
    """Raise ArchiveError where images of two columns would be called alike: one would take the place of the other."""
    names = [name for column in columns for name in _list_image_names(column.name, column.images).values()]
    unique_names = set(names)
    for name in names:
        if names.count(name) > 1 or any(name[: at.start()] in unique_names for at in _PLACE.finditer(name)):
            raise ArchiveError(f"names of columns with images must differ, but one more is called {name[:80]!r}")


def _list_image_names(column: str, images: Collection[str]) -> dict[str, str]:
    """Return what the images in each leaf of a column are called, before their places."""
    return {path: column if len(images) == 1 else path for path in images}


def _find_images(
    parquet: pq.ParquetFile, field: pa.Field, kind: pa.DataType, feature: Any
) -> tuple[frozenset[str], bool]:
    """Return which leaves of a column hold images: as the schema says, or as the first values are; and whether it is
    a column of bytes without any value, of which nobody can say.
    """
    declared = table_columns.find_declared_images(field, kind, feature)
    if declared:
        return declared, False
    leaves = list(table_columns.list_leaf_types(kind, field.name))
    candidates = {path for path, leaf, in_map in leaves if table_columns.is_bytes(leaf) and not in_map}
    if not candidates or any(in_map for _, _, in_map in leaves):
        return frozenset(), False
    images: set[str] = set()
    remainder = set(candidates)
    for number in range(parquet.num_row_groups):
        try:
            for batch in parquet.iter_batches(CHUNK_MEMBERS, [number], [field.name], use_threads=False):
                array = table_columns.simplify(batch.column(field.name), kind)
                sampled_images, with_values = table_columns.find_sampled_images(
                    [
                        leaf
                        for leaf in table_columns.walk(array, field.name, np.arange(len(array)))
                        if leaf.path in remainder
                    ]
                )
                images |= sampled_images
                remainder -= with_values
                if not remainder:
                    return frozenset(images), False
        except UnavailableError:
            raise
        except Exception:  # a damaged row group, which `_batches` tells of
            continue
    return frozenset(images), remainder == candidates == {path for path, _, _ in leaves}


def _codecs(metadata: pq.FileMetaData) -> dict[str, str]:
    """Return the compression of every leaf column, by its path."""
    if not metadata.num_row_groups:
        return {}
    group = metadata.row_group(0)
    leaves = (group.column(index) for index in range(group.num_columns))
    names = {leaf.path_in_schema: leaf.compression.lower() for leaf in leaves}
    return {path: {"uncompressed": "none", "lz4_raw": "lz4"}.get(name, name) for path, name in names.items()}


def _batches(parquet: pq.ParquetFile, plan: _Plan) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the rows in batches of about `CHUNK_BYTES`, each with the number of its row group."""
    names = [column.name for column in plan.columns]
    problems = []
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        rows = max(1, min(CHUNK_MEMBERS, CHUNK_BYTES * group.num_rows // max(1, group.total_byte_size)))
        rows_read = 0
        try:
            for batch in parquet.iter_batches(rows, row_groups=[number], columns=names, use_threads=False):
                batch.validate(full=True)
                rows_read += len(batch)
                yield number, _simplify_batch(batch, plan)
        except UnavailableError:
            raise
        except Exception as error:
            problems.append(
                f"{group.num_rows - rows_read} rows of row group {number} ({one_line(error, REASON_LENGTH)})"
            )
    if problems:
        raise ArchiveError(f"lost: {'; '.join(problems)}")


def _simplify_batch(batch: pa.RecordBatch, plan: _Plan) -> pa.RecordBatch:
    arrays = [table_columns.simplify(batch.column(column.name), column.type) for column in plan.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=plan.schema)


class _Accounts:
    """What is told of a table when all of it was read: values that are not written, and what became of columns."""

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        self._failures: list[tuple[str, str]] = []
        self._places_with_values: set[str] = set()
        """Columns, and leaves beside images, that hold something."""

    def withhold(self, batch: pa.RecordBatch, row: int, keep_anyway: bool) -> pa.RecordBatch:
        """Return the batch without what is not kept, and without values that are and hold an image."""
        arrays = []
        for column, array in zip(self._plan.columns, batch.columns, strict=True):
            if not keep_anyway and column.kept_leaves != frozenset():
                dropped = column.images | _list_others(column)
                findings = table_columns.find_hidden_images(array, column.name, dropped)
                self._failures += [
                    (f"{column.name}[{row + offset}]", f"holds {reason} (--keep-anyway writes it)")
                    for offset, reason in findings.items()
                ]
                array = table_columns.remove_rows(array, list(findings)) if findings else array
            for leaf in table_columns.walk(array, column.name, np.arange(len(array))):
                if leaf.path not in column.images and leaf.array.null_count < len(leaf.array):
                    self._places_with_values.add(column.name if column.kept_leaves is None else leaf.path)
            arrays.append(array if column.kept_leaves is None else _remove_others(array, column))
        return pa.RecordBatch.from_arrays(arrays, schema=self._plan.schema)

    def members(self, first: int) -> Iterator[Member]:
        """Yield a member for each value that was withheld, and for each column; their numbers begin with `first`."""
        tellings: list[tuple[str, bytes | None, FileStatus, str]] = []
        tellings += [(name, None, FileStatus.FAILED, reason) for name, reason in self._failures]
        for column in self._plan.columns:
            places = [column.name] if column.kept_leaves is None else sorted(column.kept_leaves)
            tellings += [
                (place, b"", FileStatus.PASSED_THROUGH, "") for place in places if place in self._places_with_values
            ]
        for column in self._plan.columns:
            places = sorted(_list_others(column) & self._places_with_values)
            tellings += [(place, None, FileStatus.SKIPPED, _NOT_NAMED) for place in places]
        tellings += [(name, None, FileStatus.SKIPPED, reason) for name, reason in self._plan.reasons.items()]
        for number, (name, data, status, reason) in enumerate(tellings, first):
            yield Member(number, name, 0, data, status, reason)


def _list_others(column: Column) -> frozenset[str]:
    """Return the leaves of a column that are neither images nor kept."""
    if column.kept_leaves is None:
        return frozenset()
    leaves = {path for path, _, _ in table_columns.list_leaf_types(column.type, column.name)}
    return frozenset(leaves) - column.images - column.kept_leaves


def _remove_others(array: pa.Array, column: Column) -> pa.Array:
    """Return a column's array, null where it is neither an image nor kept."""
    others = _list_others(column)
    leaves = {
        leaf.path: pa.nulls(len(leaf.array), leaf.array.type)
        for leaf in table_columns.walk(array, column.name, np.arange(len(array)))
        if leaf.path in others
    }
    return table_columns.rebuild(array, column.name, leaves)


def _group_rows(batches: Iterator[tuple[int, pa.RecordBatch]], plan: _Plan, rules: MemberRules) -> Iterator[Chunk]:
    accounts = _Accounts(plan)
    index = first = row = number = 0
    for number, batch in batches:
        written_batch = accounts.withhold(batch, row, rules.keep_anyway)
        members = tuple(_members(written_batch, plan, first, row, rules))
        yield Chunk(index, members, _write_stream(written_batch, plan, number, row))
        index, first, row = index + 1, first + len(members), row + len(batch)
    if members := tuple(accounts.members(first)):
        empty = pa.RecordBatch.from_pylist([], schema=plan.schema)
        yield Chunk(index, members, _write_stream(empty, plan, number, row))


def _members(batch: pa.RecordBatch, plan: _Plan, first: int, row: int, rules: MemberRules) -> Iterator[Member]:
    """Yield the images of a batch, column by column; `first` and `row` are the numbers of its first member and row."""
    for column, array in zip(plan.columns, batch.columns, strict=True):
        for leaf, names in _name_images(array, column.name, column.images, row):
            for name, data in zip(names, leaf.array.to_pylist(), strict=True):
                if data is not None:
                    too_large = len(data) > rules.most_bytes
                    reason = f"must have at most {rules.most_bytes} bytes, but has {len(data)}" if too_large else ""
                    status = FileStatus.FAILED if too_large else ""
                    yield Member(first, name, len(data), None if too_large else data, status, reason)
                    first += 1


def _name_images(
    array: pa.Array, column: str, images: Collection[str], row: int
) -> Iterator[tuple[table_columns.Leaf, list[str]]]:
    """Yield the leaves of a column that hold images, with the name of each of their elements."""
    for leaf in table_columns.walk(array, column, np.arange(len(array))) if images else ():
        if leaf.path in images:
            name = _list_image_names(column, images)[leaf.path]
            counts, places, names = Counter(leaf.rows.tolist()), Counter[int](), []
            for offset in leaf.rows.tolist():
                names.append(f"{name}[{row + offset}]" + (f"[{places[offset]}]" if counts[offset] > 1 else ""))
                places[offset] += 1
            yield leaf, names


def _write_stream(batch: pa.RecordBatch, plan: _Plan, row_group: int, row: int) -> bytes:
    """Return the rows as an Arrow stream that also says which row group they belong to, and where images are."""
    images = [sorted(column.images) for column in plan.columns]
    return _write_batch(batch, {"row group": str(row_group), "row": str(row), "images": json.dumps(images)})


def _write_batch(batch: pa.RecordBatch, about: dict[Any, Any]) -> bytes:
    annotated = batch.replace_schema_metadata(about)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, annotated.schema) as stream:
        stream.write_batch(annotated)
    return sink.getvalue()


def encode_chunk(chunk: Chunk, results: Sequence[bytes | None], layout: bytes) -> tuple[bytes, list[int | None]]:
    """Return the rows with the results in the place of the images, null where there is none."""
    batch = pa.ipc.open_stream(chunk.rows).read_next_batch()
    images, row = json.loads(batch.schema.metadata[b"images"]), int(batch.schema.metadata[b"row"])
    results_by_name = {member.name: data for member, data in zip(chunk.members, results, strict=True)}
    columns = []
    for field, array, paths in zip(batch.schema, batch.columns, images, strict=True):
        leaves = {
            leaf.path: pa.array([results_by_name.get(name) for name in names], leaf.array.type)
            for leaf, names in _name_images(array, field.name, paths, row)
        }
        columns.append(table_columns.rebuild(array, field.name, leaves) if paths else array)
    result = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    return _write_batch(result, batch.schema.metadata), [None] * len(chunk.members)


def assemble(chunks: Iterable[bytes], layout: bytes, file: BinaryIO) -> list[int]:
    """Write the rows as one file with the row groups of the input, unless they are large, and its compression."""
    description = json.loads(layout)
    schema = pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(description["schema"])))
    # The least and greatest value of a column of images are images: not wanted in the footer, nor as a dictionary.
    bytes_in = {
        field.name
        for field in schema
        if any(table_columns.is_bytes(kind) for _, kind, _ in table_columns.list_leaf_types(field.type, field.name))
    }
    names = set(schema.names)
    codecs = {
        path: name if name in _CODECS else "zstd"
        for path, name in description["codecs"].items()
        if path.split(".")[0] in names
    }
    plain = [path for path in codecs if path.split(".")[0] not in bytes_in]
    row_group: list[pa.RecordBatch] = []
    group = size = 0
    with pq.ParquetWriter(
        file, schema, compression=codecs or "snappy", use_dictionary=plain or False, write_statistics=plain or False
    ) as writer:
        for chunk in chunks:
            batch = pa.ipc.open_stream(chunk).read_next_batch()
            number = int(batch.schema.metadata[b"row group"])
            if not len(batch):
                continue
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
