"""What left INPUT leaves OUT: results of departed inputs are removed, or kept on request, and each is told in a row.

Only what records say depers wrote is ever removed. A row `removed` says what was and is no more; a result that is kept
keeps its row, with the reason that it has no input.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.anonymization.manifest import DEPARTED, KEPT, SCHEMA, WRITTEN
from depers.archives import registry
from depers.pipeline.box_tables import Row
from depers.pipeline.run import Summary
from depers.runtime import changes, units
from depers.runtime.progress import report
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage import Entry, tables
from depers.storage.tables import parquet_text

_KEPT_NAME = "kept.parquet"
_REPLACED = f"{DEPARTED}, and what lay in OUT in the place of its result was another file: it is removed"


class _FormerResult(NamedTuple):
    """A result that an earlier run wrote: its rows, that of an archive among those of its members, and what it was."""

    rows: list[Row]
    size: int
    digest: str | None
    stamp: str | None


class Removal:
    """What becomes of the results of departed inputs: `complete` tells of them, `settle` forgets them."""

    def __init__(self, summary: Summary, keep: bool) -> None:
        self._summary, self._keep = summary, keep
        self._uri = storage.join(summary.job.records, _KEPT_NAME)
        self._departed = {parquet_text(entry.path): entry for entry in summary.stock.departed}
        self._changed_archives: dict[str, dict[str, Row]] = {}
        self._versions: dict[str, list[_FormerResult]] = {}
        self._kept: list[Row] = []
        self._kept_stamps: dict[str, str] = {}
        self._kept_entries: list[Entry] = []
        for table in self._read_former():
            self._remember(table)

    def _read_former(self) -> Iterator[pa.Table]:
        if storage.exists(self._uri):
            yield tables.read_table(self._uri)
        yield from units.read_former(self._summary.job.records)

    def _remember(self, table: pa.Table) -> None:
        """Take note of what a former record says of departed inputs, and of members of archives."""
        rows_by_path: dict[str, list[Row]] = {}
        stamps = units.parse_notes(table).stamps
        is_departed = pc.is_in(table["path"], pa.array(self._departed, pa.string()))
        for row in table.filter(pc.or_(is_departed, pc.is_valid(table["member"]))).to_pylist():
            path = row["path"]
            if path in self._departed:
                rows_by_path.setdefault(path, []).append(row)
            elif registry.kind_of(path) is not None and row["member"] is not None and row["status"] in WRITTEN:
                self._changed_archives.setdefault(path, {})[row["member"]] = row
        for path, rows in rows_by_path.items():
            for row in rows:
                if row["number"] is None and row["output_bytes"] is not None:
                    version = _FormerResult(rows, row["output_bytes"], row["output_sha256"], stamps.get(path))
                    self._versions.setdefault(path, []).append(version)

    def complete(self, inputs: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the rows of all inputs, then those about what departed, which is removed meanwhile. Raise UserError."""
        for table in inputs:
            yield table
            yield pa.Table.from_pylist(self._departed_members(table), SCHEMA)
        yield pa.Table.from_pylist(self._finish(), SCHEMA)

    def _departed_members(self, table: pa.Table) -> list[Row]:
        """Return rows about what was in an archive, and is not in it now; `table` holds the rows of a unit."""
        path = table["path"][0].as_py()
        members = self._changed_archives.get(path)
        if not members:
            return []
        is_whole = ArchiveStatus.COMPLETE in table["status"].to_pylist()  # else they may be there, but cannot be read
        present = set(table["member"].to_pylist())
        gone = [row for name, row in members.items() if name not in present] if is_whole else []
        return [_make_row(path, FileStatus.REMOVED, DEPARTED, row["member"], row["number"]) for row in gone]

    def _finish(self) -> list[Row]:
        """Remove what departed from OUT, unless it is kept; return its rows. Raise UserError."""
        job, outputs = self._summary.job, self._summary.stock.outputs
        self._warn_of_others()
        rows, paths = [], []
        for text, entry in sorted(self._departed.items()):
            result = outputs.get(entry.path)
            if self._keep and result is not None:
                kept_rows = self._keep_result(text, entry)
                paths += [] if kept_rows else [result.path]
                rows += kept_rows or [_make_row(text, FileStatus.FAILED, _REPLACED)]
            elif result is not None or text in self._versions:
                paths += [] if result is None else [result.path]
                rows.append(_make_row(text, FileStatus.REMOVED, DEPARTED))
        if paths:
            self._summary.lease.confirm()
            storage.delete_files(job.out, paths)
        return rows

    def _keep_result(self, text: str, entry: Entry) -> list[Row]:
        """Return the rows of a result that stays, from the record of that version of it; none for what is no result."""
        result, versions = self._summary.stock.outputs.get(entry.path), self._versions.get(text, ())
        assert result is not None
        version = next((version for version in reversed(versions) if version.stamp == result.stamp), None)
        if version is None:
            out = self._summary.job.out
            equal_results = (version for version in reversed(versions) if version.size == result.size)
            version = next((former for former in equal_results if changes.has_digest(out, result, former.digest)), None)
        if version is None and versions:
            return []
        self._kept_entries.append(entry)
        if version is None:  # of a run that was killed before it was recorded
            return [_make_row(text, FileStatus.FAILED, f"{DEPARTED}, and no record tells of its result in OUT")]
        rows = [row | {"reason": KEPT} if row["number"] is None else row for row in version.rows]
        self._kept += rows
        self._kept_stamps[text] = result.stamp
        return rows

    def settle(self) -> None:
        """Forget what departed, when the manifest has told of it."""
        if self._kept:
            notes = units.RecordNotes(stamps=self._kept_stamps)
            tables.write_table(self._uri, units.add_notes(pa.Table.from_pylist(self._kept, SCHEMA), notes))
        else:
            storage.delete(self._uri)
        self._summary.settle(self._kept_entries)

    def _warn_of_others(self) -> None:
        """Say what lies in OUT that depers did not write."""
        stock = self._summary.stock
        others = set(stock.outputs.list_without(stock.inputs)) - {entry.path for entry in stock.absent}
        others |= set(stock.strangers)
        if others:
            example = f"{len(others)} files that depers did not write, such as {min(others)}"
            report(f"warning: {self._summary.job.out} holds {example}: they stay, and are in no manifest")


def _make_row(path: str, status: FileStatus, reason: str, member: str | None = None, number: int | None = None) -> Row:
    row: Row = dict.fromkeys(SCHEMA.names)
    return row | {"path": path, "member": member, "number": number, "status": status, "reason": reason, "boxes": []}
