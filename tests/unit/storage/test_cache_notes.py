"""What a dataset cache notes of files, cut, damaged, by an earlier version, and before the machine went down."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from depers.storage import cache_notes, file_table
from depers.storage.cache_notes import NoteAppender, read_notes, read_uri, write_notes
from depers.storage.paths import Entry

URI = "s3://bucket/set/images"
ENTRIES = [
    Entry(f"{name}.jpg", 10 + number, f"{number:032x}") for number, name in enumerate(("a", "b\n", "ü", "\udce4"))
]
LISTING = file_table.tabulate(ENTRIES)
NAMES = [path.as_py() for path in LISTING["path"]]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Of the first two files, with the rest appended."""
    path = tmp_path / "record.json"
    write_notes(path, URI, file_table.tabulate(ENTRIES[:2]), is_complete=False)
    with NoteAppender(path) as notes:
        for entry in ENTRIES[2:]:
            notes.append(entry)
    return path


def believed(record: Path) -> set[str]:
    mask = read_notes(record).find_listed(LISTING)
    return {file_table.decode(name) for name, is_noted in zip(NAMES, mask, strict=True) if is_noted}


def test_all_that_is_noted_is_read(record: Path) -> None:
    assert believed(record) == {entry.path for entry in ENTRIES}
    assert read_uri(record) == read_notes(record).uri == URI and not read_notes(record).is_complete
    write_notes(record, URI, LISTING, is_complete=True)
    assert believed(record) == {entry.path for entry in ENTRIES} and read_notes(record).is_complete


def test_a_note_counts_for_the_size_and_the_tag_that_it_names(record: Path) -> None:
    others = [
        ENTRIES[0]._replace(size=11), ENTRIES[1]._replace(etag="f" * 32), ENTRIES[2]._replace(etag=""), ENTRIES[3],
        Entry("c.jpg", 10, f"{0:032x}"),
    ]  # fmt: skip
    listing = file_table.tabulate(others)
    mask = read_notes(record).find_listed(listing)
    assert listing["path"].filter(mask).to_pylist() == [file_table.encode(ENTRIES[3].path)]


def test_notes_may_be_cut_anywhere(record: Path) -> None:
    data = record.read_bytes()
    ends = [end for end, byte in enumerate(data) if byte == ord("\n")] + [len(data)]
    for size in range(len(data) + 1):
        record.write_bytes(data[:size])
        whole = sum(end <= size for end in ends[1:])
        assert believed(record) == {entry.path for entry in ENTRIES[:whole]}, size
        if size >= ends[0]:  # what is appended to what was cut counts
            with NoteAppender(record) as notes:
                notes.append(ENTRIES[3])
            assert believed(record) == {entry.path for entry in (*ENTRIES[:whole], ENTRIES[3])}, size


def test_a_damaged_note_is_of_no_file(record: Path) -> None:
    data = record.read_bytes()
    lines = data.split(b"\n")
    for place in range(len(data)):
        for byte in (b"\0", b"#", b"\xff"):
            record.write_bytes(data[:place] + byte + data[place + 1 :])
            number = data[:place].count(b"\n")
            if number:  # a separator is damaged: so are both lines
                damaged = {number - 1} | ({number} if data[place : place + 1] == b"\n" else set())
                assert believed(record) == {e.path for n, e in enumerate(ENTRIES) if n not in damaged}, (place, byte)
            elif place < len(lines[0]):  # of its URI and its flags another may be read, never another file
                assert believed(record) <= {entry.path for entry in ENTRIES}
    for value in (b"", b"null", b"[]", b'{"uri": 1}', b'{"uri": "x", "durable": null}', b"[" * 100_000, b"9" * 5000):
        record.write_bytes(b"\n".join([value, *lines[1:]]))
        assert not believed(record) and not read_notes(record).is_complete
    strange = ([], ["a.jpg"], ["a.jpg", "10", "x"], ["a.jpg", -1, "x"], ["a.jpg", 2**63, "x"], {"a.jpg": 10}, None, 7)
    record.write_bytes(b"\n".join([lines[0], *(json.dumps(row).encode() for row in strange), b"[" * 100_000, lines[1]]))
    with NoteAppender(record) as notes:
        notes.append(ENTRIES[1])
    assert believed(record) == {ENTRIES[0].path, ENTRIES[1].path}


def test_what_was_appended_before_the_machine_went_down_is_in_doubt(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "boot").write_text("another\n")
    for boot in ("boot", "no such file"):
        monkeypatch.setattr(cache_notes, "_BOOT", tmp_path / boot)
        assert believed(record) == {entry.path for entry in ENTRIES[:2]}
        assert read_notes(record).files["path"].to_pylist() == [file_table.encode(entry.path) for entry in ENTRIES]
    write_notes(record, URI, LISTING.slice(0, 0), is_complete=False)
    with NoteAppender(record) as notes:
        notes.append(ENTRIES[0])
    assert not believed(record)  # nothing says whether the machine went down


def test_a_record_of_an_earlier_version_counts(record: Path) -> None:
    record.write_text(json.dumps({"uri": URI, "entries": [list(entry) for entry in ENTRIES]}))
    assert believed(record) == {entry.path for entry in ENTRIES}
    assert read_uri(record) == URI and not read_notes(record).is_complete


def test_many_notes_are_columns(tmp_path: Path) -> None:
    count = 30_000
    listing = file_table.tabulate(Entry(f"{n:09}.jpg", n, f"{n:032x}") for n in range(count))
    write_notes(tmp_path / "record.json", URI, listing, is_complete=True)
    tracemalloc.start()
    notes = read_notes(tmp_path / "record.json")
    assert np.count_nonzero(notes.find_listed(listing)) == count
    current = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert current < 10 * count  # bytes; an object of Python has 50 and more
