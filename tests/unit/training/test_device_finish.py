"""Colors and mirrors of a batch on its device: what OpenCV makes of each image."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_sets import write_dataset

from depers.detection import yolo
from depers.training.images.augmentation import LabelledImage, PixelFinish, draw_tables, finish
from depers.training.images.batches import Batches
from depers.training.images.data import read_splits
from depers.training.images.device_finish import finish_batch, to_hsv
from depers.training.images.image_cache import fit_size, read_scaled

GAINS = {"hsv_h": 0.5, "hsv_s": 0.7, "hsv_v": 0.4}
SEED = 1


def test_hues_are_those_of_opencv_to_the_bit() -> None:
    levels = np.arange(0, 256, 5, np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 52, 3)
    expected = cv2.cvtColor(colors[0], cv2.COLOR_RGB2HSV)
    assert (to_hsv(torch.from_numpy(colors))[0].numpy() == expected).all()


@pytest.mark.parametrize("key", range(6))
@pytest.mark.parametrize("mirrored", [(False, False), (True, False), (False, True), (True, True)])
def test_a_batch_is_finished_as_its_images(key: int, mirrored: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(key)
    images = rng.integers(0, 256, (2, 48, 64, 3), np.uint8)
    tables = [draw_tables(rng, GAINS) for _ in images]
    flips = [np.array(mirrored), np.array([False, False])]
    none = np.zeros((0, 5))
    expected = np.stack(
        [
            finish(LabelledImage(image, none, none, PixelFinish(table, flip))).image
            for image, table, flip in zip(images, tables, flips, strict=True)
        ]
    )
    given = (torch.from_numpy(np.stack(part)) for part in (images, tables, flips))
    differences = np.abs(finish_batch(*given).numpy().astype(int) - expected)
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01


def test_without_tables_colors_stay() -> None:
    images = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3)
    mirrored = torch.tensor([[False, True], [True, True]])
    finished = finish_batch(images, None, mirrored)
    assert (finished[0] == images[0].flip(1)).all() and (finished[1] == images[1].flip(0, 1)).all()


@pytest.mark.parametrize("rectangular", [False, True])
def test_batches_to_be_finished_become_those_that_are(tmp_path: Path, rectangular: bool) -> None:
    splits = read_splits(str(write_dataset(tmp_path / "data")))
    hyp = yolo.read_hyperparameters() | {"flipud": 0.5, "mixup": 0.5}
    images = [read_scaled(example, fit_size(example.size_wh, 96)) for example in splits.train]
    settings = {"imgsz": 96, "stride": 32, "batch_size": 3, "seed": SEED, "rectangular": rectangular}
    finished, unfinished = (
        Batches(splits, images.__getitem__, hyp, **settings, is_finished=is_finished) for is_finished in (True, False)
    )
    for number in range(2):
        plan = finished.plan(number)
        expected, batch, example = finished.make_batch(plan), unfinished.make_batch(plan), unfinished.make_example(plan)
        assert expected.mirrored is None and batch.mirrored is not None and batch.tables is not None
        pixels = finish_batch(*(torch.from_numpy(part) for part in (batch.images, batch.tables, batch.mirrored)))
        assert np.abs(pixels.numpy().astype(int) - expected.images).max() <= 1
        assert (example.images == expected.images).all() and example.mirrored is None
        assert (batch.images != expected.images).any()
        for name in ("targets", "unlabelled", "ignored"):
            assert (getattr(batch, name) == getattr(expected, name)).all()
