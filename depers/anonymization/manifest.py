"""Manifest."""

import pyarrow as pa

from depers import storage
from depers.archives import registry
from depers.detection.detections import BOX
from depers.pipeline.box_sources import RowsByPath
from depers.pipeline.steps import Row
from depers.statuses import FileStatus


class WrittenRows(RowsByPath):
    """The manifest's rows of what was written; those of an archive by their place in the new one."""

    def of(self, path: str) -> dict[int | None, Row]:
        """The rows of one output."""
        rows = [row for row in super().of(path).values() if row["status"] in WRITTEN]
        if registry.kind_of(path) is None:
            return dict.fromkeys([None], rows[0]) if rows else {}
        return dict(enumerate(sorted(rows, key=lambda row: row["number"])))

    def archive_row(self, path: str) -> Row | None:
        """The row of an archive itself, if there should be one in OUT."""
        row = super().of(path).get(None)
        return row if row is not None and row["status"] in ("complete", "incomplete") else None


_COLUMNS = {"path": pa.string(), "member": pa.string(), "number": pa.int64(), "status": pa.string()}
_COLUMNS |= {"reason": pa.string(), "width": pa.int32(), "height": pa.int32(), "frames": pa.int32()}
_COLUMNS |= {"format": pa.string(), "boxes": pa.list_(BOX), "mode": pa.string(), "method": pa.string()}
_COLUMNS |= {"margin": pa.float32(), "input_bytes": pa.int64(), "input_sha256": pa.string()}
_COLUMNS |= {"output_bytes": pa.int64(), "output_sha256": pa.string(), "output_offset": pa.int64()}
_COLUMNS |= {"version": pa.string()}
SCHEMA = pa.schema(_COLUMNS)
"""The manifest. `path` is relative to INPUT; of what lies in an archive, `member` is the name in it and `number` its
place among all members. Boxes are as detected, before the margin, in upright pixels of their frame. `method` says how
the file was redacted. `output_offset` is where the result's bytes begin in an archive that holds them as they are."""

STATUSES = (
    FileStatus.REDACTED,
    FileStatus.CLEAN,
    FileStatus.FAILED,
    FileStatus.PASSED_THROUGH,
    FileStatus.SKIPPED,
)
ARCHIVE_STATUSES = ("complete", "incomplete", "failed")

WRITTEN = (FileStatus.REDACTED, FileStatus.CLEAN, FileStatus.PASSED_THROUGH)
"""The statuses of manifest rows whose result must be in OUT."""


def read_result(out: str, row: Row) -> bytes | None:
    """The bytes that a manifest row stands for; None where they are compressed among others.

    Raises OSError.
    """
    uri = storage.join(out, row["path"])
    if row["number"] is None:
        return storage.read_bytes(uri)
    if row["output_offset"] is not None:
        return storage.read_range(uri, row["output_offset"], row["output_bytes"])
    return None
