"""Views of an image for the detector: the whole, and for large ones overlapping tiles; what they find is detections."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.boxes import Letterbox, area, clip, intersections, letterbox, paint_on_canvas
from depers.detection.detections import Detections
from depers.detection.settings import InferenceSettings
from depers.imaging.decoding import resize_rgb
from depers.imaging.headers import ImageError

OVERLAP = 0.2  # of a tile with its neighbor: things smaller than that are whole in one of them
_BLOCK = 256  # boxes that are compared with all others at once
_CONTAINED = 0.9  # a box with this share of its area in a larger one of its class is a fragment of it


class View(NamedTuple):
    """A letterboxed canvas, uint8 RGB (H, W, 3), and where in the image it is from: `origin_xy` in pixels."""

    canvas: NDArray[np.uint8]
    frame: Letterbox
    origin_xy: tuple[int, int] = (0, 0)

    def locate(self, detections: Detections) -> Detections:
        """Return detections in pixels of the canvas as detections in pixels of the image."""
        boxes = self.frame.invert(detections.boxes_xyxy) + np.array(self.origin_xy * 2, np.float32)
        return detections._replace(boxes_xyxy=boxes)


def find_tile_starts(length: int, tile: int) -> list[int]:
    """Return where tiles of `tile` pixels start, which cover `length` evenly and overlap by at least `OVERLAP`."""
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / (tile * (1 - OVERLAP))) + 1
    return [round(number * (length - tile) / (count - 1)) for number in range(count)]


def view_whole(
    rgb: NDArray[np.uint8], size_wh: tuple[int, int], imgsz: int, stride: int, half_stride_pad: bool
) -> View:
    """Return the view of the whole image; `rgb` may be smaller than its size, as decoders make it: by area means."""
    frame = letterbox(size_wh, imgsz, stride=stride, half_stride_pad=half_stride_pad)
    if (rgb.shape[1], rgb.shape[0]) != size_wh:  # the little that is left is as good, and ten times as fast, so
        rgb = cv2.resize(rgb, frame.resized_wh, interpolation=cv2.INTER_LINEAR)
    return View(draw_canvas(rgb, frame), frame)


def make_views(
    rgb: NDArray[np.uint8], imgsz: int, stride: int, half_stride_pad: bool, tile: int | None
) -> Iterator[View]:
    """Yield the whole image (uint8 RGB, full size), then its tiles, made as they are asked for."""
    height, width = rgb.shape[:2]
    yield view_whole(rgb, (width, height), imgsz, stride, half_stride_pad)
    if tile is None or max(width, height) <= tile:
        return
    for top in find_tile_starts(height, tile):
        for x in find_tile_starts(width, tile):
            part = rgb[top : top + tile, x : x + tile]
            frame = letterbox((part.shape[1], part.shape[0]), imgsz, stride=stride)
            yield View(draw_canvas(part, frame), frame, (x, top))


def draw_canvas(rgb: NDArray[np.uint8], frame: Letterbox) -> NDArray[np.uint8]:
    """Return the letterboxed image, uint8 RGB (H, W, 3), gray around it."""
    return paint_on_canvas(resize_rgb(rgb, frame.resized_wh), frame.canvas_wh, frame.pad_xy)


def merge(parts: Sequence[Detections], settings: InferenceSettings, size_wh: tuple[int, int]) -> Detections:
    """Return detections of several views, in pixels of the image, as one, without doubles and fragments.

    What lies beside the image, on the canvas's border, is nothing of it. There are at most `max_detections`. Raise
    ImageError where there would be more, and none may be left out, and for a box that is not finite.
    """
    columns: Any = [np.concatenate(column) for column in zip(*parts, strict=True)]
    detections = Detections(*columns)
    if not np.isfinite(detections.boxes_xyxy).all():
        raise ImageError("has boxes that are not finite")
    detections = detections._replace(boxes_xyxy=clip(detections.boxes_xyxy, size_wh))
    if (is_empty := area(detections.boxes_xyxy) <= 0).any():
        detections = detections.select(~is_empty)
    if len(parts) > 1:
        detections = _join(detections, settings)
    count = len(detections.boxes_xyxy)
    if settings.withholds and count > settings.max_detections:
        raise ImageError(f"has {count} boxes, more than --max-detections {settings.max_detections}: raise it")
    return detections.select(slice(settings.max_detections))


def _join(detections: Detections, settings: InferenceSettings) -> Detections:
    """Return detections that several views have in common as one, without doubles and fragments."""
    import torch

    from depers.detection.suppression import suppress

    order = np.arange(len(detections.boxes_xyxy))
    numbers = (detections.boxes_xyxy, detections.confidences[:, None], detections.class_ids[:, None], order[:, None])
    rows = torch.from_numpy(np.concatenate(numbers, axis=1, dtype=np.float64))
    indices = suppress(rows, settings)[:, 6].numpy().astype(np.int64)
    indices = indices[~_are_fragments(detections.boxes_xyxy[indices], detections.class_ids[indices])]
    return detections.select(indices)


def _are_fragments(boxes: NDArray[np.float32], class_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which boxes (N, 4) lie almost wholly in a larger one of their class, bool (N,)."""
    areas, are_fragments = area(boxes), np.zeros(len(boxes), bool)
    for start in range(0, len(boxes), _BLOCK):
        block = slice(start, start + _BLOCK)
        inside = intersections(boxes[block], boxes) >= _CONTAINED * areas[block, None]
        larger = (areas[None] > areas[block, None]) & (class_ids[block, None] == class_ids[None])
        are_fragments[block] = (inside & larger).any(axis=1)
    return are_fragments
