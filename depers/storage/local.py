"""Local files as storage has them: listed with what identifies them, and written whole, by way of a neighbor."""

import ctypes
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from depers.statuses import FileStatus
from depers.storage.paths import PARTIAL, Entry

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def list_files(root: str, follow_links: bool, out: str | None = None) -> Iterator[Entry]:
    """Yield every regular file below `root` as it is, and as `skipped` what is none, or no file of `root`.

    Each real folder is gone through once, under its own name where that lies below `root`. Links to files below `root`
    are read like those; links that lead out of it only with `follow_links`, and folders last, so that a loop ends. A
    link that leads nowhere has size -1: it is an input, and will fail as one. Raise OSError for a folder that cannot be
    listed: it would silently lose its files.
    """
    home = os.path.realpath(root)
    folders, links = [("", root)], list[tuple[str, str]]()
    visited = {_node(out): "OUT"} if out and os.path.isdir(out) else {}  # noqa: PTH112
    visited[_node(root)] = "the folder itself"
    while folders or links:
        is_link = not folders
        if is_link:
            links.sort(reverse=True)
            folders.append(links.pop())
        prefix, folder = folders.pop()
        if prefix and (is_link or follow_links):
            node = _node(folder)
            if node in visited:
                yield _skip(prefix[:-1], f"a folder that is listed already: {visited[node]}")
                continue
            visited[node] = prefix[:-1]
        with os.scandir(folder) as items:
            for item in items:
                if item.is_dir(follow_symlinks=False):
                    folders.append((f"{prefix}{item.name}/", item.path))
                else:
                    entry = _describe(item, prefix + item.name, home, follow_links)
                    if entry is None:
                        links.append((f"{prefix}{item.name}/", item.path))
                    else:
                        yield entry


def _describe(item: "os.DirEntry[str]", path: str, home: str, follow_links: bool) -> Entry | None:
    """Return the entry of what is no folder; None for a link to a folder that is to be followed."""
    try:
        status = item.stat()
    except OSError:
        return Entry(path, -1, "")
    is_folder = stat.S_ISDIR(status.st_mode)
    if item.is_symlink():
        target = os.path.realpath(item.path)
        if f"{home}/".startswith(f"{target.rstrip('/')}/"):
            return _skip(path, "a link to a folder that holds it")
        if not follow_links and not target.startswith(f"{home.rstrip('/')}/"):
            return _skip(path, "a link that leads out of the folder, which only --follow-links allows")
        if is_folder and not follow_links:
            return _skip(path, "a link to a folder that is listed already")
    if is_folder:
        return None
    if not stat.S_ISREG(status.st_mode):
        return _skip(path, "neither a file nor a folder")
    return Entry(path, *_identity(status), change_time=_change_of(status))


def _skip(path: str, reason: str) -> Entry:
    return Entry(path, 0, "", FileStatus.SKIPPED, reason)


def _node(path: str) -> tuple[int, int]:
    """Return what tells a folder from all others, whatever it is called."""
    status = os.stat(path)  # noqa: PTH116
    return status.st_dev, status.st_ino


def _identity(status: os.stat_result) -> tuple[int, str]:
    """Return the size in bytes, and the time of change."""
    return status.st_size, str(status.st_mtime_ns)


def _change_of(status: os.stat_result) -> str:
    """Return when anything about a file last changed: unlike its time of change, no program can set that."""
    return str(status.st_ctime_ns)


def read_stamp(path: str) -> str:
    """Return the stamp that a file would be listed with; raise OSError."""
    return _change_of(os.stat(path))  # noqa: PTH116


def open_regular(path: str) -> BinaryIO:
    """Open a regular file for reading; raise OSError, also for what would be waited for, or has no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: must be a regular file, but is none")
    return os.fdopen(descriptor, "rb")


def read(path: str) -> bytes:
    """Return the whole content; raise OSError."""
    with open_regular(path) as file:
        return file.read()


def open_listed(path: str, size: int, tag: str) -> BinaryIO:
    """Open a listed file for reading; raise OSError, also where it is no longer the one that was listed."""
    file = open_regular(path)
    if _identity(os.fstat(file.fileno())) != (size, tag):
        file.close()
        raise OSError("changed since it was listed")
    return file


def read_range(path: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on; raise OSError."""
    with open_regular(path) as file:
        file.seek(start)
        return file.read(size)


def write(path: str, data: bytes, durable: bool = True) -> None:
    """Write whole or not at all, and make folders; raise OSError.

    What is not `durable` may be lost, or be there without its content, where the power fails before the next `flush`.
    """
    with open_writer(path, durable) as file:
        file.write(data)


def make_partial(path: str | Path) -> str:
    """Return a neighbor of `path` to write first, with a name that no other process has, nor any other target."""
    return os.path.join(os.path.dirname(path), f".depers-{uuid.uuid4().hex}.partial")  # noqa: PTH118, PTH120 (3 × as fast)


@contextmanager
def open_writer(path: str, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a file to write that appears, whole, where the block ends well; make folders; raise OSError."""
    partial = make_partial(path)
    try:
        with _create(partial) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)  # noqa: PTH108
        raise
    if durable:
        _sync_folder(os.path.dirname(path) or ".")  # noqa: PTH120


def _create(path: str) -> BinaryIO:
    try:
        return open(path, "xb")  # noqa: PTH123
    except FileNotFoundError:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return open(path, "xb")  # noqa: PTH123


def _sync_folder(folder: str) -> None:
    """Make sure that a name lasts; not every file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, _DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flush(root: str) -> None:
    """Wait until everything in the file system of `root` is on its disk; raise OSError.

    Once for many small files: waiting for each of them takes tens of times as long.
    """
    try:
        descriptor = os.open(root, _DIRECTORY)
    except FileNotFoundError:  # nothing was written there
        return
    try:
        synchronize = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)  # which os does not offer
        if synchronize is None:
            os.sync()
        elif synchronize(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), root)
    finally:
        os.close(descriptor)


def delete(path: str) -> None:
    """Remove a file, or a link itself; no error where there is none of that name, also where that is a folder's."""
    with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        os.unlink(path)  # noqa: PTH108


def remove_partials(root: str) -> None:
    """Remove what a killed process left half written below `root`: its own files alone, and none through a link."""
    for folder, _, names in os.walk(root):
        for name in names:
            if PARTIAL.fullmatch(name):
                delete(f"{folder}/{name}")


def remove_empty_folders(root: str, path: str) -> None:
    """Remove the folder `path`, and those above it below `root`, as far as they are empty."""
    folder = Path(path)
    while folder != Path(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
