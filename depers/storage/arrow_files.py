"""Remote storage as pyarrow's file system, for Ray Train, which keeps its own notes there.

Its requests are those of all others: the same client, retries and settings.
"""

import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from depers import storage
from depers.storage import remote


class RemoteFiles(fs.FileSystemHandler):  # type: ignore[misc]
    """The objects of one scheme, such as `s3://`, by their URIs without it; folders are what keys begin with."""

    def __init__(self, scheme: str) -> None:
        """Take the scheme with its `://`."""
        self.scheme = scheme

    def __eq__(self, other: object) -> bool:
        """Return whether both are the same place."""
        return isinstance(other, RemoteFiles) and other.scheme == self.scheme

    __hash__ = None  # type: ignore[assignment]

    def get_type_name(self) -> str:
        """Return what it is called in messages."""
        return f"depers+{self.scheme.removesuffix('://')}"

    def normalize_path(self, path: str) -> str:
        """Return the path: keys are text that nobody resolves."""
        return path

    def _uri(self, path: str) -> str:
        return self.scheme + path.strip("/")

    def get_file_info(self, paths: Sequence[str]) -> list[fs.FileInfo]:
        """Return what there is at each path."""
        return [self._describe(path) for path in paths]

    def _describe(self, path: str) -> fs.FileInfo:
        uri = self._uri(path)
        store = remote.find_store(uri)
        if (size := store.size_of(uri)) is not None:
            return fs.FileInfo(path, fs.FileType.File, size=size)
        return fs.FileInfo(path, fs.FileType.Directory if store.has_keys(uri) else fs.FileType.NotFound)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        """Return what lies below a folder; raise FileNotFoundError where there is none, unless that may be."""
        root = selector.base_dir.rstrip("/")
        files = {path: size for path, size, _ in self._list(root)}
        if not files and not selector.allow_not_found:
            raise FileNotFoundError(root)
        folders = {folder for path in files for folder in _list_folders(path)}
        rows = [fs.FileInfo(f"{root}/{path}", fs.FileType.File, size=size) for path, size in files.items()]
        rows += [fs.FileInfo(f"{root}/{folder}", fs.FileType.Directory) for folder in sorted(folders)]
        return [row for row in rows if selector.recursive or "/" not in row.path[len(root) + 1 :]]

    def _list(self, path: str) -> Iterator[tuple[str, int, str]]:
        uri = self._uri(path)
        return remote.find_store(uri).list_keys(uri)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Do nothing: a folder is there where a key begins with it."""

    def delete_dir(self, path: str) -> None:
        """Remove all objects below a folder."""
        self.delete_dir_contents(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        """Remove all objects below a folder."""
        for key, _, _ in list(self._list(path)):
            self.delete_file(f"{path.rstrip('/')}/{key}")

    def delete_root_dir_contents(self) -> None:
        """Refuse: that would be every bucket."""
        raise PermissionError("must not remove the content of all buckets")

    def delete_file(self, path: str) -> None:
        """Remove an object."""
        storage.delete(self._uri(path))

    def move(self, src: str, dest: str) -> None:
        """Copy an object and remove the first."""
        self.copy_file(src, dest)
        self.delete_file(src)

    def copy_file(self, src: str, dest: str) -> None:
        """Copy an object."""
        with storage.open_reader(self._uri(src)) as reader, storage.open_writer(self._uri(dest)) as writer:
            shutil.copyfileobj(reader, writer)

    def open_input_stream(self, path: str) -> pa.PythonFile:
        """Open an object for reading."""
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        """Open an object for reading and seeking."""
        return pa.PythonFile(storage.open_reader(self._uri(path)), mode="r")

    def open_output_stream(self, path: str, metadata: Mapping[str, str]) -> pa.PythonFile:
        """Open an object for writing, which is there once it is closed."""
        return pa.PythonFile(_Output(storage.open_writer(self._uri(path))), mode="w")

    def open_append_stream(self, path: str, metadata: Mapping[str, str]) -> pa.PythonFile:
        """Refuse: objects are written whole."""
        raise NotImplementedError(f"{self._uri(path)}: objects cannot be appended to")


class _Output(io.RawIOBase):
    """What is written to a storage's writer, which ends as this is closed."""

    def __init__(self, context: AbstractContextManager[BinaryIO]) -> None:
        super().__init__()
        self._context, self._file = context, context.__enter__()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._context.__exit__(None, None, None)


def _list_folders(path: str) -> Iterator[str]:
    """Yield the folders that a relative path lies in."""
    end = path.find("/")
    while end > 0:
        yield path[:end]
        end = path.find("/", end + 1)
