"""Detections, the contract between finding and everything that follows; in memory and as Parquet."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Detections(NamedTuple):
    """What a detector found in one image, highest confidence first.

    `boxes_xyxy` float32 (N, 4) in pixels of the upright full-size image, `confidences` float32 (N,), `class_ids`
    int64 (N,), `models` int64 (N,): the index of the weights that found the box.
    """

    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    models: NDArray[np.int64]

    @classmethod
    def none(cls) -> "Detections":
        """No detections."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))


BOX = pa.struct(
    [("class", pa.string()), ("confidence", pa.float32())]
    + [(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")]
    + [("model", pa.string()), ("frame", pa.int32())]
)
SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("member", pa.string()),
        ("number", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(BOX)),
    ]
)
"""One row per file: `path` relative to the input, in an archive also the `member` and its `number`.

`status` is `ok`, `left out` (no image) or `failed` with a `reason`, an archive's own `complete`, `incomplete` or
`failed`; boxes are in pixels of their frame, of which most images have one, number 0.
"""


def to_rows(
    detections: Detections, class_names: Sequence[str], models: Sequence[str], frame: int = 0
) -> list[dict[str, Any]]:
    """The detections in one frame of an image as the rows of the `boxes` column."""
    return [
        dict(zip(BOX.names, (class_names[class_id], confidence, *box, models[model], frame), strict=True))
        for box, confidence, class_id, model in zip(
            detections.boxes_xyxy.tolist(),
            detections.confidences.tolist(),
            detections.class_ids.tolist(),
            detections.models.tolist(),
            strict=True,
        )
    ]
