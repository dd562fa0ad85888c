"""The inputs of earlier runs: kept as they are, and told from those of another INPUT."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.errors import UserError
from depers.runtime import inputs
from depers.runtime.inputs import KnownInputs
from depers.storage import Entry
from depers.storage.listing import FileListing
from depers.storage.selection import Selection

NAMES = st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape"))
ENTRIES = [Entry(f"{number}.jpg", number, f"tag{number}") for number in range(10)]


@given(st.lists(st.tuples(NAMES, st.integers(-1, 9), st.text()).map(lambda fields: Entry(*fields)), unique=True), NAMES)
def test_inputs_come_back_whatever_their_names(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], place: str
) -> None:
    records = str(tmp_path_factory.mktemp("records"))
    inputs.write_inputs(records, place, FileListing.of(entries[1:]), Selection(), entries[:1])
    known = inputs.read_inputs(records)
    assert known.place == place and sorted(known.entries) == sorted(entries)


def test_before_the_first_run_there_are_none(tmp_path: Path) -> None:
    assert inputs.read_inputs(str(tmp_path)) == KnownInputs()
    inputs.refuse_another("OUT", "/in", FileListing.of(ENTRIES), KnownInputs())


def changed(entries: list[Entry]) -> list[Entry]:
    return [entry._replace(etag="another") for entry in entries]


@pytest.mark.parametrize(
    ("place", "entries", "message"),
    [
        ("/in", ENTRIES, ""),
        ("/in", ENTRIES[:1], ""),
        ("/in", changed(ENTRIES), ""),
        ("/in", [*changed(ENTRIES[:1]), Entry("new.jpg", 1, "")], ""),
        ("/in", [Entry("new.jpg", 1, "")], "must hold inputs of the earlier run in OUT, but none of 10 is there"),
        ("/moved", ENTRIES, ""),
        ("/moved", [*ENTRIES[:5], *changed(ENTRIES[5:])], ""),
        ("/moved", ENTRIES[:4], r"OUT: holds a run of /in, but INPUT is now /moved \(of its 10 inputs 4 are"),
        ("/moved", changed(ENTRIES), "0 are there unchanged"),
    ],
)
def test_another_input_is_refused(place: str, entries: list[Entry], message: str) -> None:
    known = KnownInputs("/in", len(ENTRIES), [FileListing.of(ENTRIES)])
    if not message:
        inputs.refuse_another("OUT", place, FileListing.of(entries), known)
        return
    with pytest.raises(UserError, match=message):
        inputs.refuse_another("OUT", place, FileListing.of(entries), known)


@pytest.mark.parametrize(
    ("paths", "departed", "obstacles"),
    [
        ({"a.jpg"}, {"b.jpg"}, []),
        ({"a/b/c.jpg"}, {"a"}, ["a"]),
        ({"a/b/c.jpg"}, {"a/b", "a/bc", "x"}, ["a/b"]),
        ({"a"}, {"a/b/c.jpg", "ab/c.jpg"}, ["a/b/c.jpg"]),
        ({"a"}, set(), []),
    ],
)
def test_what_stands_in_the_way(paths: set[str], departed: set[str], obstacles: list[str]) -> None:
    assert inputs.find_obstacles(paths, departed) == obstacles


def test_patterns_may_let_in_more_and_not_less(tmp_path: Path) -> None:
    records, selection = str(tmp_path), Selection(("*1*", "*2*"), ("x",), 5)
    inputs.write_inputs(records, "/in", FileListing.of(ENTRIES[1:3]), selection)
    assert inputs.read_selection(records) == inputs.read_inputs(records).selection == selection
    assert inputs.read_selection(f"{records}/none") == Selection()
    known = inputs.read_inputs(records)
    for wider in (Selection(), selection, Selection(exclude=("3.jpg",)), Selection(limit=7)):
        inputs.refuse_narrower("OUT", wider, known)
    for narrower in (Selection(("*1*",)), Selection(exclude=("2.jpg",))):
        with pytest.raises(UserError, match=r"leave out 1 inputs of the earlier run, such as '2.jpg', whose results"):
            inputs.refuse_narrower("OUT", narrower, known)


@pytest.mark.parametrize(
    ("limit", "former_limit", "is_refused"),
    [(1, None, True), (1, 2, True), (1, 1, False), (len(ENTRIES), None, False), (None, None, False), (None, 2, False)],
)
def test_a_smaller_sample_removes_nothing(limit: int | None, former_limit: int | None, is_refused: bool) -> None:
    known = KnownInputs("/in", len(ENTRIES), [FileListing.of(ENTRIES)], Selection((), (), former_limit))
    if not is_refused:
        inputs.refuse_narrower("OUT", Selection((), (), limit), known)
        return
    with pytest.raises(UserError, match=rf"--limit must be at least the {len(ENTRIES)} inputs of the earlier run"):
        inputs.refuse_narrower("OUT", Selection((), (), limit), known)


def test_one_part_that_is_there_is_enough() -> None:
    known = KnownInputs("/in", len(ENTRIES), [FileListing.of(ENTRIES[:5]), FileListing.of(ENTRIES[5:])])
    inputs.refuse_another("OUT", "/in", FileListing.of(ENTRIES[5:6]), known)


@pytest.mark.parametrize(
    ("name", "column"),
    [("path", pa.nulls(3, pa.binary())), ("tag", pa.nulls(3, pa.string())), ("path", pa.array([1, 2, 3])), ("", None)],
)
def test_damaged_notes_are_told_in_one_line(tmp_path: Path, name: str, column: pa.Array | None) -> None:
    records, file = str(tmp_path), tmp_path / "inputs.parquet"
    inputs.write_inputs(records, "/in", FileListing.of(ENTRIES[:3]), Selection())
    if column is None:
        file.write_bytes(file.read_bytes()[:-9])
    else:
        table = pq.read_table(file)
        pq.write_table(table.set_column(table.schema.names.index(name), name, column), file)
    with pytest.raises(UserError, match=r"inputs.parquet: must say what INPUT held in the earlier run, but is damaged"):
        list(inputs.read_inputs(records).entries)
    if column is None:
        with pytest.raises(UserError, match="but is damaged"):
            inputs.read_selection(records)
