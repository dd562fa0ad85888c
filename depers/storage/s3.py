"""S3 through botocore: list, read, write, with bounded retries of what passes, and errors that say what happened.

Keys may hold any character. Configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles).
"""

import errno
import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_plus

from depers.errors import REASON_LENGTH, UserError, one_line
from depers.resources import MIB
from depers.storage import failures, s3_requests
from depers.storage.failures import CLOCK, Answer, OutageError, UnavailableError, UnsupportedError

T = TypeVar("T")


_CONFIGURATION: dict[str, Any] = {
    # Tried again here alone (`with_retries`): retries within retries multiply. Adaptive: fewer requests at SlowDown.
    "retries": {"total_max_attempts": 1, "mode": "adaptive"},
    "max_pool_connections": 64,
    "connect_timeout": 10,
    "read_timeout": 60,
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
_LISTERS, _PAGES_AHEAD, _PAGE = 8, 8, 1000  # folders that are listed at a time, and what waits of each
_MOST_FOLDERS, _MOST_LEVELS = 256, 8  # of which each costs a request
_ATTEMPTS = 9  # of a request, in about twenty seconds


@lru_cache(maxsize=1)
def _client(process: int, endpoint: str | None) -> Any:
    """Return the client of this process (a client does not survive a fork); its threads share it."""
    import botocore.config
    import botocore.session

    config = botocore.config.Config(**_CONFIGURATION)
    s3_client = botocore.session.get_session().create_client("s3", config=config)
    s3_requests.register(s3_client)
    return s3_client


def client() -> Any:
    """Return the S3 client of this process."""
    return _client(os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of `s3://bucket/key`. Raise OSError for a key that S3 cannot have."""
    bucket, _, key = uri[5:].partition("/")
    failures.refuse_key(uri, key)
    return bucket, key


def _folder(uri: str) -> tuple[str, str]:
    """Return the bucket, and what the keys below the folder `uri` begin with: "" for the whole bucket."""
    bucket, key = split(uri)
    return bucket, f"{key.rstrip('/')}/" if key.strip("/") else ""


def with_retries(transfer: Callable[[], T], uri: str) -> T:
    """Return what `transfer` returns, tried again with growing pauses where errors may pass.

    What fails while storage answers other questions is given up after some attempts: UnavailableError. Where it
    answers none, it is waited for as long as `failures.CLOCK` has patience: OutageError. Raise OSError for the rest.
    """
    began = time.monotonic()
    for attempt in itertools.count(1):
        attempt_began = time.monotonic()
        try:
            result = transfer()
        except Exception as error:
            answer = _interpret(uri, error)
        else:
            CLOCK.note_answer()
            return result
        if answer.of_all:
            if _answers(uri):  # of this key only, such as where a server reads odd ones in another way
                raise PermissionError(errno.EACCES, answer.error.strerror, uri) from None
            if not CLOCK.has_answered or answer.error.errno == errno.ENOENT or CLOCK.is_used_up(began):
                raise answer.error from None
            _client.cache_clear()  # which reads the credentials again
        elif not answer.passes:
            CLOCK.note_answer()
            raise answer.error from None
        elif attempt >= _ATTEMPTS:
            if CLOCK.answered_since(attempt_began) or _answers(uri):
                words = f"{answer.error.strerror}, {attempt} times"
                raise UnavailableError(errno.EAGAIN, words, uri) from None
            if CLOCK.is_used_up(began):
                raise OutageError(errno.EAGAIN, f"{answer.error.strerror}, {attempt} times", uri) from None
        failures.pause(attempt)
    raise AssertionError


def _interpret(uri: str, error: Exception) -> Answer:
    """Return what an error of botocore means. Raise it again where it is none that storage is to blame for."""
    from botocore import exceptions
    from urllib3.exceptions import HTTPError

    if isinstance(error, exceptions.ClientError):
        details: dict[str, Any] = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return failures.interpret(uri, str(details.get("Code", "")), status, str(details.get("Message", "")))
    passing = (
        exceptions.ChecksumError, exceptions.ConnectionError, exceptions.FlexibleChecksumError,
        exceptions.HTTPClientError, exceptions.IncompleteReadError, HTTPError, ConnectionError, TimeoutError,
    )  # fmt: skip
    if isinstance(error, passing):  # also in the middle of a body
        words = f"connection lost ({type(error).__name__})"
        return Answer(UnavailableError(errno.EAGAIN, words, uri), passes=True)
    if isinstance(error, exceptions.ParamValidationError):
        return Answer(OSError(errno.EINVAL, one_line(error, REASON_LENGTH), uri))
    if isinstance(error, exceptions.BotoCoreError):  # no credentials, no region, …
        return Answer(OutageError(errno.EPERM, one_line(error, REASON_LENGTH), uri), of_all=True)
    raise error


def _answers(uri: str) -> bool:
    """Return whether the bucket of `uri` answers a question that has nothing to do with its key."""
    try:
        client().list_objects_v2(Bucket=uri[5:].partition("/")[0], MaxKeys=1)
    except Exception as error:
        answer = _interpret(uri, error)
        if answer.passes or answer.of_all:
            return False
    CLOCK.note_answer()
    return True


def list_keys(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield every key below the folder `uri`, relative to it, with its size in bytes and etag; raise OSError.

    Bytes of a key that are not UTF-8, which some servers hold, become surrogates, as in names of files. An object of
    no bytes whose key ends in `/` stands for a folder.
    """
    bucket, prefix = _folder(uri)
    page = _list_page(uri, bucket, prefix)
    all_parts = _find_parts(uri, bucket, prefix) if page.get("IsTruncated") else []
    if not all_parts:
        yield from _list_pages(uri, bucket, prefix, len(prefix), page)
        return
    with ThreadPoolExecutor(_LISTERS) as pool:
        turns = deque[queue.Queue[list[tuple[str, int, str]] | BaseException | None]]()
        has_ended = threading.Event()

        def begin(part: str | tuple[str, int, str]) -> None:
            turns.append(queue.Queue(_PAGES_AHEAD))
            if isinstance(part, str):
                pool.submit(_fill, turns[-1], has_ended, uri, bucket, part, len(prefix))
            else:
                turns[-1].put([part])
                turns[-1].put(None)

        parts = iter(all_parts)
        try:
            for part in itertools.islice(parts, _LISTERS):
                begin(part)
            while turns:
                while (rows := turns[0].get()) is not None:
                    if isinstance(rows, BaseException):
                        raise rows
                    yield from rows
                turns.popleft()
                for part in itertools.islice(parts, 1):
                    begin(part)
        finally:
            has_ended.set()


def _fill(
    turn: "queue.Queue[list[tuple[str, int, str]] | BaseException | None]",
    has_ended: threading.Event,
    uri: str,
    bucket: str,
    prefix: str,
    start: int,
) -> None:
    """Put what there is below a prefix into a queue, a part at a time, then None; or what goes wrong."""

    def put(item: list[tuple[str, int, str]] | BaseException | None) -> None:
        while not has_ended.is_set():
            with suppress(queue.Full):
                turn.put(item, timeout=0.1)
                return

    try:
        rows = _list_pages(uri, bucket, prefix, start, _list_page(uri, bucket, prefix))
        while part := list(itertools.islice(rows, _PAGE)):
            put(part)
            if has_ended.is_set():
                return
        put(None)
    except BaseException as error:
        put(error)


def _list_page(uri: str, bucket: str, prefix: str, **more: str) -> dict[str, Any]:
    arguments = {"Bucket": bucket, "Prefix": prefix, "EncodingType": "url"} | more
    page: dict[str, Any] = with_retries(lambda: client().list_objects_v2(**arguments), uri)
    return page


def _list_pages(uri: str, bucket: str, prefix: str, start: int, page: dict[str, Any]) -> Iterator[tuple[str, int, str]]:
    """Yield the keys below a prefix, without their first `start` characters, from its first page on."""
    while True:
        yield from _read_page(page, start)
        if not page.get("IsTruncated"):
            return
        page = _list_page(uri, bucket, prefix, ContinuationToken=page["NextContinuationToken"])


def _read_page(page: dict[str, Any], start: int) -> Iterator[tuple[str, int, str]]:
    for item in page.get("Contents", ()):
        key, size = unquote_plus(item["Key"], errors="surrogateescape"), int(item["Size"])
        if size or not key.endswith("/"):
            yield key[start:], size, _etag_of(item)


def _find_parts(uri: str, bucket: str, prefix: str) -> list[str | tuple[str, int, str]]:
    """Return what lies below a prefix, in order: folders, to be listed side by side, and single keys as they are.

    None where it does not part into a moderate number of folders, so that listing it page by page costs least.
    """
    start = len(prefix)
    for _ in range(_MOST_LEVELS):
        page = _list_page(uri, bucket, prefix, Delimiter="/")
        folders = [unquote_plus(each["Prefix"], errors="surrogateescape") for each in page.get("CommonPrefixes", ())]
        keys = list(_read_page(page, start))
        if page.get("IsTruncated") or len(folders) > _MOST_FOLDERS or not all(map(_is_utf8, folders)):
            return []
        if len(folders) > 1:
            parts: dict[str, str | tuple[str, int, str]] = {folder[start:]: folder for folder in folders}
            parts |= {row[0]: row for row in keys}
            order = sorted(parts, key=lambda path: path.encode("utf-8", "surrogateescape"))
            return [parts[path] for path in order]
        if not folders or keys:
            return []
        prefix = folders[0]
    return []


class _KeyVersion(NamedTuple):
    """What a key held once; of several at one moment the larger one counts."""

    key: bytes
    time: datetime
    is_newest: bool
    is_marker: bool
    """Of its removal."""
    place: int
    """From the end of what is listed with it: newer ones come first."""
    size: int
    etag: str
    id: str


def list_keys_as_of(uri: str, moment: datetime) -> Iterator[tuple[str, int, str]]:
    """Yield what `list_keys` would have yielded at a moment; raise OSError, UserError where no versions are kept."""
    bucket, prefix = _folder(uri)
    status = with_retries(lambda: client().get_bucket_versioning(Bucket=bucket), uri).get("Status", "off")
    if status != "Enabled":
        raise UserError(f"s3://{bucket}: versioning must be Enabled, to read what was there once, but is {status}")
    for _, versions in itertools.groupby(_list_versions(uri, bucket, prefix), lambda version: version.key):
        version = max((past for past in versions if past.time <= moment), default=None)
        if version is not None and not version.is_marker:
            key = version.key.decode("utf-8", "surrogateescape")
            if version.size or not key.endswith("/"):
                yield key[len(prefix) :], version.size, version.etag


def _list_versions(uri: str, bucket: str, prefix: str) -> Iterator[_KeyVersion]:
    """Yield all that keys with a prefix ever held, key by key."""
    marker: dict[str, str] = {}
    while True:
        arguments = {"Bucket": bucket, "Prefix": prefix, "EncodingType": "url"} | marker
        page = with_retries(lambda arguments=arguments: client().list_object_versions(**arguments), uri)  # type: ignore[misc]
        rows = []
        for name in ("Versions", "DeleteMarkers"):
            for place, item in enumerate(page.get(name, ())):
                rows.append(
                    _KeyVersion(
                        unquote_plus(item["Key"], errors="surrogateescape").encode("utf-8", "surrogateescape"),
                        item["LastModified"],
                        bool(item.get("IsLatest")),
                        name == "DeleteMarkers",
                        -place,
                        int(item.get("Size", 0)),
                        _etag_of(item),
                        str(item["VersionId"]),
                    )
                )
        yield from sorted(rows, key=lambda version: version.key)
        if not page.get("IsTruncated"):
            return
        key = unquote_plus(page["NextKeyMarker"], errors="surrogateescape")
        failures.refuse_key(uri, key)
        marker = {"KeyMarker": key, "VersionIdMarker": page["NextVersionIdMarker"]}


def _find_version(uri: str, etag: str) -> str | None:
    """Return which version of an object has the etag; None where there is none, or nobody may ask."""
    bucket, key = split(uri)
    try:
        for version in _list_versions(uri, bucket, key):
            if version.key != key.encode():
                return None
            if version.etag == etag and not version.is_marker:
                return version.id
    except OutageError:
        raise
    except OSError:
        return None
    return None


def _is_utf8(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:  # which no request can name
        return False


def has_md5_tag(uri: str) -> bool:
    """Return whether the tag of an object that was written at once is the MD5 of its content: not with a KMS key."""
    bucket, key = split(uri)
    answer = with_retries(lambda: client().head_object(Bucket=bucket, Key=key), uri)
    return str(answer.get("ServerSideEncryption", "AES256")) == "AES256" and "SSECustomerAlgorithm" not in answer


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
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return not prefix or bool(page.get("KeyCount"))


def read(uri: str, etag: str | None = None, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes from `start` to `stop`; raise OSError, also where no version of the object has this `etag`.

    The newest has it, unless it was replaced or removed since it was listed, or the listing is of an earlier time.
    A connection that breaks in the middle goes on where it broke.
    """
    if not etag:
        return _read(uri, {}, start, stop)
    try:
        return _read(uri, {"IfMatch": f'"{etag}"'}, start, stop)
    except (UnavailableError, FileNotFoundError) as error:
        is_other = error.errno in (errno.ESTALE, errno.ENOENT)
        if not is_other or (version := _find_version(uri, etag)) is None:
            raise
    return _read(uri, {"VersionId": version}, start, stop)


def _read(uri: str, condition: Mapping[str, str], start: int, stop: int | None) -> bytes:
    bucket, key = split(uri)
    content = bytearray()

    def transfer() -> bytes:
        arguments: dict[str, Any] = dict(condition)
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


def write(uri: str, data: bytes) -> str:
    """Upload at once, whole or not at all; return the etag, empty where the store tells none. Raise OSError."""
    bucket, key = split(uri)
    answer = with_retries(lambda: client().put_object(Bucket=bucket, Key=key, Body=data), uri)
    return _etag_of(answer)


def _etag_of(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def read_etag(uri: str) -> str:
    """Return the etag of an object; raise OSError."""
    bucket, key = split(uri)
    return _etag_of(with_retries(lambda: client().head_object(Bucket=bucket, Key=key), uri))


def delete(uri: str) -> None:
    """Remove an object; no error where it is absent."""
    bucket, key = split(uri)
    with_retries(lambda: client().delete_object(Bucket=bucket, Key=key), uri)


def remove_partials(uri: str) -> None:
    """End uploads in parts that a killed process left unfinished below the folder `uri`: they would cost for ever.

    Where that is not allowed, or the server does not know of it, they stay.
    """
    bucket, prefix = _folder(uri)
    marker: dict[str, str] = {}
    with suppress(PermissionError, UnsupportedError):  # a role may be allowed to write and not to do this
        while True:
            arguments = {"Bucket": bucket, "Prefix": prefix} | marker
            page = with_retries(lambda arguments=arguments: client().list_multipart_uploads(**arguments), uri)  # type: ignore[misc]
            for upload in page.get("Uploads", ()):
                target = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                with suppress(FileNotFoundError):  # somebody else was faster
                    with_retries(lambda target=target: client().abort_multipart_upload(**target), uri)  # type: ignore[misc]
            if not page.get("IsTruncated"):
                return
            marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
