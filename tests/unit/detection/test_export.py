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
from depers.detection import export, yolo
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


class Constant(torch.nn.Module):
    """Says the same of every image."""

    def __init__(self, predictions: torch.Tensor) -> None:
        super().__init__()
        self.predictions = torch.nn.Parameter(predictions, requires_grad=False)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.predictions + 0 * images.sum(),)


def trace(predictions: torch.Tensor) -> bytes:
    """Return a program that gives these predictions, whatever it sees."""
    buffer = io.BytesIO()
    program = torch.jit.trace(Constant(predictions), torch.zeros(1, 3, 64, 64))  # type: ignore[no-untyped-call]
    torch.jit.save(program, buffer)
    return buffer.getvalue()


def test_a_program_that_gives_no_numbers_is_not_written(
    tmp_path: Path, untrained: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, images = untrained("car"), write_images(tmp_path / "images")
    checkpoint, image = Path(weights).read_bytes(), np.full((64, 64, 3), 9, np.uint8)
    batch = torch.full((1, 3, 64, 64), 9 / 255)
    with torch.no_grad():
        expected = torch.jit.load(io.BytesIO(export.export_model(weights, checkpoint, 64, "torchscript").data))(batch)[
            0
        ]  # type: ignore[no-untyped-call]
    assert export.compare(weights, checkpoint, trace(expected), [image]).is_small
    for row, column, value in ((0, 0, np.nan), (5, 4, np.nan), (7, 2, np.inf), (None, None, np.nan)):
        predictions = expected.clone()
        predictions[0, slice(None) if row is None else row, slice(None) if column is None else column] = value
        deviation = export.compare(weights, checkpoint, trace(predictions), [image, image])
        assert deviation == (np.inf, np.inf) and not deviation.is_small
    assert not Deviation(np.nan, 0).is_small and not Deviation(0, np.nan).is_small
    assert export.compare(weights, checkpoint, trace(expected[:, :1]), [image]) == (np.inf, np.inf)  # broadcasts

    program = export.ExportedModel(trace(torch.full_like(expected, np.nan)), ("car",), 32)
    monkeypatch.setattr(export, "export_model", lambda *_: program)
    with pytest.raises(UserError, match="must find what the weights find, but it gives numbers that are not finite"):
        verb.run(Options(weights, str(images), str(tmp_path / "car.torchscript"), imgsz=64))
    assert not (tmp_path / "car.torchscript").exists()


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_a_size_that_the_model_has_no_levels_for_is_refused_before_the_work(tmp_path: Path, kind: str) -> None:
    weights, images = tmp_path / "p6.pt", write_images(tmp_path / "images")
    yolo.save(yolo.build("yolov5n6", ["car"]), weights)
    with pytest.raises(UserError, match=rf"--imgsz must be a multiple of 64 for {weights}, but got 96"):
        verb.run(Options(str(weights), str(images), str(tmp_path / f"p6.{kind}"), imgsz=96))
