"""Which part of a box stays visible under others: scalars instead of arrays, for there are few boxes at a time.

A box is a tuple x_min, y_min, x_max, y_max in pixels of the image.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

Box = tuple[float, float, float, float]


def intersection(first: Box, second: Box) -> float:
    """Return the area that two boxes share, in square pixels."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return width * height if width > 0 and height > 0 else 0.0


def area(box: Box) -> float:
    """Return the area of a box in square pixels."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def clip(box: Box, size_wh: tuple[int, int]) -> Box:
    """Return the part of a box that lies in the image."""
    width, height = size_wh
    x0, y0, x1, y1 = box
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:  # as most
        return box
    return min(max(x0, 0.0), width), min(max(y0, 0.0), height), min(max(x1, 0.0), width), min(max(y1, 0.0), height)


def whole(box: Box) -> Box:
    """Return the pixels whose centers lie in a box."""
    return round(box[0]), round(box[1]), round(box[2]), round(box[3])


def visible(box: Box, covers: Sequence[Box]) -> tuple[Box, float]:
    """Return the box around what the `covers` leave of `box`, and the visible share of its area; share 0: nothing."""
    x0, y0, x1, y1 = box
    covers = [c for c in covers if c[0] < x1 and c[2] > x0 and c[1] < y1 and c[3] > y0]
    box_area = area(box)
    if not covers or not box_area:
        return box, 1.0 if box_area else 0.0
    if len(covers) == 1:
        return _visible_beside(box, covers[0], box_area)
    xs = sorted({x0, x1, *(x for c in covers for x in (c[0], c[2]) if x0 < x < x1)})
    ys = sorted({y0, y1, *(y for c in covers for y in (c[1], c[3]) if y0 < y < y1)})
    extent, visible_area = (math.inf, math.inf, -math.inf, -math.inf), 0.0
    for low_x, high_x in pairwise(xs):
        for low_y, high_y in pairwise(ys):
            x, y = (low_x + high_x) / 2, (low_y + high_y) / 2
            if not any(c[0] < x < c[2] and c[1] < y < c[3] for c in covers):
                extent = (
                    min(extent[0], low_x),
                    min(extent[1], low_y),
                    max(extent[2], high_x),
                    max(extent[3], high_y),
                )
                visible_area += (high_x - low_x) * (high_y - low_y)
    return (extent, visible_area / box_area) if visible_area else (box, 0.0)


def _visible_beside(box: Box, cover: Box, box_area: float) -> tuple[Box, float]:
    """Return what `visible` does for one cover, which is the usual number."""
    x0, y0, x1, y1 = box
    a, b, c, d = cover
    share = 1 - intersection(box, cover) / box_area
    across, down = a <= x0 and c >= x1, b <= y0 and d >= y1
    if across and down:
        return box, 0.0
    if down:
        return (c if a <= x0 else x0, y0, a if c >= x1 else x1, y1), share
    if across:
        return (x0, d if b <= y0 else y0, x1, b if d >= y1 else y1), share
    return box, share


def grazes(box: Box, cover: Box) -> bool:
    """Return whether `cover` leaves only a line of about a pixel at an edge of `box`.

    Whether that can be seen is a matter of rounding, and a long line is much of a label.
    """
    if intersection(box, cover) <= 0:
        return False
    strips = cover[0] - box[0], cover[1] - box[1], box[2] - cover[2], box[3] - cover[3]
    return any(0 < strip < 1.5 for strip in strips)


def inside(box: Box, outer: Box) -> bool:
    """Return whether `box` lies in `outer`."""
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]
