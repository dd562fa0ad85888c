"""Tables."""

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depers.storage import read_bytes, write_bytes, writing


class TableWriter:
    """A Parquet file written table by table, in row groups of some size, that appears whole at the end of the block."""

    _ROWS = 65_536

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._schema, self._writing = schema, writing(uri)
        self._held: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "TableWriter":
        self._parquet = pq.ParquetWriter(self._writing.__enter__(), self._schema, compression="zstd")
        return self

    def write(self, table: pa.Table) -> None:
        """Adds rows."""
        self._held.append(table.select(self._schema.names).cast(self._schema))
        self._rows += len(table)
        if self._rows >= self._ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._parquet.write_table(pa.concat_tables(self._held), row_group_size=self._rows or 1)
        self._held, self._rows = [], 0

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
            self._parquet.close()
        self._writing.__exit__(*error)


def parquet_text(path: str) -> str:
    """`path` as text that Parquet can hold: bytes of a file name that are not UTF-8 are written as `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file as a table, all of it or these columns; raises OSError or pyarrow's error."""
    return pq.read_table(io.BytesIO(read_bytes(uri)), columns=columns)


def write_table(uri: str, table: pa.Table) -> None:
    """Writes a table as one Parquet file, whole."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_bytes(uri, buffer.getvalue())
