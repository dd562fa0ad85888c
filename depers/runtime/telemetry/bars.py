"""A bar that also gives JSON lines, and the metric of what is not done."""

import time
from typing import Any

from tqdm import tqdm

from depers.runtime import progress
from depers.runtime.telemetry import ray_metrics

_METRIC_SECONDS = 2.0  # between two notes of what is not done
_JSON_SECONDS = 1.0  # between two lines about the same bar


class Bar(tqdm):  # type: ignore[type-arg]  # it counts, and iterates over nothing
    """A bar; with `--progress json` it is lines of JSON instead."""

    metric_time = json_time = float("-inf")
    completed = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        """Move on by `n`, also where nothing is shown."""
        self.completed += n or 0
        now = time.monotonic()
        is_end = self.completed >= (self.total or 0)
        if self.total and (is_end or now - self.metric_time >= _METRIC_SECONDS):
            self.metric_time = now
            ray_metrics.note_waiting(max(0, self.total - self.completed))
        return super().update(n)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Show how far it has come."""
        if not progress.is_json():
            return super().display(msg, pos)
        now = time.monotonic()
        if now - self.json_time >= _JSON_SECONDS:
            self.json_time = now
            self._report_state()
        return True

    def close(self) -> None:
        """Show the last state."""
        if progress.is_json() and not self.disable:
            self._report_state()
            self.disable = True  # nothing of it is left to be drawn
            self._decr_instances(self)  # type: ignore[attr-defined]
        super().close()

    def _report_state(self) -> None:
        state = self.format_dict
        elapsed = state["elapsed"]
        progress.report_event(
            "progress",
            what=(self.desc or "").rstrip(": "),
            unit=self.unit,
            done=state["n"],
            total=state["total"],
            seconds=round(elapsed, 3),
            rate=round(state["n"] / elapsed, 3) if elapsed else None,
            detail=self.postfix or "",
        )
