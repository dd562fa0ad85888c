"""What all workers of a run have measured, added up by its driver, with the cores that were there meanwhile."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from depers.observation.context import current_context
from depers.observation.meter import Measurement, StageTime
from depers.observation.metrics import FILES, RETRIES
from depers.observation.usage import Usage

_RESOURCE_SECONDS = 5.0  # between two looks at how large the cluster is
_NO_IMAGES = ("skipped", "passed_through", "removed")


class Resources(NamedTuple):
    """Cores and GPUs that are there now."""

    cores: float
    gpus: float = 0.0


class Collector:
    """Adds up measurements as they come."""

    def __init__(self, count_resources: Callable[[], Resources]) -> None:
        self._count_resources = count_resources
        self._resources, self._look_time = Resources(0.0), float("-inf")
        self._first = self._last = -1.0
        self._core_seconds = 0.0
        self._sum, self._start_sum = Measurement(), Measurement()

    def add(self, measurement: Measurement) -> None:
        """Add what a worker measured; what came first lies before the time that counts."""
        now = time.monotonic()
        if now - self._look_time >= _RESOURCE_SECONDS:
            self._resources, self._look_time = self._count_resources(), now
        self._sum.add(measurement)
        if self._first < 0:
            if not _count_images(self._sum):
                return
            self._first = self._last = now
            self._start_sum.add(self._sum)
        self._core_seconds += (now - self._last) * self._resources.cores
        self._last = now

    def add_counts(self, measurement: Measurement) -> None:
        """Add what the driver counted, which takes no time of workers."""
        self._sum.add(measurement)

    def make_usage(self) -> Usage:
        """Return what the run took; where it was a single unit, all of it, without a rate."""
        images = _count_images(self._sum) - _count_images(self._start_sum)
        stages = {
            name: StageTime(
                stage_time.seconds - self._start_sum.stages.get(name, StageTime()).seconds,
                stage_time.cpu_seconds - self._start_sum.stages.get(name, StageTime()).cpu_seconds,
            )
            for name, stage_time in self._sum.stages.items()
        }
        if not images:
            images, stages = _count_images(self._sum), dict(self._sum.stages)
        return Usage(
            job=current_context().job,
            verb=current_context().verb,
            images=images,
            seconds=self._last - self._first,
            core_seconds=self._core_seconds,
            gpus=self._resources.gpus,
            stages=stages,
            retries=int(self._sum.sum(RETRIES)),
        )


def _count_images(measurement: Measurement) -> int:
    numbers = {label: number for (name, label), number in measurement.counts.items() if name == FILES.name}
    return int(sum(number for label, number in numbers.items() if label not in _NO_IMAGES))


_collector: Collector | None = None


@contextmanager
def collecting(collector: Collector) -> Iterator[Collector]:
    """Add up what is measured while the block runs; within another block, it is that one which adds up."""
    global _collector
    former = _collector
    _collector = former or collector
    try:
        yield _collector
    finally:
        _collector = former


def collect(measurement: Measurement | None) -> None:
    """Add what a worker measured, where somebody adds up."""
    if _collector is not None and measurement is not None:
        _collector.add(measurement)
