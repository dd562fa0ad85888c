"""Redact step."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depers import __version__
from depers.boxes import grow
from depers.imaging.decoding import ImageError
from depers.pipeline.steps import Item, Outcome, Row
from depers.redaction.files import redact_file
from depers.statuses import FileStatus

_FAR = 1 << 24  # pixels; beyond any image


def by_frame(boxes: Sequence[Row], frames: int, margin: float) -> list[NDArray[np.float32]]:
    """Boxes as float32 (N, 4) xyxy pixels for each frame, grown by the margin. Raises ImageError for further frames.

    They may reach outside their frames, which differ in size.
    """
    edges = np.array([[box[name] for name in ("x_min", "y_min", "x_max", "y_max")] for box in boxes], np.float32)
    numbers = np.array([box["frame"] for box in boxes], np.int64)
    if (numbers >= frames).any():
        raise ImageError(f"holds {frames} frames, but has boxes in frame {numbers.max()}, counted from 0")
    grown = grow(edges.reshape(-1, 4), margin, (_FAR, _FAR))
    return [grown[numbers == frame] for frame in range(frames)]


def redact_item(
    item: Item, boxes: Sequence[Row], *, mode: str, margin: float, keep_metadata: Sequence[str], max_megapixels: float
) -> Outcome:
    """The last step: the redacted image and its manifest row; a file that is passed through goes through as it is."""
    row: Row = {"path": item.path, "member": item.member, "number": item.number, "status": item.status or "failed"}
    row |= {"reason": item.reason, "width": None, "height": None, "boxes": list(boxes), "version": __version__}
    row |= {"input_bytes": item.size}
    if item.data:
        row["input_sha256"] = hashlib.sha256(item.data).hexdigest()
    if item.status == FileStatus.PASSED_THROUGH:
        return Outcome(row | {"output_bytes": item.size, "output_sha256": row["input_sha256"]}, item.data)
    if item.status:
        return Outcome(row)
    width, height = item.size_wh
    row |= {"width": width, "height": height, "mode": mode, "margin": margin}
    if item.reason:
        return Outcome(row)
    result = redact_file(
        item.data,
        by_frame(boxes, item.frames, margin),
        mode=mode,
        keep_metadata=keep_metadata,
        max_megapixels=max_megapixels,
        header=item.header,
        decoded=item.image,
    )
    row |= {"status": "redacted" if boxes else "clean", "format": result.format, "method": result.method}
    row |= {"frames": result.frames, "output_bytes": len(result.data)}
    return Outcome(row | {"output_sha256": hashlib.sha256(result.data).hexdigest()}, result.data)
