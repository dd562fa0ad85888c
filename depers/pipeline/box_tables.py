"""Tables of boxes, of which every row is about one image: read whole and checked by the driver, before work begins."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
}
_VERSION_KEYS = (b"depers.detections", b"depers.manifest")
_STATUSES = {*FileStatus, *ArchiveStatus}
DOUBLED = "doubled"
"""The key of a row that is not the only one about its image."""


class RowsByPath:
    """The rows of a table by path and number; read once, by the driver, which sends each unit its own."""

    def __init__(self, uri: str, version_key: bytes | None = None) -> None:
        """Read the table; with a `version_key`, only one whose metadata have that. Raise UserError for another."""
        self.uri, table = uri, _read_table(uri, version_key)
        if "status" in table.schema.names:  # rows about what is gone would hide those about what is there
            table = table.filter(pc.not_equal(pc.fill_null(table["status"], ""), FileStatus.REMOVED))
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

    def digest(self, paths: Sequence[str]) -> str:
        """Return a hash of the rows of some inputs, which does not depend on the others."""
        spans = [self._spans.get(parquet_text(path), (0, 0)) for path in paths]
        rows = self._table.take(np.concatenate([np.arange(*span) for span in spans])).combine_chunks()
        digest = hashlib.sha256(repr([stop - start for start, stop in spans]).encode())
        for batch in rows.to_batches():
            digest.update(batch.serialize())
        return digest.hexdigest()

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

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raise UserError for a class that no box of the table has: a misspelt one would leave all as they are."""
        names = list_classes(self._table)
        for name in classes:
            if name not in names:
                known_names = ", ".join(sorted(names)) or "none"
                raise UserError(f"--classes must be among those of {self.uri} ({known_names}), but got {name!r}")


def list_classes(table: pa.Table) -> set[str]:
    """Return the classes of the boxes of a table."""
    boxes = pc.list_flatten(table["boxes"])
    if not pa.types.is_struct(boxes.type) or boxes.type.get_field_index("class") < 0:
        return set()
    return {str(name) for name in pc.unique(pc.struct_field(boxes, "class")).to_pylist() if name}


def _read_table(uri: str, version_key: bytes | None) -> pa.Table:
    """Return the columns of a table of boxes that are used. Raise UserError for what is none, or of another version."""
    try:
        table = tables.read_table(uri)
    except FileNotFoundError:
        raise UserError(f"{uri}: no such table of boxes") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri}: must be a Parquet table of boxes ({one_line(error)})") from None
    names = table.schema.names
    if absent := [name for name in _REQUIRED if name not in names]:
        raise UserError(f"{uri}: must have the columns path and boxes, but has no {absent[0]}")
    if doubles := [name for name in (*_TYPES, "boxes") if names.count(name) > 1]:
        raise UserError(f"{uri}: must have one column {doubles[0]}, but has {names.count(doubles[0])}")
    _check_version(uri, table, version_key)
    columns = {name: _cast(uri, table, name) for name in _TYPES if name in names}
    if columns["path"].null_count:
        raise UserError(f"{uri}: every row must have a path, but {columns['path'].null_count} have none")
    _check_boxes(uri, table.schema.field("boxes").type)
    _check_statuses(uri, columns.get("status"))
    return pa.table(columns | {"boxes": table["boxes"]})


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


def _check_version(uri: str, table: pa.Table, version_key: bytes | None) -> None:
    """Raise UserError for a table that another version of depers has written.

    Tables of boxes may also be made elsewhere, and programs that edit them lose the version: only their words count.
    """
    metadata = table.schema.metadata or {}
    versions = {metadata[key].decode(errors="replace") for key in _VERSION_KEYS if key in metadata}
    if version_key is not None:
        versions = {metadata.get(version_key, b"none").decode(errors="replace")}
    if versions - {str(VERSION)}:
        text = f"{uri}: must be a table of version {VERSION}, but its version is {min(versions)}"
        raise UserError(f"{text}: write it anew with this depers")


def _check_statuses(uri: str, statuses: pa.ChunkedArray | None) -> None:
    """Raise UserError for a word that is none of this version's."""
    for status in pc.unique(statuses).to_pylist() if statuses is not None else ():
        if status is not None and status not in _STATUSES:
            words = ", ".join(sorted(_STATUSES))
            raise UserError(f"{uri}: status must be one of {words}, but is {status!r}: write it anew with this depers")
