"""Stores besides S3, through fsspec: what is written is read, and what they do not promise is looked after."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from folder_store import ROOT, FolderStore
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from depers import storage
from depers.errors import UserError
from depers.pipeline.options import PassOptions
from depers.runtime import claims, lease, places
from depers.storage import conditional, failures, other_stores, tables
from depers.storage.cache import DatasetCache
from depers.storage.failures import OutageError, UnavailableError
from depers.storage.overlapped import OverlappedWriter


class Memory(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's own, under another scheme."""

    protocol = "gs"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("gs://")))


def register(kind: type[Any]) -> None:
    """Have fsspec use a file system for `gs://`."""
    fsspec.register_implementation("gs", kind, clobber=True)
    other_stores._file_system.cache_clear()


@pytest.fixture(params=["folder", "memory"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket in a store that fsspec has."""
    monkeypatch.setenv(ROOT, str(tmp_path))
    (tmp_path / "bucket").mkdir()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = ["", "/bucket"]
    register(FolderStore if request.param == "folder" else Memory)
    yield "gs://bucket"
    _registry.pop("gs", None)
    other_stores._file_system.cache_clear()
    FolderStore.fault = staticmethod(lambda request, path: None)


@pytest.fixture
def folder_bucket(bucket: str, request: pytest.FixtureRequest) -> str:
    """A bucket in a folder, which can fail."""
    if "memory" in request.node.name:
        pytest.skip("only the other one can fail")
    return bucket


KEYS = ["a b/c=d#1.png", "ü/straße.jpg", "z%20z.jpg", "[x]*.jpg"]


def test_what_is_written_is_listed_read_and_removed(bucket: str) -> None:
    root = storage.join(bucket, "in")
    for number, key in enumerate(KEYS):
        storage.write_bytes(storage.join(root, key), b"x" * number)
    entries = storage.list_files(root)
    assert [(entry.path, entry.size) for entry in entries] == sorted((key, n) for n, key in enumerate(KEYS))
    assert [storage.read_entry(root, entry) for entry in entries] == [b"x" * entry.size for entry in entries]
    assert storage.is_dir(root) and storage.exists(f"{root}/z%20z.jpg") and storage.is_file(f"{root}/z%20z.jpg")
    assert not storage.is_file(root) and not storage.exists(f"{bucket}/none") and not storage.is_dir(f"{bucket}/none")
    storage.delete_files(root, [entry.path for entry in entries])
    storage.delete(f"{root}/z%20z.jpg")
    assert not list(storage.iterate_files(root))
    with pytest.raises(UserError, match="nothing: no such folder"):
        storage.list_files(f"{bucket}/nothing")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{root}/z%20z.jpg")


def test_large_files_tables_and_ranges(bucket: str) -> None:
    data = bytes(range(256)) * 40_000
    with storage.open_writer(f"{bucket}/out/a.tar") as file:
        file.write(data)
    [entry] = storage.list_files(f"{bucket}/out")
    with storage.open_entry(f"{bucket}/out", entry) as reader:
        reader.seek(9_000_000)
        assert reader.read(10) == data[9_000_000:][:10]
        reader.seek(0)
        assert reader.read() == data
    assert storage.read_range(f"{bucket}/out/a.tar", 5, 7) == data[5:12]
    assert storage.read_entry(f"{bucket}/out", entry, 16, lambda head: False) == data[:16]
    with pytest.raises(KeyError), storage.open_writer(f"{bucket}/out/b.tar") as file:
        file.write(b"half")
        raise KeyError
    assert [entry.path for entry in storage.list_files(f"{bucket}/out")] == ["a.tar"]
    table = tables.to_parquet(pq.read_table(_parquet()))
    storage.write_bytes(f"{bucket}/t.parquet", table)
    files, path = storage.arrow_filesystem(f"{bucket}/t.parquet")
    assert pq.read_table(path, filesystem=files).num_rows == 2
    with OverlappedWriter(f"{bucket}/many") as writer:
        stamps = [writer.write(f"{n}.txt", b"x" * n) for n in range(40)]
    assert [stamp.result() for stamp in stamps] == [storage.read_stamp(f"{bucket}/many", f"{n}.txt") for n in range(40)]


def _parquet() -> Any:
    import io

    import pyarrow as pa

    return io.BytesIO(tables.to_parquet(pa.table({"a": [1, 2]})))


def test_what_marks_a_folder_is_no_file(folder_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("a/b/x.jpg", "labels.d/x.txt", "empty", "b.txt"):
        storage.write_bytes(f"{folder_bucket}/in/{key}", b"x" if "x" in key else b"")
    find = FolderStore.find

    def find_marked(self: FolderStore, path: str, **settings: Any) -> Any:
        """As adlfs does where `a/b/` and others are keys: their slashes are taken off."""
        folder = Path(self._strip_protocol(path))
        (folder / "nothing").mkdir(exist_ok=True)
        markers = {
            str(folder / name): {"type": "file", "size": 0, "etag": "x"} for name in ("a/b", "labels.d", "nothing")
        }
        return find(self, path, **settings) | markers

    monkeypatch.setattr(FolderStore, "find", find_marked)
    names = [entry.path for entry in storage.list_files(f"{folder_bucket}/in")]
    assert sorted(names) == ["a/b/x.jpg", "b.txt", "empty", "labels.d/x.txt"]


def test_ranges_beyond_the_end_are_what_there_is(folder_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FolderStore.cat_file

    def read_strictly(self: FolderStore, path: str, start: int | None = None, end: int | None = None) -> Any:
        """As Azure does: a range must begin within the object, so that an empty one has none."""
        if (start is not None or end is not None) and (start or 0) >= self.info(path)["size"]:
            raise RuntimeError("HttpResponseError: The range specified is invalid")
        return read(self, path, start=start, end=end)

    monkeypatch.setattr(FolderStore, "cat_file", read_strictly)
    storage.write_bytes(f"{folder_bucket}/empty.jpg", b"")
    storage.write_bytes(f"{folder_bucket}/a.jpg", b"data")
    assert storage.read_range(f"{folder_bucket}/empty.jpg", 0, 5) == b""
    assert storage.read_range(f"{folder_bucket}/a.jpg", 4, 5) == b""
    assert storage.read_range(f"{folder_bucket}/a.jpg", 3, 5) == b"a"
    monkeypatch.setattr(FolderStore, "fault", staticmethod(_fail_on_data))
    with pytest.raises(UnavailableError, match="503"):
        storage.read_range(f"{folder_bucket}/a.jpg", 3, 5)


def _fail_on_data(request: str, path: str) -> None:
    if request == "read" and path.endswith("a.jpg"):
        raise RuntimeError("HttpError 503")


def test_what_changed_since_it_was_listed_is_an_error(bucket: str) -> None:
    for data, other in ((b"one", b"other"), (b"one", b"two")):
        storage.write_bytes(f"{bucket}/in/a.jpg", data)
        [entry] = storage.list_files(f"{bucket}/in")
        storage.write_bytes(f"{bucket}/in/a.jpg", other)
        with pytest.raises(UnavailableError, match="changed since it was listed"):
            storage.read_entry(f"{bucket}/in", entry)


@pytest.mark.parametrize(
    "path",
    ["a//b", "../x", "a/./b", "/x", "a/b./c", "x\n", "x.", "a\\b", "a?versionid=1", "", "x\0", "\udce4", "x" * 1025],
)
def test_names_that_a_store_could_take_for_others_are_none(bucket: str, path: str) -> None:
    assert storage.explain_no_target(bucket, path)
    with pytest.raises(UserError):
        storage.write_below(bucket, path, b"")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://b/a//b", "must not have an empty part"), ("gs://b/../a", "must not have the part"),
        ("gs://", "must name a folder"),
        ("memory://b/a", "must be a path or an s3:// URI"), ("gs::file:///etc", "must be a path or an s3:// URI"),
    ],
)  # fmt: skip
def test_places_that_are_none_are_refused(bucket: str, uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        storage.check(uri, "OUT")


def test_a_missing_package_is_named_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    _registry.pop("gs", None)
    monkeypatch.setitem(known_implementations, "gs", {"class": "no_such_package.X", "err": ""})
    with pytest.raises(UserError, match=r"^INPUT gs://b/in: gs:// needs the package gcsfs: pip install gcsfs$"):
        PassOptions("gs://b/in", "out")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("gs://x/a", "gcs://x/a/b", True), ("az://x/a", "abfss://x@account.dfs.core.windows.net/a", True),
        ("gs://x/a", "s3://x/a", False), ("gs://x/a", "gs://x/ab", False), ("gs://x", "gs://x/ab", True),
    ],
)  # fmt: skip
def test_one_place_by_two_names(first: str, second: str, expected: bool) -> None:
    assert storage.overlap(first, second) is storage.overlap(second, first) is expected


def test_a_lease_keeps_a_second_run_out_and_is_taken_over(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = f"{bucket}/out"
    with claims.hold(out, {"a": 1}, records=f"{bucket}/out-records"):
        with (
            pytest.raises(UserError, match="in use by another run"),
            claims.hold(out, {"a": 1}, records=f"{bucket}/out-records"),
        ):
            pass
        assert [entry.path for entry in storage.list_files(out)] == [storage.paths.LEASE]
    assert storage.list_files(f"{bucket}/out-records")[0].path == "job.json"
    conditional.create(f"{bucket}/out-records/lease.json", b'{"owner": "dead", "host": "elsewhere"}')
    with pytest.raises(UserError, match="its lease ends in"), claims.hold(out, {}, records=f"{bucket}/out-records"):
        pass
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", -1)
    with claims.hold(out, {"a": 1}, records=f"{bucket}/out-records") as held:
        conditional.replace(
            f"{bucket}/out-records/lease.json", b'{"owner": "x"}',
            other_stores.read_etag(f"{bucket}/out-records/lease.json"),
        )  # fmt: skip
        with pytest.raises(UserError, match="has taken over"):
            held.confirm()


def test_what_a_killed_process_left_is_removed(bucket: str) -> None:
    storage.write_bytes(f"{bucket}/out/a/.depers-{'0' * 32}.partial", b"")
    storage.write_bytes(f"{bucket}/out/a.jpg", b"x")
    storage.remove_partials(f"{bucket}/out")
    assert [entry.path for entry in storage.list_files(f"{bucket}/out")] == ["a.jpg"]


def test_a_dataset_is_brought_to_this_node(bucket: str, tmp_path: Path) -> None:
    storage.write_bytes(f"{bucket}/set/images/train/a.jpg", b"image")
    cache = DatasetCache(str(tmp_path / "cache"), 1e9)
    [folder] = cache.fetch([f"{bucket}/set/images/train"]).values()
    assert Path(folder, "a.jpg").read_bytes() == b"image" and Path(folder).is_relative_to(tmp_path / "cache/data-gs")
    cache.close()


def test_whose_a_failure_is(folder_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{folder_bucket}/in/a.jpg", b"x")

    def fail(error: Exception, everything: bool) -> None:
        def fault(request: str, path: str) -> None:
            if everything or path.endswith("a.jpg"):
                raise error

        monkeypatch.setattr(FolderStore, "fault", staticmethod(fault))

    for error, everything, kind, words in (
        (RuntimeError("HttpError 503"), False, UnavailableError, "RuntimeError: HttpError 503"),
        (RuntimeError("no\ncredentials"), True, OutageError, "RuntimeError: no credentials"),
        (PermissionError("403"), False, PermissionError, "access denied"),
        (FileNotFoundError("x"), False, FileNotFoundError, "no such object"),
    ):
        fail(error, everything)
        with pytest.raises(kind, match=words):
            storage.read_bytes(f"{folder_bucket}/in/a.jpg")
        if kind is not OutageError:
            with pytest.raises(OSError) as told:
                storage.read_bytes(f"{folder_bucket}/in/a.jpg")
            assert failures.explain(told.value)
    fail(RuntimeError("no credentials"), True)
    with pytest.raises(UserError, match=r"^gs://bucket/in: not readable \(RuntimeError: no credentials\)$"):
        storage.list_files(f"{folder_bucket}/in")


def test_a_name_that_the_store_makes_another_is_the_files_error(tmp_path: Path, bucket: str) -> None:
    if other_stores._locate(f"{bucket}/x")[0].__class__ is Memory:  # which parses that
        with pytest.raises(OSError, match="its name would be another one") as told:
            storage.write_bytes(f"{bucket}/a::b.jpg", b"")
        assert failures.is_of_name(told.value)
    else:
        storage.write_bytes(f"{bucket}/a::b.jpg", b"")


def test_a_write_that_is_cut_off_is_an_error(folder_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FolderStore.pipe_file
    monkeypatch.setattr(FolderStore, "pipe_file", lambda self, path, value: write(self, path, value[:1]))
    with pytest.raises(UnavailableError, match="must have 4 bytes as it was written, but has 1"):
        storage.write_bytes(f"{folder_bucket}/a.jpg", b"data")


def test_a_store_without_tags_or_times_is_refused(folder_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{folder_bucket}/in/a.jpg", b"data")
    monkeypatch.setattr(other_stores, "_TIMES", ())
    with pytest.raises(UserError, match="the store must say when its objects change"):
        storage.list_files(f"{folder_bucket}/in")


def test_what_is_not_promised_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    lines: list[str] = []
    monkeypatch.setattr(places, "report", lines.append)
    places.announce_stores(PassOptions("s3://b/in", "out"))
    assert not lines
    places.announce_stores(
        PassOptions("s3://b/in", "out"), PassOptions("in", f"{bucket}/out"), PassOptions(bucket, "out")
    )
    assert len(lines) == 1 and lines[0].startswith("gs:// promises less than S3: ")


def test_an_earlier_time_is_of_s3_alone(bucket: str) -> None:
    with pytest.raises(UserError, match="--s3-as-of is about an s3:// INPUT"):
        PassOptions(f"{bucket}/in", "out", s3_as_of="2026-01-01T00:00:00Z")
