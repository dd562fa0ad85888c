"""Weights as a TorchScript program, for those who run a detector without Python, and the proof that it is the same."""

import io
import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from depers.detection import yolo

MOST_PIXELS, MOST_CONFIDENCE = 0.1, 0.001
"""By how much a program's boxes, in pixels, and its confidences may differ from those of the weights."""


class ExportedModel(NamedTuple):
    """A program's bytes, and what it takes: float32 (1, 3, imgsz, imgsz) RGB in 0…1.

    It gives a tuple of one array, float32 (1, N, 5 + C): center x, center y, width and height in pixels, objectness,
    and the confidence of each class, before non-maximum suppression.
    """

    data: bytes
    class_names: tuple[str, ...]
    stride: int


class Deviation(NamedTuple):
    """The largest differences between a program and its weights: of boxes in pixels, and of confidences."""

    pixels: float
    confidence: float

    @property
    def is_small(self) -> bool:
        """Whether they are what arithmetic in another order may do."""
        return self.pixels <= MOST_PIXELS and self.confidence <= MOST_CONFIDENCE


def export_torchscript(source: str, checkpoint: bytes, imgsz: int) -> ExportedModel:
    """Return the weights as a TorchScript program for images of one size, by `torch.jit.trace`.

    What describes it lies in its `config.txt`, as YOLOv5's own exports have it. Raise UserError as `yolo.load` does.
    """
    model = _load(source, checkpoint)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what tracing cannot follow: shapes, which stay as they are here
        empty = torch.zeros(1, 3, imgsz, imgsz)
        model(empty)  # makes the grids of this size, which are then as constant as the weights
        program = torch.jit.trace(model, empty, strict=False)  # type: ignore[no-untyped-call]
    names, stride = tuple(model.names.values()), int(model.stride.max())
    config = {"shape": [1, 3, imgsz, imgsz], "stride": stride, "names": model.names}
    buffer = io.BytesIO()
    torch.jit.save(program, buffer, _extra_files={"config.txt": json.dumps(config)})
    return ExportedModel(buffer.getvalue(), names, stride)


def _load(source: str, checkpoint: bytes) -> Any:
    """Return the model as it predicts one array."""
    model: Any = yolo.fuse(yolo.load(source, checkpoint)).eval()
    model.model[-1].export = True
    for layer in model.modules():
        if isinstance(layer, nn.SiLU):
            layer.inplace = False  # a traced program must not change what a later layer reads
    return model


def compare(source: str, checkpoint: bytes, data: bytes, images: Sequence[NDArray[np.uint8]]) -> Deviation:
    """Compare a program with the weights on images, uint8 RGB (imgsz, imgsz, 3), in float32."""
    model = _load(source, checkpoint)
    program = torch.jit.load(io.BytesIO(data))  # type: ignore[no-untyped-call]
    pixels, confidence = 0.0, 0.0
    with torch.inference_mode():
        for image in images:
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            difference = (model(batch)[0] - program(batch)[0]).abs()
            pixels = max(pixels, float(difference[..., :4].max()))
            confidence = max(confidence, float(difference[..., 4:].max()))
    return Deviation(pixels, confidence)
