"""What a run took: time by stage, what it waited for, and what a million images cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from depers.observation.meter import Stage, StageTime
from depers.options.command_line import CORE_HOUR_PRICE, CURRENCY

_LEAST_SECONDS = 1.0  # that a rate needs
_BUSY_SHARE = 0.7  # of the cores, from which on there are too few of them
_WAITING_STAGES = (Stage.READ, Stage.WRITE, Stage.RECORD)
_MOST_STAGES = 6  # that the line tells


@dataclass(frozen=True)
class Usage:
    """What a run took from the end of its first unit to that of its last: the start tells nothing about a million.

    `core_seconds` are those of all cores that were there, busy or not, since they are what is paid for.
    """

    job: str = ""
    verb: str = ""
    images: int = 0
    """Files and members that were done, but those that are no images."""
    seconds: float = 0.0
    core_seconds: float = 0.0
    gpus: float = 0.0
    stages: Mapping[str, StageTime] = field(default_factory=dict)
    retries: int = 0

    @property
    def has_rate(self) -> bool:
        """Whether it was long enough to say anything about more images."""
        return self.images > 0 and self.seconds >= _LEAST_SECONDS and self.core_seconds > 0

    @property
    def busy_share(self) -> float:
        """The share of the cores that computed, 0…1."""
        return min(
            1.0, sum(stage_time.cpu_seconds for stage_time in self.stages.values()) / max(self.core_seconds, 1e-9)
        )

    @property
    def core_hours_per_million(self) -> float | None:
        """Core-hours of a million images; None where the run was too short to tell."""
        return self.core_seconds / self.images * 1e6 / 3600 if self.has_rate else None

    def compute_cost(self, core_hour_price: float = CORE_HOUR_PRICE) -> float | None:
        """Return what a million images cost at this price of a core-hour, in its currency; GPUs are not counted."""
        hours = self.core_hours_per_million
        return None if hours is None else hours * core_hour_price

    def find_bottleneck(self) -> str:
        """Return what more of would have made the run faster: a stage's processor time, storage, a GPU, or work."""
        if not self.stages or not self.has_rate:
            return "unknown: the run was too short to tell"
        cpu_name = max(self.stages, key=lambda name: self.stages[name].cpu_seconds)
        if self.busy_share >= _BUSY_SHARE:
            return f"cores: {self.busy_share:.0%} busy, most of it with {cpu_name}"
        detection = self.stages.get(Stage.DETECT, StageTime()).seconds
        if self.gpus and detection >= _BUSY_SHARE * self.gpus * self.seconds:
            return f"GPU: {detection / (self.gpus * self.seconds):.0%} of the time in {Stage.DETECT}"
        waits = {name: self.stages[name].seconds - self.stages[name].cpu_seconds for name in self.stages}
        storage_wait = sum(waits[name] for name in _WAITING_STAGES if name in waits)
        if storage_wait >= (1 - self.busy_share) * self.core_seconds / 2:
            stage = max((name for name in _WAITING_STAGES if name in waits), key=lambda name: waits[name])
            return f"storage: cores {self.busy_share:.0%} busy, threads wait for {stage}"
        attempts = sum(stage_time.seconds for name, stage_time in self.stages.items() if name not in _WAITING_STAGES)
        if attempts >= _BUSY_SHARE * self.core_seconds:
            return f"cores: {self.busy_share:.0%} busy with this run; other programs have the rest, or memory is slow"
        return f"work: cores {self.busy_share:.0%} busy, the others had nothing to do (start, end, few units)"

    def lines(self, core_hour_price: float = CORE_HOUR_PRICE) -> list[str]:
        """Return what people see at the end of a run; nothing where nothing was measured."""
        total = sum(stage_time.seconds for stage_time in self.stages.values())
        if not self.images or not total:
            return []
        shares = sorted(self.stages.items(), key=lambda item: -item[1].seconds)[:_MOST_STAGES]
        texts = [
            f"{name} {stage_time.seconds / total:.0%}"
            for name, stage_time in shares
            if stage_time.seconds / total >= 0.005
        ]
        retries = f"; {self.retries} retries" if self.retries else ""
        lines = [f"time: {', '.join(texts)}{retries}; bottleneck: {self.find_bottleneck()}"]
        if (cost := self.compute_cost(core_hour_price)) is not None:
            gpus = ", GPUs not counted" if self.gpus else ""
            hours = f"{self.core_hours_per_million:.3g} core-hours"
            price = f"{cost:.3g} {CURRENCY} at {core_hour_price:g} {CURRENCY} per core-hour{gpus}"
            lines.append(f"a million images: {hours}, {price}")
        return lines

    def as_fields(self, core_hour_price: float = CORE_HOUR_PRICE) -> dict[str, Any]:
        """Return the same as fields of a JSON line."""
        return {
            "job": self.job,
            "verb": self.verb,
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "core_seconds": round(self.core_seconds, 3),
            "gpus": self.gpus,
            "retries": self.retries,
            "busy_share": round(self.busy_share, 4),
            "stage_seconds": {name: round(stage_time.seconds, 3) for name, stage_time in self.stages.items()},
            "stage_cpu_seconds": {name: round(stage_time.cpu_seconds, 3) for name, stage_time in self.stages.items()},
            "bottleneck": self.find_bottleneck(),
            "core_hours_per_million": self.core_hours_per_million,
            "core_hour_price": core_hour_price,
            "cost_per_million": self.compute_cost(core_hour_price),
            "currency": CURRENCY,
        }
