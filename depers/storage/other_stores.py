"""Stores of objects besides S3, such as `gs://` and `az://`, through fsspec: whole objects, listed, read, written.

fsspec hides what differs between them, and with it what S3 promises: requests on a condition, checksums, and an answer
to a write that tells of that write alone. What is read is therefore held against the listing after it was read, what is
written against its size. Requests are tried again by the stores' own packages, as they see fit, and not once more here.
"""

import errno
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO, TypeVar, cast

from depers.errors import REASON_LENGTH, UserError, one_line
from depers.storage.failures import OutageError, UnavailableError
from depers.storage.paths import OTHER_STORES, PARTIAL, split_uri

T = TypeVar("T")

_TAGS = ("generation", "etag", "ETag")
_TIMES = ("updated", "last_modified", "LastModified", "mtime", "modified", "created")
"""What fsspec's file systems call what changes with an object, the surest first."""


def explain_missing(uri: str) -> str:
    """Return what has to be installed for the scheme of a URI; empty where it is there."""
    import fsspec

    scheme = split_uri(uri)[0]
    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError):
        package = OTHER_STORES[scheme]
        return f"{scheme}:// needs the package {package}: pip install {package}"
    return ""


@lru_cache(maxsize=16)
def _file_system(process: int, scheme: str, bucket: str) -> Any:
    """Return the file system of a bucket for this process: its connections do not survive a fork."""
    import fsspec

    uri = f"{scheme}://{bucket}"
    if problem := explain_missing(uri):
        raise UserError(f"{uri}: {problem}")
    logging.getLogger(OTHER_STORES[scheme]).setLevel(logging.CRITICAL)  # tracebacks of what it raises as well
    kind = fsspec.get_filesystem_class(scheme)
    settings = kind._get_kwargs_from_urls(uri)  # such as the account in abfss://container@account…
    return kind(**settings, skip_instance_cache=True, use_listings_cache=False)


def _locate(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI and what it calls the object. Raise OSError for a name that it would change."""
    scheme, bucket, key = split_uri(uri)
    with _translated(uri):
        files = _file_system(os.getpid(), scheme, bucket)
        path, root = (str(files._strip_protocol(place)) for place in (uri, f"{scheme}://{bucket}"))
        is_same = not key or path == files._strip_protocol(path) == f"{root}/{key.rstrip('/')}"
    if not is_same:
        raise OSError(errno.EINVAL, f"its name would be another one in a store of {scheme}://", uri)
    return files, path


@contextmanager
def _translated(uri: str, files: Any = None) -> Iterator[None]:
    """Turn what a store's package raises into an OSError that says whose it is: each has errors of its own."""
    try:
        yield
    except (UserError, UnavailableError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object", uri) from None
    except PermissionError as error:
        raise PermissionError(errno.EACCES, f"access denied ({one_line(error, REASON_LENGTH)})", uri) from None
    except Exception as error:
        words = f"{type(error).__name__}: {one_line(error, REASON_LENGTH)}"
        kind = UnavailableError if files is not None and _answers(files, uri) else OutageError
        raise kind(errno.EAGAIN, words, uri) from None


def _answers(files: Any, uri: str) -> bool:
    """Return whether the store answers a question that has nothing to do with this object."""
    scheme, bucket, _ = split_uri(uri)
    try:
        files.info(files._strip_protocol(f"{scheme}://{bucket}"))
    except (FileNotFoundError, PermissionError):
        return True
    except Exception:
        return False
    return True


def _ask(uri: str, question: Callable[[Any, str], T]) -> T:
    files, path = _locate(uri)
    with _translated(uri, files):
        return question(files, path)


def _tag(uri: str, info: Mapping[str, Any]) -> str:
    """Return what changes with an object. Raise UserError where a store has nothing: a resumed run relies on it."""
    for name in _TAGS:
        if value := info.get(name):
            return str(value).strip('"')
    time = _find_time(info)
    if time is None:
        problem = "must say when its objects change, by a generation, an ETag or a time, but does not"
        raise UserError(f"{uri}: the store {problem}")
    return f"{time.timestamp():.6f}"


def _find_time(info: Mapping[str, Any]) -> datetime | None:
    """Return when an object was written, by the clock of the store; None where it does not say."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, str):
            with suppress(ValueError):
                value = datetime.fromisoformat(value)
        if isinstance(value, (int, float)) and value:
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def list_keys(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield every key below the folder `uri`, relative to it, with its size in bytes and tag; raise OSError."""

    def find(files: Any, path: str) -> Mapping[str, Mapping[str, Any]]:
        try:
            rows = files.find(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return rows if isinstance(rows, Mapping) else {}  # of one file some give its name

    _, root = _locate(uri)
    rows = _ask(uri, find)
    folders = {name.rpartition("/")[0] for name in rows}
    for name, info in rows.items():
        if info.get("type", "file") != "file" or name.rstrip("/") == root:
            continue
        if not name.startswith(f"{root}/"):
            raise OSError(errno.EIO, f"its store lists {name!r}, which does not lie in it", uri)
        size, key = int(info.get("size") or 0), name[len(root) + 1 :]
        is_suspect = name in folders or "." not in name.rpartition("/")[2]
        if size or not (name.endswith("/") or (is_suspect and _is_marker(f"{uri.rstrip('/')}/{key}"))):
            yield key, size, _tag(uri, info)


def _is_marker(uri: str) -> bool:
    """Return whether an empty key that was listed is no object: adlfs lists what marks a folder without its slash."""
    try:
        return size_of(uri) is None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a name that stays what it is, and fails where it is read
            return False
        raise


def _describe(uri: str) -> Mapping[str, Any]:
    """Return what the store says of an object; raise FileNotFoundError where there is none."""
    info = _ask(uri, lambda files, path: cast(Mapping[str, Any], files.info(path)))
    if info.get("type", "file") != "file":
        raise FileNotFoundError(errno.ENOENT, "no such object", uri)
    return info


def size_of(uri: str) -> int | None:
    """Return the size of an object in bytes; None where there is none."""
    try:
        return int(_describe(uri).get("size") or 0) if split_uri(uri)[2] else None
    except FileNotFoundError:
        return None


def has_keys(uri: str) -> bool:
    """Return whether there is a key below the folder `uri`, or a bucket of this name."""
    try:
        info = _ask(uri, lambda files, path: cast(Mapping[str, Any], files.info(path)))
    except FileNotFoundError:
        return False
    return info.get("type") == "directory" or any(True for _ in list_keys(uri))


def has_md5_tag(uri: str) -> bool:
    """Return no: nobody says of what the tag is made."""
    return False


def read(uri: str, etag: str | None = None, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes from `start` to `stop`; raise OSError, also where the object is not the one with `etag`."""
    if stop is not None and stop <= start:
        return b""
    bounds = {name: value for name, value in (("start", start or None), ("end", stop)) if value is not None}
    try:
        data = bytes(_ask(uri, lambda files, path: files.cat_file(path, **bounds)))
    except UnavailableError:
        if not bounds or (size_of(uri) or 0) > start:
            raise
        data = b""  # some stores refuse a range that begins at the end, which every one of an empty object does
    if etag is not None and read_etag(uri) != etag:
        raise UnavailableError(errno.ESTALE, "changed since it was listed", uri)
    return data


def read_with_age(uri: str) -> tuple[bytes, str, float]:
    """Return an object, its tag, and how many seconds ago it was written by the store's clock; raise OSError.

    0 where the store does not say when that was. For its clock, an object beside it is written and removed.
    """
    info = _describe(uri)
    data, write_time = read(uri), _find_time(info)
    if write_time is None:
        return data, _tag(uri, info), 0.0
    clock = f"{uri.rpartition('/')[0]}/.depers-{os.urandom(16).hex()}.partial"
    try:
        write(clock, b"")
        now = _find_time(_describe(clock))
    finally:
        delete(clock)
    return data, _tag(uri, info), (now - write_time).total_seconds() if now else 0.0


def write(uri: str, data: bytes) -> str:
    """Write an object, whole or not at all; return its tag. Raise OSError."""
    _ask(uri, lambda files, path: files.pipe_file(path, data))
    return _check_written(uri, len(data))


def _check_written(uri: str, size: int) -> str:
    info = _describe(uri)
    if info.get("size") != size:
        words = f"must have {size} bytes as it was written, but has {info.get('size')}"
        raise UnavailableError(errno.EIO, words, uri)
    return _tag(uri, info)


@contextmanager
def open_writer(uri: str) -> Iterator[BinaryIO]:
    """Open a file on this machine's disk to write, which is uploaded at once where the block ends well."""
    with tempfile.NamedTemporaryFile(prefix="depers-") as file:
        yield cast(BinaryIO, file)
        file.flush()
        _ask(uri, lambda files, path: files.put_file(file.name, path))
        _check_written(uri, os.path.getsize(file.name))  # noqa: PTH202


def read_etag(uri: str) -> str:
    """Return the tag of an object; raise OSError."""
    return _tag(uri, _describe(uri))


def delete(uri: str) -> None:
    """Remove an object; no error where it is absent."""
    with suppress(FileNotFoundError):
        _ask(uri, lambda files, path: files.rm_file(path))


def remove_partials(uri: str) -> None:
    """Remove what a killed process left below a folder of what tells it the time of the store."""
    for path, _, _ in list_keys(uri):
        if PARTIAL.fullmatch(path.rpartition("/")[2]):
            delete(f"{uri.rstrip('/')}/{path}")
