"""Rendering: seams change what they may and nothing else, and an image is a function of its row."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.imaging import ycbcr
from depers.synthesis import blending, compositing, plan_table

PLACED: dict[str, Any] = {
    "sprite": "s", "image": "", "source_x": 0, "source_y": 0, "source_width": 60, "source_height": 50,
    "x": 40, "y": 30, "width": 60, "height": 50,
    "x_min": 48.0, "y_min": 38.0, "x_max": 92.0, "y_max": 72.0, "reach": 6.0,
    "blending": "feathered", "shape": "box", "match": 0.0, "red": 0.0, "green": 0.0, "blue": 0.0,
}  # fmt: skip


def textured(size_wh: tuple[int, int], seed: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (size_wh[1], size_wh[0], 3)).astype(np.uint8)


def composed(entry: dict[str, Any], ground: np.ndarray, image: np.ndarray) -> ycbcr.Planes:
    """One object in an image, both given as RGB."""
    return compositing.compose([entry], ycbcr.from_rgb(ground), [ycbcr.from_rgb(image)])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", plan_table.BLENDINGS)
def test_only_the_region_of_the_seam_changes(name: str, offset: int) -> None:
    ground, image = textured((160, 120), 0), textured((60, 50), 1)
    reach = 6.0 if name in ("feathered", "gaussian") else 0.0
    position = {key: PLACED[key] + offset for key in ("x", "y", "x_min", "y_min", "x_max", "y_max")}
    result = composed(PLACED | position | {"blending": name, "reach": reach}, ground, image)
    original, object_planes = ycbcr.from_rgb(ground), ycbcr.from_rgb(image)
    for step, now, then, object_plane in zip((1, 2), result, original, object_planes, strict=True):
        is_changed = (now != then).reshape(*now.shape[:2], -1).any(axis=2)
        rows, columns = np.flatnonzero(is_changed.any(1)), np.flatnonzero(is_changed.any(0))
        half = reach / 2
        # A sample is the object's where its middle is.
        assert (columns[0] + 0.5) * step >= 48 + offset - half and (columns[-1] + 0.5) * step <= 92 + offset + half
        assert (rows[0] + 0.5) * step >= 38 + offset - half and (rows[-1] + 0.5) * step <= 72 + offset + half
        if name != "poisson" and (step == 1 or not offset):  # inside, all is the object's
            low, high = (52 + offset) // step, (88 + offset) // step
            inside = now[(42 + offset) // step : (68 + offset) // step, low:high]
            np.testing.assert_array_equal(inside, object_plane[12 // step : 38 // step, 12 // step : 48 // step])


@pytest.mark.parametrize("shape", plan_table.SHAPES)
def test_shares_are_half_at_the_edge_and_whole_inside(shape: str) -> None:
    for gaussian in (False, True):
        share = blending.shares((10.0, 20.0, 50.0, 60.0), (0, 0, 60, 80), shape, 8.0, gaussian)
        assert share.shape == (80, 60) and share.dtype == np.float32
        for line in (share[40, :], share[10:70, 30]):  # through the middle
            np.testing.assert_allclose(line, line[::-1], atol=1e-5)
            assert (np.diff(line[:30]) >= 0).all()
            assert line[9] + line[10] == pytest.approx(1, abs=0.02)
            assert (line[:6] == 0).all() and (line[15:45] == 1).all()
    step = blending.shares((10.0, 20.0, 50.0, 60.0), (0, 0, 60, 80), shape, 0.0)
    assert step[:, 30].sum() == step[40].sum() == 40  # as wide and as high as the box
    expected = {"box": 1600, "oval": np.pi * 400, "rounded": 1483}[shape]  # 4 Γ(5/4)² / Γ(3/2) × 400
    assert step.sum() == pytest.approx(expected, rel=0.01)


def test_colors_meet_those_around() -> None:
    ground = np.full((120, 160, 3), (100, 150, 90), np.uint8)
    image = np.full((50, 60, 3), (120, 120, 120), np.uint8)
    image[8:42, 8:52] = (200, 40, 60)  # the object is not what is compared
    for entry, expected in (
        (PLACED | {"match": 1.0, "blending": "hard", "reach": 0.0}, [180, 70, 30]),
        (PLACED | {"match": 0.5, "blending": "hard", "reach": 0.0, "blue": 4.0}, [190, 55, 49]),
    ):
        result = ycbcr.to_rgb(composed(entry, ground, image))
        np.testing.assert_allclose(result[50, 70], expected, atol=2)  # whole levels of luma and chroma


def test_poisson_keeps_gradients_and_takes_the_level_of_the_ground() -> None:
    ground = np.full((120, 160, 3), 100, np.uint8)
    image = textured((60, 50), 1, 120, 150)
    result = composed(PLACED | {"blending": "poisson", "reach": 0.0}, ground, image)
    assert abs(np.median(ycbcr.to_rgb(result)[40:70, 50:90]) - 100) < 8
    inside, source = result.luma[40:70, 50:90].astype(int), ycbcr.from_rgb(image).luma[10:40, 10:50].astype(int)
    assert np.corrcoef(np.diff(inside).ravel(), np.diff(source).ravel())[0, 1] > 0.85


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(plan_table.BLENDINGS), st.sampled_from(plan_table.SHAPES), st.integers(1, 60), st.integers(1, 60),
    st.floats(0, 1), st.floats(0.0, 0.3),
)  # fmt: skip
def test_images_may_be_of_any_size(name: str, shape: str, wide: int, high: int, at: float, margin: float) -> None:
    entry = PLACED | {"blending": name, "shape": shape, "width": wide, "height": high, "x": int(at * 150), "y": 20}
    entry |= {"x_min": entry["x"] + margin * wide, "x_max": entry["x"] + (1 - margin) * wide}
    entry |= {"y_min": 20 + margin * high, "y_max": 20 + (1 - margin) * high}
    entry["reach"] = min(6.0, wide * margin * 2) if name in ("feathered", "gaussian") else 0.0
    ground, image = textured((160, 120), 0), textured((60, 50), 1)
    for step, now, then in zip((1, 2), composed(entry, ground, image), ycbcr.from_rgb(ground), strict=True):
        is_changed = (now != then).reshape(*now.shape[:2], -1).any(axis=2)
        below, first_column = -(-(20 + high) // step), entry["x"] // step
        assert (
            not is_changed[: 20 // step].any()
            and not is_changed[below:].any()
            and not is_changed[:, :first_column].any()
        )


@pytest.mark.parametrize("name", plan_table.BLENDINGS)
@pytest.mark.parametrize("corner", [(-20, -10), (130, 100), (-58, 0), (500, 500)])
def test_images_may_reach_over_the_frame(name: str, corner: tuple[int, int]) -> None:
    ground, image = textured((160, 120), 0), textured((60, 50), 1)
    position = {"x": corner[0], "y": corner[1], "x_min": corner[0] + 8.0, "x_max": corner[0] + 52.0}
    position |= {"y_min": corner[1] + 8.0, "y_max": corner[1] + 42.0, "blending": name, "match": 0.7}
    result = composed(PLACED | position, ground, image)
    assert result.luma.shape == (120, 160) and result.chroma.shape == (60, 80, 2)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.12, 1.5), st.integers(30, 90), st.integers(30, 90))
def test_scaled_keeps_means(scale: float, wide: int, high: int) -> None:
    slope = np.linspace(0, 255, 90)[None, :, None].repeat(90, 0).repeat(3, 2).astype(np.uint8)
    size = {"width": max(1, int(wide * scale)), "height": max(1, int(high * scale))}
    source = {"sprite": "s", "source_x": 0, "source_y": 0, "source_width": wide, "source_height": high}
    entry, whole = source | size | {"x": 0, "y": 0}, ycbcr.from_rgb(slope[:high, :wide])
    luma, chroma = whole.luma, np.dstack([ycbcr.reduce(whole.luma, 2)] * 2)  # with what would be luma in it
    for step, object_plane in zip(
        (1, 2), compositing.reduce(ycbcr.Planes(luma, chroma), compositing.reduction(entry)), strict=True
    ):
        result = compositing.scale(object_plane, entry, step)
        assert result.shape[:2] == (-(-size["height"] // step), -(-size["width"] // step))
        beyond = result.shape[1] * step - size["width"]  # pixels that the last sample shows more than there are
        assert abs(result.mean() - slope[:high, :wide].mean()) < 4 + beyond * wide / size["width"] * (255 / 89) / 2


def test_noise_and_blur_are_what_the_row_says() -> None:
    flat = ycbcr.from_rgb(np.full((1100, 700, 3), 128, np.uint8))
    row = {"blur": 0.0, "noise": 0, "noise_x": 0, "noise_y": 0}
    for result, plane in zip(compositing.finish(flat.copy(), row), flat, strict=True):
        np.testing.assert_array_equal(result, plane)
    noisy = compositing.finish(flat.copy(), row | {"noise": 3, "noise_x": 1000, "noise_y": 17})
    assert ycbcr.to_rgb(noisy).astype(int).std() == pytest.approx(3, rel=0.05)
    assert noisy.luma.mean() == pytest.approx(128, abs=0.1)
    assert noisy.chroma.mean() == pytest.approx(128, abs=0.1)
    position = compositing.finish(flat.copy(), row | {"noise": 3, "noise_x": 998, "noise_y": 17})
    np.testing.assert_array_equal(noisy.luma[:, :-2], position.luma[:, 2:])
    np.testing.assert_array_equal(noisy.chroma[:, :-1], position.chroma[:, 1:])
    edge = flat.copy()
    edge.luma[:, 350:] = 0
    assert set(np.unique(compositing.finish(edge, row | {"blur": 0.6}).luma[5])) > {0, 128}


def test_render_is_a_jpeg_of_the_wanted_quality() -> None:
    row = {"objects": [PLACED], "blur": 0.5, "noise": 1, "noise_x": 3, "noise_y": 4, "quality": 60}
    ground = ycbcr.from_rgb(textured((160, 120), 0, 100, 140))
    image, original = ycbcr.from_rgb(textured((60, 50), 1)), ground.copy()
    data = compositing.render(row, ground, [image])
    assert data == compositing.render(row, ground, [image])
    assert len(data) < len(compositing.render(row | {"quality": 95}, ground, [image]))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (120, 160, 3)
    for plane, then in zip(ground, original, strict=True):  # not changed
        np.testing.assert_array_equal(plane, then)
