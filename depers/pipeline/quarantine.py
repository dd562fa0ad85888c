"""What was begun too often: a file that ends every process that works on it is found, and costs itself alone.

Ray Data does again what a dead process held, for ever. So an actor that outlives workers notes what was begun; what was
begun too often is done by one process, file by file, each noted down first.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from depers.archives.base import Chunk
from depers.pipeline.steps import PassJob
from depers.pipeline.workers import FusedWorker, Work

_TRIES = 2  # of the same work before it is done carefully; and then of one file, until it is given up
_LIGHT = 0.05  # CPUs


class CrashLedger:
    """An actor that outlives workers: what was begun how often, and with which file it ended."""

    def __init__(self) -> None:
        self._begun: Counter[Any] = Counter()
        self._place: dict[Any, int] = {}
        self._ended: Counter[tuple[Any, int]] = Counter()

    def begin(self, key: Any) -> tuple[bool, frozenset[int]]:
        """Notes that work begins: whether to be careful with it, and the places in it that ended it too often."""
        self._begun[key] += 1
        if key in self._place:
            self._ended[key, self._place.pop(key)] += 1
        places = {place for (one, place), times in self._ended.items() if one == key and times >= _TRIES}
        return self._begun[key] > _TRIES, frozenset(places)

    def at(self, key: Any, place: int) -> None:
        """Notes the place that the work has come to."""
        self._place[key] = place

    def end(self, key: Any) -> None:
        """Forgets what is done."""
        self._begun.pop(key, None)
        self._place.pop(key, None)


class LedgerClient:
    """The ledger as a worker sees it: every call returns once it is written down."""

    def __init__(self, ledger: Any) -> None:
        self._notebook = ledger

    @contextmanager
    def work(self, key: Any) -> Iterator[tuple[bool, frozenset[int], Callable[[int], None]]]:
        """While the work is done: whether to be careful, what to leave alone, and how to note a place."""
        import ray

        careful, condemned = ray.get(self._notebook.begin.remote(key))
        yield careful, condemned, lambda place: ray.get(self._notebook.at.remote(key, place))
        ray.get(self._notebook.end.remote(key))


def _careful(job: PassJob, checkpoints: Any, ledger: Any, work: Work, chunk: Chunk | None) -> list[str]:
    with LedgerClient(ledger).work(("careful", work.key)) as (_, condemned, note):
        worker = FusedWorker(job._replace(settings=replace(job.settings, device="cpu")), checkpoints)
        statuses: list[str] = worker.carefully(work._replace(condemned=condemned), chunk, note)["statuses"]
    return statuses


def alone(job: PassJob, checkpoints: Any, ledger: Any, work: Work, chunk: Chunk | None) -> list[str]:
    """Does work carefully in a process of its own: nothing else dies with it, or is blamed for its end."""
    import ray

    task = ray.remote(num_cpus=_LIGHT, max_retries=0, max_calls=1)(_careful)
    while True:
        try:
            statuses: list[str] = ray.get(task.remote(job, checkpoints, ledger, work, chunk))
            return statuses
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:  # it is gone, and the ledger knows at which file
            continue
