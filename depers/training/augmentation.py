"""Random images from images: mosaics, perspective, mixup, mirroring and color, by YOLOv5's hyperparameters.

Pure functions of pixels, boxes and a random generator. The tiles of a mosaic are warped straight to where they come
to lie: no canvas of twice the size is ever filled. `copy_paste` has no effect: it needs outlines, and a dataset's
labels are boxes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.boxes import CANVAS_GRAY, center, paint_on_canvas

_LEAST_SIDE, _LEAST_AREA, _MOST_RATIO = 2, 0.1, 100  # of a box that is left of a label: px, share, sides

RGB = NDArray[np.uint8]
Strength = Mapping[str, float]


class LabelledImage(NamedTuple):
    """`image` uint8 RGB (H, W, 3), and `labels` float64 (N, 5): class id, then x_min, y_min, x_max, y_max in pixels."""

    image: RGB
    labels: NDArray[np.float64]


def letterboxed(sample: LabelledImage, canvas_wh: tuple[int, int]) -> LabelledImage:
    """The image in the middle of a canvas, as for prediction."""
    height, width = sample.image.shape[:2]
    x, y = center((width, height), canvas_wh)
    return LabelledImage(paint_on_canvas(sample.image, canvas_wh, (x, y)), _moved(sample.labels, x, y))


def augmented(
    sample: LabelledImage, canvas_wh: tuple[int, int], rng: np.random.Generator, strength: Strength
) -> LabelledImage:
    """The image on its canvas: rotated, sheared, scaled and moved, then mirrored and recolored, all at random."""
    height, width = sample.image.shape[:2]
    x, y = center((width, height), canvas_wh)
    return _finished(_warped([(sample, x, y)], canvas_wh, canvas_wh, rng, strength), rng, strength)


def mosaic(
    tiles: Sequence[LabelledImage],
    imgsz: int,
    rng: np.random.Generator,
    strength: Strength,
    others: Sequence[LabelledImage] = (),
) -> LabelledImage:
    """Four images around a random point, warped to `imgsz` squared (Bochkovskiy et al. 2020, YOLOv4).

    With `others`, a second mosaic of those is mixed in (Zhang et al. 2017, mixup).
    """
    made = _mosaic(tiles, imgsz, rng, strength)
    if others:
        second = _mosaic(others, imgsz, rng, strength)
        share = rng.beta(32.0, 32.0)
        mixed = cv2.addWeighted(made.image, share, second.image, 1 - share, 0)
        made = LabelledImage(np.asarray(mixed, np.uint8), np.concatenate([made.labels, second.labels]))
    return _finished(made, rng, strength)


def _mosaic(tiles: Sequence[LabelledImage], imgsz: int, rng: np.random.Generator, strength: Strength) -> LabelledImage:
    side = 2 * imgsz
    center_x, center_y = (int(value) for value in rng.uniform(imgsz / 2, 3 * imgsz / 2, 2))
    parts = []
    for number, at in enumerate(rng.permutation(4)):
        image, labels = tiles[at]
        height, width = image.shape[:2]
        x = center_x if number % 2 else center_x - width  # upper left, upper right, lower left, lower right
        y = center_y if number // 2 else center_y - height
        left, top = max(-x, 0), max(-y, 0)
        cut = image[top : min(height, side - y), left : min(width, side - x)]
        moved = _moved(labels, x, y)
        moved[:, 1:] = moved[:, 1:].clip(0, side)
        parts.append((LabelledImage(cut, moved), x + left, y + top))
    flat = [(LabelledImage(part.image, _moved(part.labels, -x, -y)), x, y) for part, x, y in parts]
    return _warped(flat, (side, side), (imgsz, imgsz), rng, strength)


def _moved(labels: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    return labels + [0, x, y, x, y]


def _warped(
    parts: Sequence[tuple[LabelledImage, int, int]],
    canvas_wh: tuple[int, int],
    out_wh: tuple[int, int],
    rng: np.random.Generator,
    strength: Strength,
) -> LabelledImage:
    """Images that lie side by side on a canvas, each with its corner (x, y) there, seen through a random warp."""
    matrix, zoom = random_matrix(canvas_wh, out_wh, rng, strength)
    image = np.full((out_wh[1], out_wh[0], 3), CANVAS_GRAY, np.uint8)
    placed = [np.zeros((0, 5))]
    for sample, x, y in parts:
        height, width = sample.image.shape[:2]
        own = matrix @ _shift(x, y)
        corners = project(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), own)
        low = np.floor(corners.min(0)).clip(0, out_wh).astype(int)
        high = np.ceil(corners.max(0)).clip(0, out_wh).astype(int)
        if (high > low).all():
            target = image[low[1] : high[1], low[0] : high[0]]
            size = (int(high[0] - low[0]), int(high[1] - low[1]))
            how = {"dst": target, "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
            local = _shift(-low[0], -low[1]) @ own
            if strength["perspective"]:
                cv2.warpPerspective(sample.image, local, size, **how)  # type: ignore[call-overload]
            else:
                cv2.warpAffine(sample.image, local[:2], size, **how)  # type: ignore[call-overload]
        placed.append(warp_labels(sample.labels, own, zoom, out_wh))
    return LabelledImage(image, np.concatenate(placed))


def random_matrix(
    canvas_wh: tuple[int, int], out_wh: tuple[int, int], rng: np.random.Generator, strength: Strength
) -> tuple[NDArray[np.float64], float]:
    """A perspective matrix (3, 3) from canvas to output pixels, and its zoom, distributed as YOLOv5's."""
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * strength["perspective"]
    angle = rng.uniform(-1, 1) * strength["degrees"]
    zoom = rng.uniform(1 - strength["scale"], 1 + strength["scale"])
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    shear = np.eye(3)
    shear[[0, 1], [1, 0]] = np.tan(np.deg2rad(rng.uniform(-1, 1, 2) * strength["shear"]))
    middle = (0.5 + rng.uniform(-1, 1, 2) * strength["translate"]) * out_wh
    matrix = _shift(*middle) @ shear @ turn @ tilt @ _shift(-canvas_wh[0] / 2, -canvas_wh[1] / 2)
    return np.asarray(matrix, np.float64), float(zoom)


def _shift(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def project(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (N, 2) through a perspective matrix (3, 3)."""
    seen = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    flat: NDArray[np.float64] = seen[:, :2] / seen[:, 2:]
    return flat


def warp_labels(
    labels: NDArray[np.float64], matrix: NDArray[np.float64], zoom: float, out_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """The boxes around the warped boxes, cut to the output; those of which too little is left are dropped."""
    corners = project(labels[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    low, high = corners.min(1).clip(0, out_wh), corners.max(1).clip(0, out_wh)
    before, after = (labels[:, 3:] - labels[:, 1:3]) * zoom, high - low
    ratio = np.maximum(after[:, 0] / (after[:, 1] + 1e-16), after[:, 1] / (after[:, 0] + 1e-16))
    enough = after.prod(1) / (before.prod(1) + 1e-16) > _LEAST_AREA
    kept = (after > _LEAST_SIDE).all(1) & enough & (ratio < _MOST_RATIO)
    return np.asarray(np.column_stack([labels[:, 0], low, high])[kept], np.float64)


def _finished(sample: LabelledImage, rng: np.random.Generator, strength: Strength) -> LabelledImage:
    """Recolored and mirrored at random."""
    image, labels = recolored(sample.image, rng, strength), sample.labels
    height, width = image.shape[:2]
    upside_down, mirrored = rng.random(2) < [strength["flipud"], strength["fliplr"]]
    if upside_down:
        image, labels = image[::-1], labels.copy()
        labels[:, [2, 4]] = height - labels[:, [4, 2]]
    if mirrored:
        image, labels = image[:, ::-1], labels.copy()
        labels[:, [1, 3]] = width - labels[:, [3, 1]]
    return LabelledImage(image, labels)


def recolored(image: RGB, rng: np.random.Generator, strength: Strength) -> RGB:
    """Hue turned, saturation and value scaled at random, through one table per channel."""
    gains = np.array([strength["hsv_h"], strength["hsv_s"], strength["hsv_v"]])
    turn, saturate, light = 1 + rng.uniform(-1, 1, 3) * gains
    if not gains.any():
        return image
    levels = np.arange(256)
    tables = np.stack([levels * turn % 180, np.clip(levels * saturate, 0, 255), np.clip(levels * light, 0, 255)], -1)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables.astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
