"""Names of units that stand for what boxes from elsewhere say: edited boxes redo their unit, and no other."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.detection.detections import SCHEMA
from depers.pipeline.box_digests import describe_source, name_by_boxes
from depers.pipeline.box_sources import BoxSource
from depers.pipeline.box_tables import BoxTable
from depers.pipeline.row_join import RowJoin
from depers.runtime import units
from depers.storage import Entry
from depers.storage.tables import to_parquet

ENTRIES = [Entry(f"{number:02}.jpg", 1, "") for number in range(24)] + [Entry("a.zip", 1, "")]


def write_table(file: Path, **changes: Any) -> str:
    """Write a row for each file, with a box, and two for members; `changes` are those of the row of 03.jpg."""
    box = {"class": "face", "confidence": None, "x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 9.0, "frame": 0}
    rows: list[dict[str, Any]] = [{"path": entry.path, "status": "detected", "boxes": [box]} for entry in ENTRIES]
    rows += [{"path": "a.zip", "member": "m.jpg", "number": number, "boxes": [box]} for number in range(2)]
    rows[3] |= changes
    file.write_bytes(to_parquet(pa.Table.from_pylist(rows, SCHEMA)))
    return str(file)


def digest_rows(uri: str, all_units: list[units.Unit]) -> list[str]:
    with RowJoin(BoxTable(uri), all_units) as join:
        return join.compute_digests()


def count_changes(before: list[units.Unit], after: list[units.Unit]) -> int:
    return sum(first.name != second.name for first, second in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": []},
        {"boxes": None},
        {"boxes": [{"class": "face", "confidence": 0.5, "x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 9.5}]},
        {"boxes": [{"class": "head", "x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 9.0, "frame": 0}]},
        {"status": "failed"},
        {"path": "elsewhere.jpg"},
    ],
)
def test_an_edited_row_redoes_its_unit_alone(tmp_path: Path, changes: dict[str, Any]) -> None:
    all_units = units.cut(ENTRIES)
    names = [
        name_by_boxes(all_units, BoxSource(uri), digest_rows(uri, all_units))
        for uri in (
            write_table(tmp_path / "a.parquet"),
            write_table(tmp_path / "moved.parquet"),
            write_table(tmp_path / "edited.parquet", **changes),
        )
    ]
    assert len(all_units) > 3
    assert len({unit.name for unit in names[0]} | {unit.name for unit in all_units}) == 2 * len(all_units)
    assert names[0] == names[1] and count_changes(names[0], names[2]) == 1


def test_the_order_of_rows_makes_no_difference(tmp_path: Path) -> None:
    uri = write_table(tmp_path / "a.parquet")
    table = pq.read_table(io.BytesIO(Path(uri).read_bytes()))
    (tmp_path / "b.parquet").write_bytes(to_parquet(table.sort_by([("path", "descending")])))
    first, second = (
        name_by_boxes(units.cut(ENTRIES[:24]), BoxSource(name), digest_rows(name, units.cut(ENTRIES[:24])))
        for name in (uri, f"{tmp_path}/b.parquet")
    )
    assert first == second


@pytest.mark.parametrize("edited", ["03.txt", "a.zip/deep/m.txt", "23.txt"])
@pytest.mark.parametrize("edit", ["changed", "removed"])
def test_an_edited_text_redoes_its_unit_alone(tmp_path: Path, edited: str, edit: str) -> None:
    all_units, labels = units.cut(ENTRIES), tmp_path / "labels"
    for name in [f"{entry.path[:2]}.txt" for entry in ENTRIES[:24]] + ["a.zip/deep/m.txt", "a.zip0.txt"]:
        (labels / name).parent.mkdir(parents=True, exist_ok=True)
        (labels / name).write_text("0 0.5 0.5 0.5 0.5\n")
    source = BoxSource(str(tmp_path), ("face",), str(labels))
    before = name_by_boxes(all_units, source, None)
    assert name_by_boxes(all_units, source, None) == before
    (labels / "a.zip0.txt").write_text("about something else")
    assert name_by_boxes(all_units, source, None) == before
    if edit == "removed":
        (labels / edited).unlink()
    else:
        (labels / edited).write_text("0 0.5 0.5 0.5 0.25\n\n")
    assert count_changes(before, name_by_boxes(all_units, source, None)) == 1


def test_where_boxes_are_does_not_count() -> None:
    first, second = (BoxSource(uri, ("face",), f"{uri}/labels", 0.5) for uri in ("a", "b"))
    assert describe_source(first) == describe_source(second) != describe_source(second._replace(names=("head",)))
    assert describe_source(None) is None


def test_a_text_that_two_images_share_redoes_both(tmp_path: Path) -> None:
    all_units = units.cut(ENTRIES)
    alone = BoxSource(str(tmp_path), ("face",), str(tmp_path / "labels"))
    shared = alone._replace(ambiguous=frozenset({"03.txt", "a.zip/b.txt"}))
    assert count_changes(name_by_boxes(all_units, alone, None), name_by_boxes(all_units, shared, None)) == 2
