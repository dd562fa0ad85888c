"""Boxes from elsewhere: every source says the same, and what it does not speak of fails."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.imaging.headers import ImageError
from depers.pipeline.box_sources import BoxSource, RowsByPath, find_box_source, find_previous_source, read_boxes

BOX: dict[str, Any] = {"class": "car", "confidence": 0.5, "x_min": 1.0, "y_min": 2.0, "x_max": 11.0, "y_max": 22.0}


def write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> str:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return str(path)


def test_rows_are_found_by_path_and_number(tmp_path: Path) -> None:
    rows = [{"path": "b.tar", "number": number, "boxes": []} for number in (1, 0)]
    rows += [{"path": "b.tar", "status": "complete"}, {"path": "a.jpg", "boxes": [BOX]}, {"path": "ü.jpg", "boxes": []}]
    found = RowsByPath(write(tmp_path / "d.parquet", rows))
    assert (
        set(found.of("b.tar")) == {0, 1, None}
        and found.of("c.jpg") == {}
        and sorted(found) == ["a.jpg", "b.tar", "ü.jpg"]
    )
    assert found.of("a.jpg")[None]["boxes"][0]["x_max"] == 11


def test_boxes_below_the_threshold_do_not_count() -> None:
    row = {"boxes": [BOX, BOX | {"class": "face", "confidence": 0.2}, BOX | {"confidence": None}]}

    def names(source: BoxSource, classes: tuple[str, ...] = ()) -> list[str]:
        return [box["class"] for box in read_boxes(source, row, b"", "a.jpg", (50, 50), classes)]

    assert names(BoxSource("t")) == ["car", "face", "car"]
    assert names(BoxSource("t", confidence=0.3)) == ["car", "car"]
    assert names(BoxSource("t", confidence=0.3, thresholds={"face": 0.1, "car": 0.6})) == ["face", "car"]
    assert names(BoxSource("t"), ("face",)) == ["face"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (None, "has no row in t"),
        ({"status": "failed", "reason": "broken", "boxes": []}, "failed when its boxes were found: broken"),
        ({"input_sha256": hashlib.sha256(b"other").hexdigest(), "boxes": []}, "changed since its boxes were found"),
        ({"boxes": [BOX | {"x_min": None}]}, "must be numbers"),
        ({"boxes": [BOX | {"x_min": float("nan")}]}, "must be numbers"),
    ],
)
def test_what_is_not_said_fails(row: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_boxes(BoxSource("t", checked=True), row, b"data", "a.jpg", (50, 50), ())


def test_a_class_without_a_threshold_has_the_lowest(tmp_path: Path) -> None:
    table = write(tmp_path / "d.parquet", [])
    assert find_previous_source(table, 0.3, {}).confidence == 0.3
    assert find_previous_source(table, 0.3, {"face": 0.1, "car": 0.6}).confidence == 0.1
    assert find_previous_source(table, 0.3, {"face": 0.5}).confidence == 0.3


def test_yolo_texts_are_boxes_in_pixels(tmp_path: Path) -> None:
    (tmp_path / "labels/d").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("car\nface\n")
    (tmp_path / "labels/d/a.1.txt").write_text("1 0.5 0.5 0.2 0.4 0.77\n")
    source = find_box_source(str(tmp_path))
    [box] = read_boxes(source, None, b"", "d/a.1.jpg", (100, 50), ())
    assert box == {"class": "face", "confidence": None, "x_min": 40, "y_min": 15, "x_max": 60, "y_max": 35} | {
        "model": "labels", "frame": 0,
    }  # fmt: skip
    with pytest.raises(ImageError, match="has no labels at"):
        read_boxes(source, None, b"", "d/b.jpg", (100, 50), ())
    (tmp_path / "labels/d/b.txt").write_text("7 0.5 0.5 0.2 0.4\n")
    with pytest.raises(ImageError, match="labels that cannot be read"):
        read_boxes(source, None, b"", "d/b.jpg", (100, 50), ())


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be a table of detections, or a folder"):
        find_box_source(str(tmp_path))
    with pytest.raises(UserError, match="must hold a manifest or detections"):
        find_previous_source(str(tmp_path), 0.1, {})
    with pytest.raises(UserError, match="no such table"):
        RowsByPath(str(tmp_path / "none.parquet"))
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(UserError, match="must be a Parquet table of boxes"):
        RowsByPath(str(tmp_path / "text.parquet"))
    with pytest.raises(UserError, match="has no boxes"):
        RowsByPath(write(tmp_path / "x.parquet", [{"path": "a"}], pa.schema([("path", pa.string())])))


@pytest.mark.parametrize(
    ("status", "metadata", "message"),
    [
        ("detected", {"depers.detections": "2"}, ""),
        ("clean", {"depers.manifest": "2"}, ""),
        ("detected", None, ""),  # edited by a program that loses the version
        ("ok", None, "status must be one of .*, but is 'ok'"),
        ("detected", {"depers.detections": "1"}, "must be a table of version 2, but its version is 1"),
        ("clean", {"depers.manifest": "3"}, "must be a table of version 2, but its version is 3"),
    ],
)
def test_tables_of_another_version_are_refused(
    tmp_path: Path, status: str, metadata: dict[str, str] | None, message: str
) -> None:
    rows = [{"path": "a.jpg", "status": status, "boxes": [BOX]}]
    table = write(tmp_path / "d.parquet", rows, SCHEMA.with_metadata(metadata))
    if not message:
        assert list(RowsByPath(table)) == ["a.jpg"]
        return
    with pytest.raises(UserError, match=message):
        RowsByPath(table)
