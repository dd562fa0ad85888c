"""What has changed behind the records: results in OUT that are not what was written, inputs of equal size and time.

A record notes the stamp that storage gave each result, `inputs.parquet` those of the inputs. What has another stamp now
is held against the record's digest: a copy, or a file whose rights were changed, is still what it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow.compute as pc

from depers import storage
from depers.runtime import units
from depers.runtime.progress import report
from depers.runtime.units import Finished, RecordNotes, Unit
from depers.statuses import FileStatus
from depers.storage import Entry
from depers.storage.failures import explain
from depers.storage.tables import parquet_text

_READERS = 32  # threads that mostly wait for storage, or compute digests
_COLUMNS = ["path", "number", "status", "input_sha256", "output_bytes", "output_sha256"]


class Deviations(NamedTuple):
    """What records say of OUT, and is not so: the `units` to do again, and the paths of `foreign` files.

    A foreign file lies in the place of a result that it is not, or of an image that failed: it may be the original.
    """

    units: frozenset[str] = frozenset()
    foreign: tuple[str, ...] = ()


class _Review(NamedTuple):
    """What stamps say of a unit's results: how many are absent, and which of them need a closer look."""

    unit: Unit
    notes: RecordNotes
    absences: int
    suspects: tuple[Entry, ...]


def check_results(
    records: str, all_units: Sequence[Unit], finished_units: Finished, out: str, results: Mapping[str, Entry]
) -> Deviations:
    """Return what of `results`, the files in OUT by their paths, is not what the finished units have written.

    What has the digest of its record, though not the stamp, gets a record with that. Raise OutageError.
    """
    recorded = [unit for unit in all_units if unit.name in finished_units.names | finished_units.retries]

    def review(unit: Unit) -> _Review:
        notes = units.read_notes(records, unit.name, unit.name in finished_units.retries)
        absences, suspects = 0, list[Entry]()
        for entry in unit.entries:
            text = parquet_text(entry.path)
            stamp, result = notes.stamps.get(text), results.get(entry.path)
            if result is None:
                absences += stamp is not None
            elif stamp != result.stamp and (stamp is not None or text not in notes.retries):
                suspects.append(result)
        return _Review(unit, notes, absences, tuple(suspects))

    def look_closer(review: _Review) -> list[str]:
        return _find_foreign(records, review, unit_is_retry(review.unit), out)

    def unit_is_retry(unit: Unit) -> bool:
        return unit.name in finished_units.retries

    with ThreadPoolExecutor(_READERS) as pool:
        reviews = [review for review in pool.map(review, recorded) if review.absences or review.suspects]
        suspects = [entry for review in reviews for entry in review.suspects]
        if suspects:
            report(f"{out}: {_count(suspects)} changed since written: compares digests")
        foreign = list(pool.map(look_closer, reviews))
    lost_names = {
        review.unit.name
        for review, paths in zip(reviews, foreign, strict=True)
        if review.absences or any(parquet_text(path) in review.notes.stamps for path in paths)
    }
    return Deviations(frozenset(lost_names), tuple(path for paths in foreign for path in paths))


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} files, such as {parquet_text(min(entries).path)},"


def _find_foreign(records: str, review: _Review, is_retry: bool, out: str) -> list[str]:
    """Return the paths of a unit's suspects that are not what its record says; note the stamps of all others."""
    if not review.suspects:
        return []
    uri = units.record_uri(records, review.unit.name, is_retry)
    table = units.read_record(uri)
    rows = {row["path"]: row for row in table.filter(pc.is_null(table["number"])).select(_COLUMNS).to_pylist()}
    foreign, stamps = list[str](), dict(review.notes.stamps)
    for entry in review.suspects:
        text = parquet_text(entry.path)
        row = rows[text]
        if text not in stamps:
            foreign += [entry.path] if row["status"] == FileStatus.FAILED else []
        elif entry.size == row["output_bytes"] and has_digest(out, entry, row["output_sha256"]):
            stamps[text] = entry.stamp
        else:
            foreign.append(entry.path)
    if stamps != review.notes.stamps and not foreign:
        units.write_record(records, review.unit.name, table, review.notes._replace(stamps=stamps))
    return foreign


def has_digest(root: str, entry: Entry, digest: str | None) -> bool:
    """Return whether a file is known to have the digest. Raise OutageError."""
    try:
        return digest is not None and storage.compute_digest(root, entry) == digest
    except OSError as error:
        explain(error)
        return False


def find_changed_inputs(
    records: str, all_units: Sequence[Unit], finished_units: Finished, root: str, former_entries: Iterable[Entry]
) -> frozenset[str]:
    """Return the names of the units of which an input is another one than before, though of equal size and time.

    `former_entries` are the inputs of earlier runs. Raise OutageError.
    """
    before = {entry.path: entry for entry in former_entries}
    suspects: list[tuple[Unit, list[Entry]]] = []
    for unit in all_units:
        entries = [entry for entry in unit.entries if _is_suspect(entry, before.get(entry.path))]
        if entries:
            suspects.append((unit, entries))
    if not suspects:
        return frozenset()
    report(
        f"{root}: {_count([entry for _, entries in suspects for entry in entries])} may have changed: compares digests"
    )

    def has_changed(suspect: tuple[Unit, list[Entry]]) -> bool:
        unit, entries = suspect
        if unit.name not in finished_units.names | finished_units.retries:
            return True  # of an archive, some chunks may be done
        table = units.read_record(units.record_uri(records, unit.name, unit.name in finished_units.retries))
        if "input_sha256" not in table.schema.names:
            return True
        loose = table.filter(pc.is_null(table["number"]))
        digests = dict(zip(loose["path"].to_pylist(), loose["input_sha256"].to_pylist(), strict=True))
        return not all(has_digest(root, entry, digests[parquet_text(entry.path)]) for entry in entries)

    with ThreadPoolExecutor(_READERS) as pool:
        return frozenset(
            unit.name for (unit, _), is_other in zip(suspects, pool.map(has_changed, suspects), strict=True) if is_other
        )


def _is_suspect(entry: Entry, before: Entry | None) -> bool:
    """Return whether an input that looks as before may have been replaced."""
    if before is None or entry.status or not before.change_time:
        return False
    return entry[:3] == before[:3] and entry.change_time != before.change_time
