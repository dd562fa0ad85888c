"""What a dataset cache notes of a folder: which files are on this node, and which size and tag they had on S3.

    {"uri": "s3://…", "is_complete": false, "boot": "…", "durable": 2}
    ["1.jpg", 48213, "9b74c9897bac770ffc029102a200c5de"]
    …

A line per file, in JSON. `durable` of them were written with the head, whole, when their files were on the disk. Those
that follow were appended as files came, each after its file got its name. They outlast the process, however it ends;
but where the machine went down, too, their files may have lost their content, so they count only in the boot that
`boot` names. A line that is cut or damaged vouches for nothing. What a line says is believed where S3 lists the same.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.storage import file_table
from depers.storage.paths import Entry

_ROWS = 65_536  # lines that are objects at a time
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # a new one each time that Linux starts (random(4))
_MOST_BYTES = 2**63  # what a column of sizes holds
_SCHEMA = pa.schema(
    [
        file_table.SCHEMA.field("path"),
        file_table.SCHEMA.field("size"),
        pa.field("etag", pa.large_string()),  # null where it is not sure what the file holds
    ]
)


class FolderNotes(NamedTuple):
    """What is noted of a folder: its URI, whether its last fetch came to its end, and a row for each file."""

    uri: str
    is_complete: bool
    files: pa.Table

    def find_listed(self, listing: pa.Table) -> NDArray[np.bool_]:
        """Return which files of a listing are noted with the size and the tag that they have there, bool (N,)."""
        numbers = pc.index_in(listing["path"], self.files["path"].combine_chunks())
        pairs = ((self.files[name].take(numbers), listing[name]) for name in ("size", "etag"))
        sizes, etags = (pc.fill_null(pc.equal(*pair), False) for pair in pairs)
        return np.asarray(pc.and_(sizes, etags))


_NO_NOTES = FolderNotes("", False, _SCHEMA.empty_table())


def read_notes(record: Path) -> FolderNotes:
    """Return what a record says, without its damaged lines; nothing where there is none, or its head is damaged."""
    try:
        with record.open("rb") as file:
            head = _read_head(file.readline())
            files = pa.Table.from_batches(_read_batches(head, file), _SCHEMA)
            return FolderNotes(str(head["uri"]), head.get("is_complete") is True, files)
    except (OSError, ValueError, KeyError, TypeError):
        return _NO_NOTES


def read_uri(record: Path) -> str:
    """Return which folder a record is about. Raise OSError, ValueError, KeyError, TypeError for what is no record."""
    with record.open("rb") as file:
        return str(_read_head(file.readline())["uri"])


def write_notes(record: Path, uri: str, files: pa.Table, is_complete: bool) -> None:
    """Write a record, whole or not at all, about `files` that are surely on the disk. Raise OSError.

    `files` has the columns of a listing.
    """
    head = {"uri": uri, "is_complete": is_complete, "boot": _read_boot(), "durable": len(files)}
    with storage.open_writer(str(record)) as writer:
        writer.write(json.dumps(head).encode())
        for batch in files.select(_SCHEMA.names).to_batches(_ROWS):
            writer.write(b"".join(_format_line(*row.values()) for row in batch.to_pylist()))


class NoteAppender:
    """Appends notes to a record that `write_notes` wrote, from any thread; a context, which closes the file."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def __enter__(self) -> "NoteAppender":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def append(self, entry: Entry) -> None:
        """Note that a file is here, under its name. Raise OSError, such as of a full disk.

        The kernel has the line when this returns: a process that is killed then does not lose it.
        """
        line = _format_line(file_table.encode(entry.path), entry.size, entry.etag)
        if os.write(self._descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._record))


def _format_line(path: bytes, size: int, etag: str) -> bytes:
    """Return a line that begins with its separator, so that one that was cut before it spoils itself alone."""
    return b"\n" + json.dumps([file_table.decode(path), size, etag]).encode()


def _read_boot() -> str:
    """Return what tells this run of the machine's kernel from all others; empty where nothing does."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _parse(line: bytes) -> Any:
    """Return what a line holds. Raise ValueError where it is damaged."""
    try:
        return json.loads(line)
    except RecursionError:
        raise ValueError("lists in lists, too many to be read") from None


def _read_head(line: bytes) -> dict[str, Any]:
    head = _parse(line)
    if not isinstance(head, dict):
        raise TypeError(f"the head of a record must be an object, but is {line[:40]!r}")
    return head


def _read_batches(head: dict[str, Any], lines: Iterator[bytes]) -> Iterator[pa.RecordBatch]:
    rows: Iterator[tuple[bytes, int, str | None] | None]
    if "entries" in head:  # of a version that wrote all in one line, when the fetch had ended
        rows = (_check_row(row) for row in head.pop("entries"))
    else:
        durable = int(head["durable"])
        is_same_boot = head["boot"] != "" and head["boot"] == _read_boot()
        rows = (_read_row(line, is_same_boot or number < durable) for number, line in enumerate(lines))
    present_rows = (row for row in rows if row is not None)
    while part := list(islice(present_rows, _ROWS)):
        columns = zip(*part, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        yield pa.record_batch(arrays, _SCHEMA)


def _read_row(line: bytes, is_sure: bool) -> tuple[bytes, int, str | None] | None:
    """Return path, size and tag, without the tag where they are not sure; None for a damaged line."""
    with suppress(ValueError):
        row = _check_row(_parse(line))
        return row if row is None or is_sure else (*row[:2], None)
    return None


def _check_row(fields: Any) -> tuple[bytes, int, str | None] | None:
    match fields:
        case [str(path), int(size), str(etag), *_] if 0 <= size < _MOST_BYTES:
            with suppress(ValueError):  # of a path that no file can have
                return file_table.encode(path), int(size), etag
    return None
