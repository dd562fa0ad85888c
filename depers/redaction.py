"""Boxes + pixels → redacted pixels, such that at most 6 × 6 averages of a box survive, whatever its size."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.images import Picture, Pixels, decode, encode

MODES = ("pixelate", "blur", "fill")
CELLS_ACROSS = 6


def covering(boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int]) -> NDArray[np.int64]:
    """Whole-pixel boxes (N, 4) that cover the given ones inside the picture, largest first, empty ones left out."""
    width, height = size_wh
    low = np.floor(boxes_xyxy[:, :2]).clip(0, (width, height)).astype(np.int64)
    high = np.ceil(boxes_xyxy[:, 2:]).clip(0, (width, height)).astype(np.int64)
    boxes = np.concatenate([low, high], axis=1)[(high > low).all(axis=1)]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    # Largest first, ties by coordinates: the result does not depend on the order in which they were found.
    return boxes[np.lexsort((*boxes.T[::-1], -areas))]


def redact(pixels: Pixels, boxes_xyxy: NDArray[np.float32], mode: str = "pixelate") -> Pixels:
    """A copy of `pixels` (H, W) or (H, W, C), uint8 or uint16, with every box made unrecognizable.

    `pixelate` replaces a box by at most 6 cells across (fewer than one cell per 2 pixels in small boxes), `blur` by
    the same averages interpolated smoothly, `fill` by mid gray. Boxes are worked on one after another, so what
    overlaps is averaged again, never brought back.
    """
    redacted = pixels.copy()
    for x0, y0, x1, y1 in covering(boxes_xyxy, (pixels.shape[1], pixels.shape[0])).tolist():
        redacted[y0:y1, x0:x1] = _region(redacted[y0:y1, x0:x1], mode)
    return redacted


def _region(region: Pixels, mode: str) -> Pixels:
    height, width = region.shape[:2]
    if mode == "fill":
        filled = np.full_like(region, (np.iinfo(region.dtype).max + 1) // 2)
        if region.ndim == 3 and region.shape[2] in (2, 4):  # the last channel is opacity (or CMYK's black)
            filled[:, :, -1] = np.iinfo(region.dtype).max
        return filled
    side = max(width, height) / CELLS_ACROSS  # cells are about square
    across, down = (max(1, min(CELLS_ACROSS, round(length / side), length // 2)) for length in (width, height))
    means = cv2.resize(region, (across, down), interpolation=cv2.INTER_AREA)
    smooth = cv2.INTER_LINEAR if mode == "blur" else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(means, (width, height), interpolation=smooth)).reshape(region.shape)


class Redacted(NamedTuple):
    data: bytes
    method: str
    format: str
    size_wh: tuple[int, int]
    frames: int


def redact_file(
    data: bytes,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    *,
    mode: str = "pixelate",
    keep_metadata: Sequence[str] = (),
    max_megapixels: float = 80,
    decoded: Picture | None = None,
) -> Redacted:
    picture = decoded or decode(data, max_megapixels)
    boxes = boxes_xyxy_by_frame[0]
    return Redacted(
        encode(picture, redact(picture.pixels, boxes, mode) if len(boxes) else picture.pixels),
        "re-encoded",
        picture.format,
        picture.size_wh,
        1,
    )
