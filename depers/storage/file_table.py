"""A listing as columns: what `list_files` returns, without an object for each of a million files."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depers.errors import UserError
from depers.storage import is_dir, iterate_files, translated_errors
from depers.storage.paths import Entry, skip_own

_ROWS = 65_536  # entries that are objects at a time

SCHEMA = pa.schema(
    [
        pa.field("path", pa.large_binary(), nullable=False),  # as the file system has it, whatever its encoding
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.large_string(), nullable=False),
        pa.field("stamp", pa.large_string(), nullable=False),
        pa.field("reason", pa.large_string()),
    ]
)
"""A row for each `Entry`, in order of path; `reason` only of what is no file to read."""


_listings: ContextVar[dict[str, pa.Table] | None] = ContextVar("listings", default=None)


@contextmanager
def list_once() -> Iterator[None]:
    """Have each folder listed once within the block, however often it is asked for: a million files take a while."""
    token = _listings.set({})
    try:
        yield
    finally:
        _listings.reset(token)


def tabulate_files(root: str) -> pa.Table:
    """Return every file below `root`, links followed, as columns. Raise UserError as `list_files` does."""
    listings = _listings.get()
    if listings is None:
        return _list(root)
    if root not in listings:
        listings[root] = _list(root)
    return listings[root]


def _list(root: str) -> pa.Table:
    with translated_errors(root):
        table = tabulate(iterate_files(root, follow_links=True))
    if not len(table) and not is_dir(root):
        raise UserError(f"{root}: no such folder")
    return table


def tabulate(entries: Iterable[Entry]) -> pa.Table:
    """Return entries as columns."""
    table = pa.Table.from_batches(_make_batches(iter(entries)), SCHEMA)
    return table.take(pc.sort_indices(table["path"])).combine_chunks()


def _make_batches(entries: Iterator[Entry]) -> Iterator[pa.RecordBatch]:
    while part := list(islice(entries, _ROWS)):
        rows = [skip_own(entry) for entry in part]
        columns = [
            [os.fsencode(row.path) for row in rows],
            [row.size for row in rows],
            [row.etag for row in rows],
            [row.stamp for row in rows],
            [row.reason or row.status or None for row in rows],
        ]
        yield pa.record_batch(
            [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA
        )


def join_paths(folder: str, paths: Any) -> Any:
    """Return paths of a column with their folder before them."""
    prefix, separator = (pa.scalar(text, pa.large_binary()) for text in (encode(folder.rstrip("/")), b"/"))
    return pc.binary_join_element_wise(prefix, paths, separator)


def encode(path: str) -> bytes:
    """Return a path as the columns have it."""
    return os.fsencode(path)


def decode(path: bytes) -> str:
    """Return a path of the columns as text."""
    return os.fsdecode(path)
