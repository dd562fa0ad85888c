"""Detections, the contract between finding and everything that follows; in memory and as Parquet."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depers.boxes import EDGES
from depers.storage.tables import column, schema


class Detections(NamedTuple):
    """What a detector found in one image, highest confidence first.

    `boxes_xyxy` float32 (N, 4) in pixels of the upright full-size image, `confidences` float32 (N,), `class_ids`
    int64 (N,), `models` int64 (N,): the index of the weights that found the box.
    """

    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    models: NDArray[np.int64]

    def select(self, chosen: Any) -> "Detections":
        """Return those that an index array, a mask or a slice names."""
        return Detections(*(column[chosen] for column in self))

    @classmethod
    def none(cls) -> "Detections":
        """Return no detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))


VERSION = 2
"""Of the tables of detections and of manifests: the meaning of their columns and the words of their statuses."""
BOX = pa.struct(
    [
        column("class", pa.string(), "what the box holds"),
        column("confidence", pa.float32(), "0…1; null where a person or a label says so"),
        column("x_min", pa.float32(), "left edge in pixels of the upright frame"),
        column("y_min", pa.float32(), "upper edge"),
        column("x_max", pa.float32(), "right edge"),
        column("y_max", pa.float32(), "lower edge"),
        column("model", pa.string(), "file name of the weights that found it, or `labels`"),
        column("frame", pa.int32(), "number of the frame; 0 in an image with one"),
    ]
)
SCHEMA = schema(
    column("path", pa.string(), "relative to INPUT"),
    column("member", pa.string(), "in an archive, the name in it; null for a loose file and the archive itself"),
    column("number", pa.int64(), "in an archive, the place among all members"),
    column(
        "status", pa.string(), "detected, skipped (no image) or failed; of an archive complete, incomplete or failed"
    ),
    column(
        "reason",
        pa.string(),
        "why it was skipped or failed, has no YOLO text, or the archive is incomplete; else empty",
    ),
    column("width", pa.int32(), "of the upright image, in pixels"),
    column("height", pa.int32(), "of the upright image, in pixels"),
    column("boxes", pa.list_(BOX), "what was detected"),
    column("input_sha256", pa.string(), "digest of the file that was looked at"),
    column("arithmetic", pa.string(), "what the detector that looked at it computed in; null where none did"),
).with_metadata({"depers.detections": str(VERSION)})
"""One row per file, and per member of an archive."""


class DetectionRow(NamedTuple):
    """A row of `SCHEMA`."""

    path: str
    member: str | None
    number: int | None
    status: str
    reason: str
    width: int
    height: int
    boxes: list[dict[str, Any]]
    input_sha256: str | None = None


def make_box(
    class_name: str, confidence: float | None, edges_xyxy: Sequence[float], model: str | None, frame: int
) -> dict[str, Any]:
    """Return a row of `BOX`."""
    return dict(zip(BOX.names, (class_name, confidence, *edges_xyxy, model, frame), strict=True))


def to_rows(
    detections: Detections, class_names: Sequence[str], models: Sequence[str], frame: int = 0
) -> list[dict[str, Any]]:
    """Return the detections in one frame of an image as rows of `BOX`."""
    return [
        make_box(class_names[class_id], confidence, box, models[model], frame)
        for box, confidence, class_id, model in zip(
            detections.boxes_xyxy.tolist(),
            detections.confidences.tolist(),
            detections.class_ids.tolist(),
            detections.models.tolist(),
            strict=True,
        )
    ]


def to_array(boxes: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """Return the edges of rows of `BOX`, float32 (N, 4) xyxy."""
    return np.array([[box[name] for name in EDGES] for box in boxes], np.float32).reshape(-1, 4)
