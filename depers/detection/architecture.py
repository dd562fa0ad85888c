"""The architecture in a YOLOv5 model's YAML: rows of layers, checked against a list before anything is built of it.

YOLOv5 evaluates the texts in it as Python. Here they are words of a list: `look_up` stands in the place of `eval`.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from depers.errors import UserError
from depers.yaml_files import shorten

_LAYERS = (
    "Conv", "GhostConv", "Bottleneck", "GhostBottleneck", "SPP", "SPPF", "DWConv", "MixConv2d", "Focus", "CrossConv",
    "BottleneckCSP", "C3", "C3TR", "C3SPP", "C3Ghost", "C3x", "DWConvTranspose2d", "Concat", "Contract", "Expand",
    "Detect", "nn.Upsample", "nn.ConvTranspose2d", "nn.BatchNorm2d", "nn.MaxPool2d", "nn.AvgPool2d", "nn.ZeroPad2d",
    "nn.Identity", "nn.Dropout",
)  # fmt: skip
_ENLARGING = {"nn.Upsample": 1, "nn.ConvTranspose2d": 2, "DWConvTranspose2d": 2, "Expand": 0}
"""Layers that may make images larger, and which of their arguments says by how much."""
_ACTIVATION = re.compile(
    r"nn\.(?:(SiLU|Hardswish|Mish|ReLU|ReLU6|ELU|GELU|Sigmoid|Tanh|Identity|LeakyReLU)\(\)|(LeakyReLU)\((0?\.\d{1,6})\))"
)
_WORDS = {"None": None, "True": True, "False": False}
_MODES = ("nearest", "bilinear", "bicubic")  # of enlarging: texts for YOLOv5 too
_REQUIRED = ("backbone", "head", "anchors", "depth_multiple", "width_multiple")
_KEYS = ("nc", "ch", "inplace", "activation", *_REQUIRED)
_MOST_ROWS, _MOST_REPEATS, _MOST_CHANNELS = 200, 500, 8192
_LARGEST_MULTIPLE, _LARGEST_KERNEL, _LARGEST_FACTOR, _LARGEST_ANCHOR = 8, 64, 32, 100_000


def check_architecture(source: str, content: Any) -> dict[str, Any]:
    """Return what counts in a model's YAML, in its order; `source` is the file's name for messages.

    Raise UserError where it is no YOLOv5 detector, names what is none of its layers, or is larger than any.
    """
    problem = next(_find_problems(content), None)
    if problem:
        raise UserError(f"{source}: {problem}")
    return {key: value for key, value in content.items() if key in _KEYS}


def look_up(text: str, values: Mapping[str, Any], package: Any) -> Any:
    """Return what a text of an architecture means; `values` are the numbers that it may name, `package` has the layers.

    Raise NameError for texts that YOLOv5 leaves as they are, UserError for what is not on the list.
    """
    if text in _MODES:
        raise NameError(text)
    if text in values:
        return values[text]
    if text in _WORDS:
        return _WORDS[text]
    if text in _LAYERS:
        return getattr(nn if text.startswith("nn.") else package, text.removeprefix("nn."))
    activation = _ACTIVATION.fullmatch(text)
    if activation:
        return getattr(nn, activation[1])() if activation[1] else getattr(nn, activation[2])(float(activation[3]))
    raise UserError(f"a model must be of YOLOv5's layers, but names {text[:60]!r}")


def _find_problems(content: Any) -> Iterator[str]:
    """Yield what keeps a YAML from being a YOLOv5 detector, as `must be …, but is …`; the first one counts."""
    if not isinstance(content, Mapping):
        yield f"must be a YOLOv5 model, but is {shorten(content)}"
        return
    for key in _REQUIRED:
        if key not in content:
            yield f"must be a YOLOv5 model with {key}, but has none"
    for key in ("depth_multiple", "width_multiple"):
        if not _is_number(content[key], 0.01, _LARGEST_MULTIPLE):
            yield f"{key} must be 0.01…{_LARGEST_MULTIPLE}, but is {shorten(content[key])}"
    if not _is_number(content.get("ch", 3), 3, 3):
        yield f"ch must be 3, but is {shorten(content['ch'])}"
    if not isinstance(content.get("inplace", True), bool):
        yield f"inplace must be true or false, but is {shorten(content['inplace'])}"
    activation = content.get("activation")
    if activation is not None and not (isinstance(activation, str) and _ACTIVATION.fullmatch(activation)):
        yield f"activation must be such as nn.SiLU() or nn.LeakyReLU(0.1), but is {shorten(activation)}"
    if not _are_anchors(content["anchors"]):
        yield f"anchors must be lists of widths and heights, or how many, but are {shorten(content['anchors'])}"
    for key in ("backbone", "head"):
        if not isinstance(content[key], list):
            yield f"{key} must be a list of layers, but is {shorten(content[key])}"
    rows = content["backbone"] + content["head"]
    if not 2 <= len(rows) <= _MOST_ROWS:
        yield f"must have 2…{_MOST_ROWS} layers, but has {len(rows)}"
    for index, row in enumerate(rows):
        yield from (
            f"layer {index}: {problem}" for problem in _find_row_problems(index, row, content["width_multiple"])
        )
    names = [row[2] for row in rows]
    if names[-1] != "Detect" or names.count("Detect") > 1:
        yield "must end with its only Detect"
    repeats = sum(max(row[1] * content["depth_multiple"], 1) for row in rows)
    if repeats > _MOST_REPEATS:
        yield f"must have at most {_MOST_REPEATS} layers with their repeats, but has {repeats:.0f}"
    factor = math.prod(_enlargement(row) for row in rows)
    if factor > _LARGEST_FACTOR:
        yield f"must enlarge images by at most {_LARGEST_FACTOR} in all, but does by {factor:.0f}"


def _find_row_problems(index: int, row: Any, width_multiple: float) -> Iterator[str]:
    """Yield what keeps a row from being source, number, name and arguments of a layer."""
    if not isinstance(row, list) or len(row) != 4:
        yield f"must be source, number, name and arguments, but is {shorten(row)}"
        return
    sources, number, name, arguments = row
    for source in sources if isinstance(sources, list) and 1 <= len(sources) <= 16 else [sources]:
        if not _is_integer(source, -max(index, 1), index - 1):
            yield f"its source must be a layer before it, but is {shorten(source)}"
    if not _is_integer(number, 1, _MOST_REPEATS):
        yield f"its number must be 1…{_MOST_REPEATS}, but is {shorten(number)}"
    if not isinstance(name, str) or name not in _LAYERS:
        yield f"must be one of {', '.join(_LAYERS)}, but is {shorten(name)}"
    if not isinstance(arguments, list) or len(arguments) > 8:
        yield f"its arguments must be a list of at most 8, but are {shorten(arguments)}"
        return
    for argument in arguments:
        for value in argument if isinstance(argument, list) and len(argument) <= 16 else [argument]:
            is_word = isinstance(value, str) and value in (*_MODES, *_WORDS, "nc", "anchors")
            if value is not None and not is_word and not _is_number(value, 0, _MOST_CHANNELS):
                yield f"its arguments must be numbers up to {_MOST_CHANNELS}, but one is {shorten(value)}"
    channels, kernel, _, padding = ([value if _is_number(value, 0, 1e9) else 0 for value in arguments] + [0] * 4)[:4]
    if channels * width_multiple > _MOST_CHANNELS:
        yield f"must have at most {_MOST_CHANNELS} channels, but has {channels * width_multiple:.0f}"
    if name in _ENLARGING and not _is_number(_enlargement(row), 1, 4):
        yield "must enlarge images by 1…4"
    if kernel > _LARGEST_KERNEL or ("Conv" in str(name) and 2 * padding > kernel):
        yield f"its kernel must be at most {_LARGEST_KERNEL}, its padding half of it, but they are {kernel}, {padding}"


def _enlargement(row: list[Any]) -> Any:
    """Return by how much a row makes images larger."""
    position = _ENLARGING.get(row[2], 8)
    return row[3][position] if position < len(row[3]) else 1


def _are_anchors(anchors: Any) -> bool:
    if not isinstance(anchors, list):
        return _is_integer(anchors, 1, 16)
    levels = [level for level in anchors if isinstance(level, list) and 0 < len(level) <= 32]
    return (
        1 <= len(anchors) <= 8
        and len(levels) == len(anchors)
        and all(len(level) == len(levels[0]) and len(level) % 2 == 0 for level in levels)
        and all(_is_number(side, 0, _LARGEST_ANCHOR) for level in levels for side in level)
    )


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and low <= value <= high
