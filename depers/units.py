"""Units of work: cut a listing, know what is done, and account for every input.

A unit's outputs are written first and its record last, so a recorded unit is finished; a rerun redoes the others.
Everything a job keeps for itself lies in `OUT/_depers/`.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from depers import storage
from depers.detections import parquet_text
from depers.options import UserError
from depers.storage import Entry

FOLDER = "_depers"
_JOB = f"{FOLDER}/job.json"


class Unit(NamedTuple):
    """A sorted slice of the input, named by a hash of its paths, sizes and tags."""

    name: str
    entries: tuple[Entry, ...]


def cut(entries: Sequence[Entry]) -> list[Unit]:
    """The listing in units of 4 to 32 files: small ones where there are few files, so that every core has work."""
    ordered = sorted(entries)
    size = max(4, min(32, len(ordered) // 64))
    slices = [tuple(ordered[start : start + size]) for start in range(0, len(ordered), size)]
    return [Unit(_name(part), part) for part in slices]


def _name(entries: Sequence[Entry]) -> str:
    text = json.dumps([list(entry) for entry in entries], ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def claim(out: str, options: dict[str, Any]) -> None:
    """Marks OUT as this job's, or checks that it is: `options` are those that decide the bytes written.

    Raises UserError where OUT holds something else, or the work of a job with other options.
    """
    text = json.dumps(options, indent=1, sort_keys=True)
    job = storage.join(out, _JOB)
    if storage.exists(job):
        earlier = json.loads(storage.read_bytes(job))
        for name, value in json.loads(text).items():
            if earlier.get(name) != value:
                found = f"{out}: holds a run with {name} {earlier.get(name)!r}, but now it is {value!r}"
                raise UserError(f"{found}: choose another folder")
        storage.remove_partials(out)
        return
    if storage.exists(out) and (not storage.is_dir(out) or storage.list_files(out)):
        raise UserError(f"{out}: must be absent, an empty folder or an earlier run to resume, but holds other files")
    try:
        storage.write_bytes(job, text.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from None


def record_uri(out: str, name: str) -> str:
    """Where the record of a unit is: Parquet, one row per input."""
    return storage.join(out, FOLDER, "units", f"{name}.parquet")


def recorded(out: str) -> set[str]:
    """The names of the finished units."""
    folder = storage.join(out, FOLDER, "units")
    if not storage.is_dir(folder):
        return set()
    return {entry.path.removesuffix(".parquet") for entry in storage.list_files(folder)}


def collect(out: str, units: Sequence[Unit], schema: pa.Schema) -> pa.Table:
    """All records as one table sorted by path. Raises RuntimeError unless every input has exactly one row."""
    with ThreadPoolExecutor(16) as pool:
        tables = list(pool.map(lambda unit: storage.read_table(record_uri(out, unit.name)), units))
    table = pa.concat_tables(tables).sort_by("path") if tables else schema.empty_table()
    expected = sorted(parquet_text(entry.path) for unit in units for entry in unit.entries)
    if sorted(table["path"].to_pylist()) != expected:
        raise RuntimeError(f"{out}: {len(expected)} inputs, but {len(table)} rows that account for them")
    return table
