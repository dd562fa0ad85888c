"""A YOLOv5 detector of nine layers, and checkpoints of it."""

import io
from pathlib import Path
from typing import Any

import torch
import yaml

from depers.detection import yolo

ARCHITECTURE: dict[str, Any] = {
    "depth_multiple": 0.33,
    "width_multiple": 0.05,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [
        [-1, 1, "Conv", [64, 6, 2, 2]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 3, "C3", [64]],
        [-1, 1, "Conv", [64, 3, 2]],
        [-1, 1, "SPPF", [64, 5]],
    ],
    "head": [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "Conv", [64, 1, 1]],
        [[7, 4], 1, "Detect", ["nc", "anchors"]],
    ],
}


def build_small(folder: Path, **changes: Any) -> Any:
    """Build it, with some of its YAML changed."""
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(ARCHITECTURE | changes))
    return yolo.build(str(path), ["a", "b"])


def serialize(content: Any, **options: Any) -> bytes:
    """Return a content as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()
