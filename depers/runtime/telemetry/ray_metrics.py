"""The metrics in Ray, which gives them to Prometheus; nothing happens where no Ray runs in this process."""

import sys
import threading
from collections import Counter
from typing import Any

from depers.observation.context import current_context
from depers.observation.meter import Measurement
from depers.observation.metrics import (
    COMMON_LABELS,
    METRICS,
    STAGE_CPU_SECONDS,
    STAGE_SECONDS,
    WORK_RUNNING,
    WORK_SECONDS,
    WORK_WAITING,
    Metric,
    MetricKind,
)

_METRICS = {metric.name: metric for metric in METRICS}
_lock = threading.Lock()
_instruments: dict[str, Any] = {}
_numbers: Counter[str] = Counter()


def export_measurement(measurement: Measurement, step: str, seconds: float) -> None:
    """Add what a worker measured to the counters, and the seconds of its work, a `step`, to the histogram."""
    if not _is_connected():
        return
    for (name, label), number in measurement.counts.items():
        if number > 0:
            metric = _METRICS[name]
            _instrument(metric).inc(number, _tag(metric, label))
    for name, stage_time in measurement.stages.items():
        times = ((STAGE_SECONDS, stage_time.seconds), (STAGE_CPU_SECONDS, stage_time.cpu_seconds))
        for metric, seconds_there in times:
            if seconds_there > 0:
                _instrument(metric).inc(seconds_there, _tag(metric, name))
    _instrument(WORK_SECONDS).observe(seconds, _tag(WORK_SECONDS, step))


def note_running(step: str, change: int) -> None:
    """Note that a step begins (1) or ends (-1) in this process."""
    with _lock:
        _numbers[step] += change
        number = _numbers[step]
    if _is_connected():
        _instrument(WORK_RUNNING).set(number, _tag(WORK_RUNNING, step))


def note_waiting(number: float) -> None:
    """Note how much is not done."""
    if _is_connected():
        _instrument(WORK_WAITING).set(number, _tag(WORK_WAITING))


def _is_connected() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized()) and bool(current_context().job)


def _tag(metric: Metric, label: str | None = None) -> dict[str, str]:
    values = (*current_context(), *([] if label is None else [label]))
    return dict(zip((*COMMON_LABELS, *metric.labels), values, strict=True))


def _instrument(metric: Metric) -> Any:
    """Return Ray's object for a metric, which a process makes once."""
    with _lock:
        if metric.name not in _instruments:
            from ray.util import metrics

            labels = (*COMMON_LABELS, *metric.labels)
            if metric.kind is MetricKind.HISTOGRAM:
                instrument = metrics.Histogram(metric.name, metric.description, list(metric.boundaries), labels)
            else:
                make = metrics.Counter if metric.kind is MetricKind.COUNTER else metrics.Gauge
                instrument = make(metric.name, metric.description, labels)
            _instruments[metric.name] = instrument
        return _instruments[metric.name]
