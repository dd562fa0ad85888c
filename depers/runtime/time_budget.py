"""A budget of time for every file: what takes longer ends its process, and is known by name when that begins again.

Code in C cannot be interrupted, so nothing less than the end of the process ends it. The time is that of the thread
on the processor: a machine that is busy, or asleep, is no reason to give a file up. What waits without computing has
`_WALL_FACTOR` times as long.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

FILE_SECONDS = 300.0
"""The budget by default: several times what the largest allowed images take to be encoded again."""
_WALL_FACTOR = 10
_GRACE_SECONDS = 10.0  # beyond the budget, where code in C does not let Python's threads run: then of the wall's clock


class _Watched(NamedTuple):
    """A file that a thread works on: its place, the thread's clock, and what that and the wall's said at first."""

    place: Hashable
    clock: int
    cpu_began: float
    began: float


_watched: dict[int, _Watched] = {}
"""What the threads of this process work on."""
_clocks = threading.local()
_watchdog: "_Watchdog | None" = None


def _thread_clock() -> int:
    if not hasattr(_clocks, "id"):  # by the kernel's number of the thread: harmless also when it has ended
        _clocks.id = time.pthread_getcpuclockid(threading.get_ident())
    return int(_clocks.id)


@contextmanager
def watch(place: Hashable) -> Iterator[None]:
    """Count the block's time against the budget of the file at `place`."""
    thread = threading.get_ident()
    _watched[thread] = _Watched(place, _thread_clock(), time.thread_time(), time.monotonic())
    try:
        yield
    finally:
        _watched.pop(thread, None)


@contextmanager
def pause() -> Iterator[None]:
    """Do not count the block's time against the budget of the file that this thread works on."""
    thread = threading.get_ident()
    watched = _watched.pop(thread, None)
    cpu, wall = time.thread_time(), time.monotonic()
    try:
        yield
    finally:
        if watched is not None:
            cpu_began, began = (
                watched.cpu_began + time.thread_time() - cpu,
                watched.began + time.monotonic() - wall,
            )
            _watched[thread] = watched._replace(cpu_began=cpu_began, began=began)


def enforce(seconds: float, report: Callable[[Hashable], None]) -> None:
    """End this process, from now on, when a file takes longer than `seconds`; `report` hears of its place before."""
    global _watchdog
    if _watchdog is None:
        _watchdog = _Watchdog(seconds, report)
        _watchdog.start()
    _watchdog.seconds, _watchdog.report = seconds, report


def describe_overrun(seconds: float) -> str:
    """Return why a file that took longer than its budget is given up."""
    return f"took longer than {seconds:g} s"


def find_overdue(seconds: float) -> Hashable | None:
    """Return the place of a file that has taken longer; None where there is none."""
    now = time.monotonic()
    for watched in list(_watched.values()):
        try:
            cpu = time.clock_gettime(watched.clock) - watched.cpu_began
        except OSError:  # the thread has ended
            continue
        if cpu > seconds or now - watched.began > _WALL_FACTOR * seconds:
            return watched.place
    return None


class _Watchdog(threading.Thread):
    """Looks at what the process works on, now and then."""

    def __init__(self, seconds: float, report: Callable[[Hashable], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.seconds, self.report = seconds, report

    def run(self) -> None:
        while True:
            faulthandler.dump_traceback_later(self.seconds + _GRACE_SECONDS, exit=True)
            time.sleep(min(1.0, self.seconds / 4))
            if (place := find_overdue(self.seconds)) is not None:
                try:
                    self.report(place)
                finally:
                    os._exit(1)
