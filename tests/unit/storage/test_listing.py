"""Listings in columns: what goes in comes out, and questions have the answers of plain dictionaries."""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.storage import Entry, listing
from depers.storage.listing import FileListing, Results

NAMES = st.binary(min_size=1, max_size=6).map(lambda name: name.decode("utf-8", "surrogateescape"))
TAGS = st.one_of(st.text(max_size=5), st.binary(min_size=16, max_size=16).map(bytes.hex))
ENTRIES = st.lists(
    st.builds(
        Entry, NAMES, st.integers(-1, 2**40), TAGS, st.sampled_from(["", "failed"]), st.just(""), st.text(max_size=3)
    ),
    unique_by=lambda entry: entry.path,
)


@pytest.fixture(autouse=True, scope="module")
def small_batches() -> None:
    listing._ROWS = 3  # type: ignore[misc]


def by_bytes(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))


@given(ENTRIES)
def test_entries_come_back_in_order(entries: list[Entry]) -> None:
    made, expected = FileListing.of(entries), by_bytes(entries)
    assert list(made) == expected and len(made) == len(entries) and made == tuple(expected)
    assert [made[index] for index in range(len(made))] == expected
    assert list(made[1:4]) == expected[1:4] and list(made[1:4][1:]) == expected[1:4][1:]
    assert list(pickle.loads(pickle.dumps(made[1:]))) == expected[1:]


@given(ENTRIES, ENTRIES)
def test_questions_about_two(first: list[Entry], second: list[Entry]) -> None:
    one, other = FileListing.of(first), FileListing.of(second)
    paths = {entry.path for entry in second}
    assert list(one.without(other)) == [entry for entry in by_bytes(first) if entry.path not in paths]
    known = {entry.path: entry for entry in second}
    for entry in first:
        assert other.get(entry.path) == known.get(entry.path)
    near = other.near(one)
    assert all(near.get(entry.path) == known.get(entry.path) for entry in first)


@given(ENTRIES, ENTRIES)
def test_batches_are_read_in_sorted_stretches(first: list[Entry], second: list[Entry]) -> None:
    made = [FileListing.of(entries) for entries in (first, second)]
    batches = [batch for one in made for batch in one.to_batches()]
    parts = [part for batch in batches for part in FileListing.from_batch(batch)]
    plain = [[entry._replace(status="", reason="") for entry in one] for one in made]
    assert [entry for part in parts for entry in part] == plain[0] + plain[1]
    table = pa.Table.from_batches(batches, batches[0].schema).combine_chunks() if batches else pa.table({})
    for batch in table.to_batches() if batches else ():  # in which the second begins anywhere
        parts = list(FileListing.from_batch(batch))
        assert len(parts) <= 2 and all(list(part) == by_bytes(list(part)) for part in parts)
        assert [entry for part in parts for entry in part] == plain[0] + plain[1]


@given(ENTRIES, st.data())
def test_results_by_other_names(entries: list[Entry], data: st.DataObject) -> None:
    present = [entry for entry in entries if not entry.status]
    results = Results.of(entries, lambda path: path + "x")
    gone = frozenset(data.draw(st.lists(st.sampled_from(present)))) if present else frozenset()
    remainder = results.remove(entry.path for entry in gone)
    for entry in present:
        assert results.get(entry.path + "x") == entry
        assert remainder.get(entry.path + "x") == (None if entry in gone else entry)
    names = {entry.path + "x" for entry in present if entry not in gone}
    assert set(remainder.list_without(FileListing([]))) == names
    inputs = FileListing.of(Entry(entry.path + "x", 1, "") for entry in present)
    assert remainder.near(inputs) == {entry.path + "x": entry for entry in present if entry not in gone}
