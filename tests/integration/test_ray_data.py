"""The pass as a Ray Data job: a file that ends the process that works on it costs one row, not the job."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray

from depers.detection.detections import SCHEMA
from depers.detection.settings import InferenceSettings
from depers.pipeline import ray_data, run
from depers.pipeline.ray_data import CrashLedger, PassRun
from depers.pipeline.steps import Item, Outcome, PassJob, Row
from depers.runtime import units


def test_the_notebook_knows_what_ended_too_often() -> None:
    ledger = CrashLedger()
    assert ledger.begin("a") == (False, frozenset())
    assert ledger.begin("a") == (False, frozenset())  # the first died
    assert ledger.begin("a") == (True, frozenset())
    ledger.at("a", 3)
    ledger.at("a", 4)
    assert ledger.begin("a") == (True, frozenset())  # could have been a node's death
    ledger.at("a", 4)
    assert ledger.begin("a") == (True, frozenset({4}))
    assert ledger.begin("b") == (False, frozenset())
    ledger.end("a")
    assert ledger.begin("a")[0] is False


@pytest.mark.parametrize("staged", [False, True])
def test_a_deadly_file_costs_one_row(ray_local: None, tmp_path: Path, staged: bool) -> None:
    for name in ("a", "deadly", "e", "f", "g"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")

    def finish(item: Item, boxes: Sequence[Row]) -> Outcome:
        if item.path.startswith("deadly") and "ends the process" not in item.reason:
            os._exit(1)
        sides = {"width": 0, "height": 0, "boxes": []}
        return Outcome({"path": item.path, "status": "failed", "reason": item.reason} | sides, None)

    how = InferenceSettings(imgsz=64)
    job = PassJob(str(tmp_path / "in"), str(tmp_path / "out"), (), (), how, 8, 80, False, SCHEMA, finish)
    everything = run.plan(job.input)
    assert list(ray_data.run(PassRun(job, ray.put([]), 32, staged, 1), everything))
    rows = [row for table in units.collect(job.out, everything, SCHEMA) for row in table.to_pylist()]
    reasons = {row["path"]: row["reason"] for row in rows}
    assert len(reasons) == 5
    assert reasons.pop("deadly/x.jpg") == "ends the process that works on it"
    assert all("ends the process" not in reason for reason in reasons.values())
