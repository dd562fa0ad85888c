"""Local files as storage has them: listed with what identifies them, and written whole, by way of a neighbor."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".depers-partial"
"""The suffix of a file that is still being written."""


def list_files(root: str) -> Iterator[tuple[str, int, str]]:
    """Yield every file below `root`: its path relative to it, size in bytes, and time of change; links are followed.

    A link that leads nowhere has size -1: it is an input, and will fail as one. Raise OSError for a folder that cannot
    be listed: it would silently lose its files.
    """

    def stop(error: OSError) -> None:
        raise error

    os.scandir(root).close()
    for folder, _, names in os.walk(root, onerror=stop, followlinks=True):
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118 (a million Path objects are slow)
            if name.endswith(PARTIAL):
                continue
            try:
                size, tag = _identity(os.stat(path))  # noqa: PTH116
            except OSError:
                size, tag = -1, ""
            yield os.path.relpath(path, root), size, tag


def _identity(status: os.stat_result) -> tuple[int, str]:
    """Return the size in bytes, and the time of change."""
    return status.st_size, str(status.st_mtime_ns)


def open_listed(path: str, size: int, tag: str) -> BinaryIO:
    """Open a listed file for reading; raise OSError, also where it is no longer the one that was listed."""
    file = open(path, "rb")  # noqa: PTH123, SIM115
    if _identity(os.fstat(file.fileno())) != (size, tag):
        file.close()
        raise OSError("changed since it was listed")
    return file


def read_range(path: str, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on; raise OSError."""
    with open(path, "rb") as file:  # noqa: PTH123
        file.seek(start)
        return file.read(size)


def write(path: str, data: bytes) -> None:
    """Write whole or not at all, and make folders; raise OSError."""
    partial = _partial(path)
    try:
        partial.write_bytes(data)
    except FileNotFoundError:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
    partial.replace(path)


@contextmanager
def open_writer(path: str) -> Iterator[BinaryIO]:
    """Open a file to write that appears, whole, where the block ends well; make folders; raise OSError."""
    partial = _partial(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _partial(path: str) -> Path:
    """Return the neighbor that is renamed into place."""
    return Path(path).with_name(f".{Path(path).name[:200]}.{os.getpid()}{PARTIAL}")


def remove_partials(root: str) -> None:
    """Remove what a killed process left half written below `root`."""
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(PARTIAL):
                Path(folder, name).unlink(missing_ok=True)


def remove_empty_folders(root: str, path: str) -> None:
    """Remove the folder `path` below `root`, and those above it below `root`, as far as they are empty."""
    folder = Path(root, path)
    while folder != Path(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
