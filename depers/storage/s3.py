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
from depers.resources import MIB

T = TypeVar("T")


CONFIGURATION: dict[str, Any] = {
    "retries": {"total_max_attempts": 5, "mode": "standard"},  # backs off from 503 SlowDown, 500, lost connections
    "max_pool_connections": 64,
    "connect_timeout": 10,
    "read_timeout": 60,
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
"""Of every client of S3."""
_ATTEMPTS = 6  # of a whole transfer, each of which botocore tries several times by itself
_LONGEST_PAUSE = 8.0  # seconds


class UnavailableError(OSError):
    """Storage gave up in the middle of reading: what is read is not to blame."""


@lru_cache(maxsize=1)
def _client(process: int, endpoint: str | None) -> Any:
    """Return the client of this process (a client does not survive a fork); its threads share it."""
    import botocore.config
    import botocore.session

    config = botocore.config.Config(**CONFIGURATION)
    return botocore.session.get_session().create_client("s3", config=config)


def client() -> Any:
    """Return the S3 client of this process."""
    return _client(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


@lru_cache(maxsize=1)
def _file_system(process: int, endpoint: str | None) -> Any:
    import s3fs

    return s3fs.S3FileSystem(config_kwargs=CONFIGURATION, skip_instance_cache=True, use_listings_cache=False)


def file_system() -> Any:
    """Return S3 as a file system of this process; paths are `bucket/key`."""
    return _file_system(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`."""
    bucket, _, key = uri[5:].partition("/")
    return bucket, key


def _folder(uri: str) -> tuple[str, str]:
    """Return the bucket, and what the keys below the folder `uri` begin with: "" for the whole bucket."""
    bucket, key = split(uri)
    return bucket, f"{key.rstrip('/')}/" if key.strip("/") else ""


def with_retries(transfer: Callable[[], T], uri: str) -> T:
    """Return what `transfer` returns, tried again with growing pauses where errors may pass. Raise OSError."""
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
    """Yield every key below the folder `uri`, relative to it, with its size in bytes and etag; raise OSError."""
    bucket, prefix = _folder(uri)
    token: dict[str, str] = {}
    while True:
        arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix} | token
        page = with_retries(lambda arguments=arguments: client().list_objects_v2(**arguments), uri)  # type: ignore[misc]
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield item["Key"][len(prefix) :], int(item["Size"]), item.get("ETag", "").strip('"')
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


def size_of(uri: str) -> int | None:
    """Return the size of an object in bytes; None where there is none."""
    bucket, key = split(uri)
    if not key:
        return None
    try:
        return int(with_retries(lambda: client().head_object(Bucket=bucket, Key=key), uri)["ContentLength"])
    except FileNotFoundError:
        return None


def has_keys(uri: str) -> bool:
    """Return whether there is a key below the folder `uri`, or an empty bucket of this name."""
    bucket, prefix = _folder(uri)
    try:
        page = with_retries(lambda: client().list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1), uri)
    except FileNotFoundError:
        return False
    return not prefix or bool(page.get("KeyCount"))


def read(uri: str, etag: str | None = None, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes from `start` to `stop`; raise OSError, also where the object is not the one with `etag`.

    A connection that breaks in the middle goes on where it broke.
    """
    bucket, key = split(uri)
    content = bytearray()

    def transfer() -> bytes:
        arguments: dict[str, Any] = {"IfMatch": f'"{etag}"'} if etag else {}
        first = start + len(content)
        if first or stop is not None:
            arguments["Range"] = f"bytes={first}-{'' if stop is None else stop - 1}"
        body = client().get_object(Bucket=bucket, Key=key, **arguments)["Body"]
        if not first and stop is None:
            return bytes(body.read())  # botocore checks the length
        for chunk in body.iter_chunks(MIB):
            content.extend(chunk)
        return bytes(content)

    return with_retries(transfer, uri) if stop is None or stop > start else b""


def write(uri: str, data: bytes) -> None:
    """Upload at once, whole or not at all; raise OSError."""
    bucket, key = split(uri)
    with_retries(lambda: client().put_object(Bucket=bucket, Key=key, Body=data), uri)


def delete(uri: str) -> None:
    """Remove an object; no error where it is absent."""
    bucket, key = split(uri)
    with_retries(lambda: client().delete_object(Bucket=bucket, Key=key), uri)


def abort_uploads(uri: str) -> None:
    """End uploads in parts that a killed process left unfinished below the folder `uri`: they would cost for ever."""
    bucket, prefix = _folder(uri)
    uploads = with_retries(lambda: client().list_multipart_uploads(Bucket=bucket, Prefix=prefix), uri).get(
        "Uploads", ()
    )
    for upload in uploads:
        target = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        with_retries(lambda target=target: client().abort_multipart_upload(**target), uri)  # type: ignore[misc]
