"""Tests of what is said about a run at its end: time by stage, the bottleneck, what a million images cost."""

import pytest

from depers.observation import collector as collectors
from depers.observation.collector import Collector, Resources, collect, collecting
from depers.observation.meter import Measurement, Stage, StageTime
from depers.observation.metrics import FILES, RETRIES
from depers.observation.usage import Usage


def usage(seconds: float = 100, cores: float = 4, gpus: float = 0, **stages: tuple[float, float]) -> Usage:
    times = {name: StageTime(*times) for name, times in stages.items()}
    return Usage(images=1000, seconds=seconds, core_seconds=seconds * cores, gpus=gpus, stages=times)


@pytest.mark.parametrize(
    ("run", "start"),
    [
        (usage(detect=(200, 195), prepare=(150, 145)), "cores: 85% busy, most of it with detect"),
        (usage(read=(900, 5), write=(100, 5), detect=(60, 60)), "storage: cores 18% busy, threads wait for read"),
        (usage(read=(10, 5), write=(900, 5), detect=(60, 60)), "storage: cores 18% busy, threads wait for write"),
        (usage(detect=(20, 20)), "work: cores 5% busy"),
        (usage(detect=(380, 80)), "cores: 20% busy with this run; other programs"),
        (usage(gpus=1, detect=(95, 30), prepare=(50, 50)), "GPU: 95% of the time in detect"),
        (usage(seconds=0.5, detect=(1, 1)), "unknown"),
        (Usage(), "unknown"),
    ],
)
def test_bottlenecks(run: Usage, start: str) -> None:
    assert run.find_bottleneck().startswith(start)


def test_a_million_images_cost() -> None:
    run = usage(detect=(300, 290))  # 400 core-seconds for 1000 images: 0.4 each, 111.1 hours for a million
    assert run.core_hours_per_million == pytest.approx(111.11, abs=0.01)
    assert run.compute_cost(0.05) == pytest.approx(5.556, abs=0.001)
    first, second = run.lines(0.1)
    assert first.startswith("time: detect 100%; bottleneck: cores")
    assert second == "a million images: 111 core-hours, 11.1 USD at 0.1 USD per core-hour"
    fields = run.as_fields(0.1)
    assert fields["cost_per_million"] == pytest.approx(11.11, abs=0.01) and fields["currency"] == "USD"


def test_nothing_is_said_of_nothing() -> None:
    assert Usage().lines() == [] and Usage().compute_cost() is None
    assert len(usage(seconds=0.5, detect=(1, 1)).lines()) == 1  # too short for a price


def test_what_comes_first_is_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(collectors.time, "monotonic", lambda: now[0])
    cores = [2.0]

    def make(images: int, seconds: float, status: str = "clean") -> Measurement:
        return Measurement({(FILES.name, status): images}, {Stage.DETECT: StageTime(seconds, seconds)})

    with collecting(Collector(lambda: Resources(cores[0]))) as collector:
        now[0] += 30  # Ray starts
        collect(Measurement())  # of a task that did no image
        collect(make(8, 9.0))
        now[0] += 10
        collect(make(8, 4.0))
        cores[0], now[0] = 6.0, now[0] + 10  # the cluster has grown
        collect(make(8, 4.0))
        collect(make(100, 0.0, "skipped"))
        collector.add_counts(Measurement({(RETRIES.name, "storage"): 3}))
    run = collector.make_usage()
    assert (run.images, run.seconds, run.retries) == (16, 20.0, 3)
    assert run.core_seconds == 10 * 2 + 10 * 6 and run.stages[Stage.DETECT].seconds == 8.0
    collect(make(8, 1.0))  # nobody adds up any more
    assert collector.make_usage() == run


def test_a_single_unit_has_no_rate() -> None:
    with collecting(Collector(lambda: Resources(2.0))) as collector:
        collect(Measurement({(FILES.name, "clean"): 5}, {Stage.DETECT: StageTime(1.0, 1.0)}))
    run = collector.make_usage()
    assert run.images == 5 and run.compute_cost() is None and len(run.lines()) == 1
