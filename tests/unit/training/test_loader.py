"""Batches made ahead: how many threads or processes make them."""

from pathlib import Path

import pytest

from depers.training.images.loader import choose_workers
from depers.training.processes.process_group import ProcessGroup


@pytest.mark.parametrize(
    ("loaders", "device", "threads", "batch_bytes", "workers"),
    [
        (None, "cpu", 16, 1, (4, False)),
        (7, "cpu", 16, 1, (7, False)),
        (None, "cuda:0", 16, 1, (16, True)),
        (3, "cuda:0", 16, 1, (3, True)),
        (None, "cuda:0", 16, 2**60, (4, False)),  # no room to hand over even one
    ],
)
def test_processes_make_images_for_a_gpu(
    tmp_path: Path, loaders: int | None, device: str, threads: int, batch_bytes: int, workers: tuple[int, bool]
) -> None:
    assert choose_workers(loaders, ProcessGroup(device=device, threads=threads), batch_bytes, str(tmp_path)) == workers
