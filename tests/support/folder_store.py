"""A store of objects for fsspec that lies in a folder, and can fail: what `gs://` is where a test asks for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

ROOT = "FOLDER_STORE"
"""The variable of the environment that names the folder, in which buckets are folders."""


class FolderStore(LocalFileSystem):  # type: ignore[misc]
    """Buckets in a folder; `fault` is called before each request with what is asked and of which path."""

    protocol = ("gs", "gcs")
    fault: Callable[[str, str], None] = staticmethod(lambda request, path: None)

    def __init__(self, **settings: Any) -> None:
        super().__init__(auto_mkdir=True, **settings)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        root = os.environ[ROOT]
        return path if path.startswith(root) else f"{root}/{path.partition('://')[2].rstrip('/')}"

    def _ask(self, request: str, path: str) -> str:
        stripped = self._strip_protocol(path)
        type(self).fault(request, stripped.removeprefix(f"{os.environ[ROOT]}/"))
        return stripped

    def info(self, path: Any, **settings: Any) -> Any:
        return super().info(self._ask("info", path) if isinstance(path, str) else path, **settings)

    def find(self, path: str, **settings: Any) -> Any:
        return super().find(self._ask("find", path), **settings)

    def cat_file(self, path: str, **settings: Any) -> Any:
        return super().cat_file(self._ask("read", path), **settings)

    def pipe_file(self, path: str, value: bytes, **settings: Any) -> Any:
        return super().pipe_file(self._ask("write", path), value, **settings)

    def put_file(self, lpath: str, rpath: str, **settings: Any) -> Any:
        with Path(lpath).open("rb") as file:
            return self.pipe_file(rpath, file.read(), **settings)

    def rm_file(self, path: str) -> None:
        super().rm_file(self._ask("delete", path))


GCSFileSystem = FolderStore
