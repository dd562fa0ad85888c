"""Texts that `detect` wrote about what is not detected in any more."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from depers import storage
from depers.commands import detect
from depers.detection.detections import SCHEMA
from depers.storage import tables


class _Lease:
    def confirm(self) -> None:
        """Hold."""


class _Summary:
    lease = _Lease()


def test_texts_of_what_departed_or_failed_are_removed(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"path": "a.jpg", "status": "detected"},
        {"path": "failed.jpg", "status": "failed"},
        {"path": "z.zip", "status": "complete"},
        {"path": "z.zip", "member": "deep/m.png", "number": 0, "status": "detected"},
    ]
    tables.write_table(f"{tmp_path}/detections.parquet", pa.Table.from_pylist(rows, SCHEMA))
    for name in ("a", "failed", "gone/b", "z.zip/deep/m", "z.zip/n"):
        storage.write_bytes(f"{tmp_path}/labels/{name}.txt", b"")
    detect._remove_labels(str(tmp_path), f"{tmp_path}/detections.parquet", _Summary())  # type: ignore[arg-type]
    left = [entry.path for entry in storage.list_files(f"{tmp_path}/labels")]
    assert left == ["a.txt", "z.zip/deep/m.txt"] and not (tmp_path / "labels/gone").exists()
    detect._remove_labels(str(tmp_path / "none"), f"{tmp_path}/detections.parquet", _Summary())  # type: ignore[arg-type]
