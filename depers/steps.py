"""The steps of one pass over pictures, read → prepare → detect → finish → record, as plain functions.

`depers.pipeline` composes them; detection and anonymization differ in `finish` alone.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import storage, units
from depers.boxes import Letterbox, clip, letterbox
from depers.detections import Detections, parquet_text
from depers.images import ImageError, Picture, decode, open_header, orientation_of, resize_rgb
from depers.prediction import Prediction, Weights
from depers.units import Unit

if TYPE_CHECKING:
    from depers.detector import Detector

Row = dict[str, Any]
PADDING = 114  # YOLOv5's letterbox gray
_LARGE_PIXELS = 8_000_000
_one_large = threading.Lock()


@dataclass(frozen=True)
class Item:
    """One picture on its way: its bytes, and after `prepare` the canvas for the detector, or why it failed."""

    path: str
    data: bytes = b""
    reason: str = ""
    canvas: NDArray[np.uint8] | None = None
    frame: Letterbox | None = None
    size_wh: tuple[int, int] = (0, 0)
    picture: Picture | None = None  # kept where preparing it took a full decode and it is not large


Finish = Callable[[Item, Detections, Sequence[str], Sequence[str]], Row]
"""The last step: item, detections in full-size pixels, class names, model names → the item's row."""


class Job(NamedTuple):
    """All that a worker needs to know; it travels by pickle."""

    input: str
    out: str
    weights: tuple[Weights, ...]
    classes: tuple[str, ...]
    how: Prediction
    batch_size: int
    max_megapixels: float
    half_stride_pad: bool
    schema: pa.Schema
    finish: Finish


def read(job: Job, path: str) -> Item:
    """The file's bytes, or an item with the reason why they cannot be had."""
    try:
        return Item(path, storage.read_bytes(storage.join(job.input, path)))
    except Exception as error:  # storage raises OSErrors and the client's own kinds alike
        return Item(path, reason=f"cannot be read ({getattr(error, 'strerror', None) or _line(error)})")


def prepare(job: Job, item: Item, stride: int) -> Item:
    """Decodes and letterboxes; JPEGs of 4 × `imgsz` and more are decoded at a fraction of their size."""
    if item.reason:
        return item
    try:
        rgb, size_wh, picture = _decode_for_detection(item.data, job.how.imgsz, job.max_megapixels)
        frame = letterbox(size_wh, job.how.imgsz, stride=stride, half_stride_pad=job.half_stride_pad)
        return replace(item, canvas=draw_canvas(rgb, frame), frame=frame, size_wh=size_wh, picture=picture)
    except ImageError as error:
        return replace(item, reason=str(error))
    except Exception as error:
        return replace(item, reason=f"cannot be prepared ({type(error).__name__}: {_line(error)})")


def _decode_for_detection(
    data: bytes, imgsz: int, max_megapixels: float
) -> tuple[NDArray[np.uint8], tuple[int, int], Picture | None]:
    """RGB for the detector, the upright full size, and the full picture where it was decoded anyway."""
    header = open_header(data, max_megapixels)
    plain = header.format == "JPEG" and header.mode == "RGB" and orientation_of(header) == 1
    if plain and max(header.size) >= 4 * imgsz:
        need = 2 * imgsz / max(header.size)
        height, width = int(header.height * need), int(header.width * need)
        try:
            rgb = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width, min_factor=2, strict=True)
            return rgb, header.size, None
        except ValueError:
            pass  # the full decode decides whether it is whole
    with _room_for(header.size):
        picture = decode(data, max_megapixels)
        kept = picture if header.width * header.height <= _LARGE_PIXELS else None
        return picture.rgb(), picture.size_wh, kept


@contextmanager
def _room_for(size_wh: tuple[int, int]) -> Iterator[None]:
    """A process holds one large picture in full at a time, so that its memory does not depend on what it is fed."""
    if size_wh[0] * size_wh[1] <= _LARGE_PIXELS:
        yield
    else:
        with _one_large:
            yield


def draw_canvas(rgb: NDArray[np.uint8], frame: Letterbox) -> NDArray[np.uint8]:
    """The letterboxed picture, uint8 RGB (H, W, 3), gray around it."""
    width, height = frame.canvas_wh
    canvas = np.full((height, width, 3), PADDING, np.uint8)
    x, y = frame.pad_xy
    resized = resize_rgb(rgb, frame.resized_wh)
    canvas[y : y + resized.shape[0], x : x + resized.shape[1]] = resized
    return canvas


def detect(items: Sequence[Item], detector: "Detector") -> list[tuple[Item, Detections]]:
    """Detections in full-size pixels for each item; a batch that fails is tried again one by one."""
    ready = [item for item in items if item.canvas is not None]
    found: dict[str, Detections] = {}
    reasons: dict[str, str] = {}
    try:
        answers = detector([item.canvas for item in ready if item.canvas is not None])
        found = {item.path: answer for item, answer in zip(ready, answers, strict=True)}
    except Exception as error:
        if len(ready) > 1:
            return [answer for item in items for answer in detect([item], detector)]
        reasons = {item.path: f"detection failed ({type(error).__name__}: {_line(error)})" for item in ready}
    results = []
    for item in items:
        answer = found.get(item.path, Detections.none())
        if item.frame is not None:
            answer = answer._replace(boxes_xyxy=clip(item.frame.invert(answer.boxes_xyxy), item.size_wh))
        results.append((replace(item, canvas=None, reason=reasons.get(item.path, item.reason)), answer))
    return results


def finish(job: Job, item: Item, detections: Detections, names: Sequence[str], models: Sequence[str]) -> Row:
    """The item's row; whatever goes wrong in the last step is its failure, never the job's."""
    try:
        with _room_for(item.size_wh):
            return job.finish(item, detections, names, models)
    except ImageError as error:
        return job.finish(replace(item, reason=str(error)), Detections.none(), names, models)
    except Exception as error:
        reason = f"cannot be finished ({type(error).__name__}: {_line(error)})"
        return job.finish(replace(item, reason=reason), Detections.none(), names, models)


def record(job: Job, unit: Unit, rows: Sequence[Row]) -> Row:
    """Writes the unit's record, which marks it done; gives the number of rows by status."""
    table = pa.Table.from_pylist([row | {"path": parquet_text(row["path"])} for row in rows], schema=job.schema)
    storage.write_table(units.record_uri(job.out, unit.name), table)
    return {"statuses": [row["status"] for row in rows]}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
