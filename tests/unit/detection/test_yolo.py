"""Weights are code: what is loaded, what is refused, and that predictions do not depend on the batch."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from depers.boxes import letterbox
from depers.detection import yolo
from depers.detection.detector import DetectorEnsemble
from depers.detection.fused_convolution import ConvolutionSiLU, _works, join_activations
from depers.detection.settings import InferenceSettings, Weights, parse_weights
from depers.detection.tiling import draw_canvas
from depers.errors import UserError
from depers.imaging.decoding import decode


class Foreign:
    """Runs a command when unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/depers-was-here",)


def checkpoint(tmp_path: Path, content: object) -> bytes:
    torch.save(content, tmp_path / "x.pt")
    return (tmp_path / "x.pt").read_bytes()


def test_a_foreign_function_is_named_and_not_called(tmp_path: Path) -> None:
    model = yolo.build("yolov5n", ["a"])
    model.model[0] = torch.nn.Sequential()  # type: ignore[index, operator]
    model.model[0].conv = Foreign()  # type: ignore[index, union-attr]
    for content in ({"model": Foreign()}, {"ema": Foreign(), "model": None}, {"model": model}):
        with pytest.raises(UserError, match=r"evil.pt: .*must be .*posix.system|evil.pt: must hold .* posix.system"):
            yolo.load("evil.pt", checkpoint(tmp_path, content))
    assert not Path("/tmp/depers-was-here").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"text", "neither a zip archive nor a pickle; of an exported model"),
        (b"PK\x03\x04 broken", "is a damaged zip archive"),
        (pickle.dumps(Foreign()), "its pickle is cut off or damaged"),
        (pickle.dumps(1) * 3, "must be a file that torch.save wrote, but is another pickle"),
    ],
)
def test_what_is_no_checkpoint_is_said_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        yolo.load("w.pt", data)
    assert "\n" not in str(caught.value)


def test_other_contents_are_no_detection_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must hold a YOLOv5 detection model, but holds"):
        yolo.load("w.pt", checkpoint(tmp_path, {"model": torch.nn.Linear(2, 2)}))


def test_saved_weights_load_again_and_predict_the_same(tmp_path: Path) -> None:
    model = yolo.build("yolov5n", ["a", "b"])
    yolo.save(model, tmp_path / "w.pt")
    again = yolo.load("w.pt", (tmp_path / "w.pt").read_bytes())
    assert again.names == {0: "a", 1: "b"}
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = model.half().float().eval()(image)[0]
        assert torch.allclose(again(image)[0], expected, atol=1e-4)


def test_unknown_model_and_classes() -> None:
    with pytest.raises(UserError, match=r"--model must be one of yolov5n, .*, but got 'yolov9'"):
        yolo.build("yolov9", ["a"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("w.pt", Weights("w.pt", {})),
        ("w.pt:person=human,car=car", Weights("w.pt", {"person": "human", "car": "car"})),
        ("s3://b/k=1/w.pt", Weights("s3://b/k=1/w.pt", {})),
        ("s3://b/w.pt:license plate=carplate", Weights("s3://b/w.pt", {"license plate": "carplate"})),
        ("a=b/w.pt", Weights("a=b/w.pt", {})),
    ],
)
def test_parse_weights(text: str, expected: Weights) -> None:
    assert parse_weights(text) == expected


def test_malformed_class_map() -> None:
    with pytest.raises(UserError, match="a class map must be model_class=class"):
        parse_weights("w.pt:person=human,car")


def real_detector(data: Path, precision: str) -> DetectorEnsemble:
    weights = [parse_weights(f"{data}/weights/yolov5n.pt:person=human,car=car")]
    weights.append(parse_weights(f"{data}/weights/LP_detector_nano_61.pt:license_plate=carplate"))
    checkpoints = [Path(one.uri).read_bytes() for one in weights]
    return DetectorEnsemble(weights, checkpoints, (), InferenceSettings(precision=precision))


def canvases(data: Path, count: int) -> list[np.ndarray]:
    images = [decode(path.read_bytes()) for path in sorted((data / "coco_val/images").iterdir())[:count]]
    return [draw_canvas(one.rgb(), letterbox(one.size_wh, 640)) for one in images]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_results_do_not_depend_on_the_batch(data: Path, precision: str) -> None:
    detector = real_detector(data, precision)
    assert detector.class_names == ["human", "car", "carplate"]
    images = canvases(data, 8)
    together = detector(images)
    assert sum(len(found.confidences) for found in together) > 10
    for image, found in zip(images, together, strict=True):
        (alone,) = detector([image])
        assert len(alone.confidences) == len(found.confidences)
        assert np.abs(alone.boxes_xyxy - found.boxes_xyxy).max(initial=0) <= 1
        assert np.abs(alone.confidences - found.confidences).max(initial=0) <= 0.01
        assert (alone.class_ids == found.class_ids).all()


@pytest.mark.parametrize("confidence", [-1, 0.001, 0.01])
def test_decoding_equals_the_package(data: Path, confidence: float) -> None:
    """Boxes decoded here from the same features as by YOLOv5's own head, which decodes the unlikely ones too."""
    path = data / "weights/yolov5n.pt"
    theirs = yolo.fuse(yolo.load(str(path), path.read_bytes()))
    detector = DetectorEnsemble(
        [Weights(str(path), {})], [path.read_bytes()], (), InferenceSettings(precision="float32")
    )
    images = torch.from_numpy(np.random.default_rng(0).random((2, 3, 128, 192), np.float32))
    with torch.no_grad():
        image, rows, _ = detector._networks[0](images, confidence)
        expected = theirs(images)[0]
    likely = expected[..., 4] > confidence
    assert int(likely.sum()) > 0 and (confidence < 0 or not likely.all())
    order = image.argsort(stable=True)
    assert image[order].tolist() == likely.nonzero()[:, 0].tolist()
    assert torch.allclose(rows[order], expected[likely], atol=1e-2, rtol=1e-4)


class _Layer(nn.Module):
    """As YOLOv5's, its batch normalization folded in."""

    def __init__(self, channels: int, *geometry: int, groups: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, 16, *geometry, groups=groups)  # type: ignore[arg-type]
        self.conv, self.act = convolution.requires_grad_(False), nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        pytest.param(_Layer(8, 3, 2, 1, groups=2), 8, id="groups"),
        pytest.param(_Layer(3, 6, 2, 2), 3, id="YOLOv5's first, by pairs of pixels"),
        pytest.param(_Layer(3, 3, 2, 1), 3, id="odd kernel, no pairs"),
        pytest.param(_Layer(3, 6, 1, 2), 3, id="every pixel, no pairs"),
    ],
)
def test_convolutions_joined_with_their_activation_give_the_same(layer: nn.Module, channels: int) -> None:
    layer = layer.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = [
        torch.rand(size).to(torch.bfloat16, memory_format=torch.channels_last)
        for size in ((2, channels, 64, 96), (1, channels, 96, 64))
    ]
    with torch.inference_mode():
        expected = [layer(image) for image in images]
        join_activations([layer])
        assert isinstance(layer.conv, ConvolutionSiLU)
        for image, wanted in zip(images, expected, strict=True):
            assert torch.allclose(layer(image).float(), wanted.float(), atol=0.01, rtol=0.01)


def test_convolutions_stay_as_they_are_where_joining_changes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ConvolutionSiLU, "forward", lambda self, x: x[:, :, ::2, ::2])
    _works.cache_clear()
    layer = _Layer(8, 3, 2, 1)
    join_activations([layer])
    assert isinstance(layer.conv, nn.Conv2d)
    _works.cache_clear()
