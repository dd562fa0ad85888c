"""Local paths, `s3://` URIs and those of other stores of objects: list, read, write whole.

S3 is configured as AWS users know it (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, roles). Keys may hold any character: they
are never parsed as patterns or URLs. All of it goes through one client of botocore, what Ray Train notes there, too.
`gs://`, `az://` and others go through fsspec (`other_stores`), which promises less: docs/operations.md.
"""

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from depers.errors import UserError, short_reason
from depers.observation.meter import reading, writing
from depers.resources import MIB
from depers.storage import failures, local, other_stores, remote, s3, s3_files
from depers.storage.paths import OTHER_STORES, explain_resolved, locate, name_place, skip_own
from depers.storage.paths import Entry as Entry
from depers.storage.paths import UnsafePathError as UnsafePathError
from depers.storage.paths import explain_no_target as explain_no_target
from depers.storage.paths import is_own_name as is_own_name
from depers.storage.paths import is_remote as is_remote
from depers.storage.paths import is_s3 as is_s3
from depers.storage.paths import join as join
from depers.storage.paths import split_uri as split_uri

_WHOLE_BYTES = 64 * 1024  # what is read at once: another request would take longer
_REMOVERS = 32  # threads that mostly wait for storage


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """Return `uri` as pyarrow's file system and a path in it, for libraries that read a URI in their own way."""
    from pyarrow import fs

    from depers.storage.arrow_files import RemoteFiles

    if not is_remote(uri):
        return fs.LocalFileSystem(), uri
    scheme = f"{split_uri(uri)[0]}://"
    return fs.PyFileSystem(RemoteFiles(scheme)), uri.removeprefix(scheme)


def check(uri: str, name: str) -> str:
    """Return `uri` without a trailing slash. Raise UserError, which calls it `name`, for what can be no place.

    That is another scheme than those that are read and written, one whose package is missing, and a folder in a store
    besides S3 that this could take for another.
    """
    if "://" in uri and not is_remote(uri):
        schemes = ", ".join(OTHER_STORES)
        raise UserError(f"{name} must be a path or an s3:// URI, but got {uri!r} (other schemes that do: {schemes})")
    if not uri or (is_remote(uri) and not split_uri(uri)[1]):
        raise UserError(f"{name} must name a folder, but got {uri!r}")
    if is_remote(uri) and not is_s3(uri):
        key = split_uri(uri.rstrip("/"))[2]
        if problem := other_stores.explain_missing(uri) or (explain_resolved(key) if key else ""):
            raise UserError(f"{name} {uri}: {problem}")
    return uri.rstrip("/") or "/"


def neighbor(uri: str, suffix: str) -> str | None:
    """Return a folder's name with `suffix`, beside it; None for one without neighbors: a root, or a whole bucket."""
    folder = uri.rstrip("/")
    parent, _, name = folder.rpartition("/")
    is_root = not name or (is_remote(uri) and parent.endswith(":/"))
    return None if is_root or name in (".", "..") else folder + suffix


def absolute(uri: str) -> str:
    """Return `uri` so that it means the same in every process, without a trailing slash: workers run elsewhere.

    Links and `..` stay as they are: the folder is named as the user names it, and `link/..` is not the link's folder.
    """
    return (uri.rstrip("/") or "/") if is_remote(uri) else str(Path(uri).absolute())


def overlap(first: str, second: str) -> bool:
    """Return whether one of two folders is the other or lies inside it (links resolved for local paths)."""
    if is_remote(first) != is_remote(second):
        return False
    if is_remote(first):
        a, b = name_place(first) + "/", name_place(second) + "/"
    else:
        a, b = (os.path.realpath(path).rstrip("/") + "/" for path in (first, second))
    return a.startswith(b) or b.startswith(a)


def real_place(uri: str) -> str:
    """Return where a folder is, absolute, links resolved for local paths."""
    return absolute(uri) if is_remote(uri) else os.path.realpath(uri)


def exists(uri: str) -> bool:
    """Return whether a file or folder is there. Raise UserError where storage gives no answer."""
    with translated_errors(uri):
        if not is_remote(uri):
            return Path(uri).exists()
        store = remote.find_store(uri)
        return store.size_of(uri) is not None or store.has_keys(uri)


def is_file(uri: str) -> bool:
    """Return whether a file (in a store: an object of this key, and none below it) is there.

    Raise UserError where storage gives no answer.
    """
    with translated_errors(uri):
        if not is_remote(uri):
            return Path(uri).is_file()
        store = remote.find_store(uri)
        return not store.has_keys(uri) and store.size_of(uri) is not None


def is_dir(uri: str) -> bool:
    """Return whether a folder (in a store: a key below it) is there. Raise UserError where storage gives no answer."""
    with translated_errors(uri):
        return remote.find_store(uri).has_keys(uri) if is_remote(uri) else Path(uri).is_dir()


def iterate_files(root: str, follow_links: bool = False, as_of: datetime | None = None) -> Iterator[Entry]:
    """Yield the files below `root` as they come, for who needs only the first. Raise OSError as they are listed.

    Of S3 with versions they may be those that were there at a moment, `as_of`.
    """
    if as_of is not None:
        yield from (Entry(*fields) for fields in s3.list_keys_as_of(root, as_of))
    elif is_remote(root):
        yield from (Entry(*fields) for fields in remote.find_store(root).list_keys(root))
    else:
        yield from local.list_files(root, follow_links)


def list_files(root: str, follow_links: bool = False, out: str | None = None) -> list[Entry]:
    """Return every file below `root`, by path. Raise UserError where `root` is missing, no folder or unreadable.

    With them what is no file to read, as `skipped`: devices, pipes, links to folders that are listed already, what
    depers was writing, and, unless `follow_links`, links that lead out of `root`. No link leads into the folder `out`.
    """
    with translated_errors(root):
        if is_remote(root):
            entries = list(iterate_files(root))
        else:
            entries = list(local.list_files(root, follow_links, None if out is None or is_remote(out) else out))
    if not entries and not is_dir(root):
        raise UserError(f"{root}: no such folder")
    return sorted(skip_own(entry) for entry in entries)


def list_sorted(
    root: str, follow_links: bool = False, out: str | None = None, as_of: datetime | None = None
) -> Iterator[Entry]:
    """Yield what `list_files` returns; of S3 as it comes, which is in the order of the keys' bytes. Raise UserError.

    `as_of` is as for `iterate_files`.
    """
    if not is_s3(root):
        yield from list_files(root, follow_links, out)
        return
    is_empty = True
    with translated_errors(root):
        for entry in iterate_files(root, as_of=as_of):
            is_empty = False
            yield skip_own(entry)
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
        if is_remote(uri) and error.errno == errno.ENOENT:
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
    return remote.find_store(uri).read(uri) if is_remote(uri) else local.read(uri)


@reading
def read_range(uri: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on; raise OSError."""
    if not is_remote(uri):
        return local.read_range(uri, start, size)
    return remote.find_store(uri).read(uri, None, start, start + size)


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

    if not is_remote(uri):
        return failures.persist(read_local)
    store = remote.find_store(uri)
    if hint or not head or entry.size <= _WHOLE_BYTES:
        return store.read(uri, entry.etag)
    start = store.read(uri, entry.etag, 0, head)
    return start + store.read(uri, entry.etag, head, entry.size) if is_needed(start) else start


def open_entry(root: str, entry: Entry) -> BinaryIO:
    """Open a listed file for reading and seeking. Raise OSError, on reading UnavailableError where storage fails."""
    uri = join(root, entry.path)
    if is_remote(uri):
        return cast(BinaryIO, io.BufferedReader(s3_files.ObjectReader(uri, entry.size, entry.etag), MIB))
    return local.open_listed(uri, entry.size, entry.etag)


def open_reader(uri: str) -> BinaryIO:
    """Open a regular file or an object for reading and seeking. Raise OSError."""
    if not is_remote(uri):
        return local.open_regular(uri)
    store = remote.find_store(uri)
    if (size := store.size_of(uri)) is None:
        raise FileNotFoundError(errno.ENOENT, "no such object", uri)
    return cast(BinaryIO, io.BufferedReader(s3_files.ObjectReader(uri, size, store.read_etag(uri)), MIB))


@writing
def write_bytes(uri: str, data: bytes) -> None:
    """Write whole or not at all, also where the power fails: one upload, or a neighbor that is renamed into place.

    Make folders. `uri` is named by the program or its user; what data name is written by `write_below`.
    """
    if is_remote(uri):
        remote.find_store(uri).write(uri, data)
    else:
        failures.persist(lambda: local.write(uri, data))


@writing
def write_below(root: str, path: str, data: bytes) -> str:
    """Write whole or not at all what data name: `root/path`. Raise OSError, UnsafePathError where that is no place.

    On a local disk it is sure to be there after the next `flush`, which a record of it must wait for. Return its stamp.
    """
    uri = locate(root, path)
    if is_remote(root):
        return remote.find_store(uri).write(uri, data)
    failures.persist(lambda: local.write(uri, data, durable=False))
    return local.read_stamp(uri)


def read_stamp(root: str, path: str) -> str:
    """Return the stamp that `root/path` would be listed with. Raise OSError."""
    uri = locate(root, path)
    return remote.find_store(uri).read_etag(uri) if is_remote(root) else local.read_stamp(uri)


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
    """Wait until all that was written below `root` is on its disk; a store has what it has answered for."""
    if not is_remote(root):
        local.flush(root)


@contextmanager
def open_writer(uri: str) -> Iterator[BinaryIO]:
    """Open a file to write from front to back, whatever its size; it appears whole where the block ends well."""
    if not is_s3(uri):
        with (other_stores if is_remote(uri) else local).open_writer(uri) as file:
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
    if is_remote(uri):
        remote.find_store(uri).delete(uri)
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
    if is_remote(root):
        remote.find_store(root).remove_partials(root)
    else:
        local.remove_partials(root)


def remove_empty_folders(root: str, path: str) -> None:
    """Remove the folder `path` below `root`, and those above it below `root`, as far as they are empty."""
    if not is_remote(root):  # stores have none
        local.remove_empty_folders(root, locate(root, path))
