"""Work of a worker, observed: its log lines, its metrics, and what it tells the driver that it measured."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from depers.observation.context import RunContext, enter_context
from depers.observation.logs import log_event, write_json_logs
from depers.observation.meter import Measurement, take
from depers.observation.metrics import FAILURES, FILES
from depers.runtime.telemetry import ray_metrics

T = TypeVar("T")


@contextmanager
def observe(context: RunContext, step: str, unit: str) -> Iterator[Measurement]:
    """Observe work for the run of `context`: a `step` of a `unit`; the measurement is filled as the block ends.

    What other threads of this process have measured meanwhile is in it, too, or in theirs: in the sum nothing is twice.
    """
    enter_context(context)
    write_json_logs()
    measurement, start = Measurement(), time.monotonic()
    ray_metrics.note_running(step, 1)
    try:
        yield measurement
    except BaseException as error:  # whose text may hold paths: it is in the record, or ends the job
        log_event("failed", logging.ERROR, unit=unit, stage=step, error=type(error).__name__)
        raise
    finally:
        ray_metrics.note_running(step, -1)
        seconds = time.monotonic() - start
        measurement.add(take())
        ray_metrics.export_measurement(measurement, step, seconds)
    files, failures = int(measurement.sum(FILES)), int(measurement.sum(FAILURES))
    log_event("done", unit=unit, stage=step, seconds=round(seconds, 3), files=files, failures=failures)


def call_observed(context: RunContext, step: str, unit: str, function: Callable[[], T]) -> tuple[T, Measurement]:
    """Return the result of a function, with what was measured."""
    with observe(context, step, unit) as measurement:
        result = function()
    return result, measurement
