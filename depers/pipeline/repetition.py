"""Work that takes much longer than the rest did: given out again once others have nothing to do; the first one counts.

Outputs are functions of inputs, so that doing work twice, also at the same time, gives the same bytes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from depers.runtime import capacity
from depers.runtime.units import Unit

LOOK_SECONDS = 2.0
"""Between two looks at what takes long."""
_LEAST_SECONDS = 5.0  # for which nothing is called slow
_PACES = 5  # how much longer than a unit takes: a worker has up to four at hand


class Repetitions:
    """Further attempts at units that are not done, where there are idle resources and little else to wait for."""

    def __init__(self, start: Callable[[Unit], Any], needs: Mapping[str, float], limit: int | None) -> None:
        """Take `start`, which gives a Ray task for a unit, the resources that it `needs`, and how many at most run."""
        self._start, self._needs, self._limit = start, needs, limit
        self._tasks: list[Any] = []
        self._tried: dict[str, float] = {}
        self._began, self._idle_since = time.monotonic(), math.inf

    def start_slow(self, units: Sequence[Unit], completions: int) -> None:
        """Give out those of the `units` that are not done and take long, by how long the `completions` took."""
        import ray

        now, slots = time.monotonic(), capacity.count_cpus()
        if not completions or len(units) > _PACES * slots:
            return
        free = ray.available_resources()
        rooms = int(min(free.get(name, 0) / need for name, need in self._needs.items() if need))
        if not rooms:
            self._idle_since = math.inf
            return
        self._idle_since = min(self._idle_since, now)
        patience = max(_LEAST_SECONDS, _PACES * (self._idle_since - self._began) * slots / completions)
        if self._limit is not None:
            rooms = min(rooms, self._limit - len(self._tasks))
        slow = [unit for unit in units if now - max(self._idle_since, self._tried.get(unit.name, 0)) > patience]
        for unit in slow[: max(0, rooms)]:
            self._tried[unit.name] = now
            self._tasks.append(self._start(unit))

    def take_completed(self) -> Iterator[Any]:
        """Yield what the attempts that are done return; those whose process ended are forgotten."""
        import ray

        if not self._tasks:
            return
        completed, self._tasks = ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in completed:
            try:
                yield ray.get(task)
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:
                continue

    def cancel(self) -> None:
        """End the attempts that nobody waits for any more."""
        import ray

        for task in self._tasks:
            ray.cancel(task)
        self._tasks.clear()
