"""S3 that waits, throttles, breaks off and refuses: what passes is outlasted, what does not is an error."""

import io
import os
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from faulty_s3 import BROKEN, DENIED, EXPIRED, RESET, THROTTLE, UNKNOWN, Fault, FaultyS3

from depers import storage
from depers.archives import base as archives
from depers.archives import registry
from depers.archives.base import ArchiveEnd
from depers.errors import UserError
from depers.storage import Entry, failures, s3, s3_files
from depers.storage.failures import OutageError


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses as in life would take minutes."""
    monkeypatch.setattr(failures, "_LONGEST_PAUSE", 0.02)
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda self, *_, **__: True)  # after SlowDown


@pytest.fixture
def proxied(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a proxy with faults in front of the server; from then on all requests go through it."""
    started: list[FaultyS3] = []

    def start(fault: Fault) -> FaultyS3:
        proxy = FaultyS3(s3_endpoint, fault).__enter__()
        started.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        return proxy

    yield start
    for proxy in started:
        proxy.__exit__()


@pytest.mark.parametrize("fault", [THROTTLE, BROKEN, RESET])
def test_what_passes_is_outlasted(s3_bucket: str, proxied: Any, fault: str) -> None:
    data = random.Random(1).randbytes(3_000_000)
    storage.write_bytes(f"{s3_bucket}/in/a.jpg", data)
    proxy = proxied(lambda method, place, time: fault if time <= 3 else "")
    [entry] = storage.list_files(f"{s3_bucket}/in")
    assert storage.read_entry(f"{s3_bucket}/in", entry) == data
    storage.write_bytes(f"{s3_bucket}/out/a.jpg", data)
    assert storage.read_bytes(f"{s3_bucket}/out/a.jpg") == data
    assert proxy.faults[fault] >= 9


def test_a_broken_body_goes_on_where_it_broke(s3_bucket: str, proxied: Any) -> None:
    data = random.Random(1).randbytes(20_000_000)
    storage.write_bytes(f"{s3_bucket}/a.tar", data)
    [entry] = storage.list_files(s3_bucket)
    proxy = proxied(lambda method, place, time: RESET if method == "GET" and time % 2 else "")
    with storage.open_entry(s3_bucket, entry) as file:
        assert file.read(5) == data[:5]
        file.seek(15_000_000)
        assert file.read() == data[15_000_000:]
        file.seek(3)
        assert file.read(7) == data[3:10]
    assert proxy.faults[RESET] >= 2


@pytest.mark.parametrize(
    ("fault", "message"), [(THROTTLE, "S3 answers SlowDown"), (RESET, "connection lost"), (DENIED, "access denied")]
)
def test_what_does_not_pass_is_told(s3_bucket: str, proxied: Any, fault: str, message: str) -> None:
    storage.write_bytes(f"{s3_bucket}/a.jpg", b"abcdef")
    proxy = proxied(lambda method, place, time: fault if "a.jpg" in place else "")
    with pytest.raises(OSError, match=message) as told:  # while all else answers: it is this file's
        storage.read_bytes(f"{s3_bucket}/a.jpg")
    assert not isinstance(told.value, OutageError) and proxy.faults[fault] >= 1
    proxied(lambda method, place, time: fault)
    with pytest.raises(PermissionError if fault == DENIED else OutageError, match=message):
        storage.read_bytes(f"{s3_bucket}/a.jpg")


def test_an_outage_is_outlasted_and_credentials_are_read_again(
    s3_bucket: str, proxied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{s3_bucket}/a.jpg", b"abcdef")
    failing_until = time.monotonic() + 1
    proxied(lambda method, place, count: (THROTTLE, EXPIRED)[count % 2] if time.monotonic() < failing_until else "")
    monkeypatch.setattr(failures, "PATIENCE_SECONDS", 20)
    assert storage.read_bytes(f"{s3_bucket}/a.jpg") == b"abcdef"  # nothing of the bucket answered meanwhile


def test_credentials_that_fail_one_key_alone_are_that_keys(s3_bucket: str, proxied: Any) -> None:
    storage.write_bytes(f"{s3_bucket}/a+b.jpg", b"abcdef")
    proxied(lambda method, place, times: EXPIRED if "a+b" in place else "")
    with pytest.raises(PermissionError, match="the credentials have expired"):
        storage.read_bytes(f"{s3_bucket}/a+b.jpg")


def test_a_process_that_never_had_an_answer_gives_up_early(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "CLOCK", failures.Clock())
    monkeypatch.setattr(failures, "FIRST_PATIENCE_SECONDS", 0.1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"^s3://.*/in: not readable \(connection lost \(EndpointConnectionError\)"):
        storage.list_files(f"{s3_bucket}/in")


def test_a_name_that_s3_cannot_have_is_the_files_error(s3_bucket: str) -> None:
    for name, message in (("\udce4.jpg", "must be UTF-8"), ("x" * 1025, "at most 1024 bytes"), ("\ud800", "UTF-8")):
        for access in (storage.read_bytes, storage.delete, partial(storage.write_bytes, data=b"")):
            with pytest.raises(OSError, match=message):
                access(f"{s3_bucket}/{name}")


def test_a_bucket_that_is_missing_is_no_missing_file(s3_bucket: str) -> None:
    with pytest.raises(OutageError, match="no such bucket"):
        storage.read_bytes(f"{s3_bucket}-none/a.jpg")
    with pytest.raises(UserError, match="no such bucket"):
        storage.list_files(f"{s3_bucket}-none/in")
    assert not storage.is_dir(f"{s3_bucket}-none/in")


@pytest.mark.parametrize("ask", [storage.list_files, storage.is_dir, storage.exists])
def test_a_folder_that_cannot_be_asked_for_is_the_users_to_put_right(
    s3_bucket: str, proxied: Any, monkeypatch: pytest.MonkeyPatch, ask: Callable[[str], Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        s3._client.cache_clear()
        with pytest.raises(UserError, match=r"^s3://.*/in: not readable \(Unable to locate credentials\)$"):
            ask(f"{s3_bucket}/in")
    s3._client.cache_clear()
    proxied(lambda method, place, time: DENIED)
    with pytest.raises(UserError, match=r"^s3://.*/in: not readable \(access denied\)$"):
        ask(f"{s3_bucket}/in")


def test_what_changed_or_went_since_it_was_listed_is_an_error(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/in/a.jpg", b"one")
    [entry] = storage.list_files(f"{s3_bucket}/in")
    storage.write_bytes(f"{s3_bucket}/in/a.jpg", b"two")
    with pytest.raises(OSError, match="changed since it was listed"):
        storage.read_entry(f"{s3_bucket}/in", entry)
    storage.delete(f"{s3_bucket}/in/a.jpg")
    with pytest.raises(FileNotFoundError):
        storage.read_entry(f"{s3_bucket}/in", entry)


def test_a_local_file_that_changed_is_an_error(tmp_path: Any) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    [entry] = storage.list_files(str(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"three")
    with pytest.raises(OSError, match="changed since it was listed"):
        storage.read_entry(str(tmp_path), entry)
    with pytest.raises(OSError, match="changed since it was listed"):
        storage.open_entry(str(tmp_path), entry)


@pytest.mark.parametrize("fault", ["", THROTTLE, BROKEN])
def test_large_objects_are_written_in_parts(s3_bucket: str, proxied: Any, fault: str) -> None:
    block = random.Random(1).randbytes(5_000_000)
    proxied(lambda method, place, time: fault if method in ("PUT", "POST") and time <= 2 else "")
    with storage.open_writer(f"{s3_bucket}/big.tar") as file:
        for _ in range(9):
            file.write(block)
    assert storage.read_bytes(f"{s3_bucket}/big.tar") == 9 * block


def test_an_unfinished_upload_leaves_nothing(s3_bucket: str) -> None:
    with pytest.raises(RuntimeError), storage.open_writer(f"{s3_bucket}/big.tar") as file:
        for _ in range(5):
            file.write(bytes(5_000_000))
        raise RuntimeError
    assert not storage.exists(f"{s3_bucket}/big.tar")
    bucket = s3_bucket.removeprefix("s3://")
    assert not s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads")
    s3.client().create_multipart_upload(Bucket=bucket, Key="killed.tar")
    storage.remove_partials(s3_bucket)
    assert not s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_what_a_server_does_not_know_is_asked_once(s3_bucket: str, proxied: Any) -> None:
    proxy = proxied(lambda method, place, time: UNKNOWN)
    with pytest.raises(OSError, match="this S3 does not know what is asked of it: no"):
        storage.write_bytes(f"{s3_bucket}/a.jpg", b"1")
    storage.remove_partials(s3_bucket)  # some do not list uploads
    assert proxy.seen == {"PUT": 1, "GET": 1}


def test_an_archive_that_cannot_be_read_on_keeps_what_was_read(s3_bucket: str, proxied: Any) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(40):
            header = tarfile.TarInfo(f"{number}.jpg")
            header.size = 1_000_000
            archive.addfile(header, io.BytesIO(b"\xff\xd8\xff" + os.urandom(999_997)))
    storage.write_bytes(f"{s3_bucket}/a.tar", buffer.getvalue())
    [entry] = storage.list_files(s3_bucket)
    start = s3_files._BLOCK * 3
    proxied(lambda method, place, time: DENIED if int(place.partition("bytes=")[2].split("-")[0]) >= start else "")
    with storage.open_entry(s3_bucket, entry) as file:
        *chunks, end = registry.load_format("tar").read(file, entry.size, archives.MemberRules((), 1 << 30))
    assert isinstance(end, ArchiveEnd) and end.retry and end.reason == "cannot be read on (access denied)"
    assert 15 <= end.members <= start // 1_000_000 and chunks


def test_an_object_of_no_bytes(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/a", b"")
    assert storage.read_entry(s3_bucket, Entry("a", 0, "")) == b""
    with storage.open_entry(s3_bucket, storage.list_files(s3_bucket)[0]) as file:
        assert file.read() == b""
