"""Tests of log lines: JSON, with job, unit and stage, and without what may hold a path."""

import io
import json
import logging

import pytest

from depers.observation.context import RunContext, current_context, make_context, run_context
from depers.observation.logs import JsonFormatter
from depers.observation.meter import count, take
from depers.observation.metrics import FILES
from depers.runtime.telemetry.observed_work import call_observed, observe


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("depers.work")
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)
    log.setLevel(logging.INFO)
    return stream


def test_work_has_a_line_with_job_unit_and_stage(lines: io.StringIO) -> None:
    take()
    context = RunContext("anonymize-1", "anonymize")
    with run_context(current_context()):
        result, measurement = call_observed(context, "work", "unit-7", lambda: count(FILES, "clean", 3))
    assert result is None and measurement.sum(FILES) == 3
    line = json.loads(lines.getvalue())
    expected = {"job": "anonymize-1", "verb": "anonymize", "unit": "unit-7", "stage": "work", "event": "done"}
    assert expected.items() <= line.items() and (line["files"], line["failures"]) == (3, 0)
    assert line["time"].endswith("Z") and line["level"] == "info"


def test_an_error_is_told_without_its_text(lines: io.StringIO) -> None:
    with run_context(current_context()), pytest.raises(OSError), observe(RunContext("j", "v"), "work", "u"):
        raise OSError("/photos/of/somebody.jpg")
    line = json.loads(lines.getvalue())
    assert (line["event"], line["level"], line["error"]) == ("failed", "error", "OSError")
    assert "somebody" not in lines.getvalue()


def test_a_run_within_another_has_its_context() -> None:
    with run_context(make_context("demo")):
        outer = current_context()
        with run_context(make_context("train")):
            assert current_context() == outer
    assert current_context() == RunContext() and outer.job.startswith("demo-")
