"""Weights as a program, for those who run a detector without depers or Python, and the proof that it is the same.

TorchScript is what libtorch runs, ONNX what nearly everything else does: ONNX Runtime, OpenCV, TensorRT, OpenVINO.
"""

import io
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depers.detection import yolo
from depers.errors import UserError

MOST_PIXELS, MOST_CONFIDENCE = 0.1, 0.001
"""By how much a program's boxes, in pixels, and its confidences may differ from those of the weights."""
_OPSET = 17  # of ONNX: the newest that torch's exporter writes, and understood since 2022
_INPUT, _OUTPUT = "images", "output0"  # as in YOLOv5's own exports


class ExportedModel(NamedTuple):
    """A program's bytes, and what it takes: float32 (1, 3, imgsz, imgsz) RGB in 0…1.

    It gives one array (TorchScript: a tuple of it), float32 (1, N, 5 + C): center x, center y, width and height in
    pixels, objectness, and the confidence of each class, before non-maximum suppression.
    """

    data: bytes
    class_names: tuple[str, ...]
    stride: int


class Deviation(NamedTuple):
    """The largest differences between a program and its weights: of boxes in pixels, and of confidences.

    Both are infinite where the program gives numbers that are not finite, or another number of them.
    """

    pixels: float
    confidence: float

    @property
    def is_small(self) -> bool:
        """Whether they are what arithmetic in another order may do; of NaN they are not."""
        return self.pixels <= MOST_PIXELS and self.confidence <= MOST_CONFIDENCE


def export_model(source: str, checkpoint: bytes, imgsz: int, kind: str) -> ExportedModel:
    """Return the weights as a program, `torchscript` or `onnx`, for images of one size, by torch's exporters.

    What describes it lies in it as YOLOv5's own exports have it: shape, stride and class names. Raise UserError as
    `yolo.load` does, for a size that is no multiple of the model's stride, and for ONNX without the package that writes
    it.
    """
    model = _load(source, checkpoint)
    names, stride = tuple(model.names.values()), int(model.stride.max())
    if imgsz % stride:  # levels would not fit together
        raise UserError(f"--imgsz must be a multiple of {stride} for {source}, but got {imgsz}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what tracing cannot follow: shapes, which stay as they are here
        empty = torch.zeros(1, 3, imgsz, imgsz)
        model(empty)  # makes the grids of this size, which are then as constant as the weights
        if kind == "onnx":
            data = _write_onnx(model, empty, {"stride": str(stride), "names": str(model.names)})
        else:
            config = {"shape": [1, 3, imgsz, imgsz], "stride": stride, "names": model.names}
            data = _write_torchscript(model, empty, config)
    return ExportedModel(data, names, stride)


def _write_torchscript(model: Any, empty: torch.Tensor, config: dict[str, Any]) -> bytes:
    """Return what `torch.jit.trace` makes of the model, with `config` in its `config.txt`."""
    program = torch.jit.trace(model, empty, strict=False)  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    torch.jit.save(program, buffer, _extra_files={"config.txt": json.dumps(config)})
    return buffer.getvalue()


def _write_onnx(model: Any, empty: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """Return what `torch.onnx.export` makes of the model, checked by ONNX's own rules, with `metadata` in it."""
    if not find_spec("onnx"):
        raise UserError("ONNX needs the extra `onnx`, which installs onnx: pip install 'depers[onnx]'")
    import onnx

    with tempfile.TemporaryDirectory(prefix="depers-export-") as folder:
        file = Path(folder, "model.onnx")
        # The exporter by tracing: the other one needs packages of its own, and gives the same network.
        torch.onnx.export(
            model, (empty,), file, dynamo=False, opset_version=_OPSET, input_names=[_INPUT], output_names=[_OUTPUT]
        )
        program = onnx.load(file)
    onnx.checker.check_model(program)
    for key, value in metadata.items():
        entry = program.metadata_props.add()
        entry.key, entry.value = key, value
    data: bytes = program.SerializeToString()
    return data


def _load(source: str, checkpoint: bytes) -> Any:
    """Return the model as it predicts one array."""
    model: Any = yolo.fuse(yolo.load(source, checkpoint)).eval()
    model.model[-1].export = True
    for layer in model.modules():
        if isinstance(layer, nn.SiLU):
            layer.inplace = False  # a traced program must not change what a later layer reads
    return model


def compare(
    source: str, checkpoint: bytes, data: bytes, images: Sequence[NDArray[np.uint8]], kind: str = "torchscript"
) -> Deviation:
    """Compare a program, `torchscript` or `onnx`, with the weights on images, uint8 RGB (imgsz, imgsz, 3), in float32.

    TorchScript is run by torch, ONNX by OpenCV.
    """
    model, run = _load(source, checkpoint), _RUNNERS[kind](data)
    deviations = [Deviation(0.0, 0.0)]
    with torch.inference_mode():
        for image in images:
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            deviations.append(_measure_deviation(model(batch)[0], run(batch)))
    return Deviation(*map(max, zip(*deviations, strict=True)))


def _measure_deviation(expected: torch.Tensor, predictions: torch.Tensor) -> Deviation:
    """Return by how much predictions (1, N, 5 + C) differ from those expected.

    `max` would leave out NaN, and arrays of other shapes may be subtracted: neither may count as no difference.
    """
    if predictions.shape != expected.shape or not bool(predictions.isfinite().all() and expected.isfinite().all()):
        return Deviation(math.inf, math.inf)
    difference = (expected - predictions).abs()
    return Deviation(float(difference[..., :4].max()), float(difference[..., 4:].max()))


def _run_torchscript(data: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    program = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return lambda batch: program(batch)[0]


def _run_onnx(data: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8))

    def run(batch: torch.Tensor) -> torch.Tensor:
        network.setInput(batch.numpy())
        return torch.from_numpy(network.forward())

    return run


_RUNNERS: dict[str, Callable[[bytes], Callable[[torch.Tensor], torch.Tensor]]] = {
    "torchscript": _run_torchscript,
    "onnx": _run_onnx,
}
