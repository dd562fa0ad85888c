"""Planes: what becomes of RGB and comes back, whatever the size."""

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from depers import blending, planes


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_a_jpeg_shows_the_colours_that_went_in(wide: int, high: int, seed: int) -> None:
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3))
    rgb = np.linspace(*colours, high)[:, None].repeat(wide, 1).astype(np.uint8)
    found = planes.of_rgb(rgb)
    assert found.luma.shape == (high, wide) and found.chroma.shape == (-(-high // 2), -(-wide // 2), 2)
    shown = simplejpeg.decode_jpeg(planes.encode(found, 100), "RGB")
    steepest = np.abs(np.diff(rgb.astype(int), axis=0)).max(initial=0)
    for again in (shown, planes.to_rgb(found)):
        assert again.shape == rgb.shape
        np.testing.assert_allclose(again.astype(int), rgb, atol=6 + steepest)


def test_colours_are_those_of_jfif() -> None:
    for rgb in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 130, 20)):
        found = planes.of_rgb(np.full((16, 16, 3), rgb, np.uint8))
        decoded = simplejpeg.decode_jpeg(
            simplejpeg.encode_jpeg_yuv_planes(found.luma, *found.chroma.T[::-1].copy()), "RGB"
        )
        np.testing.assert_allclose(decoded[8, 8].astype(int), rgb, atol=4)
        luma, chroma = planes.colour(*rgb)
        np.testing.assert_allclose([found.luma[0, 0], *found.chroma[0, 0]], [*luma, *np.add(chroma, 128)], atol=1)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_reducing_takes_means(channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (21, 30, channels)).astype(np.uint8).squeeze()
    made = planes.reduced(samples, 4)
    assert made.shape[:2] == (6, 8)
    blocks = samples[:20, :28].reshape(5, 4, 7, 4, -1).mean((1, 3)).squeeze()
    np.testing.assert_allclose(made[:5, :7], blocks, atol=1.1)


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 2), (1, 4), (5, 7), (5, 7, 2), (1, 1)])
def test_a_colour_is_added_to_a_plane_of_any_size(shape: tuple[int, ...]) -> None:
    plane = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for added in ([0.2, -0.3], [40.4, -70.0], [-9.0, 0.0]):
        levels = np.rint(added)[: 1 if plane.ndim == 2 else 2]
        np.testing.assert_array_equal(blending.shift(plane, added[: len(levels)]), (plane + levels).clip(0, 255))


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_membrane_keeps_gradients_and_meets_the_border(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, 256, (9, 14, *channels)).astype(np.uint8) for _ in range(2))
    made = source + blending.membrane(source, target, np.ones((9, 14), np.bool_))

    def curved(picture: np.ndarray) -> np.ndarray:
        around = picture[2:, 1:-1] + picture[:-2, 1:-1] + picture[1:-1, 2:] + picture[1:-1, :-2]
        return np.asarray(around - 4 * picture[1:-1, 1:-1])

    np.testing.assert_allclose(curved(made), curved(source.astype(float)), atol=1e-9)
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_allclose(made[border], target[border])
    outside = blending.membrane(source, target, np.zeros((9, 14), np.bool_))
    np.testing.assert_allclose(source + outside, target)
