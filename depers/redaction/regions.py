"""Where boxes are redacted: regions of boxes that overlap or touch, in whole units (pixels, or the MCUs of a JPEG)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.imaging.headers import ImageError

Rectangle = tuple[int, int, int, int]


class Region(NamedTuple):
    """Boxes that overlap or touch, as one: whole-unit rectangles (x0, y0, x1, y1) and the rectangle about them."""

    bounds: Rectangle
    parts: tuple[Rectangle, ...]


def check_painted(boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> None:
    """Raise ImageError for a box that would paint no pixel: turned inside out, empty, outside, or not finite."""
    boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
    inside = np.clip(boxes, 0, np.array(size_wh * 2, np.float32))
    for box in boxes[~(np.isfinite(boxes).all(axis=1) & (inside[:, 2:] > inside[:, :2]).all(axis=1))].tolist():
        edges = ", ".join(f"{edge:g}" for edge in box)
        raise ImageError(f"has a box ({edges}) that covers none of its {size_wh[0]} × {size_wh[1]} pixels")


def find_regions(
    boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int], unit_wh: tuple[int, int] = (1, 1)
) -> list[Region]:
    """Return the regions that cover the boxes inside an image, in units of `unit_wh` pixels, empty boxes left out."""
    unit = np.array(unit_wh * 2, np.float64)
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite")
    low = np.floor(np.clip(boxes[:, :2], 0, size_wh) / unit[:2])
    high = np.ceil(np.clip(boxes[:, 2:], 0, size_wh) / unit[2:])
    rectangles = np.unique(np.concatenate([low, high], axis=1)[(high > low).all(axis=1)].astype(np.int64), axis=0)
    regions = []
    for group in _groups(rectangles):
        members = rectangles[group]
        bounds = (*members[:, :2].min(axis=0).tolist(), *members[:, 2:].max(axis=0).tolist())
        regions.append(Region(bounds, tuple(tuple(part) for part in members.tolist())))
    return regions


def _groups(rectangles: NDArray[np.int64]) -> list[list[int]]:
    """Return the indices of rectangles that overlap or touch, group by group, ordered by the first of each group."""
    low, high = rectangles[:, :2], rectangles[:, 2:]
    remaining, groups = np.arange(len(rectangles)), []
    while len(remaining):
        group, frontier, remaining = [], [int(remaining[0])], remaining[1:]
        while frontier:
            index = frontier.pop()
            group.append(index)
            touches = ((low[remaining] <= high[index]) & (high[remaining] >= low[index])).all(axis=1)
            frontier += remaining[touches].tolist()
            remaining = remaining[~touches]
        groups.append(sorted(group))
    return groups


def stack_parts(regions: Sequence[Region]) -> NDArray[np.int64]:
    """Return the rectangles of all regions, int64 (N, 4)."""
    return np.array([part for region in regions for part in region.parts], np.int64).reshape(-1, 4)


def grow_bounds(bounds: Rectangle, size_wh: tuple[int, int], thickness: int) -> Rectangle:
    """Return the bounds grown by `thickness` on each side, inside the image."""
    x0, y0, x1, y1 = bounds
    low = (max(0, x0 - thickness), max(0, y0 - thickness))
    return (*low, min(size_wh[0], x1 + thickness), min(size_wh[1], y1 + thickness))


def mark_free(parts: NDArray[np.int64], window: Rectangle) -> NDArray[np.bool_]:
    """Return which units of `window`, bool (H, W), lie outside of all `parts` of regions."""
    x0, y0, x1, y1 = window
    free = np.ones((y1 - y0, x1 - x0), bool)
    overlaps = (parts[:, :2] < (x1, y1)).all(axis=1) & (parts[:, 2:] > (x0, y0)).all(axis=1)
    for part_x0, part_y0, part_x1, part_y1 in parts[overlaps].tolist():
        free[max(0, part_y0 - y0) : max(0, part_y1 - y0), max(0, part_x0 - x0) : max(0, part_x1 - x0)] = False
    return free
