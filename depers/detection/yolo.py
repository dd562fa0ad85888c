"""The only importer of yolov5: build, load safely and save its models, and hand out its training parts.

The package's modules import plotting, table, hub and drawing libraries (about 12 s of them) that neither a
detector nor a training loop touches, one of which needs an old setuptools. They are imported here with inert
stubs in those libraries' places.
"""

import importlib
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import packaging.version
import torch
from torch import nn

from depers.detection.architecture import check_architecture, look_up
from depers.detection.checkpoint_files import CheckpointError, CheckpointFile
from depers.detection.import_stubs import stub_imports
from depers.detection.layers import PACKAGE_LAYERS
from depers.detection.model_reader import read_model
from depers.errors import UserError, one_line
from depers.yaml_files import parse_yaml, shorten

MODEL_NAMES = ("yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x")
MODEL_NAMES_P6 = tuple(f"{name}6" for name in MODEL_NAMES)

_PLOTS_AND_TABLES = ("matplotlib", "pandas", "seaborn", "IPython")
_NETWORK_AND_REST = ("huggingface_hub", "requests", "thop", "torchvision", "ultralytics")
_NOT_NEEDED: dict[str, dict[str, Any]] = {name: {} for name in (*_PLOTS_AND_TABLES, *_NETWORK_AND_REST)}
_NOT_NEEDED |= {"pkg_resources": {"parse_version": packaging.version.parse}}  # of the libraries' versions


@lru_cache(maxsize=1)
def _yolov5() -> SimpleNamespace:
    """Return the package's modules that depers uses, by their last name."""
    with stub_imports(_NOT_NEEDED):
        os.environ["YOLOV5_CONFIG_DIR"] = tempfile.gettempdir()  # it would make a folder in the user's home
        names = ["models.yolo", "models.common", "models.experimental"]
        names += [f"utils.{name}" for name in ("loss", "torch_utils")]
        modules = {name.split(".")[-1]: importlib.import_module(f"yolov5.{name}") for name in names}
    modules["yolo"].LOGGER.setLevel(logging.WARNING)  # it prints every layer of every model
    modules["yolo"].eval = _evaluate_nothing  # type: ignore[attr-defined]  # found before Python's own
    return SimpleNamespace(**modules, folder=Path(str(modules["yolo"].__file__)).parents[1])


def build(
    model: str | nn.Module,
    names: Sequence[str],
    anchors: Sequence[Sequence[float]] | int | None = None,
) -> nn.Module:
    """Return a YOLOv5 model with fresh weights, float32, in training mode.

    `model` is a name (`yolov5n` … `yolov5x`, `yolov5n6` … `yolov5x6`), the path of a model YAML, or a model that was
    loaded, of whose layers it is to be; `names` the classes by id, `anchors` widths and heights in pixels, flat per
    level, in place of the model's own, or how many a level has. Raise UserError for an unknown model.
    """
    parts = _yolov5()
    source = model if isinstance(model, str) else "--weights"
    content = _read_yaml(model, parts.folder) if isinstance(model, str) else model.yaml
    architecture = check_architecture(source, content) | {"nc": len(names)}
    if anchors is not None:
        architecture["anchors"] = anchors if isinstance(anchors, int) else [list(level) for level in anchors]
    values = {"nc": architecture["nc"], "anchors": architecture["anchors"]}
    convolution = parts.common.Conv
    activation = convolution.default_act
    parts.yolo.eval = partial(look_up, values=values, package=parts.yolo)
    try:
        if not isinstance(model, str):
            _compare_layers(architecture, model, parts)
        built: nn.Module = parts.yolo.DetectionModel(architecture)
    except UserError:
        raise
    except Exception as error:  # of layers that do not fit together, from wherever in torch
        raise UserError(f"{source}: must be layers that fit together, but {one_line(error, 120)}") from None
    finally:
        convolution.default_act = activation  # YOLOv5 would give it to all models to come
        parts.yolo.eval = _evaluate_nothing
    built.names, built.nc = dict(enumerate(names)), len(names)  # type: ignore[assignment]
    return built


def _compare_layers(architecture: Mapping[str, Any], model: Any, parts: SimpleNamespace) -> None:
    """Raise UserError where an architecture is not that of the model it came with, and could be of any size."""
    with torch.device("meta"):
        layers, _ = parts.yolo.parse_model(deepcopy(architecture), [3])
    described = {name: value.shape for name, value in layers[:-1].state_dict().items()}
    if described != {name: value.shape for name, value in model.model[:-1].state_dict().items()}:
        raise UserError(
            "--weights: must hold the layers that its architecture describes, but holds others; give --model"
        )


def _evaluate_nothing(text: str) -> Any:
    """Stand in the place of `eval` in YOLOv5, where nothing is built."""
    raise UserError(f"a text in a model must not be evaluated, but is {text[:60]!r}")


def _read_yaml(model: str, folder: Path) -> Any:
    """Return the content of a model's YAML file. Raise UserError where there is none."""
    if model in MODEL_NAMES:
        path = folder / "models" / f"{model}.yaml"
    elif model in MODEL_NAMES_P6:
        path = folder / "models" / "hub" / f"{model}.yaml"
    elif model.endswith((".yaml", ".yml")) and Path(model).is_file():
        path = Path(model)
    else:
        names = ", ".join(MODEL_NAMES + MODEL_NAMES_P6)
        raise UserError(f"--model must be one of {names} or a model YAML file, but got {model!r}")
    return parse_yaml(str(path), path.read_bytes())


def load_training_parts() -> SimpleNamespace:
    """Return YOLOv5's own parts for a training loop: ComputeLoss, smart_optimizer, bbox_iou."""
    parts = _yolov5()
    return SimpleNamespace(
        ComputeLoss=parts.loss.ComputeLoss,
        smart_optimizer=parts.torch_utils.smart_optimizer,
        bbox_iou=parts.loss.bbox_iou,
    )


_RATES_AND_GAINS = {
    "lr0": 0.01, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005, "warmup_epochs": 3.0, "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1, "box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0, "obj_pw": 1.0, "anchor_t": 4.0,
    "fl_gamma": 0.0,
}  # fmt: skip
_AUGMENTATIONS = (
    "hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr", "mosaic",
    "mixup", "copy_paste",
)  # fmt: skip
_NOT_USED = ("iou_t", "label_smoothing", "anchors")  # known, and either without effect in YOLOv5 too or read elsewhere


_MOST = 1_000_000  # of a hyperparameter


def read_hyperparameters(name: str = "scratch-low") -> dict[str, float]:
    """Return hyperparameters by the package's name (`scratch-low`, `scratch-med`, …) or from a YAML file.

    Rates and gains that a file does not name are YOLOv5's own, augmentations are off. Raise UserError for a file that
    is missing, and for a name or a value that YOLOv5 does not know.
    """
    folder = Path(_yolov5().folder) / "data" / "hyps"
    path = folder / f"hyp.{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        names = ", ".join(sorted(file.stem.removeprefix("hyp.") for file in folder.glob("hyp.*.yaml")))
        raise UserError(f"--hyperparameters must be one of {names} or a YAML file, but got {name!r}")
    values = parse_yaml(str(path), path.read_bytes())
    if not isinstance(values, dict):
        raise UserError(f"{path}: must map hyperparameters to numbers, but is {type(values).__name__}")
    keys = (*_RATES_AND_GAINS, *_AUGMENTATIONS, *_NOT_USED)
    for key, value in values.items():
        if key not in keys:
            raise UserError(f"{path}: a hyperparameter must be one of {', '.join(keys)}, but is {shorten(key)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MOST:
            raise UserError(f"{path}: {key} must be a number below {_MOST}, but is {shorten(value)}")
    return {**_RATES_AND_GAINS, **dict.fromkeys(_AUGMENTATIONS, 0.0), **{key: float(v) for key, v in values.items()}}


def read_augmentations(name: str) -> dict[str, float]:
    """Return the augmentations alone of what `read_hyperparameters` reads."""
    return {key: value for key, value in read_hyperparameters(name).items() if key in _AUGMENTATIONS}


def load(source: str, data: bytes) -> nn.Module:
    """Return the detection model in a YOLOv5 `.pt`, float32, in evaluation mode, with `names` as a dict by class id.

    `data` are the file's bytes, `source` its name for messages. Nothing that the file names is called: its layers are
    made from a fixed list (`layers`), and all else in it is left alone. Raise UserError where the file is empty, is no
    checkpoint, or holds something else than a detection model.
    """
    if not data:
        raise UserError(f"{source}: must be a YOLOv5 checkpoint, but the file is empty")
    if not data.startswith((b"PK", b"\x80")):  # a zip archive, or bare pickles as torch wrote before 1.6
        raise UserError(
            f"{source}: must be a YOLOv5 checkpoint, but is neither a zip archive nor a pickle; of an exported model"
            " (ONNX, TensorRT, TFLite) give the .pt that it was exported from"
        )
    parts = _yolov5()
    modules = (parts.yolo, parts.experimental, parts.common)
    package = {name: getattr(module, name) for module in modules for name in PACKAGE_LAYERS if hasattr(module, name)}
    try:
        return read_model(CheckpointFile(data), package, parts.yolo.DetectionModel)
    except CheckpointError as error:
        raise UserError(f"{source}: {one_line(error)}") from None


def fuse(model: nn.Module) -> nn.Module:
    """Return the same model with batch normalization folded into the convolutions; change `model` in place."""
    return model.fuse()  # type: ignore[operator, no-any-return]


def save(model: nn.Module, path: Path, epoch: int = -1, notes: Mapping[str, str] | None = None) -> None:
    """Write an ordinary YOLOv5 checkpoint (float16, as the package's own `strip_optimizer` leaves it), whole.

    `notes` are texts about it that lie beside the model.
    """
    half = deepcopy(model).half().eval()
    for name in ("hyp", "_hooks"):
        if name in vars(half):
            delattr(half, name)
    for parameter in half.parameters():
        parameter.requires_grad = False
    checkpoint: dict[str, Any] = {"epoch": epoch, "best_fitness": None, "model": half, "ema": None, "updates": None}
    checkpoint |= {"optimizer": None, "opt": None, "date": None, **(notes or {})}
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, part)
    part.replace(path)
