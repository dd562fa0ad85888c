"""A whole mission on drawn street scenes: all steps, then none again, then what a change asks for, on one Ray."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import depers
from depers.street_scenes import scenes

pytestmark = pytest.mark.slow


def test_a_mission_goes_through_and_resumes(tmp_path: Path, ray_local: None) -> None:
    scenes.write_raw(tmp_path / "raw", 24, 1, 0)
    (tmp_path / "photos").mkdir()
    for path in sorted((tmp_path / "raw" / "images").iterdir())[:6]:
        shutil.copy(path, tmp_path / "photos")
    steps: dict[str, Any] = {
        "normalize": {"raw": str(tmp_path / "raw")},
        "extract": {},
        "synthesize": {"count": 8},
        "train": {"model": "yolov5n", "epochs": 1, "imgsz": 64, "batch-size": 8},
        "evaluate": {"imgsz": 64},
        "anonymize": {"input": str(tmp_path / "photos"), "imgsz": 64},
        "audit": {"imgsz": 64},
    }
    file = tmp_path / "mission.yaml"

    def go() -> dict[str, bool]:
        file.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "steps": steps}))
        result = depers.mission(file)
        assert not result.failures.count, result.failures
        return {name: step is not None for name, step in result.steps.items()}

    assert go() == dict.fromkeys(steps, True)
    assert len(list((tmp_path / "out/safe").rglob("*.jpg"))) == 6
    assert (tmp_path / "out/safe-records/audit/report.html").exists()
    assert go() == dict.fromkeys(steps, False)
    extra = sorted((tmp_path / "raw" / "images").iterdir())[7]
    shutil.copy(extra, tmp_path / "photos")
    assert go() == dict.fromkeys(steps, False) | {"anonymize": True, "audit": True}
    assert len(list((tmp_path / "out/safe").rglob("*.jpg"))) == 7
    steps["anonymise"] = {}
    with pytest.raises(depers.UserError, match=r"a step must be one of normalize, .*, but is 'anonymise'"):
        go()
