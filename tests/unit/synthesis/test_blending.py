"""Blending in planes: colors are shifted exactly, and membranes keep gradients."""

import numpy as np
import pytest

from depers.synthesis import blending


@pytest.mark.parametrize("shape", [(4, 1), (4, 1, 2), (1, 4), (5, 7), (5, 7, 2), (1, 1)])
def test_a_color_is_added_to_a_plane_of_any_size(shape: tuple[int, ...]) -> None:
    plane = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    for difference in ([0.2, -0.3], [40.4, -70.0], [-9.0, 0.0]):
        levels = np.rint(difference)[: 1 if plane.ndim == 2 else 2]
        np.testing.assert_array_equal(blending.shift(plane, difference[: len(levels)]), (plane + levels).clip(0, 255))


@pytest.mark.parametrize("channels", [(), (2,)])
def test_a_membrane_keeps_gradients_and_meets_the_border(channels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    source, target = (rng.integers(0, 256, (9, 14, *channels)).astype(np.uint8) for _ in range(2))
    blended = source + blending.membrane(source, target, np.ones((9, 14), np.bool_))

    def curved(image: np.ndarray) -> np.ndarray:
        around = image[2:, 1:-1] + image[:-2, 1:-1] + image[1:-1, 2:] + image[1:-1, :-2]
        return np.asarray(around - 4 * image[1:-1, 1:-1])

    np.testing.assert_allclose(curved(blended), curved(source.astype(float)), atol=1e-9)
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_allclose(blended[border], target[border])
    outside = blending.membrane(source, target, np.zeros((9, 14), np.bool_))
    np.testing.assert_allclose(source + outside, target)
