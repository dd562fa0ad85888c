"""Removing boxes: no pixel of theirs survives, nothing beyond them is painted, and the fill goes on from around it."""

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depers.extraction.inpainting import CELL, FILLS, fill_rects, rects_to_fill
from depers.imaging.membrane import interpolate
from depers.street_scenes.scenes import draw_scene

FULL = 0.0, 0.0, 1e4, 1e4


def boxes_of(*boxes: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def inside(rects: NDArray[np.int64], size_wh: tuple[int, int]) -> NDArray[np.bool_]:
    mask = np.zeros(size_wh[::-1], np.bool_)
    for x0, y0, x1, y1 in (rects * CELL).tolist():
        mask[y0:y1, x0:x1] = True
    return mask


sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))
edges = st.floats(-10, 100, width=32)


@given(sizes, st.lists(st.tuples(edges, edges, edges, edges), max_size=5), st.sampled_from([1, 8, 16]))
def test_what_is_removed_holds_the_boxes_in_whole_blocks(
    size_wh: tuple[int, int], boxes: list[tuple[float, float, float, float]], block: int
) -> None:
    width, height = size_wh
    mask = inside(rects_to_fill(boxes_of(*boxes), size_wh, 0.0, block), (width + CELL, height + CELL))[:height, :width]
    blocks = np.zeros_like(mask)
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = (
            np.clip(edge, 0, side) for edge, side in zip((x0, y0, x1, y1), 2 * size_wh, strict=True)
        )
        if right > left and bottom > top:
            blocks[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    for flipped in (False, True):  # a rotated image's blocks are counted from the other edge
        part = blocks[::-1, ::-1] if flipped else blocks
        whole = np.zeros_like(part)
        for y in range(0, height, block):
            for x in range(0, width, block):
                whole[y : y + block, x : x + block] = part[y : y + block, x : x + block].any()
        assert not (whole & ~(mask[::-1, ::-1] if flipped else mask)).any()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_nothing_in_a_box_shows_in_the_result_not_even_through_the_jpeg(fill: str, quality: int) -> None:
    """Two scenes that differ in their boxes alone, a shrill pattern against gray, give the same background."""
    scene = draw_scene(3, 1, (333, 219))  # not whole blocks
    boxes = np.concatenate([scene.boxes_xyxy, boxes_of((100, 60, 141, 83), (320, 200, 333, 219))])
    results, images = [], []
    for planted in (0, 1):
        rgb = scene.image.copy()
        for x0, y0, x1, y1 in boxes.astype(int).tolist():
            checks = np.indices((y1 - y0, x1 - x0)).sum(axis=0) // 3 % 2
            rgb[y0:y1, x0:x1] = np.where(checks[..., None], (255, 0, 255), (0, 255, 0)) if planted else 128
        image = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(rgb, quality, "RGB", "420"), "RGB")
        rects = rects_to_fill(boxes, (333, 219), 0.05)
        images.append(image)
        results.append(fill_rects(image, rects, fill, rng()))
    outside = ~inside(rects, (336, 220))[:219, :333]
    assert outside.any() and not np.array_equal(*images)
    assert np.array_equal(images[0][outside], images[1][outside])  # the smear ends within what is filled
    assert np.array_equal(*results)


@pytest.mark.parametrize("fill", FILLS)
def test_a_pattern_is_gone_and_no_paint_spills_past_the_box(fill: str) -> None:
    rgb = draw_scene(5, 1, (320, 200)).image
    marked = rgb.copy()
    marked[64:96, 128:160] = (255, 0, 255)
    rects = rects_to_fill(boxes_of((128, 64, 160, 96)), (320, 200), 0.0, 1)
    result = fill_rects(marked, rects, fill, rng())
    mask = inside(rects, (320, 200))
    assert (rects * CELL).tolist() == [[124, 60, 164, 100]]
    assert np.array_equal(result[~mask], rgb[~mask])  # the original painted squares beyond its boxes
    assert not (result == (255, 0, 255)).all(axis=2).any()
    assert not np.array_equal(result[mask], marked[mask])
    assert np.array_equal(marked[64:96, 128:160], np.full((32, 32, 3), (255, 0, 255)))  # the input is not modified


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("size_wh", [(1, 1), (3, 5), (64, 48)])
def test_an_image_that_is_one_object(fill: str, size_wh: tuple[int, int]) -> None:
    rgb = np.full((*size_wh[::-1], 3), (255, 0, 0), np.uint8)
    result = fill_rects(rgb, rects_to_fill(boxes_of(FULL), size_wh, 0.0), fill, rng())
    assert result.shape == rgb.shape
    assert not (result == (255, 0, 0)).all(axis=2).any()
    if fill != "confetti":
        assert abs(result.mean() - 128) < 10


def test_confetti_is_many_colors_and_mean_is_one() -> None:
    rgb = np.full((200, 200, 3), 50, np.uint8)
    rects = rects_to_fill(boxes_of((40, 40, 160, 160)), (200, 200), 0.0, 1)
    mask = inside(rects, (200, 200))
    assert len(np.unique(fill_rects(rgb, rects, "confetti", rng())[mask], axis=0)) > 50
    assert np.array_equal(fill_rects(rgb, rects, "mean", rng()), rgb)


def test_no_boxes_no_change() -> None:
    rgb = draw_scene(1, 1, (50, 30)).image
    for fill in FILLS:
        assert np.array_equal(fill_rects(rgb, rects_to_fill(boxes_of(), (50, 30), 0.1), fill, rng()), rgb)


def test_smooth_goes_on_from_the_surroundings_without_a_halo() -> None:
    """On a slope of colors the fill is that slope; across its edge the step is no larger than elsewhere."""
    y, x = np.mgrid[0:240, 0:320]
    rgb = np.dstack([40 + x / 2, 200 - y / 2, 60 + x / 4 + y / 4]).round().astype(np.uint8)
    hole = rgb.copy()
    hole[80:160, 100:220] = 0  # an object, black against the slope
    rects = rects_to_fill(boxes_of((100, 80, 220, 160)), (320, 240), 0.0, 1)
    difference = np.abs(fill_rects(hole, rects, "smooth", rng()).astype(int) - rgb)
    assert difference.max() <= 6 and difference[inside(rects, (320, 240))].mean() < 2


def test_smooth_has_the_grain_of_the_surroundings() -> None:
    noise = rng().normal(0, 1, (240, 320))
    for strength in (0.0, 1.0, 2.0):
        gray = (128 + strength * noise).round().astype(np.uint8)
        rects = rects_to_fill(boxes_of((100, 80, 220, 160)), (320, 240), 0.0, 1)
        filled = fill_rects(np.dstack([gray] * 3), rects, "smooth", rng())[..., 0]
        within, around = filled[84:156, 104:216].std(), filled[:60].std()
        assert within == pytest.approx(around, rel=0.35, abs=0.3)


def test_an_edge_nearby_is_not_taken_for_grain() -> None:
    rgb = np.full((240, 320, 3), 90, np.uint8)
    rgb[:, 76:320:24] = 110  # bars
    rects = rects_to_fill(boxes_of((100, 80, 220, 160)), (320, 240), 0.0, 1)
    assert fill_rects(rgb, rects, "smooth", rng())[110:130, 150:170].std() < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_interpolation_keeps_what_is_known_and_stays_between(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.uniform(10, 200, (height, width, 4)).astype(np.float32)
    known = random.random((height, width)) < 0.4
    surface = interpolate(values, known)
    assert surface.shape == values.shape
    if known.any():
        np.testing.assert_array_equal(surface[known], values[known])
        assert (surface >= values[known].min(axis=0) - 1e-3).all()
        assert (surface <= values[known].max(axis=0) + 1e-3).all()


def test_the_result_does_not_depend_on_threads() -> None:
    scene = draw_scene(2, 1, (640, 360))
    rects = rects_to_fill(scene.boxes_xyxy, (640, 360), 0.05)
    threads_before = cv2.getNumThreads()
    results = []
    for threads in (1, 4):
        cv2.setNumThreads(threads)
        results.append([fill_rects(scene.image, rects, fill, rng()) for fill in FILLS])
    cv2.setNumThreads(threads_before)
    assert all(np.array_equal(*pair) for pair in zip(*results, strict=True))
