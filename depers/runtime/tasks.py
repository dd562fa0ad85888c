"""Functions as bounded Ray tasks: many calls, of which a few per core run at the same time."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_PER_CPU = 4  # tasks in flight: enough to keep all cores busy


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
    pending = iter(calls)
    bound = limit or _PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    tasks = [remote.remote(*call) for call in itertools.islice(pending, bound)]
    while tasks:
        (task,), tasks = ray.wait(tasks, num_returns=1)
        result: T = ray.get(task)
        tasks += [remote.remote(*call) for call in itertools.islice(pending, 1)]
        yield result
