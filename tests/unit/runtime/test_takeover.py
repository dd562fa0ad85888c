"""Rows that are taken over from records of other units: those of files that have been the same ever since, alone."""

import random
from pathlib import Path

import pyarrow as pa
import pytest

from depers.runtime import takeover, units
from depers.runtime.units import RecordNotes, Unit
from depers.storage import Entry

SCHEMA = pa.schema([("path", pa.string()), ("content", pa.string()), ("boxes", pa.list_(pa.float32()))])


def do(records: str, entries: list[Entry], stop_after: int | None = None) -> int:
    """Do a run over a listing, as verbs do, which may be stopped; return how many files it has worked on."""
    all_units = units.cut(entries)
    portions = takeover.split_all(records, units.take_up(records, all_units))
    for unit, sources in portions[:stop_after]:
        rows = [{"path": entry.path, "content": entry.etag, "boxes": [1.0]} for entry in unit.entries]
        notes = RecordNotes(identities=unit.identify())
        table, notes = takeover.complete(records, pa.Table.from_pylist(rows, SCHEMA), notes, sources)
        units.write_record(records, unit.name, table, notes)
    if stop_after is None:
        rows = [row for table in units.read_records(records, all_units, SCHEMA) for row in table.to_pylist()]
        assert [(row["path"], row["content"]) for row in rows] == [(entry.path, entry.etag) for entry in entries]
        units.remove_former(records)
    return sum(len(unit.entries) for unit, _ in portions[:stop_after])


def make_listing(count: int) -> list[Entry]:
    return [Entry(f"2024/{number // 100:03}/{number:06}.jpg", 1, str(number)) for number in range(count)]


@pytest.mark.parametrize("change", ["one at the front", "one in a hundred more", "one in a hundred less", "changed"])
def test_what_changed_is_done_and_nothing_else(tmp_path: Path, change: str) -> None:
    records, entries = str(tmp_path), make_listing(3000)
    assert do(records, entries) == 3000 and do(records, entries) == 0
    places = sorted(random.Random(1).sample(range(3000), 30))
    if change == "one at the front":
        listing, count = [Entry("2023.jpg", 1, "new"), *entries], 1
    elif change == "one in a hundred more":
        additions = [Entry(f"{entries[place].path[:-4]}b.jpg", 1, "new") for place in places]
        listing, count = sorted(entries + additions), 30
    elif change == "one in a hundred less":
        listing, count = [entry for place, entry in enumerate(entries) if place not in places], 0
    else:
        listing = [entry._replace(etag="new") if place in places else entry for place, entry in enumerate(entries)]
        count = 30
    assert do(records, listing) == count and do(records, listing) == 0


def test_another_size_of_units_does_nothing_again(tmp_path: Path) -> None:
    records, entries = str(tmp_path), make_listing(600)
    assert units.choose_size(570) == 8 and units.choose_size(600) == 16
    assert do(records, entries[:570]) == 570
    assert do(records, entries) == 30 and do(records, entries[:570]) == 0


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    records, entries = str(tmp_path), make_listing(200)
    do(records, entries)
    listing = [entry for place, entry in enumerate(entries) if place % 10] + [Entry("z.jpg", 1, "new")]
    stopped = do(records, listing, stop_after=5)
    assert stopped + do(records, listing) == 1


def test_a_file_that_was_another_in_between_is_done_again(tmp_path: Path) -> None:
    records, entries = str(tmp_path), make_listing(40)
    do(records, entries)
    changed = [entries[0]._replace(etag="changed"), *entries[1:]]
    do(records, changed, stop_after=0)  # killed before any record: what lies in OUT may be of the changed one
    assert do(records, entries) == 1


def test_a_result_that_is_not_what_was_written_is_done_again(tmp_path: Path) -> None:
    records, entries = str(tmp_path), make_listing(12)
    [*work] = units.cut(entries)
    for unit in work:
        rows = pa.Table.from_pylist([{"path": entry.path} for entry in unit.entries], SCHEMA)
        stamps = {entry.path: entry.etag for entry in unit.entries}
        units.write_record(records, unit.name, rows, RecordNotes(stamps=stamps, identities=unit.identify()))
    others = units.cut([*entries, Entry("2025.jpg", 1, "new")])
    units.take_up(records, [])
    identities = {path: identity for unit in others for path, identity in unit.identify().items()}
    rows = takeover.find_former_rows(records, identities)
    portions = [rows.split(unit, lambda entry, stamp: stamp == entry.etag and entry.etag != "3") for unit in others]
    assert [entry.etag for unit, _ in portions for entry in unit.entries] == ["3", "new"]


def test_what_else_decides_is_part_of_what_a_file_is() -> None:
    unit = units.cut([Entry("a.jpg", 1, ""), Entry("b.jpg", 1, "")])[0]
    marked = units.rename(unit, "boxes", ["", "edited"])
    assert isinstance(marked, Unit) and marked.name != unit.name
    first, second = unit.identify(), marked.identify()
    assert first["a.jpg"] == second["a.jpg"] and first["b.jpg"] != second["b.jpg"]
