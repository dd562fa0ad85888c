"""The manifest: one row for every file and member, which says what became of it and proves what was written."""

from typing import NamedTuple

import pyarrow as pa

from depers import __version__, storage
from depers.archives import registry
from depers.detection.detections import BOX, VERSION
from depers.pipeline.box_tables import BoxTable, Row, RowsByPath
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage.tables import column, schema

SCHEMA = schema(
    column("path", pa.string(), "relative to INPUT"),
    column(
        "member",
        pa.string(),
        "in an archive, the name in it, or a column; null for a loose file and the archive itself",
    ),
    column("number", pa.int64(), "in an archive, the place among all members"),
    column(
        "status",
        pa.string(),
        "redacted, clean (nothing detected), failed, skipped or passed_through (no image), removed (no input any more);"
        " of an archive complete, incomplete, failed, skipped or removed",
    ),
    column(
        "reason", pa.string(), "why it was skipped, failed, removed or kept, or the archive is incomplete; else empty"
    ),
    column("width", pa.int32(), "of the upright image, in pixels"),
    column("height", pa.int32(), "of the upright image, in pixels"),
    column("frames", pa.int32(), "how many the result has"),
    column("format", pa.string(), "of the result, such as JPEG"),
    column("boxes", pa.list_(BOX), "as detected, before the margin"),
    column("arithmetic", pa.string(), "what the detector that looked at it computed in; null where none did"),
    column("mode", pa.string(), "what became of the boxes: --mode"),
    column("method", pa.string(), "how the file was redacted, such as lossless"),
    column("margin", pa.float32(), "what was added to the boxes on each side, a share of their size"),
    column("input_bytes", pa.int64(), "size of the input"),
    column("input_sha256", pa.string(), "digest of the input"),
    column("output_bytes", pa.int64(), "size of the result; null where there is none"),
    column("output_sha256", pa.string(), "digest of the result"),
    column("output_offset", pa.int64(), "where the result begins in an archive that holds its bytes as they are"),
    column("output_path", pa.string(), "where the result lies in OUT, where --map calls it otherwise than its input"),
    column("output_member", pa.string(), "in an archive, the name of the result in it, where --map gives it another"),
    column("version", pa.string(), "of depers"),
).with_metadata({"depers.manifest": str(VERSION)})

MANIFEST = "manifest.parquet"
"""Its name in the folder of records."""
STATUSES = tuple(status for status in FileStatus if status != FileStatus.DETECTED)
"""What a file of the manifest may be."""
DEPARTED = "is no longer in INPUT"
"""The reason of what was removed."""
KEPT = f"{DEPARTED}, but its result was kept (--keep-removed)"
"""The reason of what was not."""
WRITTEN = (FileStatus.REDACTED, FileStatus.CLEAN, FileStatus.PASSED_THROUGH)
"""The statuses of manifest rows whose result must be in OUT."""


class ManifestRow(NamedTuple):
    """A row of `SCHEMA` about a file or a member; the pass adds where in OUT its result is."""

    path: str
    member: str | None
    number: int | None
    status: str
    reason: str
    boxes: list[Row]
    input_bytes: int
    input_sha256: str | None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    format: str | None = None
    mode: str | None = None
    method: str | None = None
    margin: float | None = None
    output_bytes: int | None = None
    output_sha256: str | None = None
    version: str = __version__


def open_manifest(uri: str) -> BoxTable:
    """Open the manifest. Raise UserError for what is none, or one of another version."""
    return BoxTable(uri, b"depers.manifest")


class WrittenRows(RowsByPath):
    """The manifest's rows of what was written; those of an archive by their place in the new one."""

    def of(self, path: str) -> dict[int | None, Row]:
        """Return the rows of one output."""
        rows = [row for row in super().of(path).values() if row["status"] in WRITTEN]
        if registry.kind_of(path) is None:
            return dict.fromkeys([None], rows[0]) if rows else {}
        return dict(enumerate(sorted(rows, key=lambda row: row["number"])))

    def is_kept(self, path: str) -> bool:
        """Return whether the result of an input that is gone was kept."""
        return any(row["reason"] == KEPT for row in super().of(path).values())

    def archive_row(self, path: str) -> Row | None:
        """Return the row of an archive itself, if there should be one in OUT."""
        row = super().of(path).get(None)
        is_there = row is not None and row["status"] in (ArchiveStatus.COMPLETE, ArchiveStatus.INCOMPLETE)
        return row if is_there else None


def read_result(out: str, row: Row) -> bytes | None:
    """Return the bytes that a manifest row stands for; None where they are compressed among others.

    Raise OSError.
    """
    uri = storage.join(out, row.get("output_path") or row["path"])
    if row["number"] is None:
        return storage.read_bytes(uri)
    if row["output_offset"] is not None:
        return storage.read_range(uri, row["output_offset"], row["output_bytes"])
    return None


def describe_place(row: Row) -> str:
    """Return what a row is about: the file, and the member in it."""
    return str(row["path"] if row["member"] is None else f"{row['path']}: {row['member']}")
