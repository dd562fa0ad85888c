"""Augmented images: labels follow the pixels, whatever is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.detection.yolo import read_hyperparameters
from depers.seeds import Branch, random_for
from depers.training.images.augmentation import LabelledImage, augment, finish, letterbox_sample, make_mosaic

CALM = read_hyperparameters("no-augmentation")
PLAIN = CALM | {"scale": 0.3, "translate": 0.1, "fliplr": 0.5, "flipud": 0.5}
WILD = PLAIN | {"degrees": 20.0, "shear": 5.0, "perspective": 0.0005}


def image(x: int, y: int, width: int, height: int, size_wh: tuple[int, int] = (128, 100)) -> LabelledImage:
    """Draw a bright box on a dark image, labelled 2."""
    pixels = np.full((size_wh[1], size_wh[0], 3), 20, np.uint8)
    pixels[y : y + height, x : x + width] = 250
    boxes = np.array([[2, x, y, x + width, y + height]], np.float64)
    return LabelledImage(pixels, boxes, boxes)


def extent(image: np.ndarray) -> list[int]:
    bright = image[..., 0] > 185
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def assert_region_covers(sample: LabelledImage) -> None:
    """An ignore region around the box covers all that is left of it, however little that is."""
    bright = sample.image[..., 0] > 185
    for _, x0, y0, x1, y1 in sample.ignored:
        low_x, low_y, high_x, high_y = (round(edge) for edge in (x0 - 2, y0 - 2, x1 + 2, y1 + 2))
        bright[max(low_y, 0) : high_y, max(low_x, 0) : high_x] = False
    assert len(sample.ignored) <= 1 and not bright.any()
    assert len(sample.ignored) >= len(sample.labels)


BOXES = (st.integers(20, 70), st.integers(20, 50), st.integers(10, 40), st.integers(10, 40))


@given(st.integers(0, 10_000), *BOXES, st.booleans())
def test_labels_follow_the_pixels(key: int, x: int, y: int, width: int, height: int, wild: bool) -> None:
    unfinished = augment(
        image(x, y, width, height), (128, 128), random_for(key, Branch.AUGMENTATION), WILD if wild else PLAIN
    )
    sample = finish(unfinished)
    assert sample.image.shape == (128, 128, 3)
    assert_region_covers(sample)
    if not len(sample.labels):
        assert (sample.image[..., 0] > 185).mean() < 0.03
        return
    assert sample.labels[0, 0] == 2
    if wild and (min(extent(sample.image)) == 0 or max(extent(sample.image)) == 128):
        return  # the box around a rotated box reaches further than what is left of it at the edge, as in YOLOv5
    np.testing.assert_allclose(sample.labels[0, 1:], extent(sample.image), atol=2.6)


@given(st.integers(0, 10_000), *BOXES)
@settings(max_examples=50)
def test_labels_of_a_mosaic_follow_the_pixels(key: int, x: int, y: int, width: int, height: int) -> None:
    dark = LabelledImage(np.full((128, 96, 3), 30, np.uint8), np.zeros((0, 5)))
    tiles = [image(x, y, width, height), dark, dark, dark]
    sample = finish(make_mosaic(tiles, 128, random_for(key, Branch.AUGMENTATION), PLAIN))
    assert sample.image.shape == (128, 128, 3) and len(sample.labels) <= 1
    assert_region_covers(sample)
    if len(sample.labels):
        np.testing.assert_allclose(sample.labels[0, 1:], extent(sample.image), atol=2.6)
    else:
        assert (sample.image[..., 0] > 185).mean() < 0.03


def test_a_mosaic_shows_four_images_without_a_gap_around_its_center() -> None:
    tiles = [LabelledImage(np.full((64, 64, 3), 40 * n, np.uint8), np.zeros((0, 5))) for n in range(1, 5)]
    values = set()
    for key in range(20):
        sample = make_mosaic(tiles, 64, random_for(key, Branch.AUGMENTATION), CALM)
        values |= set(np.unique(sample.image).tolist())
    assert {40, 80, 120, 160} <= values


def test_mixup_shows_and_labels_both() -> None:
    first, second = (
        image(40, 40, 30, 30),
        LabelledImage(np.full((100, 128, 3), 200, np.uint8), np.array([[1.0, 5, 5, 90, 90]])),
    )
    samples = [
        make_mosaic([first] * 4, 128, random_for(key, Branch.AUGMENTATION), CALM, [second] * 4) for key in range(5)
    ]
    assert any({1, 2} <= set(sample.labels[:, 0].astype(int).tolist()) for sample in samples)


def test_the_same_key_gives_the_same_image() -> None:
    hyp = read_hyperparameters("scratch-high")
    tiles = [image(10 * n, 10 * n, 20, 20) for n in range(1, 5)]
    first, second = (finish(make_mosaic(tiles, 96, random_for(7, Branch.AUGMENTATION), hyp)) for _ in range(2))
    assert (first.image == second.image).all() and (first.labels == second.labels).all()


def test_letterboxed_lies_in_the_middle() -> None:
    sample = letterbox_sample(
        LabelledImage(np.full((40, 64, 3), 200, np.uint8), np.array([[1.0, 0, 0, 64, 40]])), (64, 64)
    )
    assert (sample.image[12:52] == 200).all() and (sample.image[:12] == 114).all() and (sample.image[52:] == 114).all()
    assert sample.labels.tolist() == [[1, 0, 12, 64, 52]]


@pytest.mark.parametrize("name", ["scratch-low", "scratch-med", "scratch-high", "no-augmentation", "VOC", "Objects365"])
def test_the_packages_hyperparameters_work(name: str) -> None:
    unfinished = make_mosaic(
        [image(40, 40, 30, 30)] * 4,
        64,
        random_for(0, Branch.AUGMENTATION),
        read_hyperparameters(name),
        [image(9, 9, 20, 20)] * 4,
    )
    sample = finish(unfinished)
    assert sample.image.shape == (64, 64, 3)


@given(st.integers(0, 10_000), st.booleans())
def test_no_line_of_canvas_shows_between_the_tiles_of_a_mosaic(key: int, wild: bool) -> None:
    """Four bright tiles around a point: along each of their seams, a dark pixel would be the canvas's."""
    white = LabelledImage(np.full((128, 128, 3), 250, np.uint8), np.zeros((0, 5)), np.zeros((0, 5)))
    hyp = {**CALM, **({"degrees": 5.0, "scale": 0.3} if wild else {"scale": 0.3}), "mosaic": 1.0}
    pixels = make_mosaic([white] * 4, 128, random_for(key, Branch.AUGMENTATION), hyp).image[..., 0]
    dark = pixels < 245
    # What lies beyond the tiles reaches the edge of the image; a seam is dark with bright pixels on both sides.
    for rows in (dark, dark.T):
        seams = rows[:, 2:-2] & ~rows[:, :-4] & ~rows[:, 4:]
        assert not seams.any()
