"""Tiles cover an image, boxes found in them come back to their places, doubles and fragments go."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.detection import suppression, tiling
from depers.detection.detections import Detections
from depers.detection.settings import InferenceSettings
from depers.imaging.headers import ImageError


@given(st.integers(1, 5000), st.integers(64, 1500))
def test_tiles_cover_and_overlap(length: int, tile: int) -> None:
    starts = tiling.find_tile_starts(length, tile)
    assert starts[0] == 0 and (starts[-1] + tile == length or length <= tile)
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= np.ceil(tile * (1 - tiling.OVERLAP))).all()


def found(boxes: list[list[float]], confidences: list[float], classes: list[int]) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(confidences, np.float32),
        np.array(classes, np.int64),
        np.zeros(len(classes), np.int64),
    )


def test_every_pixel_is_seen_and_located() -> None:
    rgb = np.zeros((700, 1000, 3), np.uint8)
    looks = list(tiling.make_views(rgb, 320, 32, False, 400))
    assert len(looks) == 1 + len(tiling.find_tile_starts(700, 400)) * len(tiling.find_tile_starts(1000, 400))
    seen = np.zeros((700, 1000), bool)
    for view in looks[1:]:
        width, height = view.frame.size_wh
        canvas = view.frame.apply(np.array([[0, 0, width, height]], np.float32))
        [box] = view.locate(found(canvas.tolist(), [0.5], [0])).boxes_xyxy
        left, top = view.origin_xy
        np.testing.assert_allclose(box, [left, top, left + width, top + height], atol=0.01)
        seen[top : top + height, left : left + width] = True
    assert seen.all()


def test_small_images_have_no_tiles() -> None:
    assert len(list(tiling.make_views(np.zeros((300, 400, 3), np.uint8), 320, 32, False, 400))) == 1
    assert len(list(tiling.make_views(np.zeros((300, 900, 3), np.uint8), 320, 32, False, None))) == 1


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        ([([[0, 0, 100, 100]], [0.5], [0]), ([[2, 2, 100, 100]], [0.8], [0])], [(0.8, 0)]),
        ([([[0, 0, 100, 100]], [0.5], [0]), ([[2, 2, 100, 100]], [0.8], [1])], [(0.8, 1), (0.5, 0)]),
        ([([[0, 0, 100, 100]], [0.5], [0]), ([[60, 0, 100, 100]], [0.8], [0])], [(0.5, 0)]),  # a fragment at a border
        ([([[0, 0, 100, 100]], [0.5], [0]), ([[80, 0, 180, 100]], [0.8], [0])], [(0.8, 0), (0.5, 0)]),
        ([([], [], []), ([], [], [])], []),
        ([([[-5, -5, 9, 9]], [0.5], [0])], [(0.5, 0)]),
    ],
)
def test_merging(parts: list[tuple[list[list[float]], list[float], list[int]]], kept: list[tuple[float, int]]) -> None:
    merged = tiling.merge([found(*part) for part in parts], InferenceSettings(), (500, 400))
    pairs = zip(merged.confidences.tolist(), merged.class_ids.tolist(), strict=True)
    assert [(round(confidence, 3), name) for confidence, name in pairs] == kept
    assert (merged.boxes_xyxy >= 0).all()


def test_more_boxes_than_are_kept_withhold_the_image() -> None:
    apart = [[float(20 * number), 0.0, float(20 * number + 9), 9.0] for number in range(6)]
    halves = [found(apart[:4], [0.9, 0.8, 0.7, 0.6], [0] * 4), found(apart[2:], [0.5, 0.4, 0.3, 0.2], [0] * 4)]
    for parts, count in ((halves, 6), ([found(apart, [0.9] * 6, [0] * 6)], 6)):
        cut = tiling.merge(parts, InferenceSettings(max_detections=count - 1), (500, 400))
        assert len(cut.confidences) == count - 1
        whole = InferenceSettings(max_detections=count, withholds=True)
        assert len(tiling.merge(parts, whole, (500, 400)).confidences) == count
        with pytest.raises(ImageError, match="has 6 boxes, more than --max-detections 5: raise it"):
            tiling.merge(parts, InferenceSettings(max_detections=count - 1, withholds=True), (500, 400))


def test_candidates_that_do_not_all_go_in_withhold_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "MAX_CANDIDATES", 3)
    parts = [found([[0, 0, 9, 9]] * 2, [0.5, 0.4], [0, 0])] * 2
    assert len(tiling.merge(parts, InferenceSettings(), (500, 400)).confidences) == 1
    with pytest.raises(ImageError, match="has 4 boxes before suppression, more than 3"):
        tiling.merge(parts, InferenceSettings(withholds=True), (500, 400))


def test_what_lies_beside_the_image_is_nothing_of_it() -> None:
    boxes = [[-20.0, 0.0, -1.0, 9.0], [500.0, 5.0, 510.0, 9.0], [499.5, 5.0, 510.0, 9.0]]
    merged = tiling.merge([found(boxes, [0.9, 0.8, 0.7], [0, 0, 0])], InferenceSettings(), (500, 400))
    assert merged.boxes_xyxy.tolist() == [[499.5, 5, 500, 9]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_box_that_is_not_finite_withholds_the_image(value: float) -> None:
    with pytest.raises(ImageError, match="not finite"):
        tiling.merge([found([[0, 0, value, 9]], [0.5], [0])], InferenceSettings(), (500, 400))


def test_fragments_are_found_among_any_number_of_boxes() -> None:
    large = [[float(100 * number), 0.0, float(100 * number + 90), 90.0] for number in range(300)]
    small = [[x0 + 5, 5.0, x0 + 20, 20.0] for x0, _, _, _ in large]
    parts = [found(large, [0.5] * 300, [0] * 300), found(small, [0.8] * 300, [0] * 300)]
    assert (tiling.merge(parts, InferenceSettings(), (40_000, 400)).confidences == 0.5).all()
