"""The only importer of yolov5: build, load safely and save its models, and hand out its training parts.

The package's modules import plotting, table, hub and drawing libraries (about 12 s of them) that neither a
detector nor a training loop touches, one of which needs an old setuptools. They are imported here with inert
stubs in those libraries' places.
"""

import importlib
import io
import logging
import math
import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import packaging.version
import torch
import yaml
from torch import nn

from depers.detection.import_stubs import stub_imports
from depers.errors import UserError, one_line

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
        names = ["models.yolo", "models.common", "models.experimental"]
        names += [f"utils.{name}" for name in ("loss", "torch_utils")]
        modules = {name.split(".")[-1]: importlib.import_module(f"yolov5.{name}") for name in names}
    modules["yolo"].LOGGER.setLevel(logging.WARNING)  # it prints every layer of every model
    return SimpleNamespace(**modules, folder=Path(str(modules["yolo"].__file__)).parents[1])


def build(
    model: str | Mapping[str, Any],
    names: Sequence[str],
    anchors: Sequence[Sequence[float]] | int | None = None,
) -> nn.Module:
    """Return a YOLOv5 model with fresh weights, float32, in training mode.

    `model` is a name (`yolov5n` … `yolov5x`, `yolov5n6` … `yolov5x6`), the path of a model YAML or what is in one,
    `names` the classes by id, `anchors` widths and heights in pixels, flat per level, in place of the model's own, or
    how many a level has. Raise UserError for an unknown model.
    """
    parts = _yolov5()
    architecture = dict(model) if isinstance(model, Mapping) else _read_architecture(model, parts.folder)
    architecture["nc"] = len(names)
    if anchors is not None:
        architecture["anchors"] = anchors if isinstance(anchors, int) else [list(level) for level in anchors]
    built: nn.Module = parts.yolo.DetectionModel(architecture)
    built.names, built.nc = dict(enumerate(names)), len(names)  # type: ignore[assignment]
    return built


def _read_architecture(model: str, folder: Path) -> dict[str, Any]:
    """Return the content of a model's YAML file. Raise UserError where there is none, or it is no YOLOv5 model."""
    if model in MODEL_NAMES:
        path = folder / "models" / f"{model}.yaml"
    elif model in MODEL_NAMES_P6:
        path = folder / "models" / "hub" / f"{model}.yaml"
    elif model.endswith((".yaml", ".yml")) and Path(model).is_file():
        path = Path(model)
    else:
        names = ", ".join(MODEL_NAMES + MODEL_NAMES_P6)
        raise UserError(f"--model must be one of {names} or a model YAML file, but got {model!r}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("backbone", "head", "anchors", "depth_multiple", "width_multiple"):
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"{path}: must be a YOLOv5 model with {key}, but has none")
    return dict(content)


def load_training_parts() -> SimpleNamespace:
    """Return YOLOv5's own parts for a training loop: ComputeLoss, ModelEMA, smart_optimizer, bbox_iou."""
    parts = _yolov5()
    return SimpleNamespace(
        ComputeLoss=parts.loss.ComputeLoss,
        ModelEMA=parts.torch_utils.ModelEMA,
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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: must be YAML, but {one_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must map hyperparameters to numbers, but is {type(values).__name__}")
    keys = (*_RATES_AND_GAINS, *_AUGMENTATIONS, *_NOT_USED)
    for key, value in values.items():
        if key not in keys:
            raise UserError(f"{path}: a hyperparameter must be one of {', '.join(keys)}, but is {key!r}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{path}: {key} must be a number, but is {value!r}")
    return {**_RATES_AND_GAINS, **dict.fromkeys(_AUGMENTATIONS, 0.0), **{key: float(v) for key, v in values.items()}}


def _list_safe_classes() -> list[Any]:
    """Return what a YOLOv5 pickle may name: the package's modules under both of their names, and torch's layers."""
    parts = _yolov5()
    classes: list[Any] = [set, torch.Size]
    for module, source in (
        ("yolo", parts.yolo),
        ("common", parts.common),
        ("experimental", parts.experimental),
    ):
        for name, item in vars(source).items():
            if isinstance(item, type) and issubclass(item, nn.Module) and item.__module__.startswith("yolov5."):
                classes += [(item, f"models.{module}.{name}"), (item, f"yolov5.models.{module}.{name}")]
    for layers in (nn.modules.activation, nn.modules.batchnorm, nn.modules.container, nn.modules.conv):
        classes += _list_layers(layers)
    for layers in (nn.modules.pooling, nn.modules.upsampling, nn.modules.linear, nn.modules.dropout):
        classes += _list_layers(layers)
    return classes


def _list_layers(module: ModuleType) -> list[type]:
    items = vars(module).values()
    return [item for item in items if isinstance(item, type) and issubclass(item, nn.Module)]


def load(source: str, data: bytes) -> nn.Module:
    """Return the detection model in a YOLOv5 `.pt`, float32, in evaluation mode, with `names` as a dict by class id.

    `data` are the file's bytes, `source` its name for messages. Only YOLOv5's and torch's own classes are
    unpickled (`weights_only=True`), and nothing of the file is evaluated. Raise UserError where the file is
    empty, is no checkpoint, names a foreign global, or holds something else than a detection model.
    """
    if not data:
        raise UserError(f"{source}: must be a YOLOv5 checkpoint, but the file is empty")
    if not data.startswith((b"PK", b"\x80")):  # a zip archive, or a bare pickle as torch wrote before 1.6
        raise UserError(f"{source}: must be a YOLOv5 checkpoint, but is neither a zip archive nor a pickle")
    classes = _list_safe_classes()
    try:
        with torch.serialization.safe_globals(classes), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # a request to report what cannot be read
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{source}: {_explain_refusal(str(error))}") from None
    except Exception as error:  # a damaged file fails in as many ways as there are readers inside torch.load
        line = (str(error).splitlines() or [""])[0].split(". ")[0]
        raise UserError(f"{source}: must be a YOLOv5 checkpoint, but it cannot be read ({line})") from None
    model = checkpoint
    if isinstance(checkpoint, dict):
        model = checkpoint.get("ema") if checkpoint.get("ema") is not None else checkpoint.get("model")
    parts = _yolov5()
    head = model.model[-1] if isinstance(model, parts.yolo.DetectionModel) else None
    if type(head) is not parts.yolo.Detect:
        raise UserError(f"{source}: must hold a YOLOv5 detection model, but holds {type(head or model).__name__}")
    return _repair(model.float().eval())


def _explain_refusal(message: str) -> str:
    """Return the reason why a pickle was refused, with the global it names, out of torch's long message."""
    match = re.search(
        r"(?:GLOBAL|class|function|Unsupported global:?)\s+(?:GLOBAL\s+)?`?([\w.]+(?:\.[\w]+)+)`?", message
    )
    if match:
        return f"refused: its pickle names {match[1]}, which is not a part of a YOLOv5 model"
    detail = re.search(r"WeightsUnpickler error:\s*(\S[^\n]*)", message)
    return f"refused: not a pickle of tensors and YOLOv5 classes ({detail[1] if detail else message.splitlines()[0]})"


def _repair(model: Any) -> nn.Module:
    """Bring a model that an older torch or YOLOv5 saved up to what the current ones expect."""
    if isinstance(model.names, (list, tuple)):
        model.names = dict(enumerate(model.names))
    for module in model.modules():
        if isinstance(module, nn.Upsample) and not hasattr(module, "recompute_scale_factor"):
            module.recompute_scale_factor = None
    head = model.model[-1]
    if not isinstance(head.anchor_grid, list):  # before YOLOv5 6.0 it was a buffer
        del head.anchor_grid
    head.anchor_grid = [torch.empty(0) for _ in range(head.nl)]
    head.grid = [torch.empty(0) for _ in range(head.nl)]
    head.inplace = False
    return model  # type: ignore[no-any-return]


def fuse(model: nn.Module) -> nn.Module:
    """Return the same model with batch normalization folded into the convolutions; change `model` in place."""
    return model.fuse()  # type: ignore[operator, no-any-return]


def save(model: nn.Module, path: Path, epoch: int = -1) -> None:
    """Write an ordinary YOLOv5 checkpoint (float16, as the package's own `strip_optimizer` leaves it), whole."""
    half = deepcopy(model).half().eval()
    for name in ("hyp", "_hooks"):
        if name in vars(half):
            delattr(half, name)
    for parameter in half.parameters():
        parameter.requires_grad = False
    checkpoint = {"epoch": epoch, "best_fitness": None, "model": half, "ema": None, "updates": None}
    checkpoint |= {"optimizer": None, "opt": None, "date": None}
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, part)
    part.replace(path)
