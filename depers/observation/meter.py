"""What this process has done since it was last asked: counts, and seconds by stage. Adding costs microseconds.

`stage` measures a block. Where one lies in another, its seconds are those of the inner one alone, so that the stages
of a thread add up to its time. A worker takes what has come together (`take`) as a unit ends: it goes to Ray's metrics,
and with the result to the driver, which adds it up (`depers.observation.collector`).
"""

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import ParamSpec, TypeVar

from depers.observation.metrics import BYTES, Metric

P = ParamSpec("P")
T = TypeVar("T")

CountKey = tuple[str, str]
"""The name of a metric, and the value of its label."""


class Stage(StrEnum):
    """Where the time of a job goes."""

    READ = "read"
    """Waiting for storage to give bytes."""
    WRITE = "write"
    """Waiting for storage to take bytes."""
    OPEN = "open"
    """Parting an archive into chunks."""
    PREPARE = "prepare"
    """Decoding, and making what the detector looks at."""
    DETECT = "detect"
    FINISH = "finish"
    """Redacting and encoding, or what else is made of an image and its boxes."""
    RECORD = "record"
    """Writing down what became of a unit."""
    ASSEMBLE = "assemble"
    """Putting an archive together."""
    COMPUTE = "compute"
    """All else that a task does."""


@dataclass
class StageTime:
    """Seconds of the wall's clock and of a processor, added up over threads."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def add(self, addend: "StageTime") -> None:
        """Add the seconds of another one."""
        self.seconds += addend.seconds
        self.cpu_seconds += addend.cpu_seconds


@dataclass
class Measurement:
    """Counts by metric and label, and the time of stages."""

    counts: dict[CountKey, float] = field(default_factory=dict)
    stages: dict[str, StageTime] = field(default_factory=dict)

    def add(self, addend: "Measurement") -> None:
        """Add another one."""
        for key, number in addend.counts.items():
            self.counts[key] = self.counts.get(key, 0) + number
        for name, stage_time in addend.stages.items():
            self.stages.setdefault(name, StageTime()).add(stage_time)

    def sum(self, metric: Metric) -> float:
        """Return the count of a metric over all labels."""
        return sum(count for (name, _), count in self.counts.items() if name == metric.name)


_lock = threading.Lock()
_total = Measurement()
_threads = threading.local()


def count(metric: Metric, label: str, number: float = 1) -> None:
    """Add to a counter."""
    with _lock:
        key = metric.name, label
        _total.counts[key] = _total.counts.get(key, 0) + number


def take() -> Measurement:
    """Return what has come together since the last call."""
    global _total
    with _lock:
        measurement, _total = _total, Measurement()
    return measurement


class stage:  # noqa: N801  # used as a function
    """A context in which time is that of a stage, and of no other around it."""

    __slots__ = ("_cpu_start", "_name", "_outer", "_start", "_time")

    def __init__(self, name: str) -> None:
        self._name, self._time = name, StageTime()

    def __enter__(self) -> None:
        self._outer: stage | None = getattr(_threads, "stage", None)
        _threads.stage = self
        if self._outer is not None:
            self._outer._pause()
        self._resume()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pause()
        _threads.stage = self._outer
        if self._outer is not None:
            self._outer._resume()
        with _lock:
            _total.stages.setdefault(self._name, StageTime()).add(self._time)

    def _resume(self) -> None:
        self._start, self._cpu_start = time.perf_counter(), time.thread_time()

    def _pause(self) -> None:
        self._time.seconds += time.perf_counter() - self._start
        self._time.cpu_seconds += time.thread_time() - self._cpu_start


def reading(function: Callable[P, bytes]) -> Callable[P, bytes]:
    """Decorate a function that reads from storage: its time and its bytes count."""

    @functools.wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> bytes:
        with stage(Stage.READ):
            data = function(*args, **kwargs)
        count(BYTES, "read", len(data))
        return data

    return read


def writing(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function that writes its last argument, bytes, to storage: its time and its bytes count."""

    @functools.wraps(function)
    def write(*args: P.args, **kwargs: P.kwargs) -> T:
        with stage(Stage.WRITE):
            result = function(*args, **kwargs)
        data = args[-1]
        count(BYTES, "written", len(data) if isinstance(data, bytes | bytearray | memoryview) else 0)
        return result

    return write
