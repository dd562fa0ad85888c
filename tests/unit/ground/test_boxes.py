"""Geometry: tables of known answers, and properties of all boxes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from depers import boxes
from depers.boxes import Boxes, letterbox

SIZE_WH = (1920, 1080)
SIZES = st.tuples(st.integers(1, 6000), st.integers(1, 6000))


@st.composite
def boxes_in(draw: st.DrawFn, size_wh: tuple[int, int] = SIZE_WH) -> Boxes:
    """Up to 8 boxes inside an image, some of them empty."""
    shares = st.floats(0, 1, width=32)
    points = draw(arrays.arrays(np.float32, st.tuples(st.integers(0, 8), st.just(2), st.just(2)), elements=shares))
    return (np.sort(points, axis=1).reshape(-1, 4) * np.float32([*size_wh, *size_wh])).astype(np.float32)


def table(*rows: tuple[float, float, float, float]) -> Boxes:
    return np.array(rows, np.float32).reshape(-1, 4)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 1 / 3),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),  # one in the other
        ((0, 0, 10, 10), (4, 4, 4, 8), 0.0),  # an empty one
        ((0, 0, 10, 10), (8, 8, 2, 2), 0.0),  # inside out
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),  # two points
    ],
)
def test_intersection_over_union(first: tuple[float, ...], second: tuple[float, ...], expected: float) -> None:
    result = boxes.intersection_over_union(table(first), table(second))  # type: ignore[arg-type]
    assert result.dtype == np.float32
    assert result.shape == (1, 1)
    assert result[0, 0] == pytest.approx(expected, abs=1e-6)


@given(boxes_in(), boxes_in())
def test_intersection_over_union_is_symmetric_and_bounded(first: Boxes, second: Boxes) -> None:
    result = boxes.intersection_over_union(first, second)
    assert result.shape == (len(first), len(second))
    assert ((result >= 0) & (result <= 1)).all()
    assert np.array_equal(result, boxes.intersection_over_union(second, first).T)
    own = np.diag(boxes.intersection_over_union(first, first))
    assert np.allclose(own[boxes.area(first) > 1], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 0, 4, 5), 20), ((1, 1, 1, 9), 0), ((9, 9, 1, 1), 0), ((1, 9, 9, 1), 0)],
)
def test_area(box: tuple[float, ...], expected: float) -> None:
    assert boxes.area(table(box)).tolist() == [expected]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, -5, 50, 50), (0, 0, 50, 50)),
        ((1900, 1000, 2000, 2000), (1900, 1000, 1920, 1080)),
        ((-9, 5, -3, 20), (0, 5, 0, 20)),
        ((0, 0, 1920, 1080), (0, 0, 1920, 1080)),
    ],
)
def test_clip(box: tuple[float, ...], expected: tuple[float, ...]) -> None:
    result = boxes.clip(table(box), SIZE_WH)  # type: ignore[arg-type]
    assert result.dtype == np.float32
    assert result.tolist() == [list(expected)]


@pytest.mark.parametrize(
    ("margin", "expected"),
    [(0, (100, 200, 300, 240)), (0.1, (80, 196, 320, 244)), (10, (0, 0, 1920, 640))],
)
def test_grow(margin: float, expected: tuple[float, ...]) -> None:
    (result,) = boxes.grow(table((100, 200, 300, 240)), margin, SIZE_WH).tolist()
    assert result == pytest.approx(list(expected))


@given(boxes_in(), st.floats(0, 2))
def test_grown_boxes_hold_the_boxes(some: Boxes, margin: float) -> None:
    grown = boxes.grow(some, margin, SIZE_WH)
    assert grown.dtype == np.float32
    assert (grown[:, :2] <= some[:, :2]).all()
    assert (grown[:, 2:] >= some[:, 2:]).all()
    assert np.array_equal(grown, boxes.clip(grown, SIZE_WH))


def test_nothing_in_nothing_out() -> None:
    none = table()
    assert boxes.area(none).shape == (0,)
    assert boxes.intersection_over_union(none, table((0, 0, 1, 1))).shape == (0, 1)
    for result in (
        boxes.clip(none, SIZE_WH),
        boxes.grow(none, 0.1, SIZE_WH),
        boxes.to_normalized_xywh(none, SIZE_WH),
        boxes.from_normalized_xywh(np.zeros((0, 4)), SIZE_WH),
        letterbox(SIZE_WH, 640).invert(none),
        letterbox(SIZE_WH, 640).apply(none),
    ):
        assert result.shape == (0, 4)


def test_to_normalized_xywh() -> None:
    result = boxes.to_normalized_xywh(table((192, 108, 576, 540)), SIZE_WH)
    assert result.dtype == np.float64
    assert result[0].tolist() == pytest.approx([0.2, 0.3, 0.2, 0.4])


@given(st.data(), SIZES)
def test_normalized_round_trip(data: st.DataObject, size_wh: tuple[int, int]) -> None:
    some = data.draw(boxes_in(size_wh))
    shares: NDArray[np.float64] = boxes.to_normalized_xywh(some, size_wh)
    assert ((shares >= 0) & (shares <= 1)).all()
    again = boxes.from_normalized_xywh(shares, size_wh)
    assert again.dtype == np.float32
    assert np.allclose(again, some, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("size_wh", "options", "resized_wh", "pad_xy", "canvas_wh"),
    [
        ((1920, 1080), {}, (640, 360), (0, 12), (640, 384)),
        ((1080, 1920), {}, (360, 640), (12, 0), (384, 640)),
        ((640, 640), {}, (640, 640), (0, 0), (640, 640)),
        ((320, 240), {}, (640, 480), (0, 0), (640, 480)),  # enlarged
        ((500, 333), {}, (640, 426), (0, 11), (640, 448)),  # 22 rows of border
        ((640, 425), {}, (640, 425), (0, 11), (640, 448)),  # the odd pixel lies below
        ((425, 640), {}, (425, 640), (11, 0), (448, 640)),  # or to the right
        ((1920, 1080), {"square": True}, (640, 360), (0, 140), (640, 640)),
        ((1920, 1080), {"half_stride_pad": True}, (640, 360), (16, 12), (672, 384)),
        ((640, 480), {"half_stride_pad": True}, (640, 480), (16, 16), (672, 512)),
        ((500, 333), {"half_stride_pad": True}, (640, 427), (16, 10), (672, 448)),  # rounded up
        ((640, 434), {"half_stride_pad": True}, (640, 434), (16, 23), (672, 480)),  # 14 rows of border are too few
        ((1920, 1080), {"stride": 64}, (640, 360), (0, 12), (640, 384)),
        ((9000, 3), {}, (640, 1), (0, 15), (640, 32)),
    ],
)
def test_letterbox(
    size_wh: tuple[int, int],
    options: dict[str, bool],
    resized_wh: tuple[int, int],
    pad_xy: tuple[int, int],
    canvas_wh: tuple[int, int],
) -> None:
    frame = letterbox(size_wh, 640, **options)
    assert (frame.resized_wh, frame.pad_xy, frame.canvas_wh) == (resized_wh, pad_xy, canvas_wh)
    assert frame.scale == 640 / max(size_wh)


@settings(deadline=None)  # the first import takes seconds
@given(SIZES, st.sampled_from([320, 416, 640, 1280]), st.booleans())
def test_letterbox_is_yolov5s(size_wh: tuple[int, int], imgsz: int, square: bool) -> None:
    augmentations = pytest.importorskip("yolov5.utils.augmentations")
    side = max(size_wh)
    size_wh = (max(1, size_wh[0] * 200 // side), max(1, size_wh[1] * 200 // side))
    if round(min(size_wh) * imgsz / max(size_wh)) < 1:
        return  # YOLOv5 fails where the shorter side vanishes
    white = np.full((size_wh[1], size_wh[0], 3), 255, np.uint8)
    canvas, _, _ = augmentations.letterbox(white, imgsz, auto=not square, stride=32, color=(0, 0, 0))
    frame = letterbox(size_wh, imgsz, square=square)
    assert frame.canvas_wh == canvas.shape[1::-1]
    rows, columns = (np.flatnonzero(canvas[..., 0].any(axis)) for axis in (1, 0))
    assert (columns[0], rows[0]) == frame.pad_xy
    assert (len(columns), len(rows)) == frame.resized_wh


@pytest.mark.parametrize("size_wh", [(100, 75), (61, 100), (97, 33), (131, 130), (64, 64), (77, 300)])
def test_letterbox_with_half_a_stride_is_yolov5_vals(size_wh: tuple[int, int], tmp_path: Path) -> None:
    loaders = pytest.importorskip("yolov5.utils.dataloaders")
    (tmp_path / "images").mkdir()
    Image.new("RGB", size_wh, "white").save(tmp_path / "images" / "one.png")
    loaded = loaders.LoadImagesAndLabels(str(tmp_path / "images"), 320, batch_size=1, rect=True, pad=0.5, stride=32)
    canvas = loaded[0][0].numpy()[0]
    frame = letterbox(size_wh, 320, half_stride_pad=True)
    assert frame.canvas_wh == canvas.shape[::-1]
    rows, columns = (np.flatnonzero((canvas > 200).any(axis)) for axis in (1, 0))
    assert (columns[0], rows[0]) == frame.pad_xy
    assert (len(columns), len(rows)) == frame.resized_wh
    found = table(
        (columns[0] + 2, rows[0] + 2, columns[0] + 30, rows[0] + 30)
    )  # at the corner: their scale is one side's
    scale_boxes = pytest.importorskip("yolov5.utils.general").scale_boxes
    expected = scale_boxes(canvas.shape, torch.from_numpy(found.copy()), size_wh[::-1], loaded[0][3][1]).numpy()
    assert np.allclose(boxes.clip(frame.invert(found), size_wh), expected, atol=0.4 * max(size_wh) / 320)


@given(st.data(), SIZES, st.sampled_from([320, 640, 1024]), st.booleans())
def test_letterbox_round_trip(data: st.DataObject, size_wh: tuple[int, int], imgsz: int, half_stride_pad: bool) -> None:
    frame = letterbox(size_wh, imgsz, half_stride_pad=half_stride_pad)
    some = data.draw(boxes_in(size_wh))
    placed = frame.apply(some)
    assert placed.dtype == np.float32
    assert np.abs(placed - boxes.clip(placed, frame.canvas_wh)).max(initial=0) <= 0.5 * half_stride_pad
    back = frame.invert(placed)
    assert back.dtype == np.float32
    pixel = max(size_wh[0] / frame.resized_wh[0], size_wh[1] / frame.resized_wh[1])  # of the canvas, in the image
    assert np.abs(back - some).max(initial=0) <= 1e-3 * max(1, pixel)


@given(SIZES, st.sampled_from([32, 64]))
def test_the_whole_image_fills_its_place(size_wh: tuple[int, int], stride: int) -> None:
    frame = letterbox(size_wh, 640, stride=stride)
    (x0, y0), (width, height) = frame.pad_xy, frame.resized_wh
    whole = np.array([[0, 0, *size_wh]], np.float32)
    assert np.allclose(frame.apply(whole), [[x0, y0, x0 + width, y0 + height]], atol=1e-3)
    assert frame.canvas_wh[0] % stride == frame.canvas_wh[1] % stride == 0


@pytest.mark.parametrize(("size_wh", "imgsz"), [((0, 5), 640), ((5, 0), 640), ((5, 5), 0)])
def test_letterbox_refuses(size_wh: tuple[int, int], imgsz: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        letterbox(size_wh, imgsz)
