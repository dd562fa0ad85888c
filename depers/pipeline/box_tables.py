"""Tables of boxes, of which every row is about one image: read part by part, and checked before work begins."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from depers.boxes import EDGES
from depers.detection.detections import VERSION
from depers.errors import UserError, one_line
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage import tables
from depers.storage.tables import holds_extension, parquet_text

Row = dict[str, Any]
PrecomputedRows = dict[str, dict[int | None, Row]]
"""Rows of an earlier table, by path and number."""
_REQUIRED = ("path", "boxes")
_TYPES = {
    "path": pa.string(),
    "member": pa.string(),
    "number": pa.int64(),
    "status": pa.string(),
    "reason": pa.string(),
    "width": pa.int64(),
    "height": pa.int64(),
    "frames": pa.int64(),
    "input_sha256": pa.string(),
    "margin": pa.float32(),
    "output_sha256": pa.string(),
    "output_bytes": pa.int64(),
    "output_offset": pa.int64(),
    "output_path": pa.string(),
    "output_member": pa.string(),
}
_VERSION_KEYS = (b"depers.detections", b"depers.manifest")
_STATUSES = {*FileStatus, *ArchiveStatus}
_BATCH_ROWS = 16_384
DOUBLED = "doubled"
"""The key of a row that is not the only one about its image."""


class BoxTable:
    """A Parquet file of boxes: checked when it is opened, and never held as a whole, since it may have any size."""

    def __init__(self, uri: str, version_key: bytes | None = None) -> None:
        """Check the table; with a `version_key`, only one whose metadata have that will do. Raise UserError."""
        self.uri = uri
        with self._open() as file:
            schema = file.schema_arrow
            self.row_count, self.data_bytes = file.metadata.num_rows, _count_bytes(file.metadata)
        _check_columns(uri, schema)
        _check_version(uri, schema, version_key)
        self._is_by_outputs = False
        self._names = [name for name in (*_TYPES, "boxes") if name in schema.names]
        self._types = {name: schema.field(name).type for name in self._names}
        for _ in self.read(list(_TYPES)):
            pass  # all values but those of boxes: what is wrong with them costs no waiting

    def read(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield all rows, some ten thousand at a time, of all columns that are used or of these, as far as they exist.

        Rows about what was removed are left out: they would hide those about what is there. Raise UserError for a value
        that a column cannot hold.
        """
        names = [name for name in self._names if columns is None or name in columns]
        needed = ("status", *(["output_path"] if self._is_by_outputs and "path" in names else []))
        to_read = [*names, *(name for name in needed if name in self._names and name not in names)]
        with self._open() as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=to_read, use_threads=False):
                table = pa.Table.from_batches([batch])
                rows = pa.table({name: self._convert(table, name) for name in to_read})
                if "status" in to_read:
                    rows = rows.filter(pc.not_equal(pc.fill_null(rows["status"], ""), FileStatus.REMOVED))
                if self._is_by_outputs and "output_path" in to_read:
                    place = rows.schema.get_field_index("path")
                    rows = rows.set_column(place, "path", pc.coalesce(rows["output_path"], rows["path"]))
                yield rows.select(names)

    def by_outputs(self) -> "BoxTable":
        """Return the table with the path of its result in OUT as the path of a row, where that is called otherwise."""
        table = copy.copy(self)
        table._is_by_outputs = True
        return table

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise UserError for a class that no box of the table has: a misspelt one would leave all as they are."""
        names = set[str]().union(*(list_classes(table) for table in self.read(["boxes"]))) if classes else set()
        for name in classes:
            if name not in names:
                known_names = ", ".join(sorted(names)) or "none"
                raise UserError(f"--classes must be among those of {self.uri} ({known_names}), but got {name!r}")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        """Open the file. Raise UserError where it is none."""
        try:
            with tables.open_table(self.uri) as file:
                yield file
        except FileNotFoundError:
            raise UserError(f"{self.uri}: no such table of boxes") from None
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.uri}: must be a Parquet table of boxes ({one_line(error)})") from None

    def _convert(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        if name == "boxes":
            return table[name]
        column = _cast(self.uri, table, name)
        if name == "path" and column.null_count:
            raise UserError(f"{self.uri}: every row must have a path, but {column.null_count} have none")
        if name == "status":
            _check_statuses(self.uri, column)
        return column


def _count_bytes(metadata: Any) -> int:
    """Return the size of all columns of a Parquet file, not compressed."""
    return sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))


class RowsByPath:
    """The rows about some inputs, such as those of a unit, by path and number."""

    def __init__(self, table: pa.Table) -> None:
        """Take rows as `BoxTable` gives them; their order counts where several are about one image."""
        self._table = table.sort_by("path").combine_chunks()
        paths = pc.run_end_encode(self._table["path"].combine_chunks()) if len(table) else None
        self._spans: dict[str, tuple[int, int]] = {}
        start = 0
        if paths is not None:
            for path, stop in zip(paths.values.to_pylist(), paths.run_ends.to_pylist(), strict=True):
                self._spans[path] = (start, stop)
                start = stop

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def of(self, path: str) -> dict[int | None, Row]:
        """Return the rows of one input by their numbers in it; of a loose file by None.

        Of several rows about one image, the last stands for all, with the key DOUBLED.
        """
        start, stop = self._spans.get(parquet_text(path), (0, 0))
        rows: dict[int | None, Row] = {}
        for row in self._table.slice(start, stop - start).to_pylist():
            number = row.get("number")
            rows[number] = row | {DOUBLED: True} if number in rows else row
        return rows


def list_classes(table: pa.Table) -> set[str]:
    """Return the classes of the boxes of a table."""
    boxes = pc.list_flatten(table["boxes"])
    if not pa.types.is_struct(boxes.type) or boxes.type.get_field_index("class") < 0:
        return set()
    return {str(name) for name in pc.unique(pc.struct_field(boxes, "class")).to_pylist() if name}


def _check_columns(uri: str, schema: pa.Schema) -> None:
    """Raise UserError where columns that are needed are absent, double, or no boxes."""
    names = schema.names
    if absent := [name for name in _REQUIRED if name not in names]:
        raise UserError(f"{uri}: must have the columns path and boxes, but has no {absent[0]}")
    if doubles := [name for name in (*_TYPES, "boxes") if names.count(name) > 1]:
        raise UserError(f"{uri}: must have one column {doubles[0]}, but has {names.count(doubles[0])}")
    _check_boxes(uri, schema.field("boxes").type)


def _cast(uri: str, table: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a column in its type: programs that edit tables make whole numbers fractions. Raise UserError."""
    try:
        return table[name].cast(_TYPES[name])
    except pa.ArrowException as error:
        text = f"{uri}: column {name} must hold {_TYPES[name]}, but holds {table[name].type}"
        raise UserError(f"{text} ({one_line(error, 80)})") from None


def _check_boxes(uri: str, type: pa.DataType) -> None:
    """Raise UserError where boxes are not lists of structs with edges in numbers."""
    is_list = pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)
    if is_list and pa.types.is_null(type.value_type):
        return  # every list is empty
    if not is_list or not pa.types.is_struct(type.value_type):
        raise UserError(f"{uri}: boxes must be a list of structs with {', '.join(EDGES)}, but are {type}")
    box = type.value_type
    names = [box.field(index).name for index in range(box.num_fields)]
    if doubles := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{uri}: a box must have one {doubles[0]}, but has {names.count(doubles[0])}")
    types = {field.name: field.type for field in (box.field(index) for index in range(box.num_fields))}
    for name in EDGES:
        if name not in types:
            raise UserError(f"{uri}: boxes must be a list of structs with {', '.join(EDGES)}, but have no {name}")
    if opaque := [name for name, kind in types.items() if holds_extension(kind)]:  # of which some unpickle
        raise UserError(f"{uri}: {opaque[0]} of a box must be of a type of Parquet's, but is {types[opaque[0]]}")
    for name in (*EDGES, "confidence", "frame"):
        kind = types.get(name, pa.float32())
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind)
        if not is_number and (name in EDGES or not pa.types.is_null(kind)):
            raise UserError(f"{uri}: {name} of a box must be a number, but is {kind}")
    for name in ("class", "model"):
        kind = types.get(name, pa.string())
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise UserError(f"{uri}: {name} of a box must be text, but is {kind}")


def _check_version(uri: str, schema: pa.Schema, version_key: bytes | None) -> None:
    """Raise UserError for a table that another version of depers has written.

    Tables of boxes may also be made elsewhere, and programs that edit them lose the version: only their words count.
    """
    metadata = schema.metadata or {}
    versions = {metadata[key].decode(errors="replace") for key in _VERSION_KEYS if key in metadata}
    if version_key is not None:
        versions = {metadata.get(version_key, b"none").decode(errors="replace")}
    if versions - {str(VERSION)}:
        text = f"{uri}: must be a table of version {VERSION}, but its version is {min(versions)}"
        raise UserError(f"{text}: write it anew with this depers")


def _check_statuses(uri: str, statuses: pa.ChunkedArray) -> None:
    """Raise UserError for a word that is none of this version's."""
    for status in pc.unique(statuses).to_pylist():
        if status is not None and status not in _STATUSES:
            words = ", ".join(sorted(_STATUSES))
            raise UserError(f"{uri}: status must be one of {words}, but is {status!r}: write it anew with this depers")
