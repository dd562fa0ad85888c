"""Whether OUT holds what the manifest says, and the manifest has a row for all of INPUT: of any number of files.

Manifest and listing are parted by a hash of their paths into buckets on the disk, and compared bucket by bucket.
"""

import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers.anonymization.manifest import WRITTEN, WrittenRows
from depers.pipeline.box_tables import BoxTable, Row
from depers.pipeline.table_buckets import TableBuckets
from depers.statuses import AuditStatus

_BUCKET_ROWS = 200_000
_COLUMNS = {
    "path": pa.string(),
    "output_path": pa.string(),
    "member": pa.string(),
    "number": pa.int64(),
    "status": pa.string(),
    "reason": pa.string(),
}
_LISTED = 65_536  # paths that are parted at once
_MISSING = "is missing from OUT"


def find_missing(
    table: BoxTable, out_paths: Iterable[str], member_counts: Mapping[str, int], inputs: Iterable[str] | None
) -> Iterator[list[Row]]:
    """Yield findings about what the manifest has and OUT has not; then what INPUT has and it has not, or the reverse.

    `out_paths` are the files of OUT, `member_counts` how many members its archives have, `inputs` the files of INPUT,
    if that is given. All paths are texts as tables hold them.
    """
    for part, paths in _part(table.by_outputs(), out_paths):
        if findings := list(_compare_outputs(part, {path: member_counts.get(path, 1) for path in paths})):
            yield findings
    for part, paths in _part(table, inputs) if inputs is not None else ():
        if findings := list(_compare_inputs(part, set(paths))):
            yield findings


def _part(table: BoxTable, paths: Iterable[str]) -> Iterator[tuple[pa.Table, list[str]]]:
    """Yield rows of a table bucket by bucket, and with each the paths of a listing that its rows may have."""
    count = -(-table.row_count // _BUCKET_ROWS)
    with TableBuckets(count) as rows, TableBuckets(count) as path_buckets:
        for batch in table.read(list(_COLUMNS)):
            rows.add(batch, _number(batch["path"].to_pylist(), rows.count))
        _add_paths(path_buckets, paths)
        for number in range(rows.count):
            part = rows.read(number)
            if part is None:
                part = pa.table({name: pa.array([], type) for name, type in _COLUMNS.items()})
            yield part, _read_paths(path_buckets, number)


def _make_finding(path: str, reason: str, member: Row | None = None) -> Row:
    finding: Row = {"path": path, "status": AuditStatus.WRONG, "reason": reason, "boxes": []}
    return finding | {"member": member["member"], "number": member["number"]} if member else finding


def _compare_outputs(table: pa.Table, counts: Mapping[str, int]) -> Iterator[Row]:
    """Yield findings about rows by outputs; `counts` is how many files or members lie at each of their paths."""
    rows = _select(table, _find_suspects(table, counts))
    for path in rows:
        members = rows.of(path)
        for number in range(counts.get(path, 0), len(members)):
            yield _make_finding(path, _MISSING, members.get(number))
        if path not in counts and not members and rows.archive_row(path):
            yield _make_finding(path, _MISSING)


def _compare_inputs(table: pa.Table, inputs: set[str]) -> Iterator[Row]:
    """Yield findings about rows by inputs, and about inputs that have none."""
    manifest_paths = set(pc.unique(table["path"]).to_pylist())
    for path in sorted(inputs - manifest_paths):
        yield _make_finding(path, "is in INPUT, but has no row in the manifest")
    stranger_rows = _select(table, sorted(manifest_paths - inputs))
    for path in stranger_rows:
        if not stranger_rows.is_kept(path):
            yield _make_finding(path, "has a row in the manifest, but is not in INPUT")


def _find_suspects(table: pa.Table, counts: Mapping[str, int]) -> list[str]:
    """Return the paths that may lack something in OUT: nothing is there, or less than there are rows of what was."""
    is_there = pc.is_in(table["path"], pa.array(list(counts), pa.string()))
    absent_paths = pc.unique(table.filter(pc.invert(is_there))["path"]).to_pylist()
    is_written = pc.is_in(table["status"], pa.array(WRITTEN, pa.string()))
    row_counts = pc.value_counts(
        table.filter(pc.and_(pc.and_(is_there, is_written), pc.is_valid(table["number"])))["path"]
    )
    short_paths = [pair["values"] for pair in row_counts.to_pylist() if pair["counts"] > counts[pair["values"]]]
    return [*absent_paths, *short_paths]


def _select(table: pa.Table, paths: Sequence[str]) -> WrittenRows:
    return WrittenRows(table.filter(pc.is_in(table["path"], pa.array(paths, pa.string()))))


def _number(paths: Iterable[str], count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([zlib.crc32(path.encode()) % count for path in paths], np.int64)


def _add_paths(buckets: TableBuckets, paths: Iterable[str]) -> None:
    iterator = iter(paths)
    while batch := list(itertools.islice(iterator, _LISTED)):
        buckets.add(pa.table({"path": pa.array(batch, pa.string())}), _number(batch, buckets.count))


def _read_paths(buckets: TableBuckets, number: int) -> list[str]:
    table = buckets.read(number)
    paths: list[str] = [] if table is None else table["path"].to_pylist()
    return paths
