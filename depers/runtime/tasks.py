"""Functions as bounded tasks: many calls, of which a few per core run at a time, on Ray or on this machine alone.

A function that works on strangers' files gets a `FileGuard`: a file that ends its process, or takes too long, is found
and named, and costs itself alone.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from depers import storage
from depers.observation.collector import collect
from depers.observation.context import RunContext, current_context
from depers.observation.meter import Stage, count, stage
from depers.observation.metrics import RETRIES
from depers.runtime import capacity, local_pool, time_budget
from depers.runtime.crash_ledger import LedgerClient, refuse_losses, start_ledger
from depers.runtime.file_guard import FileGuard
from depers.runtime.telemetry.observed_work import call_observed
from depers.runtime.units import Unit

T = TypeVar("T")

_PER_CPU = 4  # tasks in flight: enough to keep all cores busy, and to have the autoscaler start more
_LOOK_SECONDS = 2.0  # between two looks at how large the cluster is
_TWINS = 2  # further attempts at work that takes long: the first may come to the same slow node
_TWIN_SECONDS = 5.0  # below which work is not called slow
_END_SECONDS = 10.0  # how long tasks that are ended may take for it


def choose_share(*uris: str) -> float:
    """Return how many cores a task takes that reads and writes at these places: of S3 it waits for half of the time.

    At the ends of a unit there is nothing else to do: what it needs comes first, and its record last.
    """
    return 0.5 if any(storage.is_remote(uri) for uri in uris) else 1


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    /,
    *,
    limit: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
    repeatable: bool = True,
) -> Iterator[T]:
    """Run `function` on the Ray cluster for each tuple of arguments; yield the results as they come.

    `calls` is read no further ahead than there are tasks in flight, at most `limit` (default: four per CPU that the
    cluster has by then); each takes `num_cpus` cores and `num_gpus`. What is `repeatable` may be done twice at the same
    time, where a node is slow and others have nothing to do. Raise what the function raises, as Ray wraps it.
    """
    import ray

    gpus = {"num_gpus": num_gpus} if num_gpus else {}
    remote, context = ray.remote(num_cpus=num_cpus, **gpus)(_run_observed), current_context()
    twin = remote.options(scheduling_strategy="SPREAD")

    def start(number: int, call: tuple[Any, ...], attempt: int) -> Any:
        return (twin if attempt else remote).remote(context, function, *call)

    needs = {"CPU": num_cpus, "GPU": num_gpus}
    yield from _Flight[T](start, limit, needs, _TWINS if repeatable else 0, is_retried=False).run(calls)


def _run_observed(context: RunContext, function: Callable[..., T], *arguments: Any) -> Any:
    def run() -> T:
        with stage(Stage.COMPUTE):
            return function(*arguments)

    return call_observed(context, _name_step(function), _name_unit(arguments), run)


def _name_step(function: Callable[..., Any]) -> str:
    """Return what metrics and log lines call a task."""
    return getattr(function, "__name__", "task").strip("_")


def _name_unit(arguments: Sequence[Any]) -> str:
    """Return what log lines call what a task works on; nothing where it is none of the units of a listing."""
    return next((argument.name for argument in arguments if isinstance(argument, Unit)), "")


def run_file_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    /,
    *,
    file_seconds: float = time_budget.FILE_SECONDS,
    limit: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[T]:
    """Run a function that works on files as `run_tasks` does, with one more argument: the task's `FileGuard`.

    What its process leaves undone is done again; after some times file by file, until it is known which one ends it.
    Raise UserError where the processes end at none in particular. Where a `local_pool` is open, that does the work,
    without Ray: the function must then be one of a module, and errors come unwrapped.
    """
    if (pool := local_pool.find_pool()) is not None:
        yield from pool.run(function, calls, file_seconds, limit)
        return
    import ray

    ledger = start_ledger()
    remote, context = ray.remote(max_retries=0, num_cpus=num_cpus, num_gpus=num_gpus)(_run_guarded), current_context()
    twin = remote.options(scheduling_strategy="SPREAD")

    def start(number: int, call: tuple[Any, ...], attempt: int) -> Any:
        key = f"twin {attempt}" if attempt else "task"  # the ledger must not take it for the same work, begun anew
        return (twin if attempt else remote).remote(context, function, ledger, file_seconds, key, number, call)

    yield from _Flight[T](start, limit, {"CPU": num_cpus, "GPU": num_gpus}, _TWINS, is_retried=True).run(calls)


def _run_guarded(
    context: RunContext,
    function: Callable[..., T],
    ledger: Any,
    file_seconds: float,
    key: str,
    number: int,
    arguments: Sequence[Any],
) -> Any:
    client = LedgerClient(ledger, file_seconds)
    with client.attempt(key, number) as attempt:
        refuse_losses(attempt)
        note = partial(client.note, key, number) if attempt.isolated else None
        guard = FileGuard(number, attempt.poisonous, note)
        values = _fetch(arguments)
        return call_observed(context, _name_step(function), _name_unit(values), lambda: function(*values, guard))


def _fetch(arguments: Sequence[Any]) -> list[Any]:
    """Return the arguments, those that lie in the object store as what they are: Ray looks for them at the top only."""
    import ray

    return [ray.get(argument) if isinstance(argument, ray.ObjectRef) else argument for argument in arguments]


@dataclass
class _OpenCall:
    """A call that is not done: its number, its attempts that run, and since when the newest of them does."""

    number: int
    call: tuple[Any, ...]
    since: float
    attempts: int = 0
    tasks: set[Any] = field(default_factory=set)


class _Flight(Generic[T]):
    """Calls that are done a bounded number at a time, as many as suit the cluster as it is by then.

    Once all are given out, and some of them take much longer than the others did, they are given out again, as far as
    there is nothing else to do. The first answer counts.
    """

    def __init__(
        self,
        start: Callable[[int, tuple[Any, ...], int], Any],
        limit: int | None,
        needs: dict[str, float],
        twins: int,
        is_retried: bool,
    ) -> None:
        """Take `start`, which gives a task for a call's number, the call, and how often it was given out before.

        `needs` are the resources of a task, `twins` how often a call may be given out again; `is_retried` says that one
        whose process ended is.
        """
        self._start, self._limit, self._needs, self._twins, self._is_retried = start, limit, needs, twins, is_retried
        self._works: dict[Any, _OpenCall] = {}
        self._cpus, self._last_look = 1, -math.inf
        self._began = self._last_completion = time.monotonic()
        self._completions = 0

    def run(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yield the results as they come; where the caller stops, or a call fails, the others are ended."""
        try:
            yield from self._run(calls)
        finally:
            self._end_others()

    def _end_others(self) -> None:
        """End what still runs, and wait until it has: a run that follows does the same work, in the same files."""
        import ray

        if self._works and ray.is_initialized():
            for task in self._works:
                ray.cancel(task, force=True)
            ray.wait(list(self._works), num_returns=len(self._works), timeout=_END_SECONDS)

    def _run(self, calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        import ray

        pending, number, is_exhausted = iter(calls), 0, False
        while True:
            while not is_exhausted and len(self._works) < self._bound():
                if (call := next(pending, None)) is None:
                    is_exhausted = True
                    self._note_tail()
                    break
                self._give_out(_OpenCall(number, call, time.monotonic()))
                number += 1
            if not self._works:
                return
            tasks, _ = ray.wait(list(self._works), num_returns=1, timeout=_LOOK_SECONDS)
            for task in tasks:
                work = self._works.pop(task)
                work.tasks.remove(task)
                try:
                    result, measurement = ray.get(task)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError:  # the process is gone, and the ledger knows where it was
                    if not self._is_retried:
                        raise
                    count(RETRIES, "process")
                    if not work.tasks:
                        work.attempts = 0
                        self._give_out(work)
                    continue
                for twin in work.tasks:
                    del self._works[twin]
                    ray.cancel(twin)
                self._completions, self._last_completion = self._completions + 1, time.monotonic()
                collect(measurement)
                yield result
            if is_exhausted and not tasks:
                self._repeat_slow()

    def _give_out(self, work: _OpenCall) -> None:
        task = self._start(work.number, work.call, work.attempts)
        work.since = time.monotonic()
        work.attempts += 1
        work.tasks.add(task)
        self._works[task] = work

    def _bound(self) -> int:
        """Return how many tasks may be in flight."""
        if self._limit:
            return self._limit
        if time.monotonic() - self._last_look > _LOOK_SECONDS:
            self._cpus, self._last_look = capacity.count_cpus(), time.monotonic()
        return _PER_CPU * self._cpus

    def _note_tail(self) -> None:
        """Note that all is given out: what is in flight waits for processors no longer than from now on."""
        for work in self._works.values():
            work.since = time.monotonic()

    def _repeat_slow(self) -> None:
        """Give out again what takes much longer than the others did, as far as there are resources for it."""
        import ray

        if not self._completions or self._limit == len(self._works):
            return
        now, slots = time.monotonic(), capacity.count_cpus() / max(self._needs["CPU"], 0.01)
        slots = min(slots, len(self._works) + self._completions)
        # Seconds that a call took, at most; since the last one ended nothing has been learnt of it.
        pace = (self._last_completion - self._began) * slots / self._completions
        slow = [
            work
            for work in {work.number: work for work in self._works.values()}.values()
            if work.attempts <= self._twins and now - work.since > max(_TWIN_SECONDS, 3 * pace)
        ]
        free = ray.available_resources() if slow else {}
        rooms = [int(free.get(name, 0) / need) for name, need in self._needs.items() if need]
        for work in slow[: min(rooms, default=0)]:
            self._give_out(work)
