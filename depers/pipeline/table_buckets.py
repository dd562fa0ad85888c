"""Rows parted into buckets on this machine's disk: what must come together is read together, and memory stays flat."""

import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_BUCKETS = 256
"""Files that are open at once."""


class TableBuckets:
    """Tables of one schema, parted by a number of the bucket for each row; used as a context, which removes them."""

    def __init__(self, count: int) -> None:
        self.count = max(1, min(MOST_BUCKETS, count))
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._schema: pa.Schema | None = None

    def __enter__(self) -> "TableBuckets":
        self._folder = tempfile.TemporaryDirectory(prefix="depers-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._folder.cleanup()

    def add(self, table: pa.Table, numbers: NDArray[np.int64]) -> None:
        """Add rows, each to the bucket of its number; within a bucket they keep their order."""
        self._schema = table.schema
        order = np.argsort(numbers, kind="stable")
        ordered_numbers, first = numbers[order], 0
        for last in [*(np.flatnonzero(np.diff(ordered_numbers)) + 1).tolist(), len(order)]:
            if first < last:
                self._write(int(ordered_numbers[first]), table.take(order[first:last]))
            first = last

    def read(self, number: int) -> pa.Table | None:
        """Return the rows of a bucket; None where no row was ever added. What is read is final: nothing is added."""
        self._close()
        if self._schema is None:
            return None
        path = self._path(number)
        if not path.exists():
            return self._schema.empty_table()
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()

    def _write(self, number: int, table: pa.Table) -> None:
        if number not in self._writers:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers[number] = pa.ipc.new_stream(str(self._path(number)), table.schema, options=options)
        self._writers[number].write_table(table)

    def _path(self, number: int) -> Path:
        return Path(self._folder.name) / f"{number}.arrow"

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
