"""Batches made ahead: threads and processes make the same."""

from pathlib import Path

import numpy as np
import pytest
from training_sets import write_dataset

from depers.detection.yolo import read_hyperparameters
from depers.training.images.augmentation import letterbox_sample
from depers.training.images.batches import Batches, attach_labels
from depers.training.images.data import read_splits
from depers.training.images.image_cache import ScaledImages, fit_size
from depers.training.images.loader import Loader
from depers.training.validation import ValidationBatches, choose_canvases


@pytest.mark.parametrize("is_finished", [True, False])
def test_threads_and_processes_make_the_same(tmp_path: Path, is_finished: bool) -> None:
    splits = read_splits(str(write_dataset(tmp_path / "data")))
    sizes_wh = [fit_size(example.size_wh, 96) for example in splits.train]
    images = ScaledImages(splits.train, sizes_wh, "ram")
    images.fill(range(len(sizes_wh)), 2)
    values = {"imgsz": 96, "stride": 32, "batch_size": 4, "seed": 0, "rectangular": False}
    batches = Batches(splits, images, read_hyperparameters(), **values, is_finished=is_finished)  # type: ignore[arg-type]
    threads, processes = Loader(batches, 2, use_processes=False), Loader(batches, 2, use_processes=True)
    for epoch in range(2):  # the processes stay for the second
        plan = [batches.plan(number) for number in range(epoch * batches.per_pass, (epoch + 1) * batches.per_pass)]
        batch_lists = [list(loader.load(plan)) for loader in (threads, processes)]
        assert len(batch_lists[0]) == batches.per_pass > 1
        for first, second in zip(*batch_lists, strict=True):
            for array, tensor in zip(first, second, strict=True):
                np.testing.assert_array_equal(array, np.asarray(tensor))
            assert (first.mirrored is None) == is_finished


def test_images_of_validation_are_made_ahead_too(tmp_path: Path) -> None:
    splits = read_splits(str(write_dataset(tmp_path / "data", 1, 7)))
    images = ScaledImages(splits.val, [fit_size(example.size_wh, 96) for example in splits.val], "none")
    canvases = choose_canvases(splits.val, 96, 32)
    assert len(set(canvases)) > 1
    batches = ValidationBatches(images, splits.val, canvases, len(splits.names))
    plan = list(batches.plan(range(7), 2))
    assert sorted(number for members in plan for number in members) == list(range(7))
    for loader in (Loader(batches, 2, use_processes=False), Loader(batches, 2, use_processes=True)):
        for members, made in zip(plan, loader.load(plan), strict=True):
            samples = [
                letterbox_sample(attach_labels(images(number), splits.val[number]), canvases[number])
                for number in members
            ]
            assert (np.asarray(made.images) == np.stack([sample.image for sample in samples])).all()
            assert len(made.targets) == sum(len(sample.labels) for sample in samples)
