"""The inputs that the work in an OUT was made of: `inputs.parquet` among its records.

It is written before the work begins, with what earlier runs that were not finished had as well, so that whatever may
lie in OUT is known; and again at the end, with what INPUT holds alone.
"""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from depers import storage
from depers.errors import UserError, one_line
from depers.storage import Entry, tables
from depers.storage.listing import FileListing
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
_ROWS = 65_536  # that are read at once
_SELECTION = b"depers.selection"


class KnownInputs(NamedTuple):
    """Where INPUT was, how much it held, and which of it were inputs.

    The `parts` are what it held, each a sorted stretch: read when they are asked for, one at a time, since millions of
    inputs are in memory as they are now. They are to be asked for before the next inputs are written in their place.
    """

    place: str = ""
    total: int = 0
    parts: Iterable[FileListing] = ()
    selection: Selection = Selection()

    @property
    def entries(self) -> Iterator[Entry]:
        """All that INPUT held, one after another."""
        return itertools.chain.from_iterable(self.parts)

    def without(self, entries: FileListing) -> Iterator[Entry]:
        """Yield what INPUT held, of which these have none of that path."""
        return itertools.chain.from_iterable(part.without(entries) for part in self.parts)


class _StoredParts:
    """The parts of the inputs that are noted in a file."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __iter__(self) -> Iterator[FileListing]:
        with _open(self._uri) as file:
            for batch in file.iter_batches(_ROWS, columns=SCHEMA.names):
                if any(column.null_count for column in batch.columns):
                    raise pa.ArrowInvalid("it has empty cells")
                yield from FileListing.from_batch(batch)


@contextmanager
def _open(uri: str) -> Iterator[pq.ParquetFile]:
    """Open the inputs that are noted in a file. Raise UserError where it is damaged, also while it is read."""
    try:
        with storage.translated_errors(uri), tables.open_table(uri) as file:
            if not file.schema_arrow.equals(tables.plain_schema(SCHEMA)):
                raise pa.ArrowInvalid(f"its columns are {', '.join(file.schema_arrow.names)}")
            yield file
    except (pa.ArrowException, UnicodeDecodeError) as error:
        damage = f"must say what INPUT held in the earlier run, but is damaged ({one_line(error, 100)})"
        raise UserError(f"{uri}: {damage}: choose another OUT, or remove this one and its records") from None


def read_inputs(records: str) -> KnownInputs:
    """Return the inputs of earlier runs; none where there was no run."""
    uri = storage.join(records, _NAME)
    if not storage.exists(uri):
        return KnownInputs()
    with _open(uri) as file:
        metadata, total = file.schema_arrow.metadata or {}, file.metadata.num_rows
    place = metadata.get(_PLACE, b"").decode("utf-8", "surrogateescape")
    return KnownInputs(place, total, _StoredParts(uri), _parse_selection(metadata))


def read_selection(records: str) -> Selection:
    """Return which files of INPUT were inputs of the last run."""
    uri = storage.join(records, _NAME)
    if not storage.exists(uri):
        return Selection()
    with _open(uri) as file:
        return _parse_selection(file.schema_arrow.metadata or {})


def _parse_selection(metadata: Mapping[bytes, bytes]) -> Selection:
    include, exclude, *limits = json.loads(metadata.get(_SELECTION, b"[[], []]"))
    return Selection(tuple(include), tuple(exclude), *limits)


def write_inputs(
    records: str, place: str, entries: FileListing, selection: Selection, absent: Iterable[Entry] = ()
) -> None:
    """Write the inputs of this run, and those of earlier ones that are absent now."""
    metadata = {_PLACE: place.encode("utf-8", "surrogateescape"), _SELECTION: json.dumps(selection).encode()}
    table_schema = SCHEMA.with_metadata(metadata)
    with (
        storage.translated_write_errors(records),
        tables.TableWriter(storage.join(records, _NAME), table_schema) as writer,
    ):
        for batch in itertools.chain(entries.to_batches(), FileListing.of(absent).to_batches()):
            writer.write(pa.Table.from_batches([batch]))


def refuse_another(out: str, place: str, entries: FileListing, known: KnownInputs) -> None:
    """Raise UserError where INPUT is another one than that of the work in OUT, whose results would be removed.

    INPUT may grow, shrink and change, and it may be moved as it is. One that holds nothing of what was there before,
    and one at another place that holds less than half of it unchanged, is another INPUT, or a disk that is not there.
    """
    if not known.total:
        return
    hint = "choose another OUT, or remove this one and its records if that is meant"
    if place == known.place:
        if all(sum(1 for _ in part.without(entries)) == len(part) for part in known.parts):
            requirement = f"must hold inputs of the earlier run in {out}"
            raise UserError(f"{place}: {requirement}, but none of {known.total} is there: {hint}")
        return
    unchanged = 0
    for part in known.parts:
        present = entries.near(part)
        unchanged += sum(entry.path in present and present[entry.path][:3] == entry[:3] for entry in part)
    if 2 * unchanged < known.total:
        share = f"of its {known.total} inputs {unchanged} are there unchanged"
        raise UserError(f"{out}: holds a run of {known.place}, but INPUT is now {place} ({share}): {hint}")


def refuse_narrower(out: str, selection: Selection, known: KnownInputs) -> None:
    """Raise UserError where the selection leaves out inputs of earlier runs: their results would be removed."""
    limit, former_limit = selection.limit, known.selection.limit
    if limit is not None and limit < known.total and (former_limit is None or limit < former_limit):
        problem = f"--limit must be at least the {known.total} inputs of the earlier run, but is {limit}"
        raise UserError(f"{out}: {problem}: the other results would be removed: raise it, or choose another OUT")
    has_patterns = selection.include or selection.exclude
    entries: Iterable[Entry] = known.entries if has_patterns else ()
    if lost_paths := [entry.path for entry in entries if not selection.admits(entry.path)]:
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
