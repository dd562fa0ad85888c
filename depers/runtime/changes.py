"""What has changed behind the records: results in OUT that are not what was written, inputs of equal size and time.

A record notes the stamp that storage gave each result, `inputs.parquet` those of the inputs. What has another stamp now
is held against the record's digest: a copy, or a file whose rights were changed, is still what it was.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from depers.storage.listing import FileListing, Results
from depers.storage.tables import parquet_text

_READERS = 32  # threads that mostly wait for storage, or compute digests
_COLUMNS = ["path", "number", "status", "input_sha256", "output_bytes", "output_sha256"]


class Deviations(NamedTuple):
    """What records say of OUT, and is not so.

    That is the `units` to do again; the paths of `foreign` files, each in the place of a result that it is not, or of
    an image that failed, so that it may be the original; and of `strangers`, in the place of what had no result.
    """

    units: frozenset[str] = frozenset()
    foreign: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


class _Review(NamedTuple):
    """What stamps say of a unit's results: how many are absent, and which, by input, need a closer look."""

    unit: Unit
    is_retry: bool
    notes: RecordNotes
    absences: int
    suspects: Mapping[str, Entry]


def check_results(
    records: str, all_units: Sequence[Unit], finished_units: Finished, out: str, results: Results
) -> Deviations:
    """Return what of `results`, the files in OUT by their inputs, is not what the finished units have written.

    What has the digest of its record, though not the stamp, gets a record with that. Raise OutageError.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        recorded_units = [unit for unit in all_units if unit.name in finished_units.names | finished_units.retries]
        reviews = [
            review
            for review in pool.map(
                lambda unit: _review(records, unit, unit.name in finished_units.retries, results), recorded_units
            )
            if review.absences or review.suspects
        ]
        if suspects := [entry for review in reviews for entry in review.suspects.values()]:
            report(f"{out}: {_count(suspects)} changed since written: compares digests")
        deviations = list(pool.map(lambda review: _look_closer(records, review, out), reviews))
    return Deviations(
        frozenset[str]().union(*(each.units for each in deviations)),
        tuple(path for each in deviations for path in each.foreign),
        tuple(path for each in deviations for path in each.strangers),
    )


def _review(records: str, unit: Unit, is_retry: bool, results: Results) -> _Review:
    notes = units.read_notes(records, unit.name, is_retry)
    absences, suspects, unit_results = 0, dict[str, Entry](), results.near(unit.entries)
    for entry in unit.entries:
        text = parquet_text(entry.path)
        stamp, result = notes.stamps.get(text), unit_results.get(entry.path)
        if result is None:
            absences += stamp is not None
        elif stamp != result.stamp and (stamp is not None or text not in notes.retries):
            suspects[text] = result
    return _Review(unit, is_retry, notes, absences, suspects)


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} files, such as {parquet_text(min(entries).path)},"


def _look_closer(records: str, review: _Review, out: str) -> Deviations:
    """Return what of a unit's suspects is not what its record says; note the stamps of all others."""
    name = review.unit.name
    is_lost = review.absences > 0
    if not review.suspects:
        return Deviations(frozenset({name}))
    table = units.read_record(units.record_uri(records, name, review.is_retry))
    rows = {row["path"]: row for row in table.filter(pc.is_null(table["number"])).select(_COLUMNS).to_pylist()}
    foreign, strangers, stamps = list[str](), list[str](), dict(review.notes.stamps)
    for text, entry in review.suspects.items():
        row = rows[text]
        if text not in stamps:
            (foreign if row["status"] == FileStatus.FAILED else strangers).append(entry.path)
        elif entry.size == row["output_bytes"] and has_digest(out, entry, row["output_sha256"]):
            stamps[text] = entry.stamp
        else:
            foreign.append(entry.path)
            is_lost = True
    if stamps != review.notes.stamps and not is_lost:
        units.write_record(records, name, table, review.notes._replace(stamps=stamps))
    return Deviations(frozenset({name} if is_lost else ()), tuple(foreign), tuple(strangers))


def has_digest(root: str, entry: Entry, digest: str | None) -> bool:
    """Return whether a file is known to have the digest. Raise OutageError."""
    try:
        return digest is not None and storage.compute_digest(root, entry) == digest
    except OSError as error:
        explain(error)
        return False


def find_changed_inputs(
    records: str,
    all_units: Sequence[Unit],
    finished_units: Finished,
    root: str,
    listing: FileListing,
    former_parts: Iterable[FileListing],
) -> frozenset[str]:
    """Return the names of the units of which an input is another one than before, though of equal size and time.

    `listing` has the inputs of all units, `former_parts` those of earlier runs. Raise OutageError.
    """
    if storage.is_remote(root):  # whose tags say all
        return frozenset()
    suspect_paths = {entry.path for part in former_parts for entry in _list_suspects(listing, part)}
    suspects: list[tuple[Unit, list[Entry]]] = []
    for unit in all_units if suspect_paths else ():
        if entries := [entry for entry in unit.entries if entry.path in suspect_paths]:
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


def _list_suspects(listing: FileListing, former: FileListing) -> Iterator[Entry]:
    """Yield the former inputs that look as before, but may have been replaced."""
    present = listing.near(former)
    for before in former:
        entry = present.get(before.path)
        if entry is None or entry.status or not before.change_time:
            continue
        if entry[:3] == before[:3] and entry.change_time != before.change_time:
            yield before
