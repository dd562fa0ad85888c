"""Geometry of boxes: float32 (N, 4) arrays of x_min, y_min, x_max, y_max in pixels, the origin at the top left.

Sizes are (width, height). A box that is turned inside out counts as empty.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]
EDGES = ("x_min", "y_min", "x_max", "y_max")
"""The edges of a box in tables, in the order of `Boxes`."""

CANVAS_GRAY = 114
"""YOLOv5's gray around a letterboxed image."""
_EPS = np.float32(1e-7)  # YOLOv5's: empty boxes overlap by 0 instead of 0/0


def area(boxes: Boxes) -> NDArray[np.float32]:
    """Return the area of every box in square pixels, float32 (N,)."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


def intersections(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """Return the area that each of `first` (N, 4) shares with each of `second` (M, 4), float32 (N, M)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0)
    return np.asarray(sides[..., 0] * sides[..., 1])


def intersection_over_union(first: Boxes, second: Boxes) -> NDArray[np.float32]:
    """Return how much each of `first` (N, 4) and each of `second` (M, 4) are one, float32 (N, M) in 0…1."""
    shared = intersections(first, second)
    return np.asarray(shared / (area(first)[:, None] + area(second)[None] - shared + _EPS), np.float32)


def shares_inside(inner: Boxes, outer: Boxes) -> NDArray[np.float32]:
    """Return how much of each of `inner` (N, 4) lies in each of `outer` (M, 4), float32 (N, M) in 0…1; 0 if empty."""
    return np.asarray(intersections(inner, outer) / np.maximum(area(inner), 1e-9)[:, None], np.float32)


def have_center_in(boxes: Boxes, outer: Boxes) -> NDArray[np.bool_]:
    """Return whether the center of each of `boxes` (N, 4) lies in one of `outer` (M, 4), bool (N,)."""
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    is_inside = np.all((centers >= outer[:, :2]) & (centers <= outer[:, 2:]), axis=2)
    return np.asarray(np.any(is_inside, axis=1), np.bool_)


def covered_share(box_xyxy: Sequence[float], covers: Boxes) -> float:
    """Return the share of a box that the union of the covers (N, 4) takes up, 0…1; exact, and 0 for an empty box."""
    x0, y0, x1, y1 = box_xyxy
    if x1 <= x0 or y1 <= y0:
        return 0.0
    cells, first = _first_covers(box_xyxy, covers)
    return float((cells * (first < len(covers))).sum() / ((x1 - x0) * (y1 - y0)))


def areas_added(box_xyxy: Sequence[float], covers: Boxes) -> NDArray[np.float64]:
    """Return what each of the covers (N, 4) adds to the area of a box that those above it cover, float64 (N,)."""
    cells, first = _first_covers(box_xyxy, covers)
    return np.asarray(np.bincount(first.ravel(), cells.ravel(), len(covers) + 1)[:-1], np.float64)


def _first_covers(box_xyxy: Sequence[float], covers: Boxes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut the part of a box that is covered along all edges of the covers (N, 4).

    Return the areas of the cells (R, C), and for each the number of the first cover that it lies in, or N.
    """
    x0, y0, x1, y1 = box_xyxy
    inside = np.clip(covers.astype(np.float64), (x0, y0, x0, y0), (x1, y1, x1, y1))
    numbers = np.flatnonzero((inside[:, 2:] > inside[:, :2]).all(axis=1))
    columns, rows = np.unique(inside[numbers][:, [0, 2]]), np.unique(inside[numbers][:, [1, 3]])
    first = np.full((len(rows), len(columns)), len(covers))
    for number in numbers[::-1].tolist():
        left, top, right, bottom = inside[number]
        first[
            np.searchsorted(rows, top) : np.searchsorted(rows, bottom),
            np.searchsorted(columns, left) : np.searchsorted(columns, right),
        ] = number
    return np.diff(rows, append=rows[-1:])[:, None] * np.diff(columns, append=columns[-1:]), first


def clip(boxes: Boxes, size_wh: tuple[int, int]) -> Boxes:
    """Return the parts of the boxes that lie inside an image; a box outside of it is left empty, on its edge."""
    return np.clip(boxes, np.float32(0), np.array([*size_wh, *size_wh], np.float32))


def grow(boxes: Boxes, margin: float, size_wh: tuple[int, int]) -> Boxes:
    """Return the boxes with `margin` times their width and height added on each side, inside an image."""
    margins = (boxes[:, 2:] - boxes[:, :2]) * np.float32(margin)
    return clip(np.concatenate([boxes[:, :2] - margins, boxes[:, 2:] + margins], axis=1), size_wh)


def to_normalized_xywh(boxes: Boxes, size_wh: tuple[int, int]) -> NDArray[np.float64]:
    """Return center and size of the boxes as shares of the image's: float64 (N, 4) cx, cy, w, h in 0…1."""
    low, high = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64)
    return np.concatenate([(low + high) / 2, high - low], axis=1) / [*size_wh, *size_wh]


def from_normalized_xywh(boxes_xywh: NDArray[np.float64], size_wh: tuple[int, int]) -> Boxes:
    """Return boxes in pixels, float32 (N, 4), from cx, cy, w, h in 0…1: the inverse of `to_normalized_xywh`."""
    scaled = np.asarray(boxes_xywh, np.float64) * [*size_wh, *size_wh]
    half = scaled[:, 2:] / 2
    return np.concatenate([scaled[:, :2] - half, scaled[:, :2] + half], axis=1).astype(np.float32)


class Letterbox(NamedTuple):
    """How an image lies on the detector's canvas: scaled to `resized_wh`, its top left corner at `pad_xy`.

    `scale` is the longer side's; rounding to whole pixels can make the shorter side's differ, which `apply` and
    `invert` respect. They count from `origin_xy`: the corner, or half a pixel beside it as `yolov5 val` does.
    """

    scale: float
    pad_xy: tuple[int, int]
    resized_wh: tuple[int, int]
    canvas_wh: tuple[int, int]
    size_wh: tuple[int, int]
    origin_xy: tuple[float, float]

    def apply(self, boxes: Boxes) -> Boxes:
        """Turn boxes in pixels of the image into boxes in pixels of the canvas."""
        scales = np.divide(self.resized_wh * 2, self.size_wh * 2)
        return (boxes * scales + self.origin_xy * 2).astype(np.float32)

    def invert(self, boxes: Boxes) -> Boxes:
        """Turn boxes in pixels of the canvas into boxes in pixels of the image, not clipped to it."""
        scales = np.divide(self.size_wh * 2, self.resized_wh * 2)
        return ((boxes - np.array(self.origin_xy * 2, np.float64)) * scales).astype(np.float32)


def letterbox(
    size_wh: tuple[int, int], imgsz: int, stride: int = 32, square: bool = False, half_stride_pad: bool = False
) -> Letterbox:
    """Return where an image goes so that its longer side is `imgsz`, small ones enlarged, as YOLOv5 does it.

    The canvas is the smallest with sides that are multiples of `stride`, or `imgsz` × `imgsz` if `square`.
    `half_stride_pad` makes it that of `yolov5 val`: half a stride of border in each direction before the sides are
    rounded, the image's own sides rounded up, and boxes counted from the middle of an odd border though the image
    lies on whole pixels: half a pixel off, but the figures are the same. Without it, it is that of `yolov5 detect`.
    Raise ValueError for an image without pixels, or `imgsz` below 1.
    """
    if min(*size_wh, imgsz, stride) < 1:
        raise ValueError(f"sizes must be at least 1, but got {size_wh}, imgsz {imgsz}, stride {stride}")
    longer = max(size_wh)
    scale = imgsz / longer
    rounded = math.ceil if half_stride_pad else round
    width, height = (min(imgsz, max(1, rounded(side * scale))) for side in size_wh)
    if square:
        canvas_wh = (imgsz, imgsz)
    elif half_stride_pad:
        wide, high = (math.ceil(side / longer * imgsz / stride + 0.5) * stride for side in size_wh)
        canvas_wh = (wide, high)
    else:
        canvas_wh = (math.ceil(width / stride) * stride, math.ceil(height / stride) * stride)
    border_xy = ((canvas_wh[0] - width) / 2, (canvas_wh[1] - height) / 2)
    pad_xy = center((width, height), canvas_wh)
    return Letterbox(scale, pad_xy, (width, height), canvas_wh, size_wh, border_xy if half_stride_pad else pad_xy)


def center(size_wh: tuple[int, int], canvas_wh: tuple[int, int]) -> tuple[int, int]:
    """Return where the top left corner of an image in the middle of a canvas lies: the odd pixel right and below."""
    (width, height), (canvas_width, canvas_height) = size_wh, canvas_wh
    return round((canvas_width - width) / 2 - 0.1), round((canvas_height - height) / 2 - 0.1)


def paint_on_canvas(
    rgb: NDArray[np.uint8], canvas_wh: tuple[int, int], corner_xy: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return a canvas in YOLOv5's gray, uint8 RGB (H, W, 3), with an image on it that begins at `corner_xy`."""
    (width, height), (x, y) = canvas_wh, corner_xy
    canvas = np.full((height, width, 3), CANVAS_GRAY, np.uint8)
    canvas[y : y + rgb.shape[0], x : x + rgb.shape[1]] = rgb
    return canvas
