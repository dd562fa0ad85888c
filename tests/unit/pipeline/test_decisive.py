"""What decides the bytes of a run: contents of files, never where they are."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threshold_files import format_file

from depers.commands import anonymize, detect, extract
from depers.errors import UserError
from depers.training import options as training_options


def write_thresholds(path: Path, confidence: float) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(format_file({"face": confidence}))
    return str(path)


@pytest.mark.parametrize("options_type", [anonymize.Options, detect.Options])
def test_thresholds_and_weights_count_by_content(options_type: Callable[..., Any], tmp_path: Path) -> None:
    def decisive(folder: str, confidence: float = 0.25, class_map: str = "face=head") -> dict[str, Any]:
        thresholds = write_thresholds(tmp_path / folder / "thresholds.json", confidence)
        weights = (f"{tmp_path}/{folder}/best.pt:{class_map}",)
        options = options_type(f"{folder}/in", f"{folder}/out", weights=weights, thresholds=thresholds)
        values: dict[str, Any] = options.decisive()
        return values

    assert decisive("a") == decisive("b")
    assert decisive("a") != decisive("a", confidence=0.5) != decisive("a", class_map="face=human")
    assert str(tmp_path) not in json.dumps(decisive("a"))


def test_where_things_are_does_not_count(tmp_path: Path) -> None:
    first, second = (
        anonymize.Options(
            f"{folder}/in", f"{folder}/out", boxes=f"{folder}/boxes", records=f"{folder}/records", workers=number + 1
        )
        for number, folder in enumerate(("a", "b"))
    )
    assert first.decisive() == second.decisive()
    assert first.decisive() != anonymize.Options("in", "out", boxes="boxes", mode="fill").decisive()


def test_the_weights_of_an_extraction_count_by_content(tmp_path: Path) -> None:
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.pt").write_bytes(content)
    options = [
        extract.Options("dataset", "out", weights=(f"{tmp_path}/{name}/{name}.pt:face=head",))
        for name in ("a", "b", "c")
    ]
    assert options[0].decisive() == options[1].decisive() == options[2].decisive()
    digests = [each.digest_weights() for each in options]
    assert digests[0] == digests[1] != digests[2]


def test_files_of_a_training_count_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(folder: str, learning_rate: float = 0.1) -> dict[str, Any]:
        root = tmp_path / folder
        root.mkdir(exist_ok=True)
        monkeypatch.chdir(root)
        for name in ("model.yaml", "hyp.yaml", "last.pt"):
            Path(name).write_text(f"lr0: {learning_rate}")
            os.utime(name, (len(folder), 1))
        return training_options.Options(
            "dataset", "out", model="model.yaml", hyperparameters="hyp.yaml", weights="last.pt"
        ).describe()

    assert describe("a") == describe("longer")
    first, second = describe("a"), describe("b", 0.2)
    assert {name for name in first if first[name] != second[name]} == {"model", "hyperparameters", "weights"}
    assert training_options.Options("dataset", "out", model="yolov5s").describe()["model"] == "yolov5s"
    with pytest.raises(UserError, match=r"none\.pt: no such file"):
        training_options.Options("dataset", "out", weights="none.pt").describe()
