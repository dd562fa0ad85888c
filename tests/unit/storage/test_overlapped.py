"""Writes that overlap: all there at the end, bounded in bytes, and an error among them is raised."""

import threading
import time
from pathlib import Path

import pytest

from depers import storage
from depers.resources import MIB
from depers.storage import overlapped
from depers.storage.overlapped import OverlappedWriter, count_threads, read_ahead


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_bucket")) if request.param == "s3" else str(tmp_path)


def test_all_is_there_at_the_end(root: str) -> None:
    with OverlappedWriter(root) as writer:
        for number in range(50):
            writer.write(f"{number % 5}/{number}.txt", str(number).encode())
    assert {entry.path: entry.size for entry in storage.list_files(root)} == {
        f"{number % 5}/{number}.txt": len(str(number)) for number in range(50)
    }


def test_an_error_is_raised(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    def write_below(root: str, path: str, data: bytes) -> str:
        if path == "3":
            raise OSError("no")
        written.append(path)
        return ""

    monkeypatch.setattr(storage, "write_below", write_below)
    with pytest.raises(OSError, match="no"), OverlappedWriter(root) as writer:
        for number in range(20):
            writer.write(str(number), b"")
            time.sleep(0.001)


def test_writes_overlap_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, on_their_way, most, largest = threading.Lock(), 0, 0, 0

    def write_below(root: str, path: str, data: bytes) -> str:
        nonlocal on_their_way, most, largest
        with lock:
            on_their_way += 1
            most, largest = max(most, on_their_way), max(largest, on_their_way * len(data))
        time.sleep(0.01)
        with lock:
            on_their_way -= 1
        return ""

    monkeypatch.setattr(storage, "write_below", write_below)
    started = time.monotonic()
    with OverlappedWriter("s3://bucket") as writer:
        for number in range(200):
            writer.write(str(number), bytes(1000))
    assert most > 8 and time.monotonic() - started < 1
    most = largest = 0
    with OverlappedWriter("s3://bucket") as writer:
        for number in range(20):
            writer.write(str(number), bytes(20 * MIB))
    assert most > 1 and largest <= overlapped._MOST_BYTES


def test_more_threads_wait_for_s3() -> None:
    assert count_threads(4, "a", "b") == 4 < count_threads(4, "a", "s3://b")


def test_files_are_read_in_order_and_what_is_not_there_is_said_of_that_one(root: str) -> None:
    for number in range(20):
        storage.write_below(root, f"{number}.txt", str(number).encode())
    uris = [storage.join(root, f"{number}.txt") for number in range(21)]
    *others, last = read_ahead(uris)
    assert [read() for read in others] == [str(number).encode() for number in range(20)]
    with pytest.raises(FileNotFoundError):
        last()


def test_of_s3_few_files_are_on_their_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read_bytes(uri: str) -> bytes:
        asked.append(uri)
        time.sleep(0.05)
        return uri.encode()

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    reads = read_ahead([f"s3://bucket/{number}" for number in range(50)])
    start = time.monotonic()
    assert next(reads)() == b"s3://bucket/0"
    assert len(asked) <= 8
    assert [read() for read in reads] == [f"s3://bucket/{number}".encode() for number in range(1, 50)]
    assert time.monotonic() - start < 50 * 0.05
