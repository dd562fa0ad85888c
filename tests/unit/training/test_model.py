"""The model that a training begins with: transferred, with fitting anchors, frozen; and its hyperparameters."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from depers.detection import yolo
from depers.errors import UserError
from depers.training.images.examples import Example
from depers.training.model import build_model, weigh_images
from depers.training.options import Options

SIZES = np.random.default_rng(0).uniform(8, 120, (200, 2))
HYP = yolo.read_hyperparameters()
NAMES = ["car", "head"]


def prepare(messages: list[str], sizes: np.ndarray = SIZES, **values: object) -> torch.nn.Module:
    settings = {"imgsz": 128} | values
    return build_model(Options("data", "out", **settings), NAMES, sizes, HYP, messages)  # type: ignore


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    yolo.save(yolo.build("yolov5n", ["a", "b", "c"]), path)
    return str(path)


def test_weights_are_taken_over_where_they_fit(weights: str) -> None:
    messages: list[str] = []
    model = prepare(messages, weights=weights)
    source = yolo.load(weights, Path(weights).read_bytes()).state_dict()
    tensors = model.state_dict()
    assert len(tensors) == 349 and messages[0] == f"343 of 349 tensors from {weights}"
    name = "model.9.cv2.conv.weight"
    torch.testing.assert_close(tensors[name], source[name])
    assert tensors["model.24.m.0.weight"].shape[0] == 3 * 7  # the head has other classes
    assert model.names == {0: "car", 1: "head"}


def test_a_head_starts_from_the_rows_of_other_classes(weights: str) -> None:
    messages: list[str] = []
    model = prepare(messages, weights=weights, start_classes=("head=c",))
    assert messages[1] == "the head starts with head from c"
    levels = zip(model.model[-1].m, yolo.load(weights, Path(weights).read_bytes()).model[-1].m, strict=True)  # type: ignore[index, union-attr]
    for level, source_level in levels:
        new, old = level.weight.view(3, 7, -1), source_level.weight.view(3, 8, -1)
        torch.testing.assert_close(new[:, :5], old[:, :5])  # box and objectness
        torch.testing.assert_close(new[:, 6], old[:, 7])
        assert not torch.equal(new[:, 5], old[:, 5])  # no class of the weights was named for it
        torch.testing.assert_close(level.bias.view(3, 7)[:, 6], source_level.bias.view(3, 8)[:, 7])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("head", "class=class_of_weights"), ("head=c,head=a", "names head twice"), ("tree=a", "(car, head) first"),
     ("head=tree", "(a, b, c) after"), ("=a", "class=class_of_weights")],
)  # fmt: skip
def test_start_classes_name_what_both_have(weights: str, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=re.escape(reason)):
        prepare([], weights=weights, start_classes=(text,))


def test_the_head_of_real_weights_is_carried_as_by_hand(data: Path) -> None:
    names = ["car", "head", "face", "human", "carplate"]
    source, by_hand = (
        yolo.load(name, (data / "weights" / name).read_bytes())
        for name in ("yolov5n.pt", "yolov5n_five_classes_start.pt")
    )
    options = Options(
        "data",
        "out",
        weights=str(data / "weights" / "yolov5n.pt"),
        start_classes=("human=person,head=person,face=person", "car=car,carplate=car"),
        autoanchor=False,
    )
    tensors = build_model(options, names, SIZES, HYP, []).state_dict()
    assert source.names[0] == "person"
    for name, tensor in by_hand.state_dict().items():
        assert torch.equal(tensors[name].half(), tensor.half()), name


def test_anchors_are_fitted_where_they_must(weights: str) -> None:
    large = SIZES * 20
    for values, sizes, keeps in (
        ({"weights": weights}, SIZES, True), ({"weights": weights}, large, False), ({}, SIZES, False),
        ({"autoanchor": False}, large, True),
    ):  # fmt: skip
        messages: list[str] = []
        model = prepare(messages, sizes, **values)
        tensors = (model.model[-1].anchors * model.model[-1].stride.view(-1, 1, 1)).view(-1, 2)  # type: ignore[index, union-attr]
        assert (tensors[0].tolist() == [10, 13]) is keeps, (values, messages)
        if not keeps:
            flat = np.array(model.yaml["anchors"]).reshape(-1, 2)  # type: ignore[index]
            np.testing.assert_allclose(tensors.numpy(), flat, rtol=2e-3)  # as float16 files will hold them


def test_layers_are_frozen() -> None:
    for freeze, frozen_layers in (((2,), {0, 1}), ((0, 3), {0, 3}), ((), set())):
        model = prepare([], freeze=freeze)
        layers = {int(n.split(".")[1]) for n, p in model.named_parameters() if not p.requires_grad}
        assert layers == frozen_layers


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "yolov5s"}, r"only \d+ of \d+ convolutions fit; is it another size of YOLOv5\?"),
        ({"model": "yolov5z"}, "--model must be one of yolov5n, .*yolov5x6 or a model YAML file, but got 'yolov5z'"),
    ],
)
def test_other_architectures_are_refused(weights: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare([], weights=weights, **values)


def test_models_come_from_yaml_too(tmp_path: Path) -> None:
    path = tmp_path / "own6.yaml"
    path.write_text((Path(yolo._yolov5().folder) / "models" / "hub" / "yolov5n6.yaml").read_text())
    assert len(prepare([], model=str(path)).stride) == 4  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--imgsz must be a multiple of 64 for this model, but got 96"):
        prepare([], model=str(path), imgsz=96)
    path.write_text("backbone: []\n")
    with pytest.raises(UserError, match=r"own6.yaml: must be a YOLOv5 model with head, but has none"):
        prepare([], model=str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1}, "a hyperparameter must be one of lr0, .* but is 'lr'"),
        ({"lr0": "much"}, "lr0 must be a number below 1000000, but is 'much'"),
        ({"lr0": float("nan")}, "lr0 must be a number below 1000000, but is nan"),
        ({"lr0": 10**400}, "lr0 must be a number below 1000000, but is int"),
        ([1], "must map hyperparameters to numbers, but is list"),
    ],
)
def test_wrong_hyperparameters_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "hyp.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        yolo.read_hyperparameters(str(path))
    with pytest.raises(UserError, match=r"--hyperparameters must be one of .*scratch-low.* but got 'nothing'"):
        yolo.read_hyperparameters("nothing")


def test_missing_hyperparameters_are_yolov5s_and_no_augmentation(tmp_path: Path) -> None:
    (tmp_path / "hyp.yaml").write_text("box: 0.1\nanchors: 4\n")
    hyp = yolo.read_hyperparameters(str(tmp_path / "hyp.yaml"))
    assert (hyp["box"], hyp["obj"], hyp["lr0"], hyp["mosaic"], hyp["fliplr"]) == (0.1, 1.0, 0.01, 0.0, 0.0)
    model = build_model(Options("data", "out", imgsz=128), NAMES, SIZES, hyp, [])
    assert model.model[-1].anchors.shape == (3, 4, 2)


def test_images_of_rare_and_badly_found_classes_are_drawn_more_often() -> None:
    def example(*ids: int) -> Example:
        return Example("x", (1, 1), np.array(ids, np.int64), np.zeros((len(ids), 4)), frozenset({0, 1}))

    examples = [example(0), example(0), example(0), example(1), example()]
    image_weights = weigh_images(examples, 2, [0.0, 0.0])
    assert image_weights[3] == pytest.approx(3 * image_weights[0]) and image_weights[4] == 0
    worse = weigh_images(examples, 2, [0.0, 0.9])
    assert worse[3] < worse[0]
