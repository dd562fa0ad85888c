"""Thresholds are taken for the detector that they were found with, as it was set, and for no other."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from threshold_files import SETTINGS, format_file

from depers.commands import anonymize, detect
from depers.detection.detections import SCHEMA
from depers.detection.thresholds import read_thresholds
from depers.errors import UserError
from depers.pipeline.box_sources import BoxSource, find_previous_source
from depers.pipeline.run import make_job
from depers.pipeline.threshold_check import check_thresholds
from depers.runtime import claims
from depers.storage import tables

CHECKPOINT = b"a model"
DIGEST = hashlib.sha256(CHECKPOINT).hexdigest()
FOUND_WITH = SETTINGS._replace(weights=((DIGEST, {"person": "human"}),), classes=("human",))


def check(
    tmp_path: Path,
    options_type: Any = anonymize.Options,
    found_with: Any = FOUND_WITH,
    arithmetic: str = "bfloat16",
    **values: Any,
) -> Any:
    file = tmp_path / "thresholds.json"
    file.write_text(format_file({"human": 0.2}, found_with))
    sources = {} if "previous_detections" in values or "boxes" in values else {"weights": ("w.pt:person=human",)}
    options = options_type(input="in", out=str(tmp_path / "out"), thresholds=str(file), **(sources | values))
    previous = values.get("previous_detections")
    boxes = find_previous_source(previous, None, {}) if previous else None
    flags = {name: values[name] for name in ("multi_label", "half_stride_pad") if name in values}
    job = make_job(options, SCHEMA, lambda out: lambda item, boxes: None, boxes=boxes, device="cpu", **flags)  # type: ignore
    return check_thresholds(options, job, [CHECKPOINT] if job.weights else [], ["human"], arithmetic)


def test_the_same_detector_takes_them(tmp_path: Path) -> None:
    assert check(tmp_path) == () == check(tmp_path, detect.Options)
    assert check(tmp_path, confidence=0.01, classes=("human",)) == ()  # neither moves the boxes above a threshold


@pytest.mark.parametrize(
    ("values", "found_with", "difference"),
    [
        ({}, {"weights": (("c" * 64, {"person": "human"}),)}, f"weights (SHA-256) cccccccccccc, now {DIGEST[:12]}"),
        ({"weights": ("w.pt",)}, {}, "class map person=human, now none"),
        ({}, {"classes": ("face", "human")}, "classes face, human, now human"),
        ({"imgsz": 1280}, {}, "--imgsz 640, now 1280"),
        ({"tile": 1280}, {}, "--tile none, now 1280"),
        ({"augment": True}, {}, "--augment False, now True"),
        ({"arithmetic": "float32"}, {}, "arithmetic bfloat16, now float32 (--precision, --device)"),
        ({"precision": "bfloat16", "arithmetic": "float16"}, {}, "arithmetic bfloat16, now float16 (--precision"),
        ({}, {"arithmetic": ("bfloat16", "float32")}, "arithmetic bfloat16 and float32, now bfloat16 (--precision, "),
        ({}, {"arithmetic": None}, "arithmetic that is not known, now bfloat16 (--precision, --device)"),
        ({"iou_threshold": 0.4}, {}, "--iou-threshold 0.5, now 0.4"),
        ({"margin": 0.0}, {}, "--margin 0.1, now 0"),
        ({"within": ("human=car",)}, {}, "--within none, now human=car"),
        ({}, {"within": ("human=car",)}, "--within human=car, now none"),
    ],
)
def test_another_is_refused_in_one_line(
    tmp_path: Path, values: dict[str, Any], found_with: dict[str, Any], difference: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(tmp_path, found_with=FOUND_WITH._replace(**found_with), **values)
    assert f"thresholds.json: was found with {difference}" in str(caught.value)
    assert ": find them again with `depers evaluate`, or add --thresholds-anyway" in str(caught.value)
    [note] = check(tmp_path, found_with=FOUND_WITH._replace(**found_with), thresholds_anyway=True, **values)
    assert note.startswith("warning: --thresholds-anyway: ") and difference in note


def test_options_that_detect_alone_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was found with no --multi-label, now with it"):
        check(tmp_path, detect.Options, multi_label=True)
    with pytest.raises(UserError, match="was found with no --half-stride-pad, now with it"):
        check(tmp_path, detect.Options, half_stride_pad=True)
    with pytest.raises(UserError, match="--thresholds-anyway is about --thresholds, which are not given"):
        detect.Options("in", "out", ("w.pt",), thresholds_anyway=True)


def write_run(folder: Path, arithmetics: Sequence[str | None] = ("bfloat16", None), **values: Any) -> str:
    """Write what a run of `detect` with those options notes about itself; return its table."""
    options = detect.Options("in", str(folder), ("w.pt:person=human",), **values)
    with claims.hold(str(folder), options.decisive() | {"weights_sha256": [DIGEST[:16]]}):
        pass
    tables.write_table(str(folder / "detections.parquet"), pa.table({"arithmetic": pa.array(arithmetics, pa.string())}))
    return str(folder / "detections.parquet")


def test_earlier_detections_are_those_of_the_same_detector(tmp_path: Path) -> None:
    assert check(tmp_path, previous_detections=write_run(tmp_path / "low", confidence=0.1)) == ()
    table = write_run(tmp_path / "high", confidence=0.5)
    with pytest.raises(UserError, match=rf"boxes of human from 0.2 on, now {table} has them from 0.5 on"):
        check(tmp_path, previous_detections=table)
    with pytest.raises(UserError, match="--imgsz 640, now 320"):
        check(tmp_path, previous_detections=write_run(tmp_path / "small", imgsz=320, confidence=0.1))
    for name, arithmetics, difference in (
        ("slow", ("float32", None), "bfloat16, now float32"),
        ("mixed", ("bfloat16", "float32"), "bfloat16, now bfloat16 and float32"),
    ):
        table = write_run(tmp_path / name, arithmetics, confidence=0.1)
        with pytest.raises(UserError, match=f"was found with arithmetic {difference}"):
            check(tmp_path, previous_detections=table)
    assert check(tmp_path, previous_detections=write_run(tmp_path / "none", (None,), confidence=0.1)) == ()
    silent = write_run(tmp_path / "silent", confidence=0.1)
    tables.write_table(silent, pa.table({"path": ["a.jpg"]}))
    with pytest.raises(UserError, match="was found with arithmetic bfloat16, now that is not known"):
        check(tmp_path, previous_detections=silent)
    other = tmp_path / "detections.parquet"
    other.write_bytes(b"")
    with pytest.raises(UserError, match=f"now {other}, of which no run says how it was made"):
        check(tmp_path, previous_detections=str(other))
    assert "no run says" in check(tmp_path, previous_detections=str(other), thresholds_anyway=True)[0]


def test_boxes_of_people_need_none(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    file.write_text(format_file({"human": 0.2}))
    options = anonymize.Options("in", str(tmp_path / "out"), boxes="boxes", thresholds=str(file))
    job = make_job(options, SCHEMA, lambda out: lambda item, boxes: None, boxes=BoxSource("boxes"), device="cpu")  # type: ignore
    assert check_thresholds(options, job, [], [], "") == ()


def write_settings(file: Path, settings: dict[str, Any], absent: str | None = None) -> Path:
    content = json.loads(format_file({"human": 0.2}, FOUND_WITH))
    content["settings"] = {k: v for k, v in content["settings"].items() if k != absent} | settings
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("within", ["human=car", None, {"human": "car"}, 7])
def test_rules_that_are_no_list_are_refused(tmp_path: Path, within: Any) -> None:
    file = write_settings(tmp_path / "thresholds.json", {"within": within})
    with pytest.raises(UserError, match="settings must say within, but has "):
        read_thresholds(str(file))
    write_settings(file, {}, "within")  # as earlier versions wrote it
    assert read_thresholds(str(file)).settings.within == ()


@pytest.mark.parametrize(
    ("noted", "arithmetic"),
    [
        ({"precision": "auto"}, None),  # as earlier versions wrote it: of the machine nothing is known
        ({"precision": "bfloat16"}, None),  # on a GPU it was float16
        ({"precision": "float32"}, ("float32",)),
        ({"arithmetic": None}, None),
        ({"arithmetic": []}, None),
        ({"arithmetic": ["float32", "bfloat16"]}, ("bfloat16", "float32")),
    ],
)
def test_what_a_file_says_of_the_arithmetic(
    tmp_path: Path, noted: dict[str, Any], arithmetic: tuple[str, ...] | None
) -> None:
    file = write_settings(tmp_path / "thresholds.json", noted, "arithmetic")
    assert read_thresholds(str(file)).settings.arithmetic == arithmetic


@pytest.mark.parametrize("arithmetic", ["float32", ["float32", 7], {}])
def test_an_arithmetic_that_is_no_list_of_names_is_refused(tmp_path: Path, arithmetic: Any) -> None:
    file = write_settings(tmp_path / "thresholds.json", {"arithmetic": arithmetic})
    with pytest.raises(UserError, match="settings must say arithmetic as a list of names, but has "):
        read_thresholds(str(file))
