"""Which of the two rooms for remote storage a URI belongs to: S3, or another store through fsspec."""

from collections.abc import Iterator
from typing import Protocol

from depers.storage import other_stores, s3
from depers.storage.paths import is_s3


class Store(Protocol):
    """What a store of objects can do; all of it raises OSError, with the words of `failures`."""

    def list_keys(self, uri: str) -> Iterator[tuple[str, int, str]]:
        """Yield every key below the folder `uri`, relative to it, with its size in bytes and tag."""

    def size_of(self, uri: str) -> int | None:
        """Return the size of an object in bytes; None where there is none."""

    def has_keys(self, uri: str) -> bool:
        """Return whether there is a key below the folder `uri`."""

    def has_md5_tag(self, uri: str) -> bool:
        """Return whether the tag of an object that was written at once is the MD5 of its content."""

    def read(self, uri: str, etag: str | None = None, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` to `stop`, of the object with this tag, if one is given."""

    def write(self, uri: str, data: bytes) -> str:
        """Write an object, whole or not at all; return its tag."""

    def read_etag(self, uri: str) -> str:
        """Return the tag of an object."""

    def delete(self, uri: str) -> None:
        """Remove an object; no error where it is absent."""

    def remove_partials(self, uri: str) -> None:
        """Remove what a killed process left half written below a folder."""


def find_store(uri: str) -> Store:
    """Return what reads and writes a remote URI."""
    return s3 if is_s3(uri) else other_stores
