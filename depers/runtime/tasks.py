"""Functions as bounded tasks: many calls, of which a few per core run at a time, on Ray or on this machine alone.

A function that works on strangers' files gets a `FileGuard`: a file that ends its process, or takes too long, is found
and named, and costs itself alone.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from depers import storage
from depers.observation.collector import collect
from depers.observation.context import RunContext, current_context
from depers.observation.meter import Stage, count, stage
from depers.observation.metrics import RETRIES
from depers.runtime import local_pool, time_budget
from depers.runtime.crash_ledger import CrashLedger, LedgerClient, refuse_losses
from depers.runtime.file_guard import FileGuard
from depers.runtime.telemetry.observed_work import call_observed
from depers.runtime.units import Unit

T = TypeVar("T")
C = TypeVar("C")

_PER_CPU = 4  # tasks in flight: enough to keep all cores busy


def choose_share(*uris: str) -> float:
    """Return how many cores a task takes that reads and writes at these places: of S3 it waits for half of the time.

    At the ends of a unit there is nothing else to do: what it needs comes first, and its record last.
    """
    return 0.5 if any(storage.is_s3(uri) for uri in uris) else 1


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    /,
    *,
    limit: int | None = None,
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[T]:
    """Run `function` on the Ray cluster for each tuple of arguments; yield the results as they come.

    `calls` is read no further ahead than there are tasks in flight, at most `limit` (default: four per CPU); each takes
    `num_cpus` cores and `num_gpus`. Raise what the function raises, as Ray wraps it.
    """
    import ray

    gpus = {"num_gpus": num_gpus} if num_gpus else {}
    remote, context = ray.remote(num_cpus=num_cpus, **gpus)(_run_observed), current_context()
    for task, _ in _in_flight(lambda call: remote.remote(context, function, *call), calls, limit):
        result, measurement = ray.get(task)
        collect(measurement)
        yield result


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

    ledger = ray.remote(CrashLedger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    remote, context = ray.remote(max_retries=0, num_cpus=num_cpus, num_gpus=num_gpus)(_run_guarded), current_context()

    def start(numbered: tuple[int, tuple[Any, ...]]) -> Any:
        return remote.remote(context, function, ledger, file_seconds, *numbered)

    for task, call in _in_flight(start, enumerate(calls), limit):
        while True:
            try:
                result, measurement = ray.get(task)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:  # the process is gone, and the ledger knows where it was
                count(RETRIES, "process")
                task = start(call)
            else:
                collect(measurement)
                yield result
                break


def _run_guarded(
    context: RunContext,
    function: Callable[..., T],
    ledger: Any,
    file_seconds: float,
    number: int,
    arguments: Sequence[Any],
) -> Any:
    client = LedgerClient(ledger, file_seconds)
    with client.attempt("task", number) as attempt:
        refuse_losses(attempt)
        note = partial(client.note, "task", number) if attempt.isolated else None
        guard = FileGuard(number, attempt.poisonous, note)
        values = _fetch(arguments)
        return call_observed(context, _name_step(function), _name_unit(values), lambda: function(*values, guard))


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
