"""The join of a table of boxes with the units of a run: of any size, since neither is held as a whole.

The table is read once. Each row finds its unit by a hash of its path, and goes to a bucket on the driver's disk that
holds the rows of some hundred units that follow one another; a bucket fits into memory. From the buckets come the
digests of what the table says about each unit, and the rows of the units that are to be done, in files among the
records, of which a worker reads the part that is about its unit.
"""

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.pipeline.box_tables import BoxTable, PrecomputedRows, RowsByPath
from depers.pipeline.table_buckets import TableBuckets
from depers.resources import MIB
from depers.runtime.units import Unit
from depers.storage.failures import as_outage
from depers.storage.tables import parquet_text

FOLDER = "joined"
"""Where the rows lie among the records while a run is at work."""
_BUCKET_BYTES = 16 * MIB  # of the table, not compressed
_ENTRY = "entry of the run"  # the column that says which input a row is about


UnitRowReader = Callable[[Collection[int]], Iterator[tuple[int, PrecomputedRows]]]
"""What yields the rows of some units, by their indices."""


class RowPlace(NamedTuple):
    """Where the rows about a unit lie, and what makes of them those about each of its files."""

    uri: str
    start: int
    size: int
    rows_type: type[RowsByPath] = RowsByPath

    def read(self, unit: Unit) -> PrecomputedRows:
        """Return the rows. Raise OutageError: without them nothing can be said about any file of the unit."""
        try:
            data = storage.read_range(self.uri, self.start, self.size)
        except OSError as error:
            raise as_outage(error, self.uri) from error
        with pa.ipc.open_stream(data) as reader:
            rows = self.rows_type(reader.read_all())
        return {entry.path: rows.of(entry.path) for entry in unit.entries}


def remove_rows(records: str) -> None:
    """Remove what a run has left of its join."""
    folder = storage.join(records, FOLDER)
    if storage.is_dir(folder):
        paths = [f"{FOLDER}/{entry.path}" for entry in storage.list_files(folder) if not entry.status]
        storage.delete_files(records, paths)


class RowJoin:
    """The rows of a table by unit; used as a context, which removes what lies on the disk meanwhile."""

    def __init__(self, table: BoxTable, all_units: Sequence[Unit]) -> None:
        """Take the units in their order. Nothing is read yet."""
        self._table, self._units = table, all_units
        self._starts = np.cumsum([0, *(len(unit.entries) for unit in all_units)])  # of units, among all entries
        bucket_count = -(-table.data_bytes // _BUCKET_BYTES)
        self._buckets = TableBuckets(min(bucket_count, len(all_units)))
        self._units_per_bucket = -(-len(all_units) // self._buckets.count) or 1

    def __enter__(self) -> "RowJoin":
        self._buckets.__enter__()
        self._part_table()
        return self

    def __exit__(self, *error: object) -> None:
        self._buckets.__exit__(None, None, None)

    def compute_digests(self) -> list[str]:
        """Return for each unit a hash of its rows, which does not depend on others, nor on their order in the table."""
        return [_digest(counts, rows) for _, counts, rows in self._iterate_units()]

    def read(self, indices: Collection[int], rows_type: type[RowsByPath]) -> Iterator[tuple[int, PrecomputedRows]]:
        """Yield the rows of some units, by their indices, in the order of the units."""
        wanted_indices = frozenset(indices)
        for index, _, table in self._iterate_units(wanted_indices):
            if index in wanted_indices:
                rows = rows_type(table)
                yield index, {entry.path: rows.of(entry.path) for entry in self._units[index].entries}

    def write(self, records: str, indices: Collection[int], rows_type: type[RowsByPath]) -> dict[int, RowPlace]:
        """Write the rows of some units, by their indices, among the records; return where those of each are."""
        places: dict[int, RowPlace] = {}
        wanted_indices = frozenset(indices)
        parts = itertools.groupby(self._iterate_units(wanted_indices), lambda part: part[0] // self._units_per_bucket)
        for number, bucket_parts in parts:
            uri, start = storage.join(records, FOLDER, f"{number:04}.rows"), 0
            with storage.translated_write_errors(uri), storage.open_writer(uri) as file:
                for index, _, rows in bucket_parts:
                    if index in wanted_indices:
                        data = _serialize(rows)
                        file.write(data)
                        places[index] = RowPlace(uri, start, len(data), rows_type)
                        start += len(data)
        return places

    def _part_table(self) -> None:
        """Put every row into the bucket of its unit; those about other files are left out."""
        paths = (parquet_text(entry.path) for unit in self._units for entry in unit.entries)
        hashes = np.fromiter((hash(path) for path in paths), np.int64, int(self._starts[-1]))
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        for table in self._table.read():
            row_hashes = np.fromiter((hash(path) for path in table["path"].to_pylist()), np.int64, len(table))
            lows, highs = (np.searchsorted(hashes, row_hashes, side) for side in ("left", "right"))
            counts = highs - lows  # one, or of two paths with one hash two: which it is, is seen in the bucket
            rows = np.repeat(np.arange(len(table)), counts)
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
            entries = order[np.repeat(lows, counts) + offsets].astype(np.int64)
            if len(rows):
                found_rows = table.take(rows).append_column(_ENTRY, pa.array(entries))
                unit_indices = np.searchsorted(self._starts, entries, "right") - 1
                self._buckets.add(found_rows, unit_indices // self._units_per_bucket)

    def _iterate_units(self, indices: Set[int] | None = None) -> Iterator[tuple[int, list[int], pa.Table]]:
        """Yield the index of every unit, how many rows each of its files has, and the rows, sorted by its files.

        Buckets without any of the `indices` are left out.
        """
        for number in range(-(-len(self._units) // self._units_per_bucket)):
            first = number * self._units_per_bucket
            members = range(first, min(first + self._units_per_bucket, len(self._units)))
            if indices is not None and indices.isdisjoint(members):
                continue
            table = self._buckets.read(number)
            if table is None:  # no row is about any file
                table = pa.table({"path": pa.array([], pa.string()), _ENTRY: pa.array([], pa.int64())})
            table, entries = self._sort(table, members)
            for index in members:
                span = self._starts[index], self._starts[index + 1]
                start, stop = np.searchsorted(entries, span).tolist()
                counts = np.bincount(entries[start:stop] - span[0], minlength=int(span[1] - span[0])).tolist()
                yield index, counts, table.slice(start, stop - start)

    def _sort(self, table: pa.Table, members: range) -> tuple[pa.Table, NDArray[np.int64]]:
        """Return the rows of the units of a bucket by their entries, in the table's order for each, and those entries.

        Rows that came by the hash of their path alone, and are about another file, are left out.
        """
        entries = table[_ENTRY].to_numpy()
        paths = [parquet_text(entry.path) for index in members for entry in self._units[index].entries]
        expected_paths = pa.array(paths, pa.string()).take(pa.array(entries - self._starts[members[0]]))
        order = np.flatnonzero(pc.equal(table["path"], expected_paths).to_numpy())
        order = order[np.argsort(entries[order], kind="stable")]
        return table.drop_columns([_ENTRY]).take(order).combine_chunks(), entries[order]


def _digest(counts: Sequence[int], rows: pa.Table) -> str:
    """Return a hash of rows, and of how many are about each file."""
    digest = hashlib.sha256(repr(list(counts)).encode())
    copy = rows.take(np.arange(len(rows)))  # a slice's bytes tell of what it was cut from
    for batch in copy.combine_chunks().to_batches():
        digest.update(batch.serialize())
    return digest.hexdigest()


def _serialize(rows: pa.Table) -> bytes:
    """Return rows as a stream of Arrow's."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
