"""Units of work: cut a listing, know what is done, and account for every input.

A unit's outputs are written first and its record last, so a recorded unit is finished; a rerun redoes the others.
What a job keeps for itself is called its records. They speak of the inputs, so those of a redacted archive lie beside
OUT, in `OUT-records/` (`locate_beside`), and nothing of them in what is published; those of all other jobs lie in
`OUT/_depers/` (`locate_inside`).
"""

import hashlib
import json
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.archives import registry
from depers.errors import UserError, one_line
from depers.resources import MIB
from depers.storage import Entry, tables
from depers.storage.listing import FileListing
from depers.storage.tables import parquet_text

FOLDER = "_depers"
JOB = "job.json"
_RETRY = ".retry"  # in the name of a record with failures that were storage's: the next run tries again
_NOTES = b"depers.notes"  # in a record's metadata
_FORMER = "former"  # the folder of records that were set aside
_CHUNKS = "chunks"  # the folder of the finished chunks of archives
_UNIT_BYTES = 128 * MIB
_SMALLEST, _LARGEST = 8, 256  # files of a unit, of which the last of a stretch may have fewer
_STRETCH = 4  # units of a stretch, on average
_MIX = 0x9E3779B1  # makes the high bits of a product depend on all bits of a number
_READERS = 32  # records that are read ahead


class Unit(NamedTuple):
    """A sorted slice of loose files, or one archive, named by a hash of its paths, sizes and tags.

    Where more decides what becomes of its files, such as boxes from elsewhere, the name is a hash of that, too, and
    `contents` has it, a text per file.
    """

    name: str
    entries: Sequence[Entry]
    contents: tuple[str, ...] = ()

    @property
    def archive(self) -> str | None:
        """The kind of archive that it is, if it is one."""
        return _kind_of(self.entries[0])

    def identify(self) -> dict[str, str]:
        """Return a hash of all that decides what becomes of each file, by its path as it is in tables."""
        contents = self.contents or ("",) * len(self.entries)
        pairs = zip(self.entries, contents, strict=True)
        return {parquet_text(entry.path): _hash([*_describe(entry), content])[:16] for entry, content in pairs}


def cut(entries: Sequence[Entry]) -> list[Unit]:
    """Return the listing in units in the order of their first paths: each archive one, loose files some at a time.

    Units are small where there are few files, so that every core has work, and larger where there are millions, so
    that their records stay few; but none has more than `_UNIT_BYTES`, unless one file has. They are parts of stretches
    of the listing whose ends follow from paths, so that one file more or less changes the units of its stretch, and not
    all that come after it; in a stretch all but the last have one size, so that the detector gets full batches.
    """
    listing: Sequence[Entry] = entries if isinstance(entries, FileListing) else sorted(entries)
    size, units = choose_size(len(listing)), list[Unit]()
    batch, first, total, stretch = list[Entry](), 0, 0, 0
    gaps = list[int]()  # where archives lie among the files of the batch

    def close(stop: int) -> None:
        """Make a unit of the batch, which shares the listing's memory if that is in columns."""
        if batch and isinstance(listing, FileListing):
            starts, stops = [first, *(gap + 1 for gap in gaps)], [*gaps, stop]
            parts = [listing[start:end] for start, end in zip(starts, stops, strict=True)]
            units.append(Unit(_name(batch), parts[0] if len(parts) == 1 else FileListing.join(parts)))
        elif batch:
            units.append(Unit(_name(batch), tuple(batch)))
        batch.clear()
        gaps.clear()

    for index, entry in enumerate(listing):
        if _kind_of(entry) is not None:
            units.append(Unit(_name((entry,)), (entry,)))
            if batch:
                gaps.append(index)
            continue
        if batch and total + entry.size > _UNIT_BYTES:
            close(index)
        first, total = (first, total + entry.size) if batch else (index, entry.size)
        batch.append(entry)
        stretch += 1
        is_end = ends_stretch(entry.path, stretch, _STRETCH * size)
        if is_end or len(batch) == size:
            close(index + 1)
        stretch = 0 if is_end else stretch
    close(len(listing))
    units.sort(key=lambda unit: unit.entries[0].path)
    return units


def choose_size(count: int) -> int:
    """Return how many of so many files a unit has: a power of two, which seldom changes as they grow."""
    most = max(_SMALLEST, min(32, count // 64), min(_LARGEST, count // 10_000))
    return 1 << (most - 1).bit_length()


def ends_stretch(path: str, length: int, size: int) -> bool:
    """Return whether a stretch of `length` files ends with the one at `path`: from half of `size` to twice as many.

    Between these a hash of the path says so, for one in `size / 2`.
    """
    if length < size // 2:
        return False
    return length >= 2 * size or (zlib.crc32(path.encode("utf-8", "surrogatepass")) * _MIX >> 16) % (size // 2) == 0


def _kind_of(entry: Entry) -> str | None:
    """Return the kind of archive that an entry is to be opened as: none, where the listing says that it is not."""
    return None if entry.status else registry.kind_of(entry.path)


def count_inputs(units: Sequence[Unit]) -> str:
    """Return how many files and archives the units hold, as text."""
    archives = sum(unit.archive is not None for unit in units)
    files = sum(len(unit.entries) for unit in units) - archives
    return f"{files} files" + (f" and {archives} archives" if archives else "")


def _describe(entry: Entry) -> list[str | int]:
    """Return what tells a file from any other version of it."""
    return [*entry[:3], entry.status, entry.reason]


def _name(entries: Sequence[Entry]) -> str:
    return _hash([_describe(entry) for entry in entries])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True).encode()).hexdigest()[:32]


def rename(unit: Unit, content: Any, contents: Sequence[str] = ()) -> Unit:
    """Return a unit whose name is also a hash of `content`, and which has `contents`, a text per file."""
    return unit._replace(name=_hash([unit.name, content]), contents=tuple(contents))


def locate_inside(out: str) -> str:
    """Return where the records of a job lie that is no redacted archive: in OUT."""
    return storage.join(out, FOLDER)


def locate_beside(out: str) -> str | None:
    """Return where the records of a redacted archive lie by default, next to OUT; None where it has no neighbors."""
    return storage.neighbor(out, "-records")


def record_uri(records: str, name: str, retry: bool = False) -> str:
    """Return where the record of a unit is: Parquet, one row per input."""
    return storage.join(records, "units", f"{name}{_RETRY if retry else ''}.parquet")


class RecordNotes(NamedTuple):
    """What a record notes about its files, by their paths as they are in it.

    `retries` are those that may be tried again, each with the budget of time that was too little for it, 0 where
    storage failed it; `stamps` are those of the results that were written to OUT; `identities` say which version of a
    file the rows are about, where they hold for it in any unit (`takeover`).
    """

    retries: Mapping[str, float] = {}
    stamps: Mapping[str, str] = {}
    identities: Mapping[str, str] = {}

    def as_texts(self) -> "RecordNotes":
        """Return the notes, by the paths as they are in tables."""
        return self._map(lambda values: {parquet_text(path): value for path, value in values.items()})

    def restrict(self, paths: Collection[str]) -> "RecordNotes":
        """Return what is noted of these paths."""
        return self._map(lambda values: {path: value for path, value in values.items() if path in paths})

    def _map(self, change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> "RecordNotes":
        return RecordNotes(change(self.retries), change(self.stamps), change(self.identities))


def write_record(
    records: str,
    name: str,
    table: pa.Table,
    notes: RecordNotes | None = None,
    was_retry: bool = False,
    *,
    out: str | None = None,
) -> None:
    """Write the record of a unit, which marks it done, but for files that may be tried again.

    `was_retry`: an earlier run has recorded it so. What the unit has written to `out` is on its disk before: no record
    survives a power cut without its files.
    """
    if out is not None:
        storage.flush(out)
    notes = notes or RecordNotes()
    tables.write_table(record_uri(records, name, bool(notes.retries)), add_notes(table, notes))
    if was_retry and not notes.retries:
        storage.delete(record_uri(records, name, retry=True))


def add_notes(table: pa.Table, notes: RecordNotes) -> pa.Table:
    """Return a record with what it notes."""
    metadata = {_NOTES: json.dumps(notes.as_texts()._asdict()).encode()}
    return table.replace_schema_metadata((table.schema.metadata or {}) | metadata)


def read_notes(records: str, name: str, retry: bool = False) -> RecordNotes:
    """Return what the record of a unit notes. Raise UserError where that is damaged, and remove it."""
    return parse_notes(read_record(record_uri(records, name, retry), []))


def parse_notes(record: pa.Table) -> RecordNotes:
    """Return what a record notes. Raise ValueError, TypeError."""
    return RecordNotes(**json.loads((record.schema.metadata or {}).get(_NOTES, b"{}")))


def read_retry(records: str, name: str) -> pa.Table | None:
    """Return the record of a unit of which some files may be tried again; None where it cannot be read."""
    try:
        table = tables.read_table(record_uri(records, name, retry=True))
        return table if parse_notes(table).retries else None
    except (OSError, TypeError, ValueError, pa.ArrowException):
        return None


class Finished(NamedTuple):
    """The names of the units that need no work, and of those of which storage failed some files."""

    names: frozenset[str]
    retries: frozenset[str]


def list_finished(records: str) -> Finished:
    """Return the names of the units that have records."""
    names = _names(records, "units")
    finished = frozenset(name for name in names if not name.endswith(_RETRY))
    retries = frozenset(name.removesuffix(_RETRY) for name in names if name.endswith(_RETRY))
    return Finished(finished, retries - finished)


def remove_superseded(records: str) -> None:
    """Remove records of failures that were storage's where the unit was done after all.

    Work that was lost with its node is repeated as if it was never done, and does not know what it has recorded.
    """
    names = _names(records, "units")
    done_names = {name for name in names if not name.endswith(_RETRY)}
    for name in names:
        if name.endswith(_RETRY) and name.removesuffix(_RETRY) in done_names:
            storage.delete(storage.join(records, "units", f"{name}.parquet"))


def _names(records: str, folder: str) -> list[str]:
    uri = storage.join(records, folder)
    if not storage.is_dir(uri):
        return []
    return [entry.path.rsplit(".", 1)[0] for entry in storage.list_files(uri) if not entry.status]


def set_aside(records: str, names: Collection[str]) -> None:
    """Set the records of all units aside but of those with these names: what they say of OUT is soon no longer true.

    A file that is changed and changed back is a unit of before again, but OUT holds what became of it in between.
    """

    def move(name: str) -> None:
        uri = storage.join(records, "units", f"{name}.parquet")
        storage.write_bytes(former_uri(records, name), storage.read_bytes(uri))
        storage.delete(uri)

    stale_names = [name for name in _names(records, "units") if name.removesuffix(_RETRY) not in names]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(move, stale_names))


def take_up(records: str, all_units: Sequence[Unit]) -> list[Unit]:
    """Return the units that are not done yet, and set aside the records of units that are not among all."""
    set_aside(records, {unit.name for unit in all_units})
    finished_names = list_finished(records).names
    return [unit for unit in all_units if unit.name not in finished_names]


def list_former(records: str) -> list[str]:
    """Return the names of the records that were set aside."""
    return sorted(_names(records, _FORMER))


def former_uri(records: str, name: str) -> str:
    """Return where the record of this name lies that was set aside."""
    return storage.join(records, _FORMER, f"{name}.parquet")


def read_former(records: str) -> Iterator[pa.Table]:
    """Yield the records that were set aside."""
    names = list_former(records)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(names), _READERS):
            uris = [former_uri(records, name) for name in names[start : start + _READERS]]
            yield from pool.map(tables.read_table, uris)


def iterate_records(records: str, names: Iterable[str]) -> Iterator[pa.Table]:
    """Yield the records of units by their names, in that order; none of a unit that has none. Raise UserError."""

    def read(name: str) -> pa.Table | None:
        try:
            return read_record(record_uri(records, name))
        except FileNotFoundError:
            return None

    remaining = iter(names)
    with ThreadPoolExecutor(_READERS) as pool:
        while part := list(islice(remaining, _READERS)):
            yield from (record for record in pool.map(read, part) if record is not None)


def remove_former(records: str) -> None:
    """Remove the records that were set aside: they speak of inputs that are gone."""
    names = list_former(records)
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda name: storage.delete(former_uri(records, name)), names))
    storage.remove_empty_folders(records, _FORMER)


def chunk_uri(records: str, name: str, number: int) -> str:
    """Return where a finished chunk of an archive waits for the others: its rows and its bytes of the new archive."""
    return storage.join(records, _CHUNKS, name, f"{number:06}.chunk")


def find_chunks(records: str) -> dict[str, set[int]]:
    """Return the numbers of the finished chunks of every archive in work, by the name of its unit."""
    numbers: dict[str, set[int]] = {}
    for name in _names(records, _CHUNKS):
        unit, _, number = name.partition("/")
        numbers.setdefault(unit, set()).add(int(number))
    return numbers


def remove_chunks(records: str, name: str, numbers: Iterable[int]) -> None:
    """Remove the chunks of an archive that is put together."""
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda number: storage.delete(chunk_uri(records, name, number)), numbers))
    storage.remove_empty_folders(records, storage.join(_CHUNKS, name))


def read_records(records: str, units: Sequence[Unit], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the records of all units, one after another, their rows sorted by path and number.

    Raise RuntimeError unless every input has exactly one row, UserError for a record that is damaged.
    """
    retries = list_finished(records).retries
    with ThreadPoolExecutor(_READERS) as pool:
        pending: deque[tuple[Unit, Future[pa.Table]]] = deque()
        for unit in units:
            uri = record_uri(records, unit.name, unit.name in retries)
            pending.append((unit, pool.submit(read_record, uri)))
            if len(pending) > _READERS:
                yield _accounted(records, *pending.popleft())
        while pending:
            yield _accounted(records, *pending.popleft())


def read_record(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a record, or these columns of it. Where it is damaged, remove it and raise UserError."""
    try:
        return tables.read_table(uri, columns)
    except pa.ArrowException as error:
        storage.delete(uri)
        damage = f"is damaged ({one_line(error, 100)}), and is removed"
        raise UserError(f"{uri}: {damage}: the same command does its unit again") from None


def _accounted(records: str, unit: Unit, record: "Future[pa.Table]") -> pa.Table:
    table = record.result()
    by = ["path", "number"] if "number" in table.schema.names else ["path"]
    table = table.sort_by([(name, "ascending") for name in by])
    expected = sorted(parquet_text(entry.path) for entry in unit.entries)
    if unit.archive:  # one row for itself, and one for each member
        numbers = table["number"].drop_null().to_pylist()
        paths = pc.unique(table["path"]).to_pylist()
        if paths != expected or len(set(numbers)) != len(numbers) or len(numbers) != len(table) - 1:
            rows = f"{len(table)} rows that do not account for it"
            raise RuntimeError(f"{records}: {expected[0]} is an archive with {rows}")
    elif sorted(table["path"].to_pylist()) != expected:
        raise RuntimeError(f"{records}: {len(expected)} inputs, but {len(table)} rows that account for them")
    return table
