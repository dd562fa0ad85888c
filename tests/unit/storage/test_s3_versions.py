"""What S3 held at a time, and an object that is replaced after it was listed: read as listed, or said not to be."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from depers import storage
from depers.errors import UserError
from depers.pipeline.options import PassOptions
from depers.runtime import inputs
from depers.storage import Entry, s3
from depers.storage.listing import FileListing
from depers.storage.selection import Selection, list_selected, parse_moment


@pytest.fixture
def versioned(s3_bucket: str) -> str:
    """A bucket that keeps versions."""
    configuration = {"Status": "Enabled"}
    s3.client().put_bucket_versioning(Bucket=s3.split(s3_bucket)[0], VersioningConfiguration=configuration)
    return s3_bucket


def wait() -> str:
    """Return a time between what was written and what will be: S3 counts in seconds."""
    time.sleep(1.05)
    moment = datetime.now(UTC).isoformat()
    time.sleep(1.05)
    return moment


def test_what_was_there_at_a_time_is_listed_and_read(versioned: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"{versioned}/a b"
    contents = {name: name.encode() for name in ("kept.jpg", "replaced é.jpg", "removed.jpg", "x/y.jpg")}
    storage.write_bytes(f"{root}/gone before.jpg", b"")
    storage.delete(f"{root}/gone before.jpg")
    for name, data in contents.items():
        storage.write_bytes(f"{root}/{name}", b"older")
        storage.write_bytes(f"{root}/{name}", data)
    moment = wait()
    storage.write_bytes(f"{root}/replaced é.jpg", b"newer")
    storage.write_bytes(f"{root}/replaced é.jpg", b"newest")
    storage.write_bytes(f"{root}/added.jpg", b"added")
    storage.delete(f"{root}/removed.jpg")
    selection = Selection(as_of=moment)
    entries = list(list_selected(root, False, [None], selection))
    assert {entry.path: storage.read_entry(root, entry) for entry in entries} == contents
    with storage.open_entry(root, next(entry for entry in entries if entry.path == "removed.jpg")) as file:
        assert file.read() == b"removed.jpg"
    assert [entry.path for entry in storage.list_files(root)] == ["added.jpg", "kept.jpg", "replaced é.jpg", "x/y.jpg"]
    list_versions = s3.client().list_object_versions
    monkeypatch.setattr(s3.client(), "list_object_versions", lambda **arguments: list_versions(**arguments, MaxKeys=3))
    assert list(list_selected(root, False, [None], selection)) == entries  # page by page
    with pytest.raises(UserError, match="no such folder"):
        list(list_selected(f"{versioned}/none", False, [None], selection))


def test_an_object_that_is_replaced_after_the_listing_is_read_as_listed(versioned: str) -> None:
    storage.write_bytes(f"{versioned}/in/a.jpg", b"one")
    [entry] = storage.list_files(f"{versioned}/in")
    storage.write_bytes(f"{versioned}/in/a.jpg", b"two")
    assert storage.read_entry(f"{versioned}/in", entry) == b"one"
    storage.delete(f"{versioned}/in/a.jpg")
    assert storage.read_entry(f"{versioned}/in", entry) == b"one"
    with pytest.raises(FileNotFoundError):
        storage.read_entry(f"{versioned}/in", entry._replace(etag="0" * 32))
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{versioned}/in/a.jpg")


def test_a_bucket_without_versions_is_refused(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/in/a.jpg", b"one")
    with pytest.raises(UserError, match="versioning must be Enabled, to read what was there once, but is off"):
        list(list_selected(f"{s3_bucket}/in", False, [None], Selection(as_of="2026-01-01T00:00:00Z")))


@pytest.mark.parametrize("text", ["2026-01-01", "2026-01-01T00:00:00", "yesterday", "future", ""])
def test_other_times_are_refused(text: str) -> None:
    text = (datetime.now(UTC) + timedelta(hours=1)).isoformat() if text == "future" else text
    with pytest.raises(UserError, match="--s3-as-of must"):
        PassOptions("s3://bucket/in", "out", s3_as_of=text)
    with pytest.raises(UserError, match="--s3-as-of is about"):
        PassOptions("in", "out", s3_as_of="2026-01-01T00:00:00Z")
    assert PassOptions("s3://bucket/in", "out", s3_as_of="2026-01-01T00:00:00Z").selection.as_of
    assert "s3_as_of" not in PassOptions("s3://bucket/in", "out").decisive()
    assert parse_moment("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)


def test_the_time_is_noted_with_the_inputs(tmp_path: Any) -> None:
    for selection in (Selection(("*.jpg",), (), 5, "2026-01-01T00:00:00Z"), Selection()):
        inputs.write_inputs(str(tmp_path), "s3://b/in", FileListing.of([Entry("a.jpg", 1, "x")]), selection)
        assert inputs.read_selection(str(tmp_path)) == selection == inputs.read_inputs(str(tmp_path)).selection
