"""The join of a table with a run's units: every row comes to its unit, whatever the sizes and the order."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.pipeline import row_join
from depers.pipeline.box_tables import DOUBLED, BoxTable, RowsByPath
from depers.pipeline.row_join import RowJoin, remove_rows
from depers.pipeline.table_buckets import TableBuckets
from depers.runtime import units
from depers.storage import Entry

BOX = {"x_min": 1.0, "y_min": 1.0, "x_max": 9.0, "y_max": 9.0}
ENTRIES = [Entry(f"{number // 50}/{number:04}.jpg", 1, "") for number in range(500)] + [Entry("3/b.zip", 1, "")]


def make_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"path": entry.path, "number": None, "status": "detected", "boxes": [BOX] * (position % 3)}
        for position, entry in enumerate(ENTRIES[:-1])
    ]
    rows += [{"path": "3/b.zip", "number": number, "status": "detected", "boxes": []} for number in (2, 0, 1)]
    return [*rows, {"path": "elsewhere.jpg", "number": None, "status": "detected", "boxes": [BOX]}]


def write_table(file: Path, rows: list[dict[str, Any]], group_rows: int = 64) -> BoxTable:
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=group_rows)
    return BoxTable(str(file))


@pytest.fixture(params=[False, True], ids=["one bucket", "many buckets"])
def _buckets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(row_join, "_BUCKET_BYTES", 500)


@pytest.mark.usefixtures("_buckets")
@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_every_row_comes_to_its_unit(tmp_path: Path, order: str) -> None:
    rows, all_units = make_rows(), units.cut(ENTRIES)
    if order == "shuffled":
        random.Random(1).shuffle(rows)
    with RowJoin(write_table(tmp_path / "t.parquet", rows), all_units) as join:
        places = join.write(str(tmp_path / "records"), range(len(all_units)), RowsByPath)
        few = join.write(str(tmp_path / "few"), [1, len(all_units) - 1], RowsByPath)
    assert sorted(places) == list(range(len(all_units))) and sorted(few) == [1, len(all_units) - 1]
    for index, place in places.items():
        loaded = place.read(all_units[index])
        assert index not in few or few[index].read(all_units[index]) == loaded
        for entry in all_units[index].entries:
            expected = {row["number"]: row for row in rows if row["path"] == entry.path}
            assert loaded[entry.path] == expected
    remove_rows(str(tmp_path / "records"))
    assert not (tmp_path / "records" / row_join.FOLDER).exists()


@pytest.mark.usefixtures("_buckets")
def test_of_several_runs_the_last_row_counts(tmp_path: Path) -> None:
    rows, all_units = make_rows(), units.cut(ENTRIES)
    again = [row | {"boxes": [BOX | {"x_max": 5.0}]} for row in rows if row["path"].startswith("2/")]
    with RowJoin(write_table(tmp_path / "t.parquet", rows + again), all_units) as join:
        places = join.write(str(tmp_path), range(len(all_units)), RowsByPath)
    for index, unit in enumerate(all_units):
        for path, numbers in places[index].read(unit).items():
            row = numbers.get(None)
            if row is not None and path.startswith("2/"):
                assert row[DOUBLED] and row["boxes"][0]["x_max"] == 5.0
            elif row is not None:
                assert DOUBLED not in row


@pytest.mark.usefixtures("_buckets")
def test_a_digest_is_of_one_unit_whatever_the_others(tmp_path: Path) -> None:
    rows, all_units = make_rows(), units.cut(ENTRIES)

    def digest(file: str, table_rows: list[dict[str, Any]]) -> list[str]:
        with RowJoin(write_table(tmp_path / file, table_rows), all_units) as join:
            return join.compute_digests()

    before = digest("a.parquet", rows)
    edited = [dict(row) for row in rows]
    edited[100]["boxes"] = None  # a column without nulls has no bitmap of them, here and in all other units
    changes = [first != second for first, second in zip(before, digest("b.parquet", edited), strict=True)]
    assert sum(changes) == 1 and ENTRIES[100] in all_units[changes.index(True)].entries
    absent = digest("c.parquet", [row for row in rows if row["path"] != ENTRIES[100].path])
    assert sum(first != second for first, second in zip(before, absent, strict=True)) == 1
    assert digest("d.parquet", rows[-1:])[0] != before[0]


def test_paths_with_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_join, "hash", lambda path: len(path) % 2, raising=False)
    rows, all_units = make_rows(), units.cut(ENTRIES)
    with RowJoin(write_table(tmp_path / "t.parquet", rows), all_units) as join:
        places = join.write(str(tmp_path), range(len(all_units)), RowsByPath)
    for index, unit in enumerate(all_units):
        loaded = places[index].read(unit)
        assert all({row["path"] for row in loaded[entry.path].values()} == {entry.path} for entry in unit.entries)


def test_a_table_about_nothing_of_the_run(tmp_path: Path) -> None:
    all_units = units.cut(ENTRIES)
    with RowJoin(write_table(tmp_path / "t.parquet", make_rows()[-1:]), all_units) as join:
        assert len(join.compute_digests()) == len(all_units)
        places = join.write(str(tmp_path), [0], RowsByPath)
    assert places[0].read(all_units[0]) == {entry.path: {} for entry in all_units[0].entries}


def test_buckets_keep_the_order_of_rows() -> None:
    with TableBuckets(3) as buckets:
        for start in (0, 10):
            numbers = np.arange(start, start + 10)
            buckets.add(pa.table({"n": numbers}), numbers % 3)
        table = buckets.read(1)
        assert table is not None and table["n"].to_pylist() == [1, 4, 7, 10, 13, 16, 19]
    with TableBuckets(3) as empty:
        assert empty.read(0) is None
