"""Files that are written on a condition: made where there is none, replaced where it is the one last seen.

S3 decides itself (`If-None-Match`, `If-Match`). One that knows no conditions writes always: who depends on one reads
afterwards what is there. So it is in other stores, where a look comes before the write. On a local file system a lock
of the folder joins the two.
"""

import email.utils
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from depers.storage import is_remote, is_s3, local, other_stores, s3

_FAILED_CONDITION = (409, 412)
_NO_CONDITIONS = 501


class Version(NamedTuple):
    """What a file holds, a tag that changes with it, and how old it is by the clock of the storage."""

    data: bytes
    tag: str
    age_seconds: float


def read(uri: str) -> Version | None:
    """Return what is there; None where nothing is. Raise OSError."""
    try:
        if is_remote(uri):
            return _read_object(uri) if is_s3(uri) else Version(*other_stores.read_with_age(uri))
        return _read_file(Path(uri))
    except FileNotFoundError:
        return None


def create(uri: str, data: bytes) -> str | None:
    """Write a file where there is none, and return its tag; None where there is one. Raise OSError."""
    if is_s3(uri):
        return _put_object(uri, data, IfNoneMatch="*")
    if is_remote(uri):
        return other_stores.write(uri, data) if other_stores.size_of(uri) is None else None
    path = Path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return None
    return _tag(data)


def replace(uri: str, data: bytes, tag: str) -> str | None:
    """Write over the file with this tag, and return its new one; None where that is not there. Raise OSError."""
    if is_s3(uri):
        return _put_object(uri, data, IfMatch=tag)
    if is_remote(uri):
        with suppress(FileNotFoundError):
            if other_stores.read_etag(uri) == tag:
                return other_stores.write(uri, data)
        return None
    path = Path(uri)
    with suppress(FileNotFoundError), _locked_folder(path.parent):
        if _tag(path.read_bytes()) == tag:
            local.write(uri, data)
            return _tag(data)
    return None


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Keep other processes out of the block, where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_file(path: Path) -> Version:
    data, written = path.read_bytes(), path.stat().st_mtime
    clock = Path(local.make_partial(path))  # files of a server have the times of that
    try:
        clock.touch()
        now = clock.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)
    return Version(data, _tag(data), now - written)


def _read_object(uri: str) -> Version:
    bucket, key = s3.split(uri)

    def transfer() -> Version:
        answer = s3.client().get_object(Bucket=bucket, Key=key)
        written: datetime = answer["LastModified"]
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        now = email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()
        return Version(answer["Body"].read(), answer["ETag"], now - written.timestamp())

    return s3.with_retries(transfer, uri)


def _put_object(uri: str, data: bytes, **condition: Any) -> str | None:
    from botocore.exceptions import ClientError

    bucket, key = s3.split(uri)

    def transfer(condition: dict[str, Any] = condition) -> str | None:
        try:
            return str(s3.client().put_object(Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in _FAILED_CONDITION or (status == 404 and "IfMatch" in condition):
                return None
            if status == _NO_CONDITIONS and condition:
                return transfer({})
            raise

    return s3.with_retries(transfer, uri)
