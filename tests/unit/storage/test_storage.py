"""Storage: listing and whole writes behave alike on a local folder and over the S3 protocol."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from depers import storage
from depers.errors import UserError
from depers.storage import tables

KEYS = ["a b/c=d#1.png", "ü/straße?.jpg", "z%20z.jpg", "[x]*.jpg"]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3_bucket"))


def test_what_is_written_is_listed_and_read(root: str) -> None:
    for number, key in enumerate(KEYS):
        storage.write_bytes(storage.join(root, "in", key), b"x" * number)
    entries = storage.list_files(storage.join(root, "in"))
    assert [(entry.path, entry.size) for entry in entries] == sorted((key, n) for n, key in enumerate(KEYS))
    assert [storage.read_bytes(storage.join(root, "in", entry.path)) for entry in entries] == [
        b"x" * entry.size for entry in entries
    ]


def test_an_etag_changes_with_the_content(root: str) -> None:
    uri = storage.join(root, "in", "a.jpg")
    storage.write_bytes(uri, b"one")
    before = storage.list_files(storage.join(root, "in"))
    storage.write_bytes(uri, b"two")
    assert before != storage.list_files(storage.join(root, "in"))


def test_deleting_twice_is_no_error(root: str) -> None:
    uri = storage.join(root, "in", "a.jpg")
    storage.write_bytes(uri, b"one")
    assert storage.exists(uri) and storage.is_dir(storage.join(root, "in"))
    for _ in range(2):
        storage.delete(uri)
    assert not storage.exists(uri)


def test_a_table_comes_back(root: str) -> None:
    table = pa.table({"path": ["a", "b"], "size": [1, 2]})
    tables.write_table(storage.join(root, "t.parquet"), table)
    assert tables.read_table(storage.join(root, "t.parquet")).equals(table)


def test_a_missing_folder_is_named(root: str) -> None:
    with pytest.raises(UserError, match="nothing-here: no such folder"):
        storage.list_files(storage.join(root, "nothing-here"))


def test_half_written_files_are_no_files(tmp_path: Path) -> None:
    (tmp_path / ".a.jpg.123.depers-partial").write_bytes(b"half")
    (tmp_path / "a.jpg").write_bytes(b"whole")
    assert [entry.path for entry in storage.list_files(str(tmp_path))] == ["a.jpg"]
    storage.remove_partials(str(tmp_path))
    assert os.listdir(tmp_path) == ["a.jpg"]  # noqa: PTH208


def test_links_are_followed_and_a_dangling_one_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(b"a")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/linked").symlink_to(tmp_path / "real")
    (tmp_path / "in/dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    entries = storage.list_files(str(tmp_path / "in"))
    assert [(entry.path, entry.size) for entry in entries] == [("dangling.jpg", -1), ("linked/a.jpg", 1)]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("/a/b", "/a/b/", True),
        ("/a", "/a/b", True),
        ("/a/b/c", "/a/b", True),
        ("/a/b", "/a/bc", False),
        ("/a/b/../c", "/a/c", True),
        ("s3://x/a", "s3://x/a/b", True),
        ("s3://x/a", "s3://x/ab", False),
        ("s3://x", "s3://x/a", True),
        ("s3://x/a", "/x/a", False),
    ],
)
def test_overlap(first: str, second: str, expected: bool) -> None:
    assert storage.overlap(first, second) is storage.overlap(second, first) is expected


@pytest.mark.parametrize("uri", ["gs://bucket/x", "https://host/x", "", "s3://"])
def test_other_places_are_refused(uri: str) -> None:
    with pytest.raises(UserError, match="OUT must"):
        storage.check(uri, "OUT")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("a/./b/", "{here}/a/b"),
        ("../a", "{here}/../a"),
        ("/x/link/..", "/x/link/.."),
        ("s3://bucket/folder/", "s3://bucket/folder"),
        ("s3://bucket/a//b", "s3://bucket/a//b"),
    ],
)
def test_absolute(uri: str, expected: str) -> None:
    assert storage.absolute(uri) == expected.format(here=Path.cwd())
