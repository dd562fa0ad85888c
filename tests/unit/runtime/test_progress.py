"""Tests of progress: nothing is shown unasked, and no rate is told that says nothing."""

import io
import json

import pytest

from depers.runtime import progress
from depers.runtime.progress import Speed


class Clock:
    """A clock that goes on by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ([], "all done before"),
        ([(8, 4.0)], "in 4.0 s"),  # a single unit
        ([(8, 20.0), (8, 2.0), (8, 2.0)], "4.0 images/s"),  # without the start
        ([(8, 20.0), (6, 0.01)], "in 20.0 s"),  # they end almost together
    ],
)
def test_rates(monkeypatch: pytest.MonkeyPatch, ends: list[tuple[int, float]], text: str) -> None:
    clock = Clock(monkeypatch)
    stopwatch = progress.Stopwatch()
    for images, seconds in ends:
        clock.now += seconds
        stopwatch.add(images)
    speed = stopwatch.speed()
    assert str(speed) == text and speed.images == sum(images for images, _ in ends)


def test_nothing_is_shown_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> Speed:
        progress.report("a line")
        return progress.follow([["clean", "failed"], ["clean"]], 3)

    assert work().images == 3
    assert capsys.readouterr() == ("", "")
    stream = io.StringIO()
    with progress.shown_on(stream):
        work()
    work()
    assert stream.getvalue().startswith("a line\n") and "3/3" in stream.getvalue()
    assert "clean=2, failed=1" in stream.getvalue() and stream.getvalue().count("a line") == 1
    assert capsys.readouterr() == ("", "")


def test_json_is_one_object_per_line() -> None:
    stream = io.StringIO()
    with progress.shown_on(stream, "json"):
        progress.report("a line: ä")
        speed = progress.follow([["clean", "failed"], ["clean"]], 3)
        progress.report_event("end", code=0)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert speed.images == 3 and events[0]["text"] == "a line: ä"
    assert {event["event"] for event in events} == {"message", "progress", "end"}
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["done"], last["total"], last["unit"], last["detail"]) == (3, 3, "image", "clean=2, failed=1")
    assert all({"time", "job", "verb"} <= event.keys() for event in events)


def test_none_shows_nothing() -> None:
    stream = io.StringIO()
    with progress.shown_on(stream, "none"):
        progress.report("a line")
        progress.follow([["clean"]], 1)
    assert stream.getvalue() == ""
