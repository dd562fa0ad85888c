"""A run of a verb, observed by its driver: what its workers measured is added up, and goes with the result."""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from depers.observation.collector import Collector, Resources, collecting
from depers.observation.context import make_context, run_context
from depers.observation.meter import Measurement, take
from depers.runtime import local_pool
from depers.runtime.results import VerbResult
from depers.runtime.telemetry import ray_metrics

R = TypeVar("R", bound=VerbResult)

_STEP = "driver"


def observe_run(verb: str, run: Callable[[], R]) -> R:
    """Return the result of `run`, with what the run took; of one within another, the other's tells."""
    start = time.monotonic()
    with run_context(make_context(verb)), collecting(Collector(count_resources)) as collector:
        take()  # what this process did before is no part of it
        result = run()
        measurement = take()
        # The driver's own time is no worker's: only what it counted is added.
        collector.add_counts(Measurement(measurement.counts))
        ray_metrics.export_measurement(measurement, _STEP, time.monotonic() - start)
        return replace(result, usage=collector.make_usage())


def count_resources() -> Resources:
    """Return the cores and GPUs of the cluster, without one those of this process."""
    ray = sys.modules.get("ray")
    if local_pool.find_pool() is not None or ray is None or not ray.is_initialized():
        return Resources(float(len(os.sched_getaffinity(0))))
    resources = ray.cluster_resources()
    return Resources(float(resources.get("CPU", 0)), float(resources.get("GPU", 0)))
