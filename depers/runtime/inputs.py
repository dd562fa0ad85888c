"""The inputs that the work in an OUT was made of: `inputs.parquet` among its records.

It is written before the work begins, with what earlier runs that were not finished had as well, so that whatever may
lie in OUT is known; and again at the end, with what INPUT holds alone.
"""

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

import pyarrow as pa

from depers import storage
from depers.errors import UserError
from depers.storage import Entry, tables
from depers.storage.selection import Selection
from depers.storage.tables import column, schema

SCHEMA = schema(
    column("path", pa.binary(), "relative to INPUT, its bytes"),
    column("size", pa.int64(), "in bytes"),
    column("tag", pa.string(), "changes with the content"),
    column("change_time", pa.string(), "when a disk last saw anything about it change; empty on S3"),
)
_NAME = "inputs.parquet"
_PLACE = b"depers.input"
_SELECTION = b"depers.selection"


class KnownInputs(NamedTuple):
    """Where INPUT was, what it held, and which of it were inputs."""

    place: str = ""
    entries: tuple[Entry, ...] = ()
    selection: Selection = Selection()


def read_inputs(records: str) -> KnownInputs:
    """Return the inputs of earlier runs; none where there was no run."""
    uri = storage.join(records, _NAME)
    if not storage.exists(uri):
        return KnownInputs()
    with storage.translated_errors(uri):
        table = tables.read_table(uri)
    columns = (table[name].to_pylist() for name in SCHEMA.names)
    metadata = table.schema.metadata or {}
    place = metadata.get(_PLACE, b"").decode("utf-8", "surrogateescape")
    entries = (
        Entry(_decode(path), size, tag, change_time=time) for path, size, tag, time in zip(*columns, strict=True)
    )
    return KnownInputs(place, tuple(entries), _parse_selection(metadata))


def read_selection(records: str) -> Selection:
    """Return which files of INPUT were inputs of the last run."""
    uri = storage.join(records, _NAME)
    if not storage.exists(uri):
        return Selection()
    with storage.translated_errors(uri):
        return _parse_selection(tables.read_table(uri, []).schema.metadata or {})


def _parse_selection(metadata: Mapping[bytes, bytes]) -> Selection:
    include, exclude, limit = json.loads(metadata.get(_SELECTION, b"[[], [], null]"))
    return Selection(tuple(include), tuple(exclude), limit)


def write_inputs(records: str, place: str, entries: Iterable[Entry], selection: Selection) -> None:
    """Write the inputs of this run."""
    rows = [
        {"path": _encode(entry.path), "size": entry.size, "tag": entry.etag, "change_time": entry.change_time}
        for entry in sorted(set(entries))
    ]
    table = pa.Table.from_pylist(
        rows, SCHEMA.with_metadata({_PLACE: _encode(place), _SELECTION: json.dumps(selection)})
    )
    with storage.translated_write_errors(records):
        tables.write_table(storage.join(records, _NAME), table)


def refuse_another(out: str, place: str, entries: Sequence[Entry], known: KnownInputs) -> None:
    """Raise UserError where INPUT is another one than that of the work in OUT, whose results would be removed.

    INPUT may grow, shrink and change, and it may be moved as it is. One that holds nothing of what was there before,
    and one at another place that holds less than half of it unchanged, is another INPUT, or a disk that is not there.
    """
    if not known.entries:
        return
    total, hint = len(known.entries), "choose another OUT, or remove this one and its records if that is meant"
    if place == known.place:
        paths = {entry.path for entry in entries}
        if not any(entry.path in paths for entry in known.entries):
            requirement = f"must hold inputs of the earlier run in {out}"
            raise UserError(f"{place}: {requirement}, but none of {total} is there: {hint}")
        return
    unchanged = len({entry[:3] for entry in entries}.intersection(entry[:3] for entry in known.entries))
    if 2 * unchanged < total:
        share = f"of its {total} inputs {unchanged} are there unchanged"
        raise UserError(f"{out}: holds a run of {known.place}, but INPUT is now {place} ({share}): {hint}")


def refuse_narrower(out: str, selection: Selection, known: KnownInputs) -> None:
    """Raise UserError where patterns leave out inputs of earlier runs: their results would be removed."""
    if lost_paths := [entry.path for entry in known.entries if not selection.admits(entry.path)]:
        problem = (
            f"--include and --exclude leave out {len(lost_paths)} inputs of the earlier run, such as {lost_paths[0]!r}"
        )
        raise UserError(f"{out}: {problem}, whose results would be removed: widen them, or choose another OUT")


def find_obstacles(paths: Set[str], departed: Set[str]) -> list[str]:
    """Return the departed paths that are in the way on a disk: files where folders must be, or the reverse."""
    folders = _ancestors(paths) if departed else set()
    return [path for path in sorted(departed) if path in folders or not paths.isdisjoint(_ancestors({path}))]


def _ancestors(paths: Iterable[str]) -> set[str]:
    """Return all folders above paths."""
    folders, parents = set[str](), {path.rpartition("/")[0] for path in paths} - {""}
    while parents:
        folders |= parents
        parents = {path.rpartition("/")[0] for path in parents} - {""} - folders
    return folders


def _encode(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _decode(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")
