"""Batches made ahead, by threads and by processes."""

from pathlib import Path

import numpy as np
import pytest
from training_sets import write_dataset

from depers.detection.yolo import hyperparameters
from depers.training import image_cache as image_cache
from depers.training.batches import Batches
from depers.training.data import read_splits
from depers.training.loader import Loader, makers
from depers.training.process_group import Place


def test_threads_and_processes_make_the_same(tmp_path: Path) -> None:
    data = read_splits(str(write_dataset(tmp_path / "data")))
    sizes_wh = [image_cache.scaled_size(one.size_wh, 96) for one in data.train]
    images = image_cache.Images([one.path for one in data.train], sizes_wh, "ram")
    images.fill(range(len(sizes_wh)), 2)
    how = {"imgsz": 96, "stride": 32, "batch_size": 4, "seed": 0, "rectangular": False}
    batches = Batches(data, images, hyperparameters(), **how)  # type: ignore[arg-type]
    threads, processes = Loader(batches, 2, processes=False), Loader(batches, 2, processes=True)
    for epoch in range(2):  # the processes stay for the second
        plan = [batches.plan(number) for number in range(epoch * batches.per_pass, (epoch + 1) * batches.per_pass)]
        made = [list(loader(plan)) for loader in (threads, processes)]
        assert len(made[0]) == batches.per_pass > 1
        for one, other in zip(*made, strict=True):
            for left, right in zip(one, other, strict=True):
                np.testing.assert_array_equal(left, np.asarray(right))


@pytest.mark.parametrize(
    ("wanted", "device", "threads", "batch_bytes", "found"),
    [
        (None, "cpu", 16, 1, (4, False)),
        (7, "cpu", 16, 1, (7, False)),
        (None, "cuda:0", 16, 1, (16, True)),
        (3, "cuda:0", 16, 1, (3, True)),
        (None, "cuda:0", 16, 2**60, (4, False)),  # no room to hand over even one
    ],
)
def test_processes_make_images_for_a_gpu(
    tmp_path: Path, wanted: int | None, device: str, threads: int, batch_bytes: int, found: tuple[int, bool]
) -> None:
    assert makers(wanted, Place(device=device, threads=threads), batch_bytes, str(tmp_path)) == found
