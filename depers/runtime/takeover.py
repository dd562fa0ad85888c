"""What earlier records say of files that are as they were, taken over where their units are others now.

A file more or less changes a unit, whose record is then set aside. Of the other files in it nothing has changed: their
rows go into the record of the new unit as they are, and work is done about the new file alone. A row may be taken over
as long as, at the start of every run since it was written, its file was the same: what lies in OUT is then still what
became of it. A record that was set aside forgets the identities of all others before anything else is done.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers.runtime import units
from depers.runtime.units import RecordNotes, Unit
from depers.storage import Entry, tables

_READERS = 32  # threads that mostly wait for storage


class Source(NamedTuple):
    """A record that was set aside, by its name, and the keys of its rows that still hold."""

    name: str
    keys: tuple[str, ...]


class _Candidate(NamedTuple):
    """A record that has a row about a file, and the stamp of the result that it notes."""

    name: str
    stamp: str | None


class FormerRows:
    """The rows of records that were set aside which are about files as they are now."""

    def __init__(self, candidates: Mapping[str, Sequence[_Candidate]]) -> None:
        """Keep them by their keys."""
        self._candidates = candidates

    def __bool__(self) -> bool:
        return bool(self._candidates)

    def find(self, key: str, holds: Callable[[str | None], bool]) -> str | None:
        """Return the name of a record whose row about a file holds, as its result's stamp says; None without one."""
        return next((each.name for each in self._candidates.get(key, ()) if holds(each.stamp)), None)

    def split(
        self, unit: Unit, holds: Callable[[Entry, str | None], bool] = lambda entry, stamp: True
    ) -> tuple[Unit, tuple[Source, ...]]:
        """Return what is left to do of a unit, and where the rows of all its other files are.

        `holds` says of a file, with the stamp of its result that a record notes, if any, whether that is there.
        """
        if not self._candidates or unit.archive:
            return unit, ()
        keys_by_name: dict[str, list[str]] = {}
        indices = []
        for index, (entry, key) in enumerate(zip(unit.entries, unit.identify(), strict=True)):
            if (name := self.find(key, lambda stamp, entry=entry: holds(entry, stamp))) is None:  # type: ignore[misc]
                indices.append(index)
            else:
                keys_by_name.setdefault(name, []).append(key)
        entries = tuple(unit.entries[index] for index in indices)
        contents = tuple(unit.contents[index] for index in indices) if unit.contents else ()
        sources = tuple(Source(name, tuple(keys)) for name, keys in keys_by_name.items())
        return unit._replace(entries=entries, contents=contents), sources


def find_former_rows(records: str, identities: Mapping[str, str]) -> FormerRows:
    """Return the rows that may be taken over; have the records that were set aside forget all others.

    `identities` are those of the files of all units that are open, by their keys: what tables call them. Of a file that
    is not among them, nothing may be taken over from now on.
    """
    names = units.list_former(records)
    candidates: dict[str, list[_Candidate]] = {}

    def read(name: str) -> RecordNotes:
        uri = units.former_uri(records, name)
        try:
            table = tables.read_table(uri, [])
            notes = units.parse_notes(table)
        except (pa.ArrowException, TypeError, ValueError):
            return RecordNotes()
        valid = {key: identity for key, identity in notes.identities.items() if identities.get(key) == identity}
        if len(valid) == len(notes.identities):
            return notes
        notes = notes._replace(identities=valid)
        tables.write_table(uri, units.add_notes(tables.read_table(uri), notes))
        return notes

    with ThreadPoolExecutor(_READERS) as pool:
        for name, notes in zip(names, pool.map(read, names), strict=True):
            for key in notes.identities:
                candidates.setdefault(key, []).append(_Candidate(name, notes.stamps.get(key)))
    return FormerRows(candidates)


def split_all(records: str, open_units: Sequence[Unit]) -> list[tuple[Unit, tuple[Source, ...]]]:
    """Return what is left to do of units of loose files, and where the rows of their other files are."""
    identities: dict[str, str] = {}
    for unit in open_units if units.list_former(records) else ():
        identities |= unit.identify()
    former_rows = find_former_rows(records, identities)
    return [former_rows.split(unit) for unit in open_units]


def select(record: pa.Table, source: Source, key: str = "path") -> tuple[pa.Table, RecordNotes]:
    """Return the rows of a source, those with its keys in the column `key`, and what is noted of them."""
    keys = frozenset(source.keys)
    rows = record.filter(pc.is_in(record[key], pa.array(source.keys, pa.string())))
    return rows, units.parse_notes(record).restrict(keys)


def complete(
    records: str, table: pa.Table | None, notes: RecordNotes, sources: Sequence[Source]
) -> tuple[pa.Table, RecordNotes]:
    """Return the record of a unit, by path: rows of what was done, and those taken over. Raise OSError, UserError."""
    if not sources:
        assert table is not None
        return table, notes
    parts = [select(units.read_record(units.former_uri(records, source.name)), source) for source in sources]
    rows = [part.replace_schema_metadata() for part, _ in parts]
    rows += [table.replace_schema_metadata()] if table is not None else []
    metadata = (table if table is not None else parts[0][0]).schema.metadata
    return pa.concat_tables(rows).sort_by("path").replace_schema_metadata(metadata), merge_notes(
        [*(notes for _, notes in parts), notes]
    )


def merge_notes(parts: Sequence[RecordNotes]) -> RecordNotes:
    """Return the notes of several records as those of one."""
    return RecordNotes(
        retries={path: seconds for notes in parts for path, seconds in notes.retries.items()},
        stamps={path: stamp for notes in parts for path, stamp in notes.stamps.items()},
        identities={path: identity for notes in parts for path, identity in notes.identities.items()},
    )


def record_taken_over(records: str, taken_units: Sequence[tuple[str, Sequence[Source]]]) -> None:
    """Write the records of units of which every row is taken over, each given as its name and sources."""

    def record(unit: tuple[str, Sequence[Source]]) -> None:
        name, sources = unit
        units.write_record(records, name, *complete(records, None, RecordNotes(), sources))

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(record, taken_units))
