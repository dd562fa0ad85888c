"""Local paths and `s3://` URIs: list, read, write whole.

S3 is configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles). Keys may hold any character: they
are never parsed as patterns or URLs. All of it goes through botocore; s3fs is there for `arrow_filesystem` alone, for
two libraries that want a file system: pyarrow, which reads single row groups of a plan, and Ray Train, which keeps its
own notes there. Both clients have the same configuration (`s3.CONFIGURATION`).
"""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from depers.errors import UserError, short_reason
from depers.observation.meter import reading, writing
from depers.resources import MIB
from depers.storage import failures, local, s3, s3_files
from depers.storage.paths import Entry as Entry
from depers.storage.paths import UnsafePathError as UnsafePathError
from depers.storage.paths import explain_no_target as explain_no_target
from depers.storage.paths import is_own_name as is_own_name
from depers.storage.paths import is_s3 as is_s3
from depers.storage.paths import join as join
from depers.storage.paths import locate, skip_own

_WHOLE_BYTES = 64 * 1024  # what is read at once: another request would take longer
_REMOVERS = 32  # threads that mostly wait for storage


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Return `uri` as pyarrow's file system and a path in it, for libraries that read a URI in their own way."""
    from pyarrow import fs

    if not is_s3(uri):
        return fs.LocalFileSystem(), uri
    return fs.PyFileSystem(fs.FSSpecHandler(s3.file_system())), uri[5:]


def check(uri: str, name: str) -> str:
    """Return `uri` without a trailing slash. Raise UserError, which calls it `name`, for a scheme other than a path or `s3://bucket`."""
    if "://" in uri and not is_s3(uri):
        raise UserError(f"{name} must be a path or an s3:// URI, but got {uri!r}")
    if not uri or uri.rstrip("/") == "s3:":
        raise UserError(f"{name} must name a folder, but got {uri!r}")
    return uri.rstrip("/") or "/"


def neighbor(uri: str, suffix: str) -> str | None:
    """Return a folder's name with `suffix`, beside it; None for one without neighbors: a root, or a whole bucket."""
    folder = uri.rstrip("/")
    parent, _, name = folder.rpartition("/")
    is_root = not name or (is_s3(uri) and parent == "s3:/")
    return None if is_root or name in (".", "..") else folder + suffix


def absolute(uri: str) -> str:
    """Return `uri` so that it means the same in every process, without a trailing slash: workers run elsewhere.

    Links and `..` stay as they are: the folder is named as the user names it, and `link/..` is not the link's folder.
    """
    return (uri.rstrip("/") or "/") if is_s3(uri) else str(Path(uri).absolute())


def overlap(first: str, second: str) -> bool:
    """Return whether one of two folders is the other or lies inside it (links resolved for local paths)."""
    if is_s3(first) != is_s3(second):
        return False
    if is_s3(first):
        a, b = first.rstrip("/") + "/", second.rstrip("/") + "/"
    else:
        a, b = (os.path.realpath(path).rstrip("/") + "/" for path in (first, second))
    return a.startswith(b) or b.startswith(a)


def real_place(uri: str) -> str:
    """Return where a folder is, absolute, links resolved for local paths."""
    return absolute(uri) if is_s3(uri) else os.path.realpath(uri)


def exists(uri: str) -> bool:
    """Return whether a file or folder is there. Raise UserError where S3 gives no answer."""
    with translated_errors(uri):
        return s3.size_of(uri) is not None or s3.has_keys(uri) if is_s3(uri) else Path(uri).exists()


def is_file(uri: str) -> bool:
    """Return whether a file (on S3: an object of this key, and none below it) is there.

    Raise UserError where S3 gives no answer.
    """
    with translated_errors(uri):
        return not s3.has_keys(uri) and s3.size_of(uri) is not None if is_s3(uri) else Path(uri).is_file()


def is_dir(uri: str) -> bool:
    """Return whether a folder (on S3: a key below the prefix) is there. Raise UserError where S3 gives no answer."""
    with translated_errors(uri):
        return s3.has_keys(uri) if is_s3(uri) else Path(uri).is_dir()


def iterate_files(root: str, follow_links: bool = False) -> Iterator[Entry]:
    """Yield the files below `root` as they come, for who needs only the first. Raise OSError as they are listed."""
    if is_s3(root):
        yield from (Entry(*fields) for fields in s3.list_keys(root))
    else:
        yield from local.list_files(root, follow_links)


def list_files(root: str, follow_links: bool = False, out: str | None = None) -> list[Entry]:
    """Return every file below `root`, by path. Raise UserError where `root` is missing, no folder or unreadable.

    With them what is no file to read, as `skipped`: devices, pipes, links to folders that are listed already, what
    depers was writing, and, unless `follow_links`, links that lead out of `root`. No link leads into the folder `out`.
    """
    with translated_errors(root):
        if is_s3(root):
            entries = [Entry(*fields) for fields in s3.list_keys(root)]
        else:
            entries = list(local.list_files(root, follow_links, None if out is None or is_s3(out) else out))
    if not entries and not is_dir(root):
        raise UserError(f"{root}: no such folder")
    return sorted(skip_own(entry) for entry in entries)


def list_sorted(root: str, follow_links: bool = False, out: str | None = None) -> Iterator[Entry]:
    """Yield what `list_files` returns; of S3 as it comes, which is in the order of the keys' bytes. Raise UserError."""
    if not is_s3(root):
        yield from list_files(root, follow_links, out)
        return
    is_empty = True
    with translated_errors(root):
        for fields in s3.list_keys(root):
            is_empty = False
            yield skip_own(Entry(*fields))
    if is_empty and not is_dir(root):
        raise UserError(f"{root}: no such folder")


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
        if is_s3(uri) and error.errno == errno.ENOENT:
            raise UserError(f"{uri}: no such bucket") from None
        raise UserError(f"{error.filename or uri}: not readable ({short_reason(error)})") from None


@contextmanager
def translated_write_errors(uri: str) -> Iterator[None]:
    """Turn an OSError of writing into a UserError about `uri`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{uri}: cannot be written ({short_reason(error)})") from None


@reading
def read_bytes(uri: str) -> bytes:
    """Return the whole content of a regular file or an object; raise OSError."""
    return s3.read(uri) if is_s3(uri) else local.read(uri)


@reading
def read_range(uri: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on; raise OSError."""
    return s3.read(uri, None, start, start + size) if is_s3(uri) else local.read_range(uri, start, size)


@reading
def read_entry(
    root: str, entry: Entry, head: int = 0, is_needed: Callable[[bytes], bool] = lambda head: True, hint: bool = False
) -> bytes:
    """Return the content of a listed file; its first `head` bytes alone where `is_needed` denies that the rest is.

    A small one is read at once, and with `hint`, which says that most likely the rest is needed, any. Raise OSError.
    What is no longer what was listed is an error: a unit's name stands for the content that it had.
    """
    uri = join(root, entry.path)

    def read_local() -> bytes:
        with local.open_listed(uri, entry.size, entry.etag) as file:
            if hint:
                return file.read()
            start = file.read(head)
            return start + file.read() if is_needed(start) else start

    if not is_s3(uri):
        return failures.persist(read_local)
    if hint or not head or entry.size <= _WHOLE_BYTES:
        return s3.read(uri, entry.etag)
    start = s3.read(uri, entry.etag, 0, head)
    return start + s3.read(uri, entry.etag, head, entry.size) if is_needed(start) else start


def open_entry(root: str, entry: Entry) -> BinaryIO:
    """Open a listed file for reading and seeking. Raise OSError, on reading UnavailableError where storage fails."""
    uri = join(root, entry.path)
    if is_s3(uri):
        return cast(BinaryIO, io.BufferedReader(s3_files.ObjectReader(uri, entry.size, entry.etag), MIB))
    return local.open_listed(uri, entry.size, entry.etag)


def open_reader(uri: str) -> BinaryIO:
    """Open a regular file or an object for reading and seeking. Raise OSError."""
    if not is_s3(uri):
        return local.open_regular(uri)
    if (size := s3.size_of(uri)) is None:
        raise FileNotFoundError(errno.ENOENT, "no such object", uri)
    return cast(BinaryIO, io.BufferedReader(s3_files.ObjectReader(uri, size, s3.read_etag(uri)), MIB))


@writing
def write_bytes(uri: str, data: bytes) -> None:
    """Write whole or not at all, also where the power fails: one upload, or a neighbor that is renamed into place.

    Make folders. `uri` is named by the program or its user; what data name is written by `write_below`.
    """
    if is_s3(uri):
        s3.write(uri, data)
    else:
        failures.persist(lambda: local.write(uri, data))


@writing
def write_below(root: str, path: str, data: bytes) -> str:
    """Write whole or not at all what data name: `root/path`. Raise OSError, UnsafePathError where that is no place.

    On a local disk it is sure to be there after the next `flush`, which a record of it must wait for. Return its stamp.
    """
    uri = locate(root, path)
    if is_s3(root):
        return s3.write(uri, data)
    failures.persist(lambda: local.write(uri, data, durable=False))
    return local.read_stamp(uri)


def read_stamp(root: str, path: str) -> str:
    """Return the stamp that `root/path` would be listed with. Raise OSError."""
    uri = locate(root, path)
    return s3.read_etag(uri) if is_s3(root) else local.read_stamp(uri)


def compute_digest(root: str, entry: Entry) -> str:
    """Return the SHA-256 of a listed file, whatever its size, in hexadecimal digits. Raise OSError."""
    digest = hashlib.sha256()
    with open_entry(root, entry) as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def open_writer_below(root: str, path: str) -> AbstractContextManager[BinaryIO]:
    """Open what data name to write from front to back, as `open_writer`. Raise OSError as `write_below`."""
    return open_writer(locate(root, path))


def delete_below(root: str, path: str) -> None:
    """Remove what `write_below` may have written; no error where that cannot be. Raise UnsafePathError for a link."""
    if not explain_no_target(root, path):
        delete(locate(root, path))


def flush(root: str) -> None:
    """Wait until all that was written below `root` is on its disk; S3 has what it has answered for."""
    if not is_s3(root):
        local.flush(root)


@contextmanager
def open_writer(uri: str) -> Iterator[BinaryIO]:
    """Open a file to write from front to back, whatever its size; it appears whole where the block ends well."""
    if not is_s3(uri):
        with local.open_writer(uri) as file:
            yield file
        return
    upload = s3_files.ObjectWriter(uri)
    try:
        yield cast(BinaryIO, upload)
        upload.commit()
    except BaseException:
        upload.abort()
        raise


def delete(uri: str) -> None:
    """Remove one file, or a link itself; no error where there is none of that name."""
    if is_s3(uri):
        s3.delete(uri)
    else:
        local.delete(uri)


def delete_files(root: str, paths: Sequence[str]) -> None:
    """Remove files below `root`, and the folders that are empty then. Raise UserError where one cannot be removed."""
    with translated_write_errors(root), ThreadPoolExecutor(_REMOVERS) as pool:
        list(pool.map(lambda path: delete_below(root, path), paths))
    folders = {path.rpartition("/")[0] for path in paths if not explain_no_target(root, path)} - {""}
    for folder in sorted(folders, reverse=True):
        remove_empty_folders(root, folder)


def remove_partials(root: str) -> None:
    """Remove what a killed process left half written below `root`."""
    if is_s3(root):
        s3.abort_uploads(root)
    else:
        local.remove_partials(root)


def remove_empty_folders(root: str, path: str) -> None:
    """Remove the folder `path` below `root`, and those above it below `root`, as far as they are empty."""
    if not is_s3(root):  # S3 has none
        local.remove_empty_folders(root, locate(root, path))
