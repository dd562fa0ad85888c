"""A detector that says nothing sensible says so: NaN anywhere fails the image, wrong arithmetic is not used."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from depers.detection import detector as detector_module
from depers.detection import yolo
from depers.detection.detections import Detections
from depers.detection.detector import DetectorEnsemble, detect_canvases
from depers.detection.known_image import TOLERANCES, compute_reference
from depers.detection.network import Network
from depers.detection.settings import InferenceSettings, Weights
from depers.errors import UserError

NOT_FINITE = "makes the detector give numbers that are not finite"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return weights that are fresh, but for features that grow as those of trained ones do."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("weights") / "any.pt"
    model: Any = yolo.build("yolov5n", ["human", "car"])
    with torch.no_grad():
        for layer in model.model[:-1].modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(2.7)
    yolo.save(model, path)
    return path.read_bytes()


def make(*checkpoints: bytes, classes: Sequence[str] = (), **settings: Any) -> DetectorEnsemble:
    weights = [Weights(f"{number}.pt", {}) for number in range(len(checkpoints))]
    values: dict[str, Any] = {"imgsz": 96, "confidence": 0.003, "precision": "float32"}
    return DetectorEnsemble(weights, checkpoints, classes, InferenceSettings(**values | settings))


def canvases(marked: int, count: int = 3) -> list[NDArray[np.uint8]]:
    """Return gray images, of which one begins with a white patch."""
    images = [np.full((96, 96, 3), 100 + number, np.uint8) for number in range(count)]
    images[marked][:16, :16] = 255
    return images


def spoil(
    network: Network, monkeypatch: pytest.MonkeyPatch, value: float, level: int, when: Callable[[Any], bool]
) -> None:
    """Put a value into one feature of one pixel of the marked image."""
    compute = network.compute_features

    def compute_spoilt(images: Any) -> list[Any]:
        outputs = compute(images)
        for number in range(len(images)):
            if images[number].amax() > 0.9 and when(images):
                outputs[network.levels[level].source][number, 3, 1, 1] = value
        return outputs

    monkeypatch.setattr(network, "compute_features", compute_spoilt)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("level", [0, 2])
def test_one_feature_that_is_not_finite_fails_its_image(
    checkpoint: bytes, monkeypatch: pytest.MonkeyPatch, value: float, level: int
) -> None:
    detector = make(checkpoint, confidence=0.9)  # no box is as certain, so that nothing but NaN is there to be seen
    spoil(detector._networks[0], monkeypatch, value, level, lambda images: True)
    answers = detect_canvases(canvases(1), detector)
    assert [isinstance(answer, Detections) for answer in answers] == [True, False, True] and answers[1] == NOT_FINITE


def test_one_view_and_one_model_are_enough(checkpoint: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    augmented = make(checkpoint, augment=True, confidence=0.9)
    spoil(augmented._networks[0], monkeypatch, float("nan"), 1, lambda images: images[0, 0, -1, -1] > 0.44)
    assert detect_canvases(canvases(0), augmented)[0] == NOT_FINITE
    ensemble = make(checkpoint, checkpoint, confidence=0.9)
    spoil(ensemble._networks[1], monkeypatch, float("nan"), 1, lambda images: True)
    assert [answer == NOT_FINITE for answer in detect_canvases(canvases(2), ensemble)] == [False, False, True]


@pytest.mark.parametrize("output", [0, 3, 4, 6])  # of a box: its place, size, objectness, its class
def test_an_output_that_is_not_finite_is_not_below_a_threshold(checkpoint: bytes, output: int) -> None:
    detector = make(checkpoint)
    for level in detector._networks[0].levels:
        level.bias[:, output] = float("nan")
    assert detect_canvases(canvases(0), detector) == [NOT_FINITE] * 3


def test_weights_that_are_not_finite_are_refused(checkpoint: bytes, tmp_path: Path) -> None:
    model: Any = yolo.load("any.pt", checkpoint)
    with torch.no_grad():
        model.model[3].bn.running_var[2] = float("nan")
    yolo.save(model, tmp_path / "nan.pt")
    with pytest.raises(UserError, match=r"0\.pt: weights must be finite, but model\.3\.bn\.running_var holds NaN"):
        make((tmp_path / "nan.pt").read_bytes())
    model = yolo.load("any.pt", checkpoint)
    with torch.no_grad():
        for layer in model.model[:5].modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.mul_(1e12)
    with pytest.raises(UserError, match="weights must give numbers, but give NaN or infinity on a known image"):
        compute_reference(model, "0.pt")


def test_layers_that_fit_a_tiny_image_alone_are_refused(checkpoint: bytes) -> None:
    model: Any = yolo.load("best.pt", checkpoint)
    model.model[2].m[0].cv2.conv.stride = (9, 1)
    with pytest.raises(UserError, match=r"^best\.pt: layers must fit together on an image of 320 × 192: .* tensor"):
        compute_reference(model, "best.pt")


@pytest.mark.parametrize(
    ("device", "precision", "chosen", "is_native", "expected"),
    [
        ("cpu", "auto", "", True, ["bfloat16", "float32"]),
        ("cpu", "auto", "", False, ["float32"]),
        ("cpu", "auto", "bfloat16", False, ["bfloat16", "float32"]),  # as the other nodes of the job
        ("cpu", "auto", "float32", True, ["float32"]),
        ("cpu", "bfloat16", "bfloat16", False, ["bfloat16"]),
        ("cpu", "float32", "float32", True, ["float32"]),
        ("cuda", "auto", "", False, ["float16", "float32"]),
        ("cuda", "auto", "float32", False, ["float32"]),
        ("cuda", "float32", "", False, ["float32"]),
    ],
)
def test_all_workers_compute_in_what_the_job_has_chosen(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str, chosen: str, is_native: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(detector_module, "cpu_has_bfloat16", lambda: is_native)
    arithmetics = detector_module.list_arithmetics(torch.device(device), precision, chosen)
    assert [str(arithmetic).removeprefix("torch.") for arithmetic in arithmetics] == expected


def test_wrong_arithmetic_is_not_used(checkpoint: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_module, "cpu_has_bfloat16", lambda: True)
    assert make(checkpoint, precision="auto")._networks[0].arithmetic == torch.bfloat16
    compute = Network.compute_features

    def compute_wrongly(network: Network, images: Any) -> list[Any]:
        outputs = compute(network, images)
        return [x * 1.3 for x in outputs] if network.arithmetic == torch.bfloat16 else outputs

    monkeypatch.setattr(Network, "compute_features", compute_wrongly)
    careful = make(checkpoint, precision="auto")
    assert careful._networks[0].arithmetic == torch.float32 and careful.arithmetic == "float32"
    assert "0.pt: computed in float32, since bfloat16 on this machine" in careful.warnings[0]
    with pytest.raises(
        UserError, match=r"0\.pt: bfloat16 on this machine must give .* to 15\.0%, but is [23]\d\.\d% off"
    ):
        make(checkpoint, precision="bfloat16")


def test_a_head_that_says_nothing_is_right(checkpoint: bytes, tmp_path: Path) -> None:
    model: Any = yolo.load("any.pt", checkpoint)
    with torch.no_grad():
        for convolution in model.model[-1].m:
            convolution.weight.zero_()
            convolution.bias.fill_(-12)
    yolo.save(model, tmp_path / "silent.pt")
    for precision in ("float32", "bfloat16"):
        detector = make((tmp_path / "silent.pt").read_bytes(), precision=precision)
        assert [len(detections.confidences) for detections in detector(canvases(0))] == [0, 0, 0]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["yolov5n.pt", "LP_detector_nano_61.pt"])
def test_real_weights_stay_far_below_the_tolerance(data: Path, name: str, precision: str) -> None:
    content = (data / "weights" / name).read_bytes()
    reference = compute_reference(yolo.load(name, content), name)
    network = make(content, precision=precision)._networks[0]
    assert network.measure_deviation(reference) < TOLERANCES[network.arithmetic] / 3


def test_an_image_has_the_same_boxes_whatever_it_is_looked_at_with(checkpoint: bytes) -> None:
    random = np.random.default_rng(1)
    images = [random.integers(0, 255, (320, 320, 3), np.uint8) for _ in range(9)]
    detector = make(checkpoint, precision="bfloat16", imgsz=320, confidence=0.01)
    alone = [detector([image])[0] for image in images]
    assert sum(len(detections.confidences) for detections in alone) > 50
    for size in (2, 3, 5, 8, 9):
        order = list(random.permutation(len(images)))
        for start in range(0, len(images), size):
            numbers = order[start : start + size]
            for number, together in zip(numbers, detector([images[number] for number in numbers]), strict=True):
                for column, expected in zip(together, alone[number], strict=True):
                    np.testing.assert_array_equal(column, expected)
