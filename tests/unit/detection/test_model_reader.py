"""Checkpoints as trainings leave them load; those whose layers are not YOLOv5's, or do not fit, are refused."""

import argparse
import io
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_weights import ARCHITECTURE, build_small, serialize
from torch import nn

from depers.detection import yolo
from depers.errors import UserError

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    torch.manual_seed(0)
    return build_small(tmp_path_factory.mktemp("model"))


def rename(data: bytes, *names: tuple[bytes, bytes]) -> bytes:
    """Change names in the pickle of a checkpoint."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as copy:
        for member in archive.namelist():
            content = archive.read(member)
            for old, new in names if member.endswith("data.pkl") else ():
                content = content.replace(old, new)
            copy.writestr(member, content)
    return buffer.getvalue()


def of_older_release(model: Any) -> Any:
    """Return it as YOLOv5 before 6.0 and torch before 1.11 left it."""
    head = model.model[-1]
    del head.anchor_grid
    head.register_buffer("anchor_grid", torch.ones(2, 1, 2, 1, 1, 2))
    model.names = ["a", "b"]
    del model.model[5].recompute_scale_factor
    return model


def of_training(model: Any) -> dict[str, Any]:
    """Return what a training that was cut off leaves: gradients, EMA, optimizer, numpy's figures, paths."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    options = argparse.Namespace(weights=Path("yolov5s.pt"), evolve_population=Path("data/hyps"))
    return {
        "epoch": 3, "best_fitness": np.array([0.25]), "ema": model, "updates": 7, "optimizer": optimizer.state_dict(),
        "model": model, "opt": options, "figures": {"map": np.float64(0.5)}, "git": {"remote": None}, "date": "now",
    }  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda model: serialize({"model": model}), id="float32, gradients on"),
        pytest.param(lambda model: serialize({"model": model.half().float()}), id="float16"),
        pytest.param(lambda model: serialize({"model": model, "opt": {"evolve": Path("data/hyps")}}), id="finished"),
        pytest.param(lambda model: serialize(of_training(model)), id="cut off"),
        pytest.param(lambda model: serialize(model), id="the model alone"),
        pytest.param(lambda model: serialize({"model": of_older_release(model)}), id="older release"),
        pytest.param(
            lambda model: rename(
                serialize({"model": model}),
                (b"cyolov5.models.yolo\nDetectionModel", b"cmodels.yolo\nModel"), (b"cyolov5.models", b"cmodels"),
            ), id="older names",
        ),
        pytest.param(lambda model: serialize(of_training(model), _use_new_zipfile_serialization=False), id="old torch"),
        pytest.param(lambda model: serialize(of_training(model), pickle_protocol=4), id="newer pickle"),
        pytest.param(lambda model: serialize({"model": nn.SyncBatchNorm.convert_sync_batchnorm(model)}), id="sync"),
    ],
)  # fmt: skip
def test_what_trainings_leave_loads_and_predicts_the_same(model: Any, make: Callable[[Any], bytes]) -> None:
    expected = yolo.load("w.pt", serialize({"model": model}))
    loaded = yolo.load("w.pt", make(deepcopy(model)))
    assert loaded.names == {0: "a", 1: "b"} and not loaded.training
    assert loaded.yaml == model.yaml
    with torch.inference_mode():
        torch.testing.assert_close(loaded(IMAGE)[0], expected(IMAGE)[0], atol=0.5, rtol=0.02)


@pytest.mark.parametrize(
    "layer",
    ["C3TR", "C3SPP", "C3x", "C3Ghost", "BottleneckCSP", "Bottleneck", "CrossConv", "MixConv2d", "GhostConv", "Focus"],
)
def test_every_layer_loads_as_it_was(tmp_path: Path, layer: str) -> None:
    backbone = [*ARCHITECTURE["backbone"][:2], [-1, 2, layer, [64]], *ARCHITECTURE["backbone"][3:]]
    if layer == "MixConv2d":
        backbone[2] = [-1, 1, layer, [64]]
    elif layer == "Focus":
        backbone = [ARCHITECTURE["backbone"][0], [-1, 1, "Focus", [64, 3]], *ARCHITECTURE["backbone"][2:]]
    model = build_small(tmp_path, backbone=backbone, activation="nn.LeakyReLU(0.1)").eval().requires_grad_(False)
    loaded = yolo.load("w.pt", serialize({"model": model}))
    with torch.inference_mode():
        assert torch.equal(loaded(IMAGE)[0], model(IMAGE)[0])
    assert type(loaded.model[0].act) is nn.LeakyReLU  # type: ignore[index, union-attr]


def test_an_activation_is_that_of_its_model_alone(tmp_path: Path) -> None:
    build_small(tmp_path, activation="nn.ReLU()")
    assert type(build_small(tmp_path).model[0].act) is nn.SiLU


def change(place: str, **values: Any) -> Callable[[Any], None]:
    """Return a change of plain values of a part of the model."""
    return lambda model: vars(model.get_submodule(place)).update(values)


def change_tensor(place: str, name: str, tensor: torch.Tensor) -> Callable[[Any], None]:
    return lambda model: model.get_submodule(place)._parameters.update({name: tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("model.0.conv", stride=(0, 2)), "model.0.conv: stride must be one or two numbers 1…16"),
        (change("model.0.conv", padding=(9, 9)), "model.0.conv: padding must be at most half the kernel"),
        (change("model.0.conv", groups=-1), "model.0.conv: groups must be 1…65536, but is -1"),
        (change("model.0.conv", padding_mode="circular"), "padding_mode must be zeros, but is 'circular'"),
        (change("model.0.bn", eps=float("nan")), "model.0.bn: eps must be 0…1, but is nan"),
        (change("model.0", forward=print), "model.0: 'forward' must be a plain value, but is __builtin__.print"),
        (change("model.5", scale_factor=1e9), "model.5: scale_factor must be 1…4"),
        (change("model.5", size=(9999, 9999)), "model.5: size must be None"),
        (change("model.6", f=[-1, 99]), "model.6: its sources must be layers before it, but are 99"),
        (change("model.6", f=[-1] * 17), "model.6: it must have 1…16 sources, but has 17"),
        (change("model.6", f=[-1, 0]), "must hold layers that fit together"),
        (change("model.8", nc=10**7), "model.8: nc must be 1…10000"),
        (change("model.8", nc=3), "must name its 3 classes, but names 2"),
        (change("model.8", stride=torch.tensor([4.0, 4.0])), "its head says stride 4.0, but its layers give"),
        (change("model.8", stride=torch.tensor([3.0, 8.0])), "its strides must be powers of two"),
        (change("model.8", f=[7]), "its head must have 2 levels, but has 2 and 1 sources"),
        (change("", names={0: "a", 5: "b"}), "its classes must be numbered 0…1, but one is 5"),
        (change("", names=["a", "b\nc"]), "its classes must have names of one line"),
        (lambda model: model.model.add_module("1", nn.Linear(3, 3)), "model.1: must be a layer of YOLOv5"),
        (lambda model: model.model[0].add_module("act", nn.Conv2d(1, 1, 1)), "model.0.act: must be SiLU or"),
        (lambda model: model.model[0].add_module("more", nn.SiLU()), "as YOLOv5 has it, but holds 'more' too"),
        (lambda model: model.model[2].m.add_module("1", model.model[2].m), "model.2.m.1: must be a layer of YOLOv5"),
        (lambda model: model.register_forward_hook(print), "model: hooks must be none, but holds '_forward_hooks'"),
        (change_tensor("model.1.conv", "weight", torch.ones(8, 3, 3, 3)), "must hold layers that fit together"),
        (change_tensor("model.1.conv", "weight", torch.ones(8)), "model.1.conv: weight must be any × any × any × any"),
        (change_tensor("model.1.bn", "bias", torch.ones(3)), "model.1.bn: bias must be 8, but is 3"),
        (change_tensor("model.1.bn", "bias", torch.ones(1).expand(10**9)), "holds a tensor of 1000000000 numbers"),
    ],
)
def test_what_is_no_detector_of_yolov5_is_refused(model: Any, damage: Callable[[Any], None], message: str) -> None:
    copy = deepcopy(model)
    damage(copy)
    with pytest.raises(UserError) as caught:
        yolo.load("w.pt", serialize({"model": copy}))
    assert message in str(caught.value) and str(caught.value).startswith("w.pt: ") and "\n" not in str(caught.value)


def test_other_files_are_told_what_is_wanted(model: Any) -> None:
    script = io.BytesIO()
    with zipfile.ZipFile(script, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02N.")
        archive.writestr("m/constants.pkl", b"")
    for data, message in (
        (serialize(model.state_dict()), "holds a state_dict, numbers without layers; wanted is the .pt that a YOLOv5"),
        (serialize({"model": dict(model.state_dict())}), "holds a state_dict"),
        (serialize({"state_dict": model.state_dict()}), "must hold `model` or `ema`, but holds 'state_dict'"),
        (script.getvalue(), "is TorchScript, which is code; wanted is the .pt"),
        (b"\x08\x07\x12\x07pytorch", "of an exported model (ONNX, TensorRT, TFLite) give the .pt"),
        (serialize({"model": model}).replace(b"archive/version", b"archive/versiox"), "loads"),
    ):
        if message == "loads":
            yolo.load("w.pt", data)
            continue
        with pytest.raises(UserError) as caught:
            yolo.load("w.pt", data)
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_in_an_architecture_is_evaluated(tmp_path: Path) -> None:
    code = "__import__('pathlib').Path('/tmp/depers-yaml-was-here').touch()"
    rows = ARCHITECTURE["backbone"]
    for changes, message in (
        ({"activation": code}, "small.yaml: activation must be such as nn.SiLU()"),
        ({"backbone": [[-1, 1, code, [64]], *rows]}, "small.yaml: layer 0: must be one of Conv"),
        ({"backbone": [[-1, 1, "Conv", [64, code]], *rows]}, "layer 0: its arguments must be numbers"),
        ({"backbone": [[-1, 1, "DetectMultiBackend", ["yolov5s.pt"]], *rows]}, "layer 0: must be one of Conv"),
        ({"backbone": [[-1, 10**9, "Conv", [64, 3]], *rows]}, "layer 0: its number must be 1…500"),
        ({"backbone": [[-1, 1, "Conv", [10**6, 3]], *rows]}, "layer 0: its arguments must be numbers up to 8192"),
        ({"width_multiple": 1e9}, "width_multiple must be 0.01…8"),
        ({"ch": 10**9}, "ch must be 3"),
        ({"head": [[-1, 1, "nn.Upsample", [None, 4, "nearest"]]] * 9}, "must end with its only Detect"),
        (
            {"backbone": [*rows[:4], *[[-1, 1, "nn.Upsample", [None, 4, "nearest"]]] * 9]},
            "must enlarge images by at most",
        ),
        ({"anchors": [[1, 2], [1]]}, "anchors must be lists of widths and heights"),
    ):
        with pytest.raises(UserError) as caught:
            build_small(tmp_path, **changes)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    for text in (code, "print", "nn.Module", "Conv.__init__"):
        with pytest.raises(UserError):
            yolo._yolov5().yolo.eval(text)
        with pytest.raises(UserError):
            yolo.look_up(text, {}, yolo._yolov5().yolo)
    assert not Path("/tmp/depers-yaml-was-here").exists()


def test_weights_whose_architecture_is_another_build_nothing(model: Any) -> None:
    loaded = yolo.load("w.pt", serialize({"model": model}))
    assert yolo.build(loaded, ["x"]).state_dict().keys() == model.state_dict().keys()
    loaded.yaml["backbone"][1][3][0] = 8192
    with pytest.raises(UserError, match="must hold the layers that its architecture describes, but holds others"):
        yolo.build(loaded, ["x"])
    loaded.yaml["activation"] = "exec('')"
    with pytest.raises(UserError, match="activation must be such as"):
        yolo.build(loaded, ["x"])
