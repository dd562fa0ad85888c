"""Local paths and `s3://` URIs: list, read, write whole.

S3 is configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles). Keys may hold any character: they
are never parsed as patterns or URLs.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from depers.errors import UserError
from depers.storage import local, s3, s3_files


class Entry(NamedTuple):
    """One file below a root: its path relative to it with `/`, size in bytes, and a tag that changes with it."""

    path: str
    size: int
    etag: str


def is_s3(uri: str) -> bool:
    """Whether `uri` names something on S3."""
    return uri.startswith("s3://")


@lru_cache(maxsize=1)
def _s3fs(process: int) -> Any:
    """S3 as a file system, of this process (a client does not survive a fork); paths are `bucket/key`."""
    import s3fs

    retries = {"max_attempts": 8, "mode": "standard"}
    return s3fs.S3FileSystem(
        config_kwargs={"retries": retries, "max_pool_connections": 32},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """`uri` as pyarrow's file system and a path in it; for libraries that would read a URI in their own way."""
    from pyarrow import fs

    return (
        (fs.PyFileSystem(fs.FSSpecHandler(_s3fs(os.getpid()))), uri[5:]) if is_s3(uri) else (fs.LocalFileSystem(), uri)
    )


def check(uri: str, what: str) -> str:
    """`uri` without a trailing slash; raises UserError for a scheme other than a path or `s3://bucket`."""
    if "://" in uri and not is_s3(uri):
        raise UserError(f"{what} must be a path or an s3:// URI, but got {uri!r}")
    if not uri or uri.rstrip("/") == "s3:":
        raise UserError(f"{what} must name a folder, but got {uri!r}")
    return uri.rstrip("/") or "/"


def join(root: str, *parts: str) -> str:
    """`root/part/…`; the parts are relative and use `/`."""
    return "/".join([root.rstrip("/"), *parts])


def absolute(uri: str) -> str:
    """Return `uri` so that it means the same in every process, without a trailing slash: workers run elsewhere.

    Links and `..` stay as they are: the folder is named as the user names it, and `link/..` is not the link's folder.
    """
    return (uri.rstrip("/") or "/") if is_s3(uri) else str(Path(uri).absolute())


def overlap(first: str, second: str) -> bool:
    """Whether one of two folders is the other or lies inside it (links resolved for local paths)."""
    if is_s3(first) != is_s3(second):
        return False
    if is_s3(first):
        a, b = first.rstrip("/") + "/", second.rstrip("/") + "/"
    else:
        a, b = (os.path.realpath(path).rstrip("/") + "/" for path in (first, second))
    return a.startswith(b) or b.startswith(a)


def exists(uri: str) -> bool:
    """Whether a file or folder is there. Raises UserError where S3 gives no answer."""
    with translated_errors(uri):
        return s3.size_of(uri) is not None or s3.holds(uri) if is_s3(uri) else Path(uri).exists()


def is_dir(uri: str) -> bool:
    """Whether a folder (on S3: a key below the prefix) is there. Raises UserError where S3 gives no answer."""
    with translated_errors(uri):
        return s3.holds(uri) if is_s3(uri) else Path(uri).is_dir()


def list_files(root: str) -> list[Entry]:
    """Every file below `root`, sorted by path. Raises UserError where `root` is missing, no folder or unreadable."""
    with translated_errors(root):
        entries = [Entry(*one) for one in (s3.list_keys(root) if is_s3(root) else local.list_files(root))]
    if not entries and not is_dir(root):
        raise UserError(f"{root}: no such folder")
    return sorted(entries)


@contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Turn an OSError of reading `uri` into a UserError: no such thing, no credentials, no network."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{uri}: no such folder") from None
    except NotADirectoryError:
        raise UserError(f"{uri}: must be a folder, but is a file") from None
    except OSError as error:
        raise UserError(f"{error.filename or uri}: not readable ({error.strerror or error})") from None


@contextmanager
def translated_write_errors(uri: str) -> Iterator[None]:
    """Turn an OSError of writing into a UserError about `uri`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{uri}: cannot be written ({error.strerror or error})") from None


def read_bytes(uri: str) -> bytes:
    """The whole content; raises OSError."""
    return s3.read(uri) if is_s3(uri) else Path(uri).read_bytes()


def read_range(uri: str, start: int, size: int) -> bytes:
    """`size` bytes from `start` on; raises OSError."""
    return s3.read(uri, None, start, start + size) if is_s3(uri) else local.read_range(uri, start, size)


def read_entry(root: str, entry: Entry, most: int) -> bytes:
    """The content of a listed file, of a larger one than `most` bytes only the first 4096; raises OSError.

    What is no longer what was listed is an error: a unit's name stands for the content that it had.
    """
    uri, stop = join(root, entry.path), None if entry.size <= most else 4096
    if is_s3(uri):
        return s3.read(uri, entry.etag, 0, stop)
    with local.open_listed(uri, entry.size, entry.etag) as file:
        return file.read() if stop is None else file.read(stop)


def open_entry(root: str, entry: Entry) -> BinaryIO:
    """A listed file, open for reading and seeking; raises OSError, on reading UnavailableError where storage fails."""
    uri = join(root, entry.path)
    if is_s3(uri):
        return cast(BinaryIO, io.BufferedReader(s3_files.Reader(uri, entry.size, entry.etag), s3.MIB))
    return local.open_listed(uri, entry.size, entry.etag)


def write_bytes(uri: str, data: bytes) -> None:
    """Writes whole or not at all: one upload, or a neighbor that is renamed into place. Makes folders."""
    if is_s3(uri):
        s3.write(uri, data)
    else:
        local.write(uri, data)


@contextmanager
def writing(uri: str) -> Iterator[BinaryIO]:
    """A file to write from front to back, whatever its size, that appears whole where the block ends well."""
    if not is_s3(uri):
        with local.writing(uri) as file:
            yield file
        return
    upload = s3_files.Writer(uri)
    try:
        yield cast(BinaryIO, upload)
        upload.commit()
    except BaseException:
        upload.abort()
        raise


def delete(uri: str) -> None:
    """Removes one file; no error where it is absent."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        Path(uri).unlink(missing_ok=True)


def remove_partials(root: str) -> None:
    """Removes what a killed process left half written below `root`."""
    if is_s3(root):
        s3.abort_uploads(root)
    else:
        local.remove_partials(root)


def remove_empty_folders(root: str, path: str) -> None:
    """Removes the folder `path` below `root`, and those above it below `root`, as far as they are empty."""
    if not is_s3(root):  # S3 has none
        local.remove_empty_folders(root, path)
