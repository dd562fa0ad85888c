"""S3 through botocore: list, read, write, with bounded retries of what passes, and errors that say what happened.

Keys may hold any character. Configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles).
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeVar

from depers.errors import one_line

T = TypeVar("T")

MIB = 2**20
_ATTEMPTS = 6  # of a whole transfer, each of which botocore tries several times by itself
_LONGEST_PAUSE = 8.0  # seconds


class UnavailableError(OSError):
    """Storage gave up in the middle of reading: what is read is not to blame."""


@lru_cache(maxsize=1)
def _client(process: int, endpoint: str | None) -> Any:
    """The client of this process (a client does not survive a fork); its threads share it."""
    import botocore.config
    import botocore.session

    retries = {"total_max_attempts": 5, "mode": "standard"}  # backs off from 503 SlowDown, 500 and lost connections
    config = botocore.config.Config(
        retries=retries,
        max_pool_connections=64,
        connect_timeout=10,
        read_timeout=60,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return botocore.session.get_session().create_client("s3", config=config)


def client() -> Any:
    """The S3 client of this process."""
    return _client(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`."""
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


def _folder(uri: str) -> tuple[str, str]:
    """Bucket, and what the keys below the folder `uri` begin with: "" for the whole bucket."""
    bucket, key = split(uri)
    return bucket, f"{key.rstrip('/')}/" if key.strip("/") else ""


def persistent(transfer: Callable[[], T], uri: str) -> T:
    """What `transfer` gives, tried again with growing pauses where it may pass. Raises OSError, FileNotFoundError, …"""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from urllib3.exceptions import HTTPError

    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return transfer()
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if status < 500 and code not in ("SlowDown", "RequestTimeout", "Throttling"):
                raise _as_os_error(uri, code, status, error) from None
            problem: Exception = _as_os_error(uri, code, status, error)
        except (
            HTTPClientError,
            IncompleteReadError,
            HTTPError,
            ConnectionError,
            TimeoutError,
        ) as error:  # also in the middle of a body
            problem = OSError(f"connection lost ({type(error).__name__})")
        except BotoCoreError as error:  # no credentials, no region, …
            raise OSError(one_line(error)) from None
        if attempt < _ATTEMPTS:
            time.sleep(min(_LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1))
    raise OSError(f"{problem}, {_ATTEMPTS} times")


def _as_os_error(uri: str, code: str, status: int, error: Exception) -> OSError:
    if code in ("NoSuchKey", "NoSuchBucket", "404", "NotFound"):
        return FileNotFoundError(2, "no such object", uri)
    if code in ("AccessDenied", "403", "Forbidden") or status == 403:
        return PermissionError(13, "access denied", uri)
    if code in ("PreconditionFailed", "412"):
        return OSError("changed since it was listed")
    return OSError(f"S3 answers {code or status}")


def list_keys(uri: str) -> Iterator[tuple[str, int, str]]:
    """Every key below the folder `uri`, relative to it, with its size in bytes and etag; raises OSError."""
    bucket, prefix = _folder(uri)
    token: dict[str, str] = {}
    while True:
        arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix} | token
        page = persistent(lambda arguments=arguments: client().list_objects_v2(**arguments), uri)  # type: ignore[misc]
        for one in page.get("Contents", ()):
            if not one["Key"].endswith("/"):
                yield one["Key"][len(prefix) :], int(one["Size"]), one.get("ETag", "").strip('"')
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def size_of(uri: str) -> int | None:
    """The size of an object in bytes; None where there is none."""
    bucket, key = split(uri)
    if not key:
        return None
    try:
        return int(persistent(lambda: client().head_object(Bucket=bucket, Key=key), uri)["ContentLength"])
    except FileNotFoundError:
        return None


def holds(uri: str) -> bool:
    """Whether there is a key below the folder `uri`, or an empty bucket of this name."""
    bucket, prefix = _folder(uri)
    try:
        page = persistent(lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1), uri)
    except FileNotFoundError:
        return False
    return not prefix or bool(page.get("KeyCount"))


def read(uri: str, etag: str | None = None, start: int = 0, stop: int | None = None) -> bytes:
    """The bytes from `start` to `stop`; raises OSError, also where the object is not the one with `etag`.

    A connection that breaks in the middle goes on where it broke.
    """
    bucket, key = split(uri)
    got = bytearray()

    def transfer() -> bytes:
        arguments: dict[str, Any] = {"IfMatch": f'"{etag}"'} if etag else {}
        first = start + len(got)
        if first or stop is not None:
            arguments["Range"] = f"bytes={first}-{'' if stop is None else stop - 1}"
        body = client().get_object(Bucket=bucket, Key=key, **arguments)["Body"]
        if not first and stop is None:
            return bytes(body.read())  # botocore checks the length
        for chunk in body.iter_chunks(MIB):
            got.extend(chunk)
        return bytes(got)

    return persistent(transfer, uri) if stop is None or stop > start else b""


def write(uri: str, data: bytes) -> None:
    """One upload, whole or not at all; raises OSError."""
    bucket, key = split(uri)
    persistent(lambda: client().put_object(Bucket=bucket, Key=key, Body=data), uri)


def delete(uri: str) -> None:
    """Removes an object; no error where it is absent."""
    bucket, key = split(uri)
    persistent(lambda: client().delete_object(Bucket=bucket, Key=key), uri)


def abort_uploads(uri: str) -> None:
    """Ends uploads in parts that a killed process left unfinished below the folder `uri`: they would cost for ever."""
    bucket, prefix = _folder(uri)
    found = persistent(lambda: client().list_multipart_uploads(Bucket=bucket, Prefix=prefix), uri).get("Uploads", ())
    for one in found:
        where = {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
        persistent(lambda where=where: client().abort_multipart_upload(**where), uri)  # type: ignore[misc]
