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

_MIN_SIDE, _MIN_AREA, _MAX_RATIO = 2, 0.1, 100  # of what remains of a label's box: px, share, sides

RGB = NDArray[np.uint8]
Hyp = Mapping[str, float]
"""YOLOv5's hyperparameters by name."""


class PixelFinish(NamedTuple):
    """What an image's pixels go through last: `tables` uint8 (256, 3), which say what each hue (0…179), saturation and
    value becomes, or None where colors stay; `mirrored` bool (2,), upside down and left to right."""

    tables: NDArray[np.uint8] | None
    mirrored: NDArray[np.bool_]


class LabelledImage(NamedTuple):
    """`image` uint8 RGB (H, W, 3), and `labels` float64 (N, 5): class id, then x_min, y_min, x_max, y_max in pixels.

    `ignored` float64 (R, 5), the same: regions in which there may be objects of the class without a label. `finish`:
    what is still to be done to the pixels; labels lie as they will then.
    """

    image: RGB
    labels: NDArray[np.float64]
    ignored: NDArray[np.float64] = np.zeros((0, 5))
    finish: PixelFinish | None = None

    @property
    def boxes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return labels and ignore regions."""
        return self.labels, self.ignored


class _Tile(NamedTuple):
    """An image on a canvas: `x`, `y` are the canvas pixels of its upper left corner."""

    sample: LabelledImage
    x: int
    y: int


def letterbox_sample(sample: LabelledImage, canvas_wh: tuple[int, int]) -> LabelledImage:
    """Paint the image into the middle of a canvas, as for prediction."""
    height, width = sample.image.shape[:2]
    x, y = center((width, height), canvas_wh)
    image = paint_on_canvas(sample.image, canvas_wh, (x, y))
    labels, ignored = (_shift_labels(boxes, x, y) for boxes in sample.boxes)
    return LabelledImage(image, labels, ignored)


def augment(sample: LabelledImage, canvas_wh: tuple[int, int], rng: np.random.Generator, hyp: Hyp) -> LabelledImage:
    """Rotate, shear, scale and move the image on its canvas; its `finish` recolors and mirrors it. All is random."""
    height, width = sample.image.shape[:2]
    tile = _Tile(sample, *center((width, height), canvas_wh))
    return _draw_finish(_warp([tile], canvas_wh, canvas_wh, rng, hyp), rng, hyp)


def make_mosaic(
    samples: Sequence[LabelledImage],
    imgsz: int,
    rng: np.random.Generator,
    hyp: Hyp,
    mixed: Sequence[LabelledImage] = (),
) -> LabelledImage:
    """Lay four images around a random point, and warp them to `imgsz` squared (Bochkovskiy et al. 2020, YOLOv4).

    With `mixed`, four more, a mosaic of those is mixed in (Zhang et al. 2017, mixup). Its `finish` recolors and mirrors
    it.
    """
    sample = _lay_out(samples, imgsz, rng, hyp)
    if mixed:
        second = _lay_out(mixed, imgsz, rng, hyp)
        share = rng.beta(32.0, 32.0)
        image = cv2.addWeighted(sample.image, share, second.image, 1 - share, 0)
        labels, ignored = (np.concatenate(boxes) for boxes in zip(sample.boxes, second.boxes, strict=True))
        sample = LabelledImage(np.asarray(image, np.uint8), labels, ignored)
    return _draw_finish(sample, rng, hyp)


def _lay_out(samples: Sequence[LabelledImage], imgsz: int, rng: np.random.Generator, hyp: Hyp) -> LabelledImage:
    side = 2 * imgsz
    center_x, center_y = (int(value) for value in rng.uniform(imgsz / 2, 3 * imgsz / 2, 2))
    tiles = []
    for number, index in enumerate(rng.permutation(4)):
        image = samples[index].image
        height, width = image.shape[:2]
        x = center_x if number % 2 else center_x - width  # upper left, upper right, lower left, lower right
        y = center_y if number // 2 else center_y - height
        crop_x, crop_y = max(-x, 0), max(-y, 0)
        crop = image[crop_y : min(height, side - y), crop_x : min(width, side - x)]
        labels, ignored = (_crop_labels(boxes, (x, y), (crop_x, crop_y), side) for boxes in samples[index].boxes)
        sample = LabelledImage(crop, labels, ignored)
        tiles.append(_Tile(sample, x + crop_x, y + crop_y))
    return _warp(tiles, (side, side), (imgsz, imgsz), rng, hyp)


def _crop_labels(
    labels: NDArray[np.float64], corner_xy: tuple[int, int], crop_xy: tuple[int, int], side: int
) -> NDArray[np.float64]:
    """Return what lies inside the canvas of an image's labels, in pixels of what is left of the image."""
    x, y = corner_xy
    labels = _shift_labels(labels, x, y)
    labels[:, 1:] = labels[:, 1:].clip(0, side)
    return _shift_labels(labels, -(x + crop_xy[0]), -(y + crop_xy[1]))


def _shift_labels(labels: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    return labels + [0, x, y, x, y]


def _warp(
    tiles: Sequence[_Tile],
    canvas_wh: tuple[int, int],
    out_wh: tuple[int, int],
    rng: np.random.Generator,
    hyp: Hyp,
) -> LabelledImage:
    """Look through a random warp at images that lie side by side on a canvas."""
    matrix, zoom = draw_matrix(canvas_wh, out_wh, rng, hyp)
    image = np.full((out_wh[1], out_wh[0], 3), CANVAS_GRAY, np.uint8)
    labels, ignored = [np.zeros((0, 5))], [np.zeros((0, 5))]
    for sample, x, y in tiles:
        height, width = sample.image.shape[:2]
        tile_matrix = matrix @ _translation(x, y)
        corners = project(np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64), tile_matrix)
        low = np.floor(corners.min(0)).clip(0, out_wh).astype(int)
        high = np.ceil(corners.max(0)).clip(0, out_wh).astype(int)
        if (high > low).all():
            # Half a pixel beyond its last row and column on, a tile has nothing to interpolate with: without these
            # the canvas would show as a line to the next tile.
            pixels = cv2.copyMakeBorder(sample.image, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
            target = image[low[1] : high[1], low[0] : high[0]]
            size = (int(high[0] - low[0]), int(high[1] - low[1]))
            settings = {"dst": target, "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_TRANSPARENT}
            target_matrix = _translation(-low[0], -low[1]) @ tile_matrix
            if hyp["perspective"]:
                cv2.warpPerspective(pixels, target_matrix, size, **settings)  # type: ignore[call-overload]
            else:
                cv2.warpAffine(pixels, target_matrix[:2], size, **settings)  # type: ignore[call-overload]
        labels.append(warp_labels(sample.labels, tile_matrix, zoom, out_wh))
        ignored.append(warp_regions(sample.ignored, tile_matrix, out_wh))
    return LabelledImage(image, np.concatenate(labels), np.concatenate(ignored))


def draw_matrix(
    canvas_wh: tuple[int, int], out_wh: tuple[int, int], rng: np.random.Generator, hyp: Hyp
) -> tuple[NDArray[np.float64], float]:
    """Draw a perspective matrix (3, 3) from canvas to output pixels, and its zoom, distributed as YOLOv5's."""
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * hyp["perspective"]
    angle = rng.uniform(-1, 1) * hyp["degrees"]
    zoom = rng.uniform(1 - hyp["scale"], 1 + hyp["scale"])
    turn = np.eye(3)
    turn[:2] = cv2.getRotationMatrix2D((0, 0), angle, zoom)
    shear = np.eye(3)
    shear[[0, 1], [1, 0]] = np.tan(np.deg2rad(rng.uniform(-1, 1, 2) * hyp["shear"]))
    middle = (0.5 + rng.uniform(-1, 1, 2) * hyp["translate"]) * out_wh
    matrix = _translation(*middle) @ shear @ turn @ tilt @ _translation(-canvas_wh[0] / 2, -canvas_wh[1] / 2)
    return np.asarray(matrix, np.float64), float(zoom)


def _translation(x: float, y: float) -> NDArray[np.float64]:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def project(points: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Send points (N, 2) through a perspective matrix (3, 3)."""
    homogeneous = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    flat: NDArray[np.float64] = homogeneous[:, :2] / homogeneous[:, 2:]
    return flat


def warp_labels(
    labels: NDArray[np.float64], matrix: NDArray[np.float64], zoom: float, out_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the boxes around the warped boxes, cut to the output, without those of which too little remains."""
    low, high = _warp_boxes(labels, matrix, out_wh)
    full_sides, sides = (labels[:, 3:] - labels[:, 1:3]) * zoom, high - low
    ratio = np.maximum(sides[:, 0] / (sides[:, 1] + 1e-16), sides[:, 1] / (sides[:, 0] + 1e-16))
    is_large = (sides > _MIN_SIDE).all(1) & (sides.prod(1) / (full_sides.prod(1) + 1e-16) > _MIN_AREA)
    mask = is_large & (ratio < _MAX_RATIO)
    return np.asarray(np.column_stack([labels[:, 0], low, high])[mask], np.float64)


def warp_regions(
    ignored: NDArray[np.float64], matrix: NDArray[np.float64], out_wh: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the boxes around the warped regions, cut to the output, however little remains of one."""
    ignored = ignored[(ignored[:, 3:] > ignored[:, 1:3]).all(1)]  # not what lies beyond the canvas
    low, high = _warp_boxes(ignored, matrix, out_wh)
    return np.column_stack([ignored[:, 0], low, high])[(high > low).all(1)]


def _warp_boxes(
    boxes: NDArray[np.float64], matrix: NDArray[np.float64], out_wh: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners, (N, 2) each, of the boxes around the warped boxes, cut to the output."""
    corners = project(boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    return corners.min(1).clip(0, out_wh), corners.max(1).clip(0, out_wh)


def _draw_finish(sample: LabelledImage, rng: np.random.Generator, hyp: Hyp) -> LabelledImage:
    """Draw how the image is finished, and mirror its labels."""
    tables, labels, ignored = draw_tables(rng, hyp), sample.labels.copy(), sample.ignored.copy()
    height, width = sample.image.shape[:2]
    upside_down, mirrored = rng.random(2) < [hyp["flipud"], hyp["fliplr"]]
    for boxes in (labels, ignored):
        if upside_down:
            boxes[:, [2, 4]] = height - boxes[:, [4, 2]]
        if mirrored:
            boxes[:, [1, 3]] = width - boxes[:, [3, 1]]
    return LabelledImage(sample.image, labels, ignored, PixelFinish(tables, np.array([upside_down, mirrored])))


def draw_tables(rng: np.random.Generator, hyp: Hyp) -> NDArray[np.uint8] | None:
    """Draw by how much hues are turned, saturations and values scaled, uint8 (256, 3); None where none ever is."""
    gains = np.array([hyp["hsv_h"], hyp["hsv_s"], hyp["hsv_v"]])
    turn, saturate, light = 1 + rng.uniform(-1, 1, 3) * gains
    if not gains.any():
        return None
    levels = np.arange(256)
    tables = np.stack([levels * turn % 180, np.clip(levels * saturate, 0, 255), np.clip(levels * light, 0, 255)], -1)
    return tables.astype(np.uint8)


def finish(sample: LabelledImage) -> LabelledImage:
    """Return the sample with nothing left to do to its pixels; `device_finish.finish_batch` does the same on a GPU."""
    if sample.finish is None:
        return sample
    image, (tables, (upside_down, mirrored)) = sample.image, sample.finish
    if tables is not None:
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables[None])
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
    image = image[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return sample._replace(image=image, finish=None)
