"""Reads and writes that do not wait for one another: on S3 each takes tens of milliseconds, enough to compute much."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from depers import storage
from depers.resources import MIB

_THREADS = 32  # that wait for S3
_MOST_BYTES = 64 * MIB  # that are on their way
_AHEAD = 6  # files, of which nobody knows how large they are: enough for a core that decodes what it gets


def count_threads(local: int, *uris: str) -> int:
    """Return how many threads are to wait for storage: `local`, or more where some of the places are on S3."""
    return max(local, _THREADS) if any(storage.is_remote(uri) for uri in uris) else local


def read_ahead(uris: Sequence[str]) -> Iterator[Callable[[], bytes]]:
    """Yield for each file what returns all it holds, in order; of S3, some that follow are on their way by then."""
    if not any(map(storage.is_remote, uris)):
        yield from (partial(storage.read_bytes, uri) for uri in uris)
        return
    with ThreadPoolExecutor(_AHEAD) as pool:
        pending: deque[Callable[[], bytes]] = deque()
        for uri in uris:
            pending.append(pool.submit(storage.read_bytes, uri).result)
            if len(pending) > _AHEAD:
                yield pending.popleft()
        yield from pending


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
