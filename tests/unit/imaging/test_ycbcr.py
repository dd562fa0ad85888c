"""Planes: what becomes of RGB and comes back, whatever the size."""

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.imaging import ycbcr
from depers.synthesis import blending


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_jpeg_shows_the_colors_that_went_in(wide: int, high: int, seed: int) -> None:
    colors = np.random.default_rng(seed).integers(0, 256, (2, 3))
    rgb = np.linspace(*colors, high)[:, None].repeat(wide, 1).astype(np.uint8)
    found = ycbcr.from_rgb(rgb)
    assert found.luma.shape == (high, wide) and found.chroma.shape == (-(-high // 2), -(-wide // 2), 2)
    shown = simplejpeg.decode_jpeg(ycbcr.encode(found, 100), "RGB")
    steepest = np.abs(np.diff(rgb.astype(int), axis=0)).max(initial=0)
    for again in (shown, ycbcr.to_rgb(found)):
        assert again.shape == rgb.shape
        np.testing.assert_allclose(again.astype(int), rgb, atol=6 + steepest)


def test_colors_are_those_of_jfif() -> None:
    for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 130, 20)):
        found = ycbcr.from_rgb(np.full((16, 16, 3), rgb, np.uint8))
        decoded = simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg_yuv_planes(found.luma, *found.chroma.T[::-1].copy()), "RGB"
        )
        np.testing.assert_allclose(decoded[8, 8].astype(int), rgb, atol=4)
        luma, chroma = ycbcr.convert_difference(*rgb)
        np.testing.assert_allclose([found.luma[0, 0], *found.chroma[0, 0]], [*luma, *np.add(chroma, 128)], atol=1)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_reducing_takes_means(channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (21, 30, channels)).astype(np.uint8).squeeze()
    made = ycbcr.reduce(samples, 4)
    assert made.shape[:2] == (6, 8)
    blocks = samples[:20, :28].reshape(5, 4, 7, 4, -1).mean((1, 3)).squeeze()
    np.testing.assert_allclose(made[:5, :7], blocks, atol=1.1)


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 2), (1, 4), (5, 7), (5, 7, 2), (1, 1)])
def test_a_color_is_added_to_a_plane_of_any_size(shape: tuple[int, ...]) -> None:
    plane = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for added in ([0.2, -0.3], [40.4, -70.0], [-9.0, 0.0]):
        levels = np.rint(added)[: 1 if plane.ndim == 2 else 2]
        np.testing.assert_array_equal(blending.shift(plane, added[: len(levels)]), (plane + levels).clip(0, 255))


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_membrane_keeps_gradients_and_meets_the_border(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, 256, (9, 14, *channels)).astype(np.uint8) for _ in range(2))
    made = source + blending.membrane(source, target, np.ones((9, 14), np.bool_))

    def curved(image: np.ndarray) -> np.ndarray:
        around = image[2:, 1:-1] + image[:-2, 1:-1] + image[1:-1, 2:] + image[1:-1, :-2]
        return np.asarray(around - 4 * image[1:-1, 1:-1])

    np.testing.assert_allclose(curved(made), curved(source.astype(float)), atol=1e-9)
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_allclose(made[border], target[border])
    outside = blending.membrane(source, target, np.zeros((9, 14), np.bool_))
    np.testing.assert_allclose(source + outside, target)


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 9), (16, 16), (33, 47), (47, 32), (640, 359)])
@pytest.mark.parametrize("sampling", ["420", "444"])
def test_planes_of_a_file_are_those_of_its_pixels(size_wh: tuple[int, int], sampling: str) -> None:
    rgb = np.linspace((20, 200, 60), (180, 90, 240), size_wh[1])[:, None].repeat(size_wh[0], 1).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(rgb, 95, "RGB", sampling)
    found, expected = ycbcr.decode(jpeg), ycbcr.from_rgb(simplejpeg.decode_jpeg(jpeg, "RGB"))
    assert found
    for plane, same in zip(found, expected, strict=True):
        assert plane.shape == same.shape
        np.testing.assert_allclose(plane.astype(int), same, atol=3)
    assert ycbcr.encode(found, 80) == ycbcr.encode(found.copy(), 80)  # whatever lies behind it in memory
    # Nothing is lost on the way from a file to a file.
    again = ycbcr.decode(ycbcr.encode(found, 100))
    assert again and np.abs(again.luma.astype(int) - found.luma).max() <= 1


def test_planes_are_not_taken_from_other_files() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    whole = simplejpeg.encode_jpeg(rgb, 90, "RGB", "420")
    for data in (
        b"",
        whole[: len(whole) // 2],
        whole[:20] + bytes(200) + whole[220:],
        simplejpeg.encode_jpeg(rgb, 90, "RGB", "422"),
        simplejpeg.encode_jpeg(rgb[:, :, :1].copy(), 90, "GRAY", "Gray"),
        bytes(cv2.imencode(".png", rgb)[1]),
    ):
        assert ycbcr.decode(data) is None
