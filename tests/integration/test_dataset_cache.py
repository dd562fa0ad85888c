"""Datasets of S3 on a node: brought once, also by processes that are killed; with a limit, and on a full disk."""

import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty_s3 import BROKEN, FaultyS3
from training_sets import write_dataset

from depers import resources, storage
from depers.errors import UserError
from depers.resources import GIB
from depers.storage import Entry
from depers.storage.cache import DatasetCache


def upload(root: Path, remote: str) -> None:
    for entry in storage.list_files(str(root)):
        storage.write_bytes(f"{remote}/{entry.path}", (root / entry.path).read_bytes())


def record_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are read from now on."""
    uris: list[str] = []
    read = storage.read_entry
    monkeypatch.setattr(storage, "read_entry", lambda root, entry: uris.append(entry.path) or read(root, entry))
    return uris


def test_a_dataset_is_brought_once_and_again_where_it_changed(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, remote = write_dataset(tmp_path / "data", count=4), f"{s3_bucket}/set"
    upload(root, remote)
    folders = [f"{remote}/images/train", f"{remote}/labels/train"]
    uris = record_reads(monkeypatch)
    cache = DatasetCache(str(tmp_path / "cache"), GIB)
    places = cache.fetch([*folders, str(root)])
    assert len(uris) == 8 and places[str(root)] == str(root)
    for entry in storage.list_files(folders[0]):
        assert Path(places[folders[0]], entry.path).read_bytes() == (root / "images/train" / entry.path).read_bytes()
    storage.write_bytes(f"{folders[1]}/1.txt", b"0 0.5 0.5 0.1 0.1\n")
    storage.delete(f"{folders[0]}/2.jpg")
    Path(places[folders[0]], "3.jpg").write_bytes(b"cut off")
    uris.clear()
    cache.close()
    assert DatasetCache(str(tmp_path / "cache"), GIB).fetch(folders) == {folder: places[folder] for folder in folders}
    assert sorted(uris) == ["1.txt", "3.jpg"]
    assert not Path(places[folders[0]], "2.jpg").exists()


def test_bringing_a_dataset_goes_on_where_it_was_interrupted(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3_bucket}/set/images"
    for number in range(40):
        storage.write_bytes(f"{uri}/{number:02}.jpg", b"%d" % number)
    read, paths = storage.read_entry, record_reads(monkeypatch)
    counting_read = storage.read_entry

    def fail_at_30(root: str, entry: Entry) -> bytes:
        if entry.path.endswith("30.jpg"):
            raise OSError("the connection is gone")
        return counting_read(root, entry)

    monkeypatch.setattr(storage, "read_entry", fail_at_30)
    cache = DatasetCache(str(tmp_path / "cache"), GIB)
    with pytest.raises(UserError, match=r"30\.jpg: not readable"):
        cache.fetch([uri])
    fetched = {path.name for path in (tmp_path / "cache/data").rglob("*.jpg")}
    assert len(fetched) >= 10
    paths.clear()
    monkeypatch.setattr(storage, "read_entry", lambda root, entry: paths.append(entry.path) or read(root, entry))
    place = cache.fetch([uri])[uri]
    assert paths and not fetched & set(paths)
    assert {path.name: path.read_bytes() for path in Path(place).iterdir()} == {
        f"{number:02}.jpg": b"%d" % number for number in range(40)
    }


def test_the_cache_makes_room_but_not_from_what_is_in_use(tmp_path: Path, s3_bucket: str) -> None:
    for name in ("a", "b", "c"):
        storage.write_bytes(f"{s3_bucket}/{name}/images/1.jpg", name.encode() * 1000)
    uri = {name: f"{s3_bucket}/{name}/images" for name in ("a", "b", "c")}
    folder = str(tmp_path / "cache")
    first = DatasetCache(folder, 2500)
    place = first.fetch([uri["a"]])[uri["a"]]
    second = DatasetCache(folder, 2500)
    second.fetch([uri["b"]])
    second.close()
    third = DatasetCache(folder, 2500)
    third.fetch([uri["c"]])  # b goes, a is in use
    assert Path(place, "1.jpg").exists() and not (tmp_path / "cache/data" / uri["b"][5:]).exists()
    with pytest.raises(UserError, match=r"--cache-limit .* is too little for .* in use"):
        DatasetCache(folder, 2500).fetch([uri["b"]])
    first.close()
    DatasetCache(folder, 2500).fetch([uri["b"]])
    assert not Path(place).exists()
    with pytest.raises(UserError, match=r"--cache-limit must be at least .* for s3://.*, but is"):
        DatasetCache(folder, 500).fetch([uri["a"]])


def test_what_is_in_use_stays_as_it_is(tmp_path: Path, s3_bucket: str) -> None:
    folder, images = str(tmp_path / "cache"), f"{s3_bucket}/set/images"
    for path, size in (("set/images/1.jpg", 1000), ("set/labels/1.txt", 500), ("other/1.jpg", 1500)):
        storage.write_bytes(f"{s3_bucket}/{path}", b"x" * size)
    outer, user = DatasetCache(folder, 3000), DatasetCache(folder, 3000)
    outer.fetch([f"{s3_bucket}/set"])
    outer.close()
    place = Path(user.fetch([images])[images])
    with pytest.raises(UserError, match=r"--cache-limit .* is too little"):  # the outer folder holds one in use
        DatasetCache(folder, 3000).fetch([f"{s3_bucket}/other"])
    assert (place / "1.jpg").exists()
    storage.write_bytes(f"{images}/2.jpg", b"new")  # what is added hurts nobody
    DatasetCache(folder, 3000).fetch([images])
    assert (place / "2.jpg").exists()
    storage.write_bytes(f"{images}/1.jpg", b"changed")
    storage.delete(f"{images}/2.jpg")
    for changed in (images, f"{s3_bucket}/set"):
        with pytest.raises(UserError, match="has changed since it was brought to this node, where another process"):
            DatasetCache(folder, 9000).fetch([changed])
    assert (place / "1.jpg").read_bytes() == b"x" * 1000 and (place / "2.jpg").exists()
    user.close()
    DatasetCache(folder, 9000).fetch([images])
    assert (place / "1.jpg").read_bytes() == b"changed" and not (place / "2.jpg").exists()
    DatasetCache(folder, 2000).fetch([f"{s3_bucket}/other"])
    assert not place.exists()


def test_a_full_disk_and_damage_on_the_way_are_errors(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3_bucket}/images/1.jpg", b"image")
    read = storage.read_entry
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_entry", lambda root, entry: read(root, entry)[:-1] + b"!")
        with pytest.raises(UserError, match=r"1\.jpg: must be 5 bytes with sum [0-9a-f]{32}, but 5 bytes"):
            DatasetCache(str(tmp_path), GIB).fetch([f"{s3_bucket}/images"])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(UserError, match=r"images needs .* MiB, but 0.0 MiB are free"):
        DatasetCache(str(tmp_path), GIB).fetch([f"{s3_bucket}/images"])


_FETCHES = """
import sys
from depers.storage.cache import DatasetCache
DatasetCache(sys.argv[1], 2**30).fetch([sys.argv[2]])
"""
_FILES, _PASSES, _READERS = 80, 30, 16  # of a folder; before the fetch is held and killed; that read at a time


class Gate:
    """What lets requests for images through to S3: for `passes` of them. S3 is broken for others, which tries patience.

    `names` are those that were asked for, each as often as it was.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.passes = _FILES

    def __call__(self, method: str, place: str, times: int) -> str:
        if method == "GET" and ".jpg" in place and "list-type" not in place:
            name = place.rpartition("/")[2].partition("?")[0]
            self.names.append(name)
            return BROKEN if name not in list(dict.fromkeys(self.names))[: self.passes] else ""
        return ""


@pytest.fixture
def gate(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """In front of the S3 server, for this process and those that it starts."""
    gate = Gate()
    with FaultyS3(s3_endpoint, gate) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield gate


def fetch_and_kill(folder: Path, uri: str, gate: Gate) -> None:
    """Have a process fetch, and kill it when some files are here and all its threads try to have others."""
    gate.names.clear()
    gate.passes = _PASSES
    process = subprocess.Popen([sys.executable, "-c", _FETCHES, str(folder), uri])
    deadline = time.monotonic() + 120
    while len(set(gate.names)) < _PASSES + _READERS:
        assert process.poll() is None and time.monotonic() < deadline, gate.names
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    gate.names.clear()
    gate.passes = _FILES


def contents(place: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(place).iterdir()}


def write_images(uri: str, version: bytes) -> dict[str, bytes]:
    files = {f"{number:03}.jpg": version + b"%03d" % number for number in range(_FILES)}
    for name, data in files.items():
        storage.write_bytes(f"{uri}/{name}", data)
    return files


def test_what_a_killed_process_fetched_is_not_fetched_again(tmp_path: Path, s3_bucket: str, gate: Gate) -> None:
    uri, folder = f"{s3_bucket}/set/images", tmp_path / "cache"
    files = write_images(uri, b"one")
    fetch_and_kill(folder, uri, gate)
    fetched = {path.name for path in (folder / "data").rglob("*.jpg")}
    assert len(fetched) == _PASSES
    fetch_and_kill(folder, uri, gate)  # once more: what it fetches comes to that
    assert not fetched & set(gate.names)
    fetched = {path.name for path in (folder / "data").rglob("*.jpg")}
    assert len(fetched) == 2 * _PASSES
    # What was changed or removed on S3 meanwhile, and what was cut on the disk, is not believed.
    changed, removed, cut, damaged = sorted(fetched)[:4]
    storage.write_bytes(f"{uri}/{changed}", b"two" + files[changed][3:])
    storage.delete(f"{uri}/{removed}")
    next((folder / "data").rglob(cut)).write_bytes(files[cut][:-1])
    [record] = (folder / "folders").glob("*.json")
    record.write_bytes(record.read_bytes().replace(f'"{damaged}"'.encode(), f'"{damaged}#'.encode()))
    next((folder / "data").rglob(damaged)).with_name(f".depers-{'0' * 32}.partial").write_bytes(b"half")
    [place] = DatasetCache(str(folder), GIB).fetch([uri]).values()
    assert sorted(gate.names) == sorted(files.keys() - fetched | {changed, cut, damaged})
    files[changed] = b"two" + files[changed][3:]
    del files[removed]
    assert contents(place) == files
    gate.names.clear()
    DatasetCache(str(folder), GIB).fetch([uri])
    assert not gate.names


def test_a_process_killed_while_it_replaces_files_leaves_none_that_is_taken_for_another(
    tmp_path: Path, s3_bucket: str, gate: Gate
) -> None:
    uri, folder = f"{s3_bucket}/set/images", tmp_path / "cache"
    files = write_images(uri, b"one")
    DatasetCache(str(folder), GIB).fetch([uri])
    write_images(uri, b"two")
    fetch_and_kill(folder, uri, gate)
    write_images(uri, b"one")  # as it was noted first: of equal size and tag
    [place] = DatasetCache(str(folder), GIB).fetch([uri]).values()
    assert contents(place) == files


def test_a_folder_around_another_does_not_take_its_files_for_those_of_before(tmp_path: Path, s3_bucket: str) -> None:
    folder, uri, image = str(tmp_path / "cache"), f"{s3_bucket}/set", f"{s3_bucket}/set/images/1.jpg"
    for name in ("images/1.jpg", "images/2.jpg", "labels/1.txt"):
        storage.write_bytes(f"{uri}/{name}", b"one")
    for first, second in ((uri, f"{uri}/images"), (f"{uri}/images", uri)):
        DatasetCache(folder, GIB).fetch([first])
        storage.write_bytes(image, b"two")
        DatasetCache(folder, GIB).fetch([second])
        storage.write_bytes(image, b"one")  # of equal size and tag as when the other folder was brought
        [place] = DatasetCache(folder, GIB).fetch([first]).values()
        assert next(Path(place).rglob("1.jpg")).read_bytes() == b"one"


def test_room_is_counted_once_for_what_is_fetched_again(tmp_path: Path, s3_bucket: str) -> None:
    uri = f"{s3_bucket}/set/images"
    for content in (b"one", b"two"):
        storage.write_bytes(f"{uri}/1.jpg", content * 500)
        cache = DatasetCache(str(tmp_path / "cache"), 2000)
        [place] = cache.fetch([uri]).values()
        cache.close()
    assert Path(place, "1.jpg").read_bytes() == b"two" * 500
