"""Colors come from free units around boxes alone; each box has cells of its own, at most 6 across."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.redaction import colors
from depers.redaction.colors import Mosaic, Samples
from depers.redaction.regions import Rectangle, Region, find_regions, mark_free, stack_parts


def make_mosaic(bounds: Rectangle, across: list[int], down: list[int]) -> Mosaic:
    return Mosaic(bounds, np.array(across), np.array(down), (bounds,))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_cells_are_at_most_six_across_and_about_square(width: int, height: int) -> None:
    across, down = colors.find_cell_edges((10, 20, 10 + width, 20 + height))
    for edges, low, length in ((across, 10, width), (down, 20, height)):
        assert (edges[0], edges[-1]) == (low, low + length)
        assert 1 <= len(edges) - 1 <= colors.CELLS_ACROSS
        assert (np.diff(edges) > 0).all()
    assert max(len(across), len(down)) - 1 == min(colors.CELLS_ACROSS, max(width, height))


def test_a_small_box_in_a_large_one_has_cells_of_its_own_over_those() -> None:
    person, face, beside = (100, 100, 220, 460), (140, 110, 176, 146), (215, 300, 300, 420)
    [region] = find_regions(np.array([face, beside, person], np.float32), (640, 480))
    mosaics = colors.plan_mosaics(region, "pixelate", 4)
    assert [mosaic.bounds for mosaic in mosaics] == [person, beside, face]
    assert [int(np.diff(mosaic.down).max()) for mosaic in mosaics] == [60, 20, 6]
    assert all(mosaic.parts == (mosaic.bounds,) for mosaic in mosaics)


def test_boxes_of_equal_size_have_one_order() -> None:
    boxes = np.array([[0, 0, 10, 20], [5, 5, 25, 15], [5, 0, 15, 20]], np.float32)
    orders = {
        tuple(mosaic.bounds for mosaic in colors.plan_mosaics(find_regions(boxes[order], (99, 99))[0], "blur", 4))
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0])
    }
    assert orders == {((0, 0, 10, 20), (5, 0, 15, 20), (5, 5, 25, 15))}


@given(
    st.lists(st.tuples(*[st.integers(0, 900)] * 2, *[st.integers(1, 900)] * 2), min_size=1, max_size=6),
    st.sampled_from([1, 4]),
)
def test_what_is_inpainted_has_square_cells_that_reach_beyond_its_bounds(
    boxes: list[tuple[int, ...]], least: int
) -> None:
    parts = tuple((x, y, x + width, y + height) for x, y, width, height in boxes)
    corners = np.array(parts)
    bounds = (*corners[:, :2].min(axis=0).tolist(), *corners[:, 2:].max(axis=0).tolist())
    [mosaic] = colors.plan_mosaics(Region(bounds, parts), "inpaint", least)
    assert mosaic.bounds == bounds and set(mosaic.parts) == set(parts)
    side = int(mosaic.across[1] - mosaic.across[0])
    assert side >= least
    for edges, low, high in ((mosaic.across, bounds[0], bounds[2]), (mosaic.down, bounds[1], bounds[3])):
        assert (np.diff(edges) == side).all()
        assert edges[0] == low - side and high + side <= edges[-1] < high + 2 * side
        assert len(edges) <= 131


def take(pixels: np.ndarray, boxes: list[tuple[int, ...]], mode: str) -> tuple[list[Mosaic], Samples]:
    [region] = regions = find_regions(np.array(boxes, np.float32), (pixels.shape[1], pixels.shape[0]))
    mosaics = colors.plan_mosaics(region, mode, 4)
    free = mark_free(stack_parts(regions), (0, 0, pixels.shape[1], pixels.shape[0]))
    return mosaics, colors.take_samples(pixels, free, (0, 0), mosaics, (8, 8))


@pytest.mark.parametrize("mode", ["pixelate", "blur", "inpaint"])
def test_colors_come_from_free_units_alone(mode: str) -> None:
    pixels = np.full((60, 80, 1), 1000.0)
    pixels[:, :20], pixels[:, 50:] = 10.0, 30.0
    boxes = [(20, 0, 40, 60), (30, 0, 50, 60), (32, 20, 38, 26)]  # all that is 1000, the last one inside
    mosaics, samples = take(pixels, boxes, mode)
    assert set(samples.colors.ravel().tolist()) == {10.0, 30.0}
    assert ((samples.places[:, 0] < 20) | (samples.places[:, 0] > 50)).all()
    for mosaic in mosaics:
        values = colors.color(mosaic, samples, mode, 7.0)
        assert values.shape == (*mosaic.shape, 1)
        assert 10 <= values.min() < values.max() <= 30
        assert (np.diff(values.mean(axis=(0, 2))) > 0).all()  # ever more of the right side's


@pytest.mark.parametrize("mode", ["pixelate", "inpaint"])
def test_gray_where_nothing_is_free(mode: str) -> None:
    mosaics, samples = take(np.full((12, 12, 2), 99.0), [(0, 0, 12, 12), (2, 2, 5, 5)], mode)
    assert all((colors.color(mosaic, samples, mode, 7.0) == 7).all() for mosaic in mosaics)


def test_a_box_in_a_crowd_is_colored_by_what_is_nearest() -> None:
    """A dark corner beside one of a hundred boxes does not shine through all of them, nor the light one into it."""
    pixels = np.full((1000, 1000, 1), 200.0)
    pixels[:110, :110] = 20.0
    boxes = [(x, y, x + 80, y + 80) for x in range(10, 900, 70) for y in range(10, 900, 70)]
    mosaics, samples = take(pixels, boxes, "pixelate")
    means = {mosaic.bounds[:2]: colors.color(mosaic, samples, "pixelate", 0.0).mean() for mosaic in mosaics}
    assert means[10, 10] < 70
    assert means[850, 850] > 195
    assert len(samples.sizes) > 128


def test_a_stretch_counts_by_its_size() -> None:
    """A stretch of 90 units counts as three of 30 do."""
    mosaic = make_mosaic((0, 0, 10, 10), [0, 10], [0, 10])
    places = np.array([[-5.0, 5], [15, 5]])
    once = Samples(places, np.array([[0.0], [100]]), np.array([10, 30]))
    apart = Samples(places[[0, 1, 1, 1]], np.array([[0.0], [100], [100], [100]]), np.array([10, 10, 10, 10]))
    values = [colors.color(mosaic, samples, "blur", 0.0).tolist() for samples in (once, apart)]
    np.testing.assert_allclose(values, 75)


def test_a_surface_goes_smoothly_from_side_to_side() -> None:
    ramp = np.tile(np.linspace(0, 200, 200)[None, :, None], (200, 1, 1))
    [mosaic], samples = take(ramp, [(50, 50, 150, 150), (60, 60, 90, 90)], "inpaint")
    values = colors.color(mosaic, samples, "inpaint", 0.0)[1:-1, 1:-1, 0]
    centers = (mosaic.across[1:] + mosaic.across[:-1])[1:-1] / 2
    assert np.abs(values - ramp[0, centers.astype(int), 0]).max() < 8  # a ramp solves Laplace's equation


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), min_size=1, max_size=5))
def test_a_mosaic_in_smaller_units_is_the_same_mosaic(boxes: list[tuple[int, ...]]) -> None:
    parts = tuple((x, y, x + width, y + height) for x, y, width, height in boxes)
    for mode in ("blur", "inpaint"):
        for mosaic in colors.plan_mosaics(Region((0, 0, 100, 100), parts), mode, 1):
            scaled = mosaic.scale(16, 8)
            assert (scaled.across == mosaic.across * 16).all() and (scaled.down == mosaic.down * 8).all()
            assert (np.array(scaled.parts) == np.array(mosaic.parts) * (16, 8, 16, 8)).all()
            assert scaled.bounds == tuple(np.array(mosaic.bounds) * (16, 8, 16, 8))
