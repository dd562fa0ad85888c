"""Units of work: cut a listing, know what is done, and account for every input.

A unit's outputs are written first and its record last, so a recorded unit is finished; a rerun redoes the others.
Everything a job keeps for itself lies in `OUT/_depers/`.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.archives import registry
from depers.errors import UserError, one_line
from depers.resources import MIB
from depers.storage import Entry, tables
from depers.storage.tables import parquet_text

FOLDER = "_depers"
JOB = f"{FOLDER}/job.json"
VERSION = 2
"""Of the columns and words of all tables below an OUT; one of another version is refused, not guessed at."""
_RETRY = ".retry"  # in the name of a record with failures that were storage's: the next run tries again
_CHUNKS = "chunks"  # the folder of the finished chunks of archives
_UNIT_BYTES = 128 * MIB
_READERS = 32  # records that are read ahead


class Unit(NamedTuple):
    """A sorted slice of loose files, or one archive, named by a hash of its paths, sizes and tags."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def archive(self) -> str | None:
        """The kind of archive that it is, if it is one."""
        return registry.kind_of(self.entries[0].path)


def cut(entries: Sequence[Entry]) -> list[Unit]:
    """Return the listing in units in the order of their first paths: each archive one, loose files 8 to 256 at a time.

    Units are small where there are few files, so that every core has work, and larger where there are millions, so
    that their records stay few; but none has more than `_UNIT_BYTES`, unless one file has.
    """
    loose: list[Entry] = []
    units = []
    for entry in sorted(entries):
        if registry.kind_of(entry.path) is None:
            loose.append(entry)
        else:
            units.append(Unit(_name((entry,)), (entry,)))
    size = max(8, min(32, len(loose) // 64), min(256, len(loose) // 10_000))
    size = -(-size // 8) * 8  # whole batches, where those are of the default size
    batch: list[Entry] = []
    total = 0
    for entry in loose:
        if batch and (len(batch) == size or total + entry.size > _UNIT_BYTES):
            units.append(Unit(_name(batch), tuple(batch)))
            batch, total = [], 0
        batch.append(entry)
        total += entry.size
    if batch:
        units.append(Unit(_name(batch), tuple(batch)))
    units.sort(key=lambda unit: unit.entries[0].path)
    return units


def count_inputs(units: Sequence[Unit]) -> str:
    """Return how many files and archives the units hold, as text."""
    archives = sum(unit.archive is not None for unit in units)
    files = sum(len(unit.entries) for unit in units) - archives
    return f"{files} files" + (f" and {archives} archives" if archives else "")


def _name(entries: Sequence[Entry]) -> str:
    text = json.dumps([list(entry) for entry in entries], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def claim(out: str, options: Mapping[str, Any], note: str = JOB, empty: bool = True) -> None:
    """Note in OUT whose work it holds, or check that this job may go on with it, and remove what was left half written.

    `options` are those that decide the bytes written; `note` is the file below OUT that has them. Raise UserError
    where OUT holds the work of a job with other options, tables of another version, or before the first run (unless
    `empty` is false) anything else.
    """
    uri = storage.join(out, note)
    text = json.dumps({"tables": VERSION, **options}, indent=1, sort_keys=True)
    if storage.exists(uri):
        noted = read_job(out, note)
        for name, value in json.loads(text).items():  # as it was read: tuples are lists
            if noted.get(name) != value:
                conflict = f"holds a run with {name} {noted.get(name)!r}, but now it is {value!r}"
                raise UserError(f"{out}: {conflict}: choose another folder")
        storage.remove_partials(out)
        return
    if empty and storage.exists(out) and (not storage.is_dir(out) or storage.list_files(out)):
        raise UserError(f"{out}: must be absent, an empty folder or an earlier run to resume, but holds other files")
    with storage.translated_write_errors(out):
        storage.write_bytes(uri, text.encode())


def read_job(out: str, note: str = JOB) -> dict[str, Any]:
    """Return what `claim` noted in OUT. Raise UserError where that is damaged, or its tables are of another version."""
    uri = storage.join(out, note)
    try:
        job: dict[str, Any] = json.loads(storage.read_bytes(uri))
    except ValueError as error:  # also for what is no text
        raise UserError(f"{uri}: must be JSON that an earlier run wrote, but is none ({one_line(error)})") from None
    if not isinstance(job, dict):
        raise UserError(f"{uri}: must be a JSON object that an earlier run wrote, but is {type(job).__name__}")
    if (version := job.get("tables", 1)) != VERSION:
        raise UserError(
            f"{out}: must hold tables of version {VERSION}, but their version is {version}: choose another folder"
        )
    return job


def record_uri(out: str, name: str, retry: bool = False) -> str:
    """Return where the record of a unit is: Parquet, one row per input."""
    return storage.join(out, FOLDER, "units", f"{name}{_RETRY if retry else ''}.parquet")


def list_finished(out: str) -> set[str]:
    """Return the names of the finished units, and remove the records of those that storage failed: they are redone."""
    names = _names(out, "units")
    retries = [name for name in names if name.endswith(_RETRY)]
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda name: storage.delete(record_uri(out, name)), retries))
    return {name for name in names if not name.endswith(_RETRY)}


def _names(out: str, folder: str) -> list[str]:
    uri = storage.join(out, FOLDER, folder)
    if not storage.is_dir(uri):
        return []
    return [entry.path.rsplit(".", 1)[0] for entry in storage.list_files(uri)]


def chunk_uri(out: str, name: str, number: int) -> str:
    """Return where a finished chunk of an archive waits for the others: its rows and its bytes of the new archive."""
    return storage.join(out, FOLDER, _CHUNKS, name, f"{number:06}.chunk")


def find_chunks(out: str) -> dict[str, set[int]]:
    """Return the numbers of the finished chunks of every archive in work, by the name of its unit."""
    numbers: dict[str, set[int]] = {}
    for name in _names(out, _CHUNKS):
        unit, _, number = name.partition("/")
        numbers.setdefault(unit, set()).add(int(number))
    return numbers


def remove_chunks(out: str, name: str, numbers: Iterable[int]) -> None:
    """Remove the chunks of an archive that is put together."""
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(lambda number: storage.delete(chunk_uri(out, name, number)), numbers))
    if not storage.is_s3(out):
        storage.remove_empty_folders(storage.join(out, FOLDER), storage.join(_CHUNKS, name))


def read_records(out: str, units: Sequence[Unit], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the records of all units, one after another, their rows sorted by path and number.

    Raise RuntimeError unless every input has exactly one row.
    """
    retries = {name.removesuffix(_RETRY) for name in _names(out, "units") if name.endswith(_RETRY)}
    with ThreadPoolExecutor(_READERS) as pool:
        pending: deque[tuple[Unit, Future[pa.Table]]] = deque()
        for unit in units:
            uri = record_uri(out, unit.name, unit.name in retries)
            pending.append((unit, pool.submit(tables.read_table, uri)))
            if len(pending) > _READERS:
                yield _accounted(out, *pending.popleft())
        while pending:
            yield _accounted(out, *pending.popleft())


def _accounted(out: str, unit: Unit, record: "Future[pa.Table]") -> pa.Table:
    table = record.result()
    by = ["path", "number"] if "number" in table.schema.names else ["path"]
    table = table.sort_by([(name, "ascending") for name in by])
    expected = sorted(parquet_text(entry.path) for entry in unit.entries)
    if unit.archive:  # one row for itself, and one for each member
        numbers = table["number"].drop_null().to_pylist()
        paths = pc.unique(table["path"]).to_pylist()
        if paths != expected or len(set(numbers)) != len(numbers) or len(numbers) != len(table) - 1:
            raise RuntimeError(f"{out}: {expected[0]} is an archive with {len(table)} rows that do not account for it")
    elif sorted(table["path"].to_pylist()) != expected:
        raise RuntimeError(f"{out}: {len(expected)} inputs, but {len(table)} rows that account for them")
    return table
