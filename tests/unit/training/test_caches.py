"""Caches of a training: what is free, what fits, images on disk, datasets of S3 on a node."""

import os
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from training_sets import write_dataset

from depers import resources, storage
from depers.errors import UserError
from depers.resources import GIB, available_memory
from depers.storage.cache import DatasetCache
from depers.training import image_cache as image_cache
from depers.training.image_cache import Images, allocate, plan


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8192),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, 8192),
        ({"sys/fs/cgroup/memory.max": "5000", "sys/fs/cgroup/memory.current": "3000",
          "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500"}, 2500),
        ({"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.current": "5",
          "sys/fs/cgroup/a/memory.max": "100", "sys/fs/cgroup/a/memory.current": "90"}, 10),
        ({"sys/fs/cgroup/memory/c/memory.limit_in_bytes": "700",
          "sys/fs/cgroup/memory/c/memory.usage_in_bytes": "600",
          "sys/fs/cgroup/memory/c/memory.stat": "total_inactive_file 50"}, 150),
    ],
)  # fmt: skip
def test_memory_is_what_the_container_leaves(tmp_path: Path, files: dict[str, str], free: int) -> None:
    base = {
        "proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    8 kB\n",
        "proc/self/cgroup": "0::/a/b\n3:cpu,memory:/c\n",
    }
    for name, text in (base | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path) == free


def test_this_machines_memory_is_plausible() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("wanted", "size", "workers", "kind"),
    [
        ("auto", 4, 1, "ram"),
        ("auto", 4, 2, "disk"),
        ("auto", 90, 1, "none"),
        ("disk", 4, 1, "disk"),
        ("none", 1, 1, "none"),
    ],
)
def test_images_go_where_they_fit(wanted: str, size: int, workers: int, kind: str) -> None:
    assert plan(wanted, size * GIB, workers, 10 * GIB, 100 * GIB).kind == kind


def test_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"--cache ram: 6.0 GiB of images do not fit: 10.0 GiB of memory"):
        plan("ram", 6 * GIB, 1, 10 * GIB, 100 * GIB)
    with pytest.raises(UserError, match=r"--cache ram: 3.0 GiB of images for each of 2 workers do not fit"):
        plan("ram", 3 * GIB, 2, 10 * GIB, 100 * GIB)


@pytest.mark.parametrize("kind", ["ram", "disk", "none"])
def test_images_are_the_same_wherever_they_are_kept(tmp_path: Path, kind: str) -> None:
    root = write_dataset(tmp_path / "data")
    paths = sorted(str(path) for path in (root / "images" / "train").iterdir())
    sizes = [(96, 60 if index % 2 else 96) for index in range(6)]
    file = str(tmp_path / "images.rgb")
    allocate(file, sum(3 * w * h for w, h in sizes))
    one, other = (Images(paths, sizes, kind, file) for _ in range(2))
    Path(file).unlink()
    one.fill([0, 2, 4], 2)
    other.fill([1, 3, 5], 2)
    for index in range(6):
        for images in (one, other):
            image = images(index)
            assert image.shape == (sizes[index][1], sizes[index][0], 3)
            assert (image == image_cache.read_scaled(paths[index], sizes[index])).all()


def test_a_full_disk_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"cannot take .* of disk"):
        allocate(str(tmp_path / "x" / "images.rgb"), 2**60)
    assert not list((tmp_path / "x").iterdir())


def upload(root: Path, remote: str) -> None:
    for entry in storage.list_files(str(root)):
        storage.write_bytes(f"{remote}/{entry.path}", (root / entry.path).read_bytes())


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URIs that are read from now on."""
    seen: list[str] = []
    read = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: seen.append(uri) or read(uri))
    return seen


def test_a_dataset_is_brought_once_and_again_where_it_changed(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, remote = write_dataset(tmp_path / "data", count=4), f"{s3_bucket}/set"
    upload(root, remote)
    folders = [f"{remote}/images/train", f"{remote}/labels/train"]
    seen = reads(monkeypatch)
    cache = DatasetCache(str(tmp_path / "cache"), GIB)
    places = cache.fetch([*folders, str(root)])
    assert len(seen) == 8 and places[str(root)] == str(root)
    for entry in storage.list_files(folders[0]):
        assert Path(places[folders[0]], entry.path).read_bytes() == (root / "images/train" / entry.path).read_bytes()
    storage.write_bytes(f"{folders[1]}/1.txt", b"0 0.5 0.5 0.1 0.1\n")
    storage.delete(f"{folders[0]}/2.jpg")
    Path(places[folders[0]], "3.jpg").write_bytes(b"cut off")
    seen.clear()
    assert DatasetCache(str(tmp_path / "cache"), GIB).fetch(folders) == {folder: places[folder] for folder in folders}
    assert sorted(uri.rsplit("/", 1)[1] for uri in seen) == ["1.txt", "3.jpg"]
    assert not Path(places[folders[0]], "2.jpg").exists()


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


def test_a_full_disk_and_damage_on_the_way_are_errors(
    tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3_bucket}/images/1.jpg", b"image")
    read = storage.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", lambda uri: read(uri)[:-1] + b"!")
        with pytest.raises(UserError, match=r"1\.jpg: must be 5 bytes with sum [0-9a-f]{32}, but 5 bytes"):
            DatasetCache(str(tmp_path), GIB).fetch([f"{s3_bucket}/images"])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(UserError, match=r"images needs .* MiB, but 0.0 MiB are free"):
        DatasetCache(str(tmp_path), GIB).fetch([f"{s3_bucket}/images"])


def test_shown_sizes() -> None:
    assert [resources.format_bytes(size) for size in (0, 2**20, 3 * GIB)] == ["0.0 MiB", "1.0 MiB", "3.0 GiB"]
    assert np.isfinite(resources.available_disk(Path("/nowhere/at/all")))
