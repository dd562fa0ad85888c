"""The metrics of depers: their names, kinds and labels. `runtime.ray_metrics` registers them with Ray, which gives them
to Prometheus as `ray_NAME`, counters as `ray_NAME_total`, with its own labels for the node and the process.

Every metric also has the labels `job` and `verb`. Labels have few values: none is a path, a unit or a message.
"""

from enum import StrEnum
from typing import NamedTuple


class MetricKind(StrEnum):
    """How values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """A metric: the labels are those besides `job` and `verb`; a histogram has boundaries."""

    name: str
    kind: MetricKind
    description: str
    labels: tuple[str, ...] = ()
    boundaries: tuple[float, ...] = ()

    @property
    def exported_name(self) -> str:
        """Return what Prometheus calls it."""
        return f"ray_{self.name}" + ("_total" if self.kind is MetricKind.COUNTER else "")


COMMON_LABELS = ("job", "verb")
"""The labels of all metrics: a run of a verb, and its name."""

FILES = Metric(
    "depers_files", MetricKind.COUNTER, "files and members that are done, by what became of them", ("status",)
)
BOXES = Metric("depers_boxes", MetricKind.COUNTER, "boxes of what is done, by class", ("class",))
BYTES = Metric("depers_bytes", MetricKind.COUNTER, "bytes read from and written to storage", ("direction",))
FAILURES = Metric("depers_failures", MetricKind.COUNTER, "files and members that failed, by kind of reason", ("kind",))
RETRIES = Metric(
    "depers_retries", MetricKind.COUNTER, "what was tried again: requests, work of ended processes", ("kind",)
)
STAGE_SECONDS = Metric("depers_stage_seconds", MetricKind.COUNTER, "seconds that threads spent in a stage", ("stage",))
STAGE_CPU_SECONDS = Metric(
    "depers_stage_cpu_seconds", MetricKind.COUNTER, "seconds of a processor that threads spent in a stage", ("stage",)
)
WORK_SECONDS = Metric(
    "depers_work_seconds",
    MetricKind.HISTOGRAM,
    "seconds of a unit, chunk or task from its begin to its end",
    ("step",),
    (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
)
WORK_RUNNING = Metric(
    "depers_work_running", MetricKind.GAUGE, "units, chunks and tasks that a process is at work on", ("step",)
)
WORK_WAITING = Metric(
    "depers_work_waiting", MetricKind.GAUGE, "units, tasks, images or epochs that are not done, as the bar counts", ()
)

METRICS = (
    FILES, BOXES, BYTES, FAILURES, RETRIES, STAGE_SECONDS, STAGE_CPU_SECONDS, WORK_SECONDS, WORK_RUNNING, WORK_WAITING,
)  # fmt: skip
"""All of them."""
