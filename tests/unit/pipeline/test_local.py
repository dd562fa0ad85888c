"""Who does a pass: processes of this machine, or Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from depers.commands import anonymize
from depers.pipeline import local

FEW, MANY = 20, local._MOST_FILES + 1


@pytest.mark.parametrize(
    ("count", "names", "values", "has_gpu", "processes"),
    [
        (FEW, (), {}, False, 2),
        (1, (), {}, False, 1),
        (MANY, (), {}, False, 4),
        (MANY, (), {"workers": 3}, False, 3),
        (MANY, (), {"device": "cpu"}, True, 4),
        (MANY, (), {}, True, None),
        (FEW, (), {}, True, 2),
        (FEW, (), {"device": "cuda"}, False, None),
        (FEW, (), {"thresholds": "t.json"}, False, 2),
        (FEW, (), {"thresholds": "t.json"}, True, None),  # whose arithmetic must not depend on how many there are
        (FEW, (), {"thresholds": "t.json", "device": "cpu"}, True, 2),
        (FEW, ("a.tar",), {}, False, None),
        (MANY, ("a.zip",), {}, False, None),
        (FEW, ("a.tar",), {"topology": "local"}, False, 2),
        (MANY, (), {"topology": "local"}, True, 4),
        (FEW, (), {"topology": "fused"}, False, None),
        (FEW, (), {"topology": "staged"}, False, None),
        (FEW, (), {"out": "s3://bucket/out"}, False, 2),
        (MANY, (), {"out": "s3://bucket/out"}, False, None),
        (MANY, (), {"records": "s3://bucket/records"}, False, None),
    ],
)
def test_one_machine_does_folders_without_ray(
    count: int,
    names: tuple[str, ...],
    values: Mapping[str, Any],
    has_gpu: bool,
    processes: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr(local, "_has_gpu", lambda: has_gpu)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in [f"{index}.jpg" for index in range(count)] + list(names):
        (folder / name).touch()
    options = anonymize.Options(str(folder), **({"out": str(tmp_path / "out")} | dict(values)))
    plan = anonymize.plan_processes(options)
    assert (plan and plan.size) == processes
