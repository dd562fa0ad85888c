"""S3 through botocore: list, read, write, with bounded retries of what passes, and errors that say what happened.

Keys may hold any character. Configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles).
"""

import io
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")


class UnavailableError(OSError):
    """Storage gave up in the middle of reading: what is read is not to blame."""


MIB = 2**20
_ATTEMPTS = 6  # of a whole transfer, each of which botocore tries several times by itself
_LONGEST_PAUSE = 8.0  # seconds
_BLOCK = 8 * MIB  # what a reader fetches at once
_AHEAD = 3  # blocks fetched before they are asked for: latency is waited for once, not once a block
_PART = 16 * MIB  # of an upload in several parts; S3 allows 10 000 of them, so they grow
_PARTS_PER_SIZE = 1000


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
            raise OSError(" ".join(str(error).split())) from None
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
    bucket, key = split(uri)
    prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
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
    bucket, key = split(uri)
    prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
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


class Reader(io.RawIOBase):
    """An object as a seekable file, its blocks fetched ahead of reading. Raises UnavailableError."""

    def __init__(self, uri: str, size: int, etag: str | None) -> None:
        super().__init__()
        self.uri, self.size, self.etag = uri, size, etag
        self._position = 0
        self._pool = ThreadPoolExecutor(_AHEAD + 1)
        self._blocks: dict[int, Future[bytes]] = {}
        self._last = -1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        if not 0 <= self._position < self.size:
            return 0
        number, offset = divmod(self._position, _BLOCK)
        goes_on = number in (self._last, self._last + 1)  # fetching ahead pays only where reading goes on
        wanted = range(number, min(number + 1 + _AHEAD * goes_on, -(-self.size // _BLOCK)))
        self._blocks = {key: self._blocks.get(key) or self._pool.submit(self._fetch, key) for key in wanted}
        self._last = number
        try:
            block = self._blocks[number].result()
        except OSError as error:
            raise UnavailableError(str(error)) from None
        part = block[offset : offset + len(buffer)]
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _fetch(self, number: int) -> bytes:
        return read(self.uri, self.etag, number * _BLOCK, min((number + 1) * _BLOCK, self.size))

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


class Writer(io.RawIOBase):
    """An object written from front to back in several parts, there as a whole once `commit` returns; not seekable."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        self._bucket, self._key = split(uri)
        self._buffer = bytearray()
        self._size = 0
        self._upload: str | None = None
        self._pool = ThreadPoolExecutor(2)
        self._parts: list[Future[dict[str, Any]]] = []
        self._pending: deque[Future[dict[str, Any]]] = deque()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        self._buffer += data
        self._size += len(data)
        while len(self._buffer) >= self._part_size():
            size = self._part_size()
            self._send(bytes(self._buffer[:size]))
            del self._buffer[:size]
        return len(data)

    def _part_size(self) -> int:
        return _PART << (len(self._parts) // _PARTS_PER_SIZE)

    def _send(self, data: bytes) -> None:
        if self._upload is None:
            where = {"Bucket": self._bucket, "Key": self._key}
            self._upload = persistent(lambda: client().create_multipart_upload(**where), self.uri)["UploadId"]
        part = self._pool.submit(self._put, len(self._parts) + 1, data)
        self._parts.append(part)
        self._pending.append(part)
        if len(self._pending) > 2:  # a slow network holds the writer back, not memory
            self._pending.popleft().result()

    def _put(self, number: int, data: bytes) -> dict[str, Any]:
        where = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload, "PartNumber": number}
        answer = persistent(lambda: client().upload_part(**where, Body=data), self.uri)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def commit(self) -> None:
        """Makes the object appear; raises OSError."""
        if self._upload is None:
            write(self.uri, bytes(self._buffer))
        else:
            if self._buffer:
                self._send(bytes(self._buffer))
            where = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload}
            parts = {"Parts": [part.result() for part in self._parts]}
            try:
                persistent(lambda: client().complete_multipart_upload(**where, MultipartUpload=parts), self.uri)
            except OSError:
                if size_of(self.uri) != self._size:  # an answer that got lost: it was done the first time
                    raise
        self._pool.shutdown()

    def abort(self) -> None:
        """Leaves nothing behind."""
        self._pool.shutdown(cancel_futures=True)
        if self._upload is not None:
            where = {"Bucket": self._bucket, "Key": self._key, "UploadId": self._upload}
            persistent(lambda: client().abort_multipart_upload(**where), self.uri)


def abort_uploads(uri: str) -> None:
    """Ends uploads in parts that a killed process left unfinished below the folder `uri`: they would cost for ever."""
    bucket, key = split(uri)
    prefix = f"{key.rstrip('/')}/" if key.strip("/") else ""
    found = persistent(lambda: client().list_multipart_uploads(Bucket=bucket, Prefix=prefix), uri).get("Uploads", ())
    for one in found:
        where = {"Bucket": bucket, "Key": one["Key"], "UploadId": one["UploadId"]}
        persistent(lambda where=where: client().abort_multipart_upload(**where), uri)  # type: ignore[misc]
