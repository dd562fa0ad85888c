"""Batches made ahead: threads and processes make the same."""

from pathlib import Path

import numpy as np
from training_sets import write_dataset

from depers.detection.yolo import read_hyperparameters
from depers.training.images.batches import Batches
from depers.training.images.data import read_splits
from depers.training.images.image_cache import ScaledImages, fit_size
from depers.training.images.loader import Loader


def test_threads_and_processes_make_the_same(tmp_path: Path) -> None:
    splits = read_splits(str(write_dataset(tmp_path / "data")))
    sizes_wh = [fit_size(example.size_wh, 96) for example in splits.train]
    images = ScaledImages(splits.train, sizes_wh, "ram")
    images.fill(range(len(sizes_wh)), 2)
    values = {"imgsz": 96, "stride": 32, "batch_size": 4, "seed": 0, "rectangular": False}
    batches = Batches(splits, images, read_hyperparameters(), **values)  # type: ignore[arg-type]
    threads, processes = Loader(batches, 2, use_processes=False), Loader(batches, 2, use_processes=True)
    for epoch in range(2):  # the processes stay for the second
        plan = [batches.plan(number) for number in range(epoch * batches.per_pass, (epoch + 1) * batches.per_pass)]
        batch_lists = [list(loader.load(plan)) for loader in (threads, processes)]
        assert len(batch_lists[0]) == batches.per_pass > 1
        for first, second in zip(*batch_lists, strict=True):
            for array, tensor in zip(first, second, strict=True):
                np.testing.assert_array_equal(array, np.asarray(tensor))
