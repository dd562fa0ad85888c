"""Which files are inputs: patterns, a fair sample that only grows, and a job's own places in a bucket."""

from pathlib import Path

import pytest

from depers import storage
from depers.storage import Entry
from depers.storage.selection import Selection, is_bucket, list_selected

PATHS = ["2023/a.jpg", "2023/a.txt", "2024/b.JPG", "2024/private/c.jpg", "2024/d.tar"]
ENTRIES = [Entry(path, 1, "") for path in PATHS]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), [0, 1, 2, 3, 4]),
        (("*.jpg",), (), [0, 3]),
        (("*.jpg", "*.JPG"), ("*/private/*",), [0, 2]),
        (("2024/*",), (), [2, 3, 4]),
        ((), ("2024/*", "a.txt"), [0]),
        (("a.*",), ("*",), []),
        (("[0-9]*/?.tar",), (), [4]),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[int]) -> None:
    assert list(Selection(include, exclude).apply(ENTRIES)) == [ENTRIES[index] for index in expected]


def test_a_sample_is_fair_and_only_grows() -> None:
    entries = [Entry(f"{number // 1000}/{number:05}.jpg", 1, "") for number in range(5000)]
    small, large = (list(Selection(limit=limit).apply(entries)) for limit in (100, 1000))
    assert len(small) == 100 and len(large) == 1000 and set(small) < set(large) and small == sorted(small)
    counts = [sum(entry.path.startswith(f"{folder}/") for entry in large) for folder in range(5)]
    assert min(counts) > 150 and max(counts) < 250
    assert list(Selection(limit=100).apply(reversed(entries))) == small
    assert list(Selection(limit=10_000).apply(entries)) == entries


def test_a_jobs_own_places_in_its_bucket_are_no_inputs(s3_bucket: str) -> None:
    bucket = "/".join(s3_bucket.split("/")[:3])
    for name in ("own/a.jpg", "safe/a.jpg", "safe-records/job.json", "safe-not/b.jpg"):
        storage.write_bytes(f"{bucket}/{name}", b"x")
    places = (f"{bucket}/safe", f"{bucket}/safe-records")
    paths = [entry.path for entry in list_selected(bucket, False, places)]
    assert {"own/a.jpg", "safe-not/b.jpg"} <= set(paths) and not any(
        path.startswith(("safe/", "safe-r")) for path in paths
    )


@pytest.mark.parametrize(("uri", "expected"), [("s3://b", True), ("s3://b/", True), ("s3://b/c", False), ("/b", False)])
def test_a_bucket_is_one(uri: str, expected: bool) -> None:
    assert is_bucket(uri) is expected


def test_folders_are_listed_as_ever(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    assert [entry.path for entry in list_selected(str(tmp_path), False, ("/elsewhere", None))] == ["a.jpg"]
