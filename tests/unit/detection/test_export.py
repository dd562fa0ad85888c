"""A detector as a program: the same figures, or nothing is written."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from depers.commands import export as verb
from depers.commands.export import Options
from depers.detection import export
from depers.detection.export import Deviation
from depers.errors import UserError


def write_images(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate([(90, 60), (40, 70), (64, 64)]):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (height, width, 3), np.uint8))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_program_finds_what_the_weights_find(tmp_path: Path, untrained: Callable[..., str]) -> None:
    weights, images, out = untrained("car", "head"), write_images(tmp_path / "images"), tmp_path / "car.torchscript"
    result = verb.run(Options(weights, str(images), str(out), imgsz=64))
    assert result.images == 3 and result.pixels <= export.MOST_PIXELS and str(out) in result.summary()[0]
    files = {"config.txt": ""}
    program = torch.jit.load(io.BytesIO(out.read_bytes()), _extra_files=files)  # type: ignore[no-untyped-call]
    config = json.loads(files["config.txt"])
    assert config == {"shape": [1, 3, 64, 64], "stride": 32, "names": {"0": "car", "1": "head"}}
    [predictions] = program(torch.rand(1, 3, 64, 64))
    assert predictions.shape == (1, 3 * (64 + 16 + 4), 7)


def test_an_onnx_program_finds_it_too_and_says_what_it_is(tmp_path: Path, untrained: Callable[..., str]) -> None:
    onnx = pytest.importorskip("onnx")
    weights, images, out = untrained("car", "head"), write_images(tmp_path / "images"), tmp_path / "car.onnx"
    result = verb.run(Options(weights, str(images), str(out), imgsz=64))
    assert result.pixels <= export.MOST_PIXELS and result.confidence <= export.MOST_CONFIDENCE
    program = onnx.load(str(out))
    assert {entry.key: entry.value for entry in program.metadata_props} == {
        "stride": "32",
        "names": "{0: 'car', 1: 'head'}",
    }
    assert [value.name for value in (*program.graph.input, *program.graph.output)] == ["images", "output0"]
    other = untrained("car", "head", "face")
    data = export.export_model(other, Path(other).read_bytes(), 64, "onnx").data
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))
    network.setInput(np.zeros((1, 3, 64, 64), np.float32))
    assert network.forward().shape == (1, 3 * (64 + 16 + 4), 8)


def test_a_file_name_says_which_program(untrained: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"OUT must end in \.torchscript or \.onnx, but is 'best\.pb'"):
        Options("any.pt", "images", "best.pb")


def test_a_program_that_finds_other_things_is_not_written(
    tmp_path: Path, untrained: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, images, out = untrained("car"), write_images(tmp_path / "images"), tmp_path / "car.torchscript"
    monkeypatch.setattr(export, "compare", lambda *_: Deviation(3.0, 0.0))
    with pytest.raises(UserError, match=r"must find what the weights find, but boxes differ by 3\.000 pixels"):
        verb.run(Options(weights, str(images), str(out), imgsz=64))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="must hold images to compare on, but has none"):
        verb.run(Options(weights, str(tmp_path / "empty"), str(out), imgsz=64))
    assert not out.exists()


def test_the_comparison_sees_other_weights(untrained: Callable[..., str]) -> None:
    first = Path(untrained("car")).read_bytes()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    program = export.export_model("first.pt", first, 64, "torchscript").data
    assert export.compare("first.pt", first, program, [image]).is_small
    model = torch.jit.load(io.BytesIO(program))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)  # type: ignore[no-untyped-call]
    assert not export.compare("first.pt", first, buffer.getvalue(), [image]).is_small
