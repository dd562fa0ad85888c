"""The detection model in a file, made of nothing but known layers that fit together, and tried once on an empty image.

What else lies in a checkpoint (optimizer, options, dates, figures) is left where it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depers.detection.checkpoint_files import CheckpointError, CheckpointFile, describe, is_new, is_ordered_dictionary
from depers.detection.layers import ON_TOP, LayerReader, State
from depers.detection.pickle_graph import Dictionary

_MODEL_CLASSES = tuple(
    f"{package}models.yolo.{name}" for package in ("", "yolov5.") for name in ("DetectionModel", "Model")
)
_MOST_LAYERS, _MOST_SOURCES = 1000, 16
_MOST_NUMBERS = 2**21  # of one layer's output for it; the largest YOLOv5 has 330 000
_MOST_TOKENS = 1024  # of attention, which needs their square
_WANTED = "wanted is the .pt that a YOLOv5 training leaves, such as weights/best.pt"


def read_model(file: CheckpointFile, package: Mapping[str, type[nn.Module]], model_class: type[nn.Module]) -> nn.Module:
    """Return the model in a checkpoint, float32, in evaluation mode, with `names` as a dict by class id.

    `package` are YOLOv5's layers by name. The averaged weights (`ema`) go before `model`. Raise CheckpointError.
    """
    node = _find_model(file.content)
    state = State(node, "model", file)
    model = model_class.__new__(model_class)
    nn.Module.__init__(model)
    reader = LayerReader(file, package)
    model.add_module("model", _read_layers(state.parts.pop("model", None), reader, file))
    state.finish()
    head: Any = model.model[-1]  # type: ignore[index]
    vars(model).update(
        training=False, stride=head.stride, names=_read_names(state.values.get("names"), head.nc), nc=head.nc,
        inplace=state.flag("inplace", True), save=_list_sources(model.model), yaml=_read_architecture(state, file),  # type: ignore[arg-type]
    )  # fmt: skip
    _check_head(head)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for so small an image, waiting for others would take longer than the work
    try:
        _try_out(list(model.model), head)  # type: ignore[arg-type]
    except CheckpointError:
        raise
    except Exception as error:  # of layers that do not fit together, from wherever in torch
        line = (str(error).splitlines() or [""])[0][:120]
        raise CheckpointError(f"must hold layers that fit together, but {line}") from None
    finally:
        torch.set_num_threads(threads)
    return model


def _find_model(content: Any) -> Any:
    """Return the node of the model: in the checkpoint's `ema` or `model`, or the file's whole content."""
    node = content
    if isinstance(content, Dictionary):
        entries = {key: value for key, value in content.pairs if isinstance(key, str)}
        node = entries.get("ema") if entries.get("ema") is not None else entries.get("model")
        if node is None:
            keys = ", ".join(map(describe, list(entries)[:5]))
            raise CheckpointError(f"must hold `model` or `ema`, but holds {keys or 'nothing'}; {_WANTED}")
    if isinstance(node, Dictionary) or is_ordered_dictionary(node):
        raise CheckpointError(
            f"must hold a YOLOv5 detection model, but holds a state_dict, numbers without layers; {_WANTED}, or"
            ' torch.save({"model": model}, path) of a model that has loaded it'
        )
    if not is_new(node, *_MODEL_CLASSES):
        raise CheckpointError(f"must hold a YOLOv5 detection model, but holds {describe(node)}; {_WANTED}")
    return node


def _read_layers(node: Any, reader: LayerReader, file: CheckpointFile) -> nn.Sequential:
    """Return the layers, of which the last is the head, each with its place and its sources."""
    if not is_new(node, "torch.nn.modules.container.Sequential"):
        raise CheckpointError(f"model: must be layers in a row, but is {describe(node)}")
    state = State(node, "model", file)
    names = list(state.parts)
    if not 2 <= len(names) <= _MOST_LAYERS or names != [str(index) for index in range(len(names))]:
        raise CheckpointError(f"model: must be 2…{_MOST_LAYERS} layers numbered from 0, but is {len(names)}")
    layers = nn.Sequential()
    layers.training = False
    for index, (name, part) in enumerate(state.parts.items()):
        place = f"model.{index}"
        layer: Any = reader.read(part, place, "Detect" if index == len(names) - 1 else ON_TOP)
        source = State(part, place, file).values.get("f")
        layer.i, layer.f = index, _check_source(source, index, place)
        layers.add_module(name, layer)
    return layers


def _check_source(source: Any, index: int, place: str) -> int | list[int]:
    """Return which layers' outputs one takes: a number or a list, negative ones counted from itself."""
    numbers = source if isinstance(source, (list, tuple)) else [source]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not -max(index, 1) <= number < index:
            raise CheckpointError(f"{place}: its sources must be layers before it, but are {describe(number)}")
    if not 1 <= len(numbers) <= _MOST_SOURCES:
        raise CheckpointError(f"{place}: it must have 1…{_MOST_SOURCES} sources, but has {len(numbers)}")
    return list(numbers) if isinstance(source, (list, tuple)) else numbers[0]


def _list_sources(layers: Sequence[Any]) -> list[int]:
    """Return the numbers of the layers whose output is needed later."""
    sources = (
        (layer.i, source) for layer in layers for source in (layer.f if isinstance(layer.f, list) else [layer.f])
    )
    return sorted({source % index for index, source in sources if index and source != -1})


def _read_names(node: Any, count: int) -> dict[int, str]:
    """Return the classes' names by id, which older releases held as a list."""
    if isinstance(node, Dictionary) or is_ordered_dictionary(node):
        pairs = list(node.pairs)
    else:
        pairs = list(enumerate(node)) if isinstance(node, (list, tuple)) else []
    names = {}
    for key, name in pairs:
        text = str(name) if isinstance(name, int) and abs(name) < 10**9 else name
        if not isinstance(key, int) or not 0 <= key < count:
            raise CheckpointError(f"its classes must be numbered 0…{count - 1}, but one is {describe(key)}")
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= 200:
            raise CheckpointError(f"its classes must have names of one line, but one is {describe(name)}")
        names[int(key)] = text
    if len(names) != count:
        raise CheckpointError(f"must name its {count} classes, but names {len(names)}")
    return dict(sorted(names.items()))


def _read_architecture(state: State, file: CheckpointFile) -> dict[str, Any]:
    """Return the model's YAML as the file has it, of plain values; whoever builds a model of it checks it."""
    try:
        content = file.read_plain(state.values.get("yaml"))
    except CheckpointError as error:
        raise CheckpointError(f"model.yaml: {error}") from None
    return content if isinstance(content, dict) else {}


def _check_head(head: Any) -> None:
    """Raise CheckpointError for a head whose levels, sources, strides and outputs differ in number."""
    sources = head.f if isinstance(head.f, list) else []
    if not len(head.m) == len(sources) == head.nl:
        raise CheckpointError(f"its head must have {head.nl} levels, but has {len(head.m)} and {len(sources)} sources")
    outputs = head.na * head.no
    for convolution in head.m:
        is_pointwise = isinstance(convolution, nn.Conv2d) and tuple(convolution.weight.shape[2:]) == (1, 1)
        if not is_pointwise or len(convolution.weight) != outputs or convolution.bias is None or convolution.groups > 1:
            raise CheckpointError(
                f"its head must have convolutions 1 × 1 to {outputs} outputs, but one is {convolution}"
            )
        if (convolution.stride, convolution.padding) != ((1, 1), (0, 0)):
            raise CheckpointError(f"its head must look at every pixel, but has {convolution}")
    strides = head.stride.tolist()
    if any(stride not in (1, 2, 4, 8, 16, 32, 64, 128, 256) for stride in strides):
        raise CheckpointError(f"its strides must be powers of two up to 256, but are {strides}")


@torch.inference_mode()
def _try_out(layers: Sequence[Any], head: Any) -> None:
    """Raise where the layers do not fit together, or the levels of the head do not have the strides that it says."""
    side = 2 * int(head.stride.max())
    x: Any = torch.zeros(1, 3, side, side)
    outputs: list[Tensor] = []
    for layer in layers:
        if layer.f != -1:
            x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
        if layer is head:
            break
        for item in x if isinstance(x, list) else [x]:
            has_attention = any(isinstance(part, nn.MultiheadAttention) for part in layer.modules())
            if item.dim() != 4 or (has_attention and item.shape[2] * item.shape[3] > _MOST_TOKENS):
                raise CheckpointError(f"model.{layer.i}: must see an image, but sees {list(item.shape)}")
        x = layer(x)
        if not isinstance(x, Tensor) or x.numel() > _MOST_NUMBERS:
            raise CheckpointError(f"model.{layer.i}: must give at most {_MOST_NUMBERS} numbers, but gives more")
        outputs.append(x)
    for level, convolution, stride in zip(x, head.m, head.stride.tolist(), strict=True):
        if level.shape[2:] != (side // stride, side // stride):
            raise CheckpointError(
                f"its head says stride {stride}, but its layers give {list(level.shape[2:])} of {side}"
            )
        convolution(level)
