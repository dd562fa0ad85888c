"""Tables: Parquet files, and the schemas that say what their columns hold."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depers.resources import MIB
from depers.storage import open_reader, open_writer, read_bytes, write_bytes

_DESCRIPTION = b"description"


def column(name: str, type: pa.DataType, description: str) -> pa.Field:
    """Return a column, or a field of a struct, that says what it holds: `description` lies in the field's metadata."""
    return pa.field(name, type, metadata={_DESCRIPTION: description})


def schema(*columns: pa.Field) -> pa.Schema:
    """Return the schema of a table, a `column` per line where it is called."""
    return pa.schema(columns)


def description(field: pa.Field) -> str:
    """Return what `column` says of a field; empty where it has no description."""
    return str((field.metadata or {}).get(_DESCRIPTION, b""), "utf-8")


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema without the descriptions of its columns, as it is written to files."""
    return pa.schema([_plain_field(field) for field in schema], schema.metadata)


def _plain_field(field: pa.Field) -> pa.Field:
    metadata = {key: value for key, value in (field.metadata or {}).items() if key != _DESCRIPTION}
    type = field.type
    if pa.types.is_list(type):
        type = pa.list_(_plain_field(type.value_field))
    elif pa.types.is_struct(type):
        type = pa.struct([_plain_field(type.field(index)) for index in range(type.num_fields)])
    return pa.field(field.name, type, field.nullable, metadata or None)


class TableWriter:
    """A Parquet file written table by table, in row groups of some size, that appears whole at the end of the block."""

    _ROWS, _BYTES = 65_536, 8 * MIB  # rows may hold lists of any length

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._schema, self._file = plain_schema(schema), open_writer(uri)
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0

    def __enter__(self) -> "TableWriter":
        self._parquet = pq.ParquetWriter(self._file.__enter__(), self._schema, compression="zstd")
        return self

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self._pending.append(table.select(self._schema.names).cast(self._schema))
        self._rows += len(table)
        self._bytes += self._pending[-1].nbytes
        if self._rows >= self._ROWS or self._bytes >= self._BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._parquet.write_table(pa.concat_tables(self._pending), row_group_size=self._rows or 1)
        self._pending, self._rows, self._bytes = [], 0, 0

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
            self._parquet.close()
        self._file.__exit__(*error)


def parquet_text(path: str) -> str:
    """Return `path` as text that Parquet can hold: bytes of a file name that are not UTF-8 become `\\xNN`."""
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a character, which stands for no byte
        raw = path.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def holds_extension(kind: pa.DataType) -> bool:
    """Return whether a type is, or holds, one that a library has added: to give values, Ray's unpickles them."""
    if isinstance(kind, pa.BaseExtensionType):
        return True
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return holds_extension(kind.value_type)
    return any(holds_extension(kind.field(index).type) for index in range(kind.num_fields))


def read_table(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file as a table, all of it or these columns; raise OSError or pyarrow's error."""
    # Not pq.read_table, which looks at it as at a dataset of many files: of a small one that takes twice as long.
    try:
        with pq.ParquetFile(pa.BufferReader(read_bytes(uri)), pre_buffer=False) as file:
            names = file.schema_arrow.names if columns else []
            for name in columns or ():
                if names.count(name) != 1:
                    raise pa.ArrowInvalid(f"must have one column {name!r}, but has {', '.join(names)}")
            return file.read(None if columns is None else list(columns), use_threads=False)
    except UnicodeDecodeError:
        raise pa.ArrowInvalid("the names of its columns are damaged") from None


@contextmanager
def open_table(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file of any size to be read part by part; raise OSError or pyarrow's error, also while it is."""
    with open_reader(uri) as source, pq.ParquetFile(source, buffer_size=MIB) as file:
        yield file


def write_table(uri: str, table: pa.Table) -> None:
    """Write a table as one Parquet file, whole."""
    write_bytes(uri, to_parquet(table))


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file, without the descriptions of its columns."""
    buffer = io.BytesIO()
    pq.write_table(table.cast(plain_schema(table.schema)), buffer, compression="zstd")
    return buffer.getvalue()
