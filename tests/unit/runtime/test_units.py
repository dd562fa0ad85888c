"""Units of work: every input in exactly one, names that depend on content alone, and an honest account."""

import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers import storage
from depers.errors import UserError
from depers.runtime import units
from depers.runtime.units import RecordNotes
from depers.storage import Entry, tables
from depers.storage.listing import FileListing

SCHEMA = pa.schema([("path", pa.string())])
LISTINGS = st.lists(st.builds(Entry, st.text(min_size=1), st.integers(0, 9), st.text()), unique_by=lambda e: e.path)


@given(LISTINGS, st.randoms())
def test_units_hold_every_input_once_whatever_the_order(entries: list[Entry], random: object) -> None:
    cut = units.cut(entries)
    assert sorted(entry for unit in cut for entry in unit.entries) == sorted(entries)
    assert [unit.entries[0].path for unit in cut] == sorted(unit.entries[0].path for unit in cut)
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert units.cut(entries) == cut
    assert len({unit.name for unit in cut}) == len(cut)


@pytest.mark.parametrize(
    ("count", "size"),
    [
        (0, 8),
        (20, 8),
        (575, 8),
        (576, 16),
        (1087, 16),
        (1088, 32),
        (329_999, 32),
        (330_000, 64),
        (10**7, 256),
        (10**9, 256),
    ],
)
def test_size_classes_are_powers_of_two(count: int, size: int) -> None:
    assert units.choose_size(count) == size


@pytest.mark.parametrize("name", ["{:07}.jpg", "2024/{:05}/IMG_{:09}.jpg", "{:x}/ä.png"])
def test_unit_sizes(name: str) -> None:
    cut = units.cut([Entry(name.format(number, number), 1, "") for number in range(10_000)])
    lengths = [len(unit.entries) for unit in cut]
    assert max(lengths) == 32 and sum(lengths) / len(lengths) > 26
    assert lengths.count(32) > 0.75 * len(lengths)  # whole batches


@given(st.integers(0, 2000), st.sampled_from(["added", "removed", "changed"]))
def test_one_file_more_or_less_changes_few_units(place: int, change: str) -> None:
    entries = [Entry(f"{number:05}.jpg", 1, "") for number in range(2000)]
    changed = list(entries)
    if change == "added":
        changed.append(Entry(f"{place:05}a.jpg", 1, ""))
    elif place < 2000:
        changed[place : place + 1] = [Entry(entries[place].path, 2, "")] if change == "changed" else []
    names = {unit.name for unit in units.cut(entries)}
    assert sum(unit.name not in names for unit in units.cut(changed)) <= 16  # of 70


def test_units_of_large_files_are_small() -> None:
    cut = units.cut([Entry(f"{number:03}.tif", size << 20, "") for number, size in enumerate([50, 50, 50, 300, 1, 1])])
    assert [len(unit.entries) for unit in cut] == [2, 1, 1, 2]


@pytest.mark.parametrize("changed", [Entry("b.jpg", 1, "e"), Entry("a.jpg", 2, "e"), Entry("a.jpg", 1, "f")])
def test_a_changed_input_is_another_unit(changed: Entry) -> None:
    assert units.cut([Entry("a.jpg", 1, "e")])[0].name != units.cut([changed])[0].name


def test_a_unit_is_named_by_what_may_be_carried_elsewhere() -> None:
    assert units.cut([Entry("a.jpg", 1, "e", change_time="1")])[0].name == units.cut([Entry("a.jpg", 1, "e")])[0].name


@pytest.mark.parametrize("paths", [[], ["a.jpg"], ["a.jpg", "a.jpg"], ["a.jpg", "b.jpg", "c.jpg"]])
def test_rows_that_do_not_account_for_the_inputs_are_an_error(tmp_path: Path, paths: list[str]) -> None:
    out = str(tmp_path)
    [unit] = units.cut([Entry("b.jpg", 1, ""), Entry("a.jpg", 1, "")])
    assert units.list_finished(out) == (set(), set())

    def record(paths: list[str]) -> None:
        tables.write_table(units.record_uri(out, unit.name), pa.table({"path": paths}, SCHEMA))

    record(["b.jpg", "a.jpg"])
    assert units.list_finished(out) == ({unit.name}, set())
    [table] = units.read_records(out, [unit], SCHEMA)
    assert table["path"].to_pylist() == ["a.jpg", "b.jpg"]
    record(paths)
    with pytest.raises(RuntimeError, match=f"2 inputs, but {len(paths)} rows"):
        list(units.read_records(out, [unit], SCHEMA))


def test_a_damaged_record_does_not_end_every_run(tmp_path: Path) -> None:
    [unit] = units.cut([Entry("a.jpg", 1, "")])
    storage.write_bytes(units.record_uri(str(tmp_path), unit.name), b"PAR1 cut off by a power failure")
    with pytest.raises(UserError, match=r"is damaged \(.*, and is removed: the same command does its unit again$"):
        list(units.read_records(str(tmp_path), [unit], SCHEMA))
    assert units.list_finished(str(tmp_path)) == (set(), set())


def test_what_storage_failed_is_done_again(tmp_path: Path) -> None:
    out = str(tmp_path)
    [unit] = units.cut([Entry("a.jpg", 1, "")])
    table = pa.table({"path": ["a.jpg"]}, SCHEMA)
    notes = RecordNotes({"a.jpg": 0}, {"b\udce9.jpg": "stamp"})
    units.write_record(out, unit.name, table, notes)
    assert [table["path"].to_pylist() for table in units.read_records(out, [unit], SCHEMA)] == [["a.jpg"]]
    assert units.list_finished(out) == (set(), {unit.name})
    record = units.read_retry(out, unit.name)
    assert record is not None and record.equals(table)
    assert units.parse_notes(record) == ({"a.jpg": 0}, {"b\\xe9.jpg": "stamp"}, {})
    units.write_record(out, unit.name, table, was_retry=True)
    assert units.list_finished(out) == ({unit.name}, set())
    assert units.read_retry(out, unit.name) is None and len(list((tmp_path / "units").iterdir())) == 1


def test_a_record_of_failures_goes_where_the_unit_was_done_after_all(tmp_path: Path) -> None:
    records, table = str(tmp_path), pa.table({"path": ["a.jpg"]}, SCHEMA)
    for name, retries in (("a", {"a.jpg": 0}), ("a", {}), ("b", {"a.jpg": 0}), ("c", {})):  # a was done twice
        units.write_record(records, name, table, RecordNotes(retries))
    assert units.list_finished(records) == ({"a", "c"}, {"b"}) and (tmp_path / "units/a.retry.parquet").exists()
    units.remove_superseded(records)
    assert units.list_finished(records) == ({"a", "c"}, {"b"})
    assert sorted(path.name for path in (tmp_path / "units").iterdir()) == [
        "a.parquet", "b.retry.parquet", "c.parquet",
    ]  # fmt: skip


def test_archives_are_units_of_their_own_and_have_a_row(tmp_path: Path) -> None:
    out, schema = str(tmp_path), pa.schema([("path", pa.string()), ("number", pa.int64())])
    cut = units.cut(
        [Entry(name, 1, "") for name in ("a.jpg", "b.tar", "b.tgz", "c.jpg", "d.ZIP", "e.parquet", "f.rar")]
    )
    assert [(unit.entries[0].path, len(unit.entries), unit.archive) for unit in cut] == [
        ("a.jpg", 3, None), ("b.tar", 1, "tar"), ("b.tgz", 1, "tar"), ("d.ZIP", 1, "zip"), ("e.parquet", 1, "parquet"),
    ]  # fmt: skip
    tar = cut[1]
    for numbers, whole in (([0, 1, None], True), ([0, 0, None], False), ([0, 1], False), ([None, None], False)):
        rows = pa.table({"path": ["b.tar"] * len(numbers), "number": numbers}, schema)
        tables.write_table(units.record_uri(out, tar.name), rows)
        if whole:
            assert len(next(units.read_records(out, [tar], schema))) == 3
        else:
            with pytest.raises(RuntimeError, match=r"b\.tar is an archive with"):
                list(units.read_records(out, [tar], schema))


def test_parts_are_known_and_removed(tmp_path: Path) -> None:
    out = str(tmp_path)
    for number in (0, 2):
        storage.write_bytes(units.chunk_uri(out, "name", number), b"chunk")
    assert units.find_chunks(out) == {"name": {0, 2}}
    units.remove_chunks(out, "name", range(3))
    assert units.find_chunks(out) == {} and not (tmp_path / "chunks").exists()


def test_records_of_what_was_before_are_set_aside(tmp_path: Path) -> None:
    records = str(tmp_path)
    for name in ("a", "b", "c.retry"):
        tables.write_table(f"{records}/units/{name}.parquet", pa.table({"path": [name]}, SCHEMA))
    units.set_aside(records, {"b"})
    assert units.list_finished(records).names == {"b"}
    assert [table["path"].to_pylist() for table in units.read_former(records)] == [["a"], ["c.retry"]]
    units.set_aside(records, set())  # as a run that was killed does again
    assert len(list(units.read_former(records))) == 3
    units.remove_former(records)
    assert not list(units.read_former(records)) and not (tmp_path / "former").exists()


def test_units_around_archives_share_the_listing() -> None:
    names = [f"{number:04}.{'tar' if number % 7 == 3 else 'jpg'}" for number in range(300)]
    listing = FileListing.of(Entry(name, 1000, f"{name}") for name in names)
    in_columns, plain = units.cut(listing), units.cut(list(listing))
    assert [unit.name for unit in in_columns] == [unit.name for unit in plain]
    assert all(list(ours.entries) == list(theirs.entries) for ours, theirs in zip(in_columns, plain, strict=True))
    loose = [unit for unit in in_columns if unit.archive is None]
    assert all(isinstance(unit.entries, FileListing) for unit in loose) and len(loose[0].entries) > 7
    assert list(pickle.loads(pickle.dumps(loose[0].entries))) == list(loose[0].entries)
