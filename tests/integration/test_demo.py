"""The demo, on a handful of scenes: every step, its report, and what the report says."""

import io
from pathlib import Path

import cv2
import pytest

from depers.commands.demo import Options, run
from depers.errors import UserError
from depers.runtime import progress


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"out": "s3://bucket/demo"}, "OUT must be a local folder"),
        ({"scenes": 3}, "--scenes must be at least 10, but got 3"),
        ({"synthetic": -1}, "--synthetic must be at least 0, but got -1"),
        ({"epochs": 0}, "--epochs must be at least 1, but got 0"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options(**({"out": "x"} | values))  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_local")
def test_demo_runs_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path.parent)  # OUT is a relative path, as in `make demo`, though workers run elsewhere
    stream = io.StringIO()
    with progress.shown_on(stream):
        result = run(Options(tmp_path.name, scenes=18, synthetic=6, unseen=4, imgsz=96, epochs=1))
    assert not result.partial and len(result.results) == len(result.seconds) == 8
    assert result.summary()[-1] == result.report == f"{tmp_path.name}/report.html"
    assert [f"[{number}/8]" in stream.getvalue() for number in range(1, 9)] == [True] * 8
    for folder in ("anonymized", "anonymized-by-default"):
        assert len(list((tmp_path / folder).glob("*.jpg"))) == 4
    page = (tmp_path / "report.html").read_text()
    for word in ("Evaluation on unseen scenes", "mAP@.5", "images", "train YOLOv5n from scratch", "synthetic scenes"):
        assert word in page
    if "before" in page:
        assert "data:image/jpeg;base64," in page
    if (tmp_path / "before-after.jpg").exists():
        assert cv2.imread(str(tmp_path / "before-after.jpg")) is not None
