"""The last step of an anonymization: the redacted image, and its row of the manifest."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from depers.anonymization.manifest import ManifestRow
from depers.boxes import grow
from depers.detection.detections import to_array
from depers.imaging.disguise.search import find_image
from depers.imaging.headers import ImageError
from depers.pipeline.box_tables import Row
from depers.pipeline.steps import Item, Outcome
from depers.redaction.files import redact_file
from depers.statuses import FileStatus

_FAR = 1 << 24  # pixels; beyond any image


def split_by_frame(boxes: Sequence[Row], frames: int, margin: float) -> list[NDArray[np.float32]]:
    """Return the boxes of each frame, float32 (N, 4) xyxy pixels, grown by the margin.

    They may reach outside their frames, which differ in size. Raise ImageError for frames that are not there.
    """
    numbers = np.array([box["frame"] for box in boxes], np.int64)
    if absent := sorted(set(numbers.tolist()) - set(range(frames))):
        raise ImageError(f"holds {frames} frames, but has boxes in frame {absent[-1]}, counted from 0")
    grown = grow(to_array(boxes), margin, (_FAR, _FAR))
    return [grown[numbers == frame] for frame in range(frames)]


def redact_item(
    item: Item,
    boxes: Sequence[Row],
    *,
    mode: str,
    margin: float,
    keep_metadata: Sequence[str],
    max_megapixels: float,
    keep_anyway: bool = False,
) -> Outcome:
    """Return the redacted image and its manifest row; a file that is passed through keeps its bytes.

    Such a file fails where an image is found in it, whatever its dress, unless `keep_anyway`.
    """
    row = ManifestRow(
        path=item.path,
        member=item.member,
        number=item.number,
        status=item.status or FileStatus.FAILED,
        reason=item.reason,
        boxes=list(boxes),
        input_bytes=item.size,
        input_sha256=hashlib.sha256(item.data).hexdigest() if item.data else None,
    )
    if item.status == FileStatus.PASSED_THROUGH:
        if not keep_anyway and (finding := find_image(item.data)):
            row = row._replace(
                status=FileStatus.FAILED, reason=f"is kept, but holds {finding} (--keep-anyway writes it)"
            )
            return Outcome(row._asdict())
        digest = hashlib.sha256(item.data).hexdigest()
        row = row._replace(input_sha256=digest, output_bytes=item.size, output_sha256=digest)
        return Outcome(row._asdict(), item.data)
    if item.status:
        return Outcome(row._asdict())
    width, height = item.size_wh
    row = row._replace(width=width, height=height, mode=mode, margin=margin)
    if item.reason:
        return Outcome(row._asdict())
    result = redact_file(
        item.data,
        split_by_frame(boxes, item.frames, margin),
        mode=mode,
        keep_metadata=keep_metadata,
        max_megapixels=max_megapixels,
        header=item.header,
        decoded=item.image,
    )
    row = row._replace(
        status=FileStatus.REDACTED if boxes else FileStatus.CLEAN,
        format=result.format,
        method=result.method,
        frames=result.frames,
        output_bytes=len(result.data),
        output_sha256=hashlib.sha256(result.data).hexdigest(),
    )
    return Outcome(row._asdict(), result.data)
