"""Functions as bounded Ray tasks: many calls, of which a few per core run at the same time.

A function that works on strangers' files gets a `FileGuard`: a file that ends its process, or takes too long, is found
and named, and costs itself alone.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from depers.errors import UserError
from depers.runtime import time_budget
from depers.runtime.crash_ledger import MOST_LOSSES, CrashLedger, LedgerClient, Position

T = TypeVar("T")
C = TypeVar("C")

_PER_CPU = 4  # tasks in flight: enough to keep all cores busy


class FileGuard:
    """What a task knows of its files, by their offsets: which are poisonous, and why; it hears when they are begun."""

    def __init__(
        self,
        work: Hashable = None,
        poisonous: Mapping[Position, str] | None = None,
        note: Callable[[Position], None] | None = None,
    ) -> None:
        self._work, self._poisonous, self._note = work, poisonous or {}, note

    def find_reason(self, offset: int) -> str:
        """Return why a file is not to be touched; empty where it is."""
        return self._poisonous.get(Position(offset), "")

    @contextmanager
    def watch(self, offset: int) -> Iterator[None]:
        """Count the block's time against the budget of a file, and know where the process has come to if it ends."""
        if self._note is not None:
            self._note(Position(offset))
        with time_budget.watch((self._work, offset)):
            yield


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    /,
    *,
    limit: int | None = None,
    num_gpus: float = 0,
) -> Iterator[T]:
    """Run `function` on the Ray cluster for each tuple of arguments; yield the results as they come.

    `calls` is read no further ahead than there are tasks in flight, at most `limit` (default: four per CPU); each takes
    a core and `num_gpus`. Raise what the function raises, as Ray wraps it.
    """
    import ray

    remote = ray.remote(num_gpus=num_gpus)(function) if num_gpus else ray.remote(function)
    for task, _ in _in_flight(lambda call: remote.remote(*call), calls, limit):
        result: T = ray.get(task)
        yield result


def run_file_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    /,
    *,
    file_seconds: float = time_budget.FILE_SECONDS,
    limit: int | None = None,
    num_gpus: float = 0,
) -> Iterator[T]:
    """Run a function that works on files as `run_tasks` does, with one more argument: the task's `FileGuard`.

    What its process leaves undone is done again; after some times file by file, until it is known which one ends it.
    Raise UserError where the processes end at none in particular.
    """
    import ray

    ledger = ray.remote(CrashLedger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    remote = ray.remote(max_retries=0, num_gpus=num_gpus)(_run_guarded)

    def start(numbered: tuple[int, tuple[Any, ...]]) -> Any:
        return remote.remote(function, ledger, file_seconds, *numbered)

    for task, call in _in_flight(start, enumerate(calls), limit):
        while True:
            try:
                result: T = ray.get(task)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:  # the process is gone, and the ledger knows where it was
                task = start(call)
            else:
                yield result
                break


def _run_guarded(
    function: Callable[..., T], ledger: Any, file_seconds: float, number: int, arguments: Sequence[Any]
) -> T:
    client = LedgerClient(ledger, file_seconds)
    with client.attempt("task", number) as attempt:
        if attempt.losses > MOST_LOSSES:
            problem = f"{attempt.losses} processes ended over the same work, at no file in particular"
            raise UserError(f"{problem}: where memory is short, fewer --workers need less")
        note = partial(client.note, "task", number) if attempt.isolated else None
        return function(*_fetch(arguments), FileGuard(number, attempt.poisonous, note))


def _fetch(arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments, those that lie in the object store as what they are: Ray looks for them at the top only."""
    import ray

    return [ray.get(each) if isinstance(each, ray.ObjectRef) else each for each in arguments]


def _in_flight(start: Callable[[C], Any], calls: Iterable[C], limit: int | None) -> Iterator[tuple[Any, C]]:
    """Yield the tasks that `start` makes of calls as they end, each with its call."""
    import ray

    pending = iter(calls)
    bound = limit or _PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    tasks = {start(call): call for call in itertools.islice(pending, bound)}
    while tasks:
        (task,), _ = ray.wait(list(tasks), num_returns=1)
        call = tasks.pop(task)
        yield task, call
        tasks |= {start(call): call for call in itertools.islice(pending, 1)}
