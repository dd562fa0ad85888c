"""The layers of YOLOv5 detectors: which there are, what each holds, and how one is made of what a file says about it.

A layer is made empty, without its constructor, and gets the numbers and parts that are named here; nothing else that a
file says about it is taken. So what is called later (methods, hooks, activations) is that of the classes alone.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from depers.detection.checkpoint_files import CheckpointError, CheckpointFile, describe, is_ordered_dictionary
from depers.detection.pickle_graph import Call, Dictionary, Global

_MOST_LAYERS = 10_000
_LARGEST_KERNEL, _LONGEST_STRIDE, _LARGEST_SCALE, _MOST_HEADS = 64, 16, 4, 64
_WITHOUT_EFFECT = (  # what a plain value of a layer may name, since nothing is made of it
    "builtins.set", "__builtin__.set", "collections.OrderedDict", "torch.Size", "torch.device",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
)  # fmt: skip
_LEFTOVERS = ("total_ops", "total_params")  # counters that a profiler of older releases left behind


class State:
    """What a file says about one layer; every look at it is a check. `place` is the layer's name, for messages."""

    def __init__(self, node: Call, place: str, file: CheckpointFile) -> None:
        self.place, self._file = place, file
        self.values = dict(self._list_pairs(node.state))
        self.tensors: dict[str, Any] = {}
        for group in ("_parameters", "_buffers"):
            self.tensors |= self._list_pairs(self.values.pop(group, None))
        self.parts = dict(self._list_pairs(self.values.pop("_modules", None)))
        for name, value in self.values.items():
            if "hooks" in name and name.startswith("_"):
                if isinstance(value, Dictionary | Call) and value.pairs:
                    raise self.error("hooks must be none", f"holds {describe(name)}")
            elif isinstance(value, Global) or (isinstance(value, Call) and not self._is_harmless(value)):
                raise self.error(f"{describe(name)} must be a plain value", f"is {describe(value)}")

    def error(self, rule: str, finding: str) -> CheckpointError:
        """Return the error that says what must be so, and what is."""
        return CheckpointError(f"{self.place}: {rule}, but {finding}")

    def read(self, name: str, rule: str, is_allowed: Callable[[Any], bool], default: Any = None) -> Any:
        """Return a plain value; `default` where the file has none or None."""
        value = self.values.get(name)
        if value is None:
            value = default
        if isinstance(value, (list, tuple)):
            value = tuple(value)
        if not is_allowed(value):
            raise self.error(f"{name} must be {rule}", f"is {describe(value)}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return True or False."""
        return bool(self.read(name, "true or false", lambda value: isinstance(value, bool), default))

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number from `low` to `high`."""
        return int(self.read(name, f"{low}…{high}", lambda value: _is_integer(value, low, high), default))

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number from `low` to `high`."""
        return float(self.read(name, f"{low}…{high}", lambda value: _is_number(value, low, high), default))

    def pair(self, name: str, low: int, high: int, default: int | None = None) -> tuple[int, int]:
        """Return two whole numbers from `low` to `high`; one stands for both."""

        def is_allowed(value: Any) -> bool:
            values = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            return all(_is_integer(item, low, high) for item in values)

        value = self.read(name, f"one or two numbers {low}…{high}", is_allowed, default)
        return value if isinstance(value, tuple) else (value, value)

    def choice(self, name: str, *allowed: Any) -> Any:
        """Return one of the values, the first where the file has none."""
        rule = " or ".join(map(str, allowed))
        return self.read(name, rule, lambda value: _is_one_of(value, allowed), allowed[0])

    def tensor(self, name: str, *shape: int | None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers of a shape (None: any length), as `dtype`."""
        node = self.tensors.pop(name, None)
        if node is None:
            raise self.error(f"must hold {name}", "holds none")
        try:
            tensor = self._file.read_tensor(node)
        except CheckpointError as error:
            raise CheckpointError(f"{self.place}.{name}: {error}") from None
        if tensor.dim() != len(shape) or any(
            length not in (None, actual) for length, actual in zip(shape, tensor.shape, strict=True)
        ):
            allowed = " × ".join("any" if length is None else str(length) for length in shape)
            raise self.error(f"{name} must be {allowed or 'a number'}", f"is {' × '.join(map(str, tensor.shape))}")
        # A copy in torch's own memory: where a number lies in it decides how products are rounded.
        return tensor.to(dtype, memory_format=torch.contiguous_format, copy=True)

    def optional_tensor(self, name: str, *shape: int) -> Tensor | None:
        """Return the same, or None."""
        if self.tensors.get(name) is None:
            self.tensors.pop(name, None)
            return None
        return self.tensor(name, *shape)

    def finish(self) -> None:
        """Raise CheckpointError where there are numbers or parts that nobody asked for: it would be another layer."""
        unknown = [name for name in (*self.tensors, *self.parts) if name not in _LEFTOVERS]
        if unknown:
            raise self.error("must be a layer as YOLOv5 has it", f"holds {describe(unknown[0])} too")

    def _list_pairs(self, node: Any) -> list[tuple[str, Any]]:
        if node is None:
            return []
        if not isinstance(node, Dictionary) and not is_ordered_dictionary(node):
            raise self.error("must be described by a dict", f"is by {describe(node)}")
        for key, _ in node.pairs:
            if not isinstance(key, str):
                raise self.error("names must be texts", f"one is {describe(key)}")
        return list(node.pairs)

    def _is_harmless(self, node: Call) -> bool:
        path = node.function.path if isinstance(node.function, Global) else ""
        return path in _WITHOUT_EFFECT or self._file.holds_tensor(node)


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(item) and value == item for item in allowed)


class LayerReader:
    """Makes layers of what a file says about them; `package` are YOLOv5's classes by their names."""

    def __init__(self, file: CheckpointFile, package: Mapping[str, type[nn.Module]]) -> None:
        self._file, self._package = file, package
        self._activations: dict[int, nn.Module] = {}
        self._count = 0

    def read(self, node: Any, place: str, allowed: str, depth: int = 0) -> nn.Module:
        """Return a layer in evaluation mode; `allowed` are the names of those that it may be. Raise CheckpointError."""
        name = _find_layer(node)
        if name is None or name not in allowed.split():
            rule = " or ".join(allowed.split()) if len(allowed) < 150 else "a layer of YOLOv5"
            raise CheckpointError(f"{place}: must be {rule}, but is {describe(node)}")
        if id(node) in self._activations:  # models share one
            return self._activations[id(node)]
        self._count += 1
        if self._count > _MOST_LAYERS or depth > 8:
            raise CheckpointError(f"must hold at most {_MOST_LAYERS} layers, 8 deep, but holds more, or one twice")
        state = State(node, place, self._file)
        cls: type[nn.Module] = self._package[name] if name in PACKAGE_LAYERS else getattr(nn, name)
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer.training = False
        if name in _MAKERS:
            _MAKERS[name](layer, state)
        for part, kinds in self._list_parts(name, state):
            layer.add_module(part, self.read(state.parts.pop(part), f"{place}.{part}", kinds, depth + 1))
        state.finish()
        if name in ACTIVATIONS.split():
            self._activations[id(node)] = layer
        return layer

    def _list_parts(self, name: str, state: State) -> Iterator[tuple[str, str]]:
        if name in ("Sequential", "ModuleList"):
            if list(state.parts) != [str(index) for index in range(len(state.parts))]:
                raise state.error("its layers must be numbered from 0", "are not")
            yield from ((part, _IN_SEQUENCES) for part in list(state.parts))
        for part, kinds in _PARTS.get(name, {}).items():
            if part.endswith("?") and state.parts.get(part[:-1]) is None:
                state.parts.pop(part[:-1], None)
            elif state.parts.get(part.rstrip("?")) is None:
                raise state.error(f"must hold {part}", "holds none")
            else:
                yield part.rstrip("?"), kinds


def _find_layer(node: Any) -> str | None:
    """Return the name of the layer that a node describes, as it is today; None for what is none."""
    if not isinstance(node, Call) or not node.is_new or node.arguments != () or not isinstance(node.function, Global):
        return None
    module, name = node.function.module, node.function.name
    module = module.removeprefix("yolov5.")
    if module in ("models.yolo", "models.common", "models.experimental"):
        return name if name in PACKAGE_LAYERS else None
    if module == "utils.activations":
        return {"MemoryEfficientMish": "Mish"}.get(name, name) if name in _OWN_ACTIVATIONS else None
    return _TORCH_LAYERS.get(f"{module}.{name}")


def _set(layer: nn.Module, **values: Any) -> None:
    """Give a layer plain values."""
    vars(layer).update(values)


def _set_parameters(layer: nn.Module, **tensors: Tensor | None) -> None:
    """Give a layer its weights; they need no gradient, since only predictions are made with them."""
    for name, tensor in tensors.items():
        layer.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))


def _make_convolution(layer: nn.Module, state: State) -> None:
    weight = state.tensor("weight", None, None, None, None)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    groups = state.integer("groups", 1, 2**16, 1)
    first, second, *kernel_size = weight.shape
    sizes = (first, second * groups) if transposed else (second * groups, first)
    if min(weight.shape) < 1 or first % groups or max(kernel_size) > _LARGEST_KERNEL:
        raise state.error("weight and groups must fit", f"are {tuple(weight.shape)} and {groups}")
    stride, dilation = state.pair("stride", 1, _LONGEST_STRIDE, 1), state.pair("dilation", 1, _LONGEST_STRIDE, 1)
    padding = state.pair("padding", 0, _LARGEST_KERNEL, 0)
    if not transposed:
        _check_padding(state, kernel_size, stride, padding, dilation)
    state.choice("padding_mode", "zeros")
    _set(
        layer, in_channels=sizes[0], out_channels=sizes[1], kernel_size=tuple(kernel_size), stride=stride,
        padding=padding, dilation=dilation, transposed=transposed, groups=groups, padding_mode="zeros",
        output_padding=state.pair("output_padding", 0, _LONGEST_STRIDE if transposed else 0, 0),
        _reversed_padding_repeated_twice=[padding[1], padding[1], padding[0], padding[0]],
    )  # fmt: skip
    _set_parameters(layer, weight=weight, bias=state.optional_tensor("bias", sizes[1]))


def _check_padding(state: State, kernel_size: Any, stride: Any, padding: Any, dilation: Any) -> None:
    """Raise CheckpointError for a border that makes the output larger than the input."""
    for size, step, border, distance in zip(kernel_size, stride, padding, dilation, strict=True):
        if 2 * border > distance * (size - 1) + (step > 1):
            raise state.error("padding must be at most half the kernel", f"is {border} at a kernel of {size}")


def _make_batch_norm(layer: nn.Module, state: State) -> None:
    weight = state.tensor("weight", None)
    count = len(weight)
    _set_parameters(layer, weight=weight, bias=state.tensor("bias", count))
    layer.register_buffer("running_mean", state.tensor("running_mean", count))
    layer.register_buffer("running_var", state.tensor("running_var", count))
    batches = state.tensor("num_batches_tracked", dtype=torch.int64) if "num_batches_tracked" in state.tensors else None
    layer.register_buffer("num_batches_tracked", torch.tensor(0) if batches is None else batches)
    momentum = None if state.values.get("momentum") is None else state.number("momentum", 0, 1)
    _set(layer, num_features=count, eps=state.number("eps", 0, 1, 1e-5), momentum=momentum)
    _set(layer, affine=state.choice("affine", True), track_running_stats=state.choice("track_running_stats", True))


def _make_linear(layer: nn.Module, state: State) -> None:
    weight = state.tensor("weight", None, None)
    _set(layer, in_features=weight.shape[1], out_features=weight.shape[0])
    _set_parameters(layer, weight=weight, bias=state.optional_tensor("bias", weight.shape[0]))


def _make_attention(layer: nn.Module, state: State) -> None:
    weight = state.tensor("in_proj_weight", None, None)
    size, heads = weight.shape[1], state.integer("num_heads", 1, _MOST_HEADS)
    if weight.shape[0] != 3 * size or size % heads:
        raise state.error("in_proj_weight and num_heads must fit", f"are {tuple(weight.shape)} and {heads}")
    _set(
        layer, embed_dim=size, kdim=size, vdim=size, num_heads=heads, head_dim=size // heads, bias_k=None, bias_v=None,
        _qkv_same_embed_dim=True, dropout=state.number("dropout", 0, 1, 0.0),
        batch_first=state.choice("batch_first", False), add_zero_attn=state.choice("add_zero_attn", False),
    )  # fmt: skip
    _set_parameters(layer, in_proj_weight=weight, in_proj_bias=state.optional_tensor("in_proj_bias", 3 * size))
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        _set_parameters(layer, **{name: state.optional_tensor(name)})  # of other attentions: none, or another shape


def _make_pooling(layer: nn.Module, state: State) -> None:
    size = state.pair("kernel_size", 1, _LARGEST_KERNEL)
    stride = size if state.values.get("stride") is None else state.pair("stride", 1, _LONGEST_STRIDE)
    padding, dilation = state.pair("padding", 0, _LARGEST_KERNEL, 0), state.pair("dilation", 1, 1, 1)
    _check_padding(state, size, stride, padding, dilation)
    _set(layer, kernel_size=size, stride=stride, padding=padding, ceil_mode=state.flag("ceil_mode"))
    if isinstance(layer, nn.MaxPool2d):
        _set(layer, dilation=dilation, return_indices=state.choice("return_indices", False))
    else:
        _set(layer, count_include_pad=state.flag("count_include_pad", True))
        _set(layer, divisor_override=state.choice("divisor_override", None))


def _make_upsampling(layer: nn.Module, state: State) -> None:
    factor = state.values.get("scale_factor")
    factors = factor if isinstance(factor, (list, tuple)) else (factor, factor)
    if len(factors) != 2 or not all(_is_number(item, 1, _LARGEST_SCALE) for item in factors):
        raise state.error(f"scale_factor must be 1…{_LARGEST_SCALE}", f"is {describe(factor)}")
    mode = state.choice("mode", "nearest", "nearest-exact", "bilinear", "bicubic")
    _set(
        layer, scale_factor=tuple(factors) if isinstance(factor, (list, tuple)) else factor, mode=mode, name="Upsample"
    )
    _set(layer, size=state.choice("size", None), align_corners=state.choice("align_corners", None, False, True))
    _set(layer, recompute_scale_factor=state.choice("recompute_scale_factor", None, False, True))


def _make_zero_padding(layer: nn.Module, state: State) -> None:
    def is_allowed(value: Any) -> bool:
        return isinstance(value, tuple) and len(value) == 4 and all(_is_integer(item, 0, 16) for item in value)

    _set(layer, padding=state.read("padding", "four numbers 0…16", is_allowed), value=0.0)


_IN_PLACE = (
    nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.ELU, nn.Dropout,
)  # fmt: skip


def _make_activation(layer: nn.Module, state: State) -> None:
    """Give an activation what it has of these; they are numbers, and whether it works in place."""
    if isinstance(layer, _IN_PLACE):
        _set(layer, inplace=state.flag("inplace"))
    if isinstance(layer, nn.LeakyReLU):
        _set(layer, negative_slope=state.number("negative_slope", -10, 10))
    if isinstance(layer, nn.Hardtanh):
        _set(layer, min_val=state.number("min_val", -10, 10, 0.0), max_val=state.number("max_val", -10, 10, 6.0))
    if isinstance(layer, nn.ELU):
        _set(layer, alpha=state.number("alpha", 0, 10))
    if isinstance(layer, nn.GELU):
        _set(layer, approximate=state.choice("approximate", "none", "tanh"))
    if isinstance(layer, nn.Dropout):
        _set(layer, p=state.number("p", 0, 1))


def _make_shortcut(layer: nn.Module, state: State) -> None:
    _set(layer, add=state.flag("add"))


def _make_concatenation(layer: nn.Module, state: State) -> None:
    _set(layer, d=state.integer("d", 1, 1))


def _make_rearrangement(layer: nn.Module, state: State) -> None:
    _set(layer, gain=state.integer("gain", 1, _LARGEST_SCALE))


def _make_transformer_block(layer: nn.Module, state: State) -> None:
    _set(layer, c2=state.integer("c2", 1, 2**16), conv=None)


def _make_head(layer: nn.Module, state: State) -> None:
    """Make YOLOv5's head: the outputs per anchor box are 4 coordinates, objectness, classes."""
    classes, levels = state.integer("nc", 1, 10_000), state.integer("nl", 1, 8)
    anchors = state.tensor("anchors", levels, None, 2)
    state.tensors.pop("anchor_grid", None)  # before YOLOv5 6.0 it was a buffer
    stride = state.values.get("stride")
    state.tensors["stride"] = stride
    empty = [torch.empty(0) for _ in range(levels)]
    _set(
        layer, nc=classes, no=classes + 5, nl=levels, na=anchors.shape[1], stride=state.tensor("stride", levels),
        grid=empty, anchor_grid=list(empty), inplace=False,
    )  # fmt: skip
    layer.register_buffer("anchors", anchors)


_OWN_ACTIVATIONS = ("SiLU", "Hardswish", "Mish", "MemoryEfficientMish")
ACTIVATIONS = "SiLU Hardswish Mish ReLU ReLU6 LeakyReLU Hardtanh ELU GELU Sigmoid Tanh Hardsigmoid Identity"
_CONV, _NORM = "Conv DWConv", "BatchNorm2d"
_PARTS: dict[str, dict[str, str]] = {
    "Conv": {"conv": "Conv2d", "bn": _NORM, "act": ACTIVATIONS},
    "DWConv": {"conv": "Conv2d", "bn": _NORM, "act": ACTIVATIONS},
    "DWConvTranspose2d": {},
    "TransformerLayer": dict.fromkeys(("q", "k", "v", "fc1", "fc2"), "Linear") | {"ma": "MultiheadAttention"},
    "TransformerBlock": {"conv?": _CONV, "linear": "Linear", "tr": "Sequential"},
    "Bottleneck": {"cv1": _CONV, "cv2": _CONV},
    "BottleneckCSP": {
        "cv1": _CONV, "cv2": "Conv2d", "cv3": "Conv2d", "cv4": _CONV, "bn": _NORM, "act": ACTIVATIONS,
        "m": "Sequential",
    },
    "CrossConv": {"cv1": _CONV, "cv2": _CONV},
    "C3": {"cv1": _CONV, "cv2": _CONV, "cv3": _CONV, "m": "Sequential"},
    "C3x": {"cv1": _CONV, "cv2": _CONV, "cv3": _CONV, "m": "Sequential"},
    "C3TR": {"cv1": _CONV, "cv2": _CONV, "cv3": _CONV, "m": "TransformerBlock"},
    "C3SPP": {"cv1": _CONV, "cv2": _CONV, "cv3": _CONV, "m": "SPP"},
    "C3Ghost": {"cv1": _CONV, "cv2": _CONV, "cv3": _CONV, "m": "Sequential"},
    "SPP": {"cv1": _CONV, "cv2": _CONV, "m": "ModuleList"},
    "SPPF": {"cv1": _CONV, "cv2": _CONV, "m": "MaxPool2d"},
    "Focus": {"conv": _CONV},
    "GhostConv": {"cv1": _CONV, "cv2": _CONV},
    "GhostBottleneck": {"conv": "Sequential", "shortcut": "Sequential Identity"},
    "MixConv2d": {"m": "ModuleList", "bn": _NORM, "act": ACTIVATIONS},
    "Contract": {},
    "Expand": {},
    "Concat": {},
    "Detect": {"m": "ModuleList"},
}  # fmt: skip
PACKAGE_LAYERS = tuple(_PARTS)
"""The names of YOLOv5's own classes."""
_PARTS |= {"MultiheadAttention": {"out_proj": "Linear"}}
_IN_SEQUENCES = (
    "Conv DWConv Bottleneck BottleneckCSP CrossConv GhostConv GhostBottleneck TransformerLayer MixConv2d C3 C3x C3TR "
    f"C3SPP C3Ghost SPP SPPF Focus Conv2d BatchNorm2d MaxPool2d AvgPool2d Dropout {ACTIVATIONS}"
)
ON_TOP = f"{_IN_SEQUENCES} Sequential Upsample ConvTranspose2d DWConvTranspose2d ZeroPad2d Contract Expand Concat"
"""What may stand in a row of a model's layers below its head; some of these make images larger, so only there."""
_MAKERS: dict[str, Callable[[nn.Module, State], None]] = {
    "Conv2d": _make_convolution,
    "ConvTranspose2d": _make_convolution,
    "DWConvTranspose2d": _make_convolution,
    "BatchNorm2d": _make_batch_norm,
    "Linear": _make_linear,
    "MultiheadAttention": _make_attention,
    "MaxPool2d": _make_pooling,
    "AvgPool2d": _make_pooling,
    "Upsample": _make_upsampling,
    "ZeroPad2d": _make_zero_padding,
    "Dropout": _make_activation,
    **dict.fromkeys(ACTIVATIONS.split(), _make_activation),
    **dict.fromkeys(("Bottleneck", "CrossConv"), _make_shortcut),
    "Concat": _make_concatenation,
    **dict.fromkeys(("Contract", "Expand"), _make_rearrangement),
    "TransformerBlock": _make_transformer_block,
    "Detect": _make_head,
}
_TORCH_LAYERS = {
    f"torch.nn.modules.{module}.{name}": name
    for module, names in {
        "conv": "Conv2d ConvTranspose2d",
        "batchnorm": "BatchNorm2d",
        "linear": "Linear",
        "pooling": "MaxPool2d AvgPool2d",
        "upsampling": "Upsample",
        "padding": "ZeroPad2d",
        "dropout": "Dropout",
        "container": "Sequential ModuleList",
        "activation": f"{ACTIVATIONS} MultiheadAttention",
    }.items()
    for name in names.split()
} | {
    "torch.nn.modules.linear.Identity": "Identity",
    "torch.nn.modules.linear.NonDynamicallyQuantizableLinear": "Linear",  # as attention names it, today and before
    "torch.nn.modules.linear._LinearWithBias": "Linear",
    "torch.nn.modules.batchnorm.SyncBatchNorm": "BatchNorm2d",  # the same, but for training on several GPUs
}
