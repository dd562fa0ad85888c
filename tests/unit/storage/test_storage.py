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


def test_half_written_files_are_no_files_and_others_are_left_alone(tmp_path: Path) -> None:
    half = f".depers-{'0' * 32}.partial"
    (tmp_path / half).write_bytes(b"half")
    names = ["a.jpg", "a.partial", ".depers-0.partial", f".depers-{'g' * 32}.partial", f"{half}.jpg", f"x{half}"]
    for name in names:
        (tmp_path / name).write_bytes(b"whole")
    entries = storage.list_files(str(tmp_path))
    assert [entry.path for entry in entries] == sorted([half, *names])
    assert [entry.path for entry in entries if entry.status] == [half]
    storage.remove_partials(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(names)  # noqa: PTH208


def test_what_fails_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(IsADirectoryError):
        storage.write_bytes(str(tmp_path / "a.jpg"), b"image")
    with pytest.raises(KeyError), storage.open_writer(str(tmp_path / "b.jpg")):
        raise KeyError
    assert os.listdir(tmp_path) == ["a.jpg"]  # noqa: PTH208


@pytest.mark.parametrize("name", ["a" * 251, "写" * 83, "Ж" * 125, "🚗" * 62, "\udce9" * 251])
def test_names_as_long_as_a_file_system_takes(tmp_path: Path, name: str) -> None:
    storage.write_below(str(tmp_path), f"{name}.jpg", b"image")
    assert [(entry.path, entry.size) for entry in storage.list_files(str(tmp_path))] == [(f"{name}.jpg", 5)]


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for read in (storage.read_bytes, lambda uri: storage.read_range(uri, 0, 10)):
        with pytest.raises(OSError, match="must be a regular file, but is none"):
            read(str(tmp_path / path))


def test_of_what_is_skipped_only_the_head_is_read(root: str) -> None:
    data = bytes(range(256)) * 1000
    storage.write_bytes(storage.join(root, "in", "a.mp4"), data)
    [entry] = storage.list_files(storage.join(root, "in"))
    for is_needed in (True, False):
        heads: list[bytes] = []

        def judge(head: bytes, is_needed: bool = is_needed, heads: list[bytes] = heads) -> bool:
            heads.append(head)
            return is_needed

        content = storage.read_entry(storage.join(root, "in"), entry, 4096, judge)
        assert content == (data if is_needed else data[:4096]) and heads == [data[:4096]]
    if storage.is_remote(root):  # with a hint it asks for the whole at once
        assert storage.read_entry(storage.join(root, "in"), entry, 4096, lambda _: False, hint=True) == data


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


@pytest.mark.parametrize("uri", ["memory://bucket/x", "https://host/x", "", "s3://"])
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
