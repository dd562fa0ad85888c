"""Planes: what becomes of RGB and comes back, whatever the size."""

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.imaging import ycbcr


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_jpeg_shows_the_colors_that_went_in(wide: int, high: int, seed: int) -> None:
    colors = np.random.default_rng(seed).integers(0, 256, (2, 3))
    rgb = np.linspace(*colors, high)[:, None].repeat(wide, 1).astype(np.uint8)
    planes = ycbcr.from_rgb(rgb)
    assert planes.luma.shape == (high, wide) and planes.chroma.shape == (-(-high // 2), -(-wide // 2), 2)
    decoded = simplejpeg.decode_jpeg(ycbcr.encode(planes, 100), "RGB")
    steepest = np.abs(np.diff(rgb.astype(int), axis=0)).max(initial=0)
    for result in (decoded, ycbcr.to_rgb(planes)):
        assert result.shape == rgb.shape
        np.testing.assert_allclose(result.astype(int), rgb, atol=6 + steepest)


def test_colors_are_those_of_jfif() -> None:
    for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 130, 20)):
        planes = ycbcr.from_rgb(np.full((16, 16, 3), rgb, np.uint8))
        decoded = simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg_yuv_planes(planes.luma, *planes.chroma.T[::-1].copy()), "RGB"
        )
        np.testing.assert_allclose(decoded[8, 8].astype(int), rgb, atol=4)
        luma, chroma = ycbcr.convert_difference(*rgb)
        np.testing.assert_allclose([planes.luma[0, 0], *planes.chroma[0, 0]], [*luma, *np.add(chroma, 128)], atol=1)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_reducing_takes_means(channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (21, 30, channels)).astype(np.uint8).squeeze()
    means = ycbcr.reduce(samples, 4)
    assert means.shape[:2] == (6, 8)
    blocks = samples[:20, :28].reshape(5, 4, 7, 4, -1).mean((1, 3)).squeeze()
    np.testing.assert_allclose(means[:5, :7], blocks, atol=1.1)


@pytest.mark.parametrize("size_wh", [(1, 1), (3, 9), (16, 16), (33, 47), (47, 32), (640, 359)])
@pytest.mark.parametrize("sampling", ["420", "444"])
def test_planes_of_a_file_are_those_of_its_pixels(size_wh: tuple[int, int], sampling: str) -> None:
    rgb = np.linspace((20, 200, 60), (180, 90, 240), size_wh[1])[:, None].repeat(size_wh[0], 1).astype(np.uint8)
    jpeg = simplejpeg.encode_jpeg(rgb, 95, "RGB", sampling)
    planes, expected = ycbcr.decode(jpeg), ycbcr.from_rgb(simplejpeg.decode_jpeg(jpeg, "RGB"))
    assert planes
    for plane, same in zip(planes, expected, strict=True):
        assert plane.shape == same.shape
        np.testing.assert_allclose(plane.astype(int), same, atol=3)
    assert ycbcr.encode(planes, 80) == ycbcr.encode(planes.copy(), 80)  # whatever lies behind it in memory
    # Nothing is lost on the way from a file to a file.
    second = ycbcr.decode(ycbcr.encode(planes, 100))
    assert second and np.abs(second.luma.astype(int) - planes.luma).max() <= 1


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
