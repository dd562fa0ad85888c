"""Writes that do not wait for one another: to S3 each takes tens of milliseconds, in which a core could compute."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from depers import storage
from depers.resources import MIB

_THREADS = 32  # that wait for S3
_MOST_BYTES = 64 * MIB  # that are on their way


def count_threads(local: int, *uris: str) -> int:
    """Return how many threads are to wait for storage: `local`, or more where some of the places are on S3."""
    return max(local, _THREADS) if any(storage.is_remote(uri) for uri in uris) else local


class OverlappedWriter:
    """Writes files below a root, on S3 many at a time, but no more than a bound of bytes; all are there at the end.

    The first error of writing is raised by a later call, or at the end of the block.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._pool = ThreadPoolExecutor(_THREADS) if storage.is_remote(root) else None
        self._pending: deque[tuple[Future[Any], int]] = deque()
        self._bytes = 0

    def __enter__(self) -> "OverlappedWriter":
        return self

    def write(self, path: str, data: bytes) -> "Future[str]":
        """Write what data name, `root/path`, now or soon; return its stamp then. Raise as `storage.write_below`."""
        if self._pool is None:
            stamp: Future[str] = Future()
            stamp.set_result(storage.write_below(self._root, path, data))
            return stamp
        while self._pending and (self._bytes + len(data) > _MOST_BYTES or self._pending[0][0].done()):
            self._await_first()
        future = self._pool.submit(storage.write_below, self._root, path, data)
        self._pending.append((future, len(data)))
        self._bytes += len(data)
        return future

    def _await_first(self) -> None:
        future, size = self._pending.popleft()
        self._bytes -= size
        future.result()

    def __exit__(self, *error: Any) -> None:
        if self._pool is None:
            return
        try:
            while self._pending and error[0] is None:
                self._await_first()
        finally:
            self._pool.shutdown(cancel_futures=True)
