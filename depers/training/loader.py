"""Batches made ahead of their use: by threads beside a CPU that trains, by processes where a GPU must be fed.

Threads share Python's lock with the loop that starts a GPU's kernels, and keep it waiting; processes do not, and they
share the images in memory with it, since they are its forks. What is made is the same.
"""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from depers import resources
from depers.training.augmentation import LabelledImage
from depers.training.batches import Batch, Batches, Planned
from depers.training.process_group import Place

_AHEAD = 2  # batches, of all threads or of each process
_SHARE = 0.8  # of the shared memory that is free


class Loader:
    """Makes what `Batches` plans."""

    def __init__(self, batches: Batches, makers: int, processes: bool) -> None:
        """`makers`: how many threads, or processes, make images."""
        self._batches, self._makers = batches, makers
        self._plan = _Plan()
        self._feed: Any = None
        if processes:
            self._feed = DataLoader(
                _Made(batches),
                batch_size=None,
                sampler=self._plan,
                num_workers=makers,
                prefetch_factor=_AHEAD,
                persistent_workers=True,
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context="fork",  # a spawned process would need a copy of the images
                worker_init_fn=_alone,
            )

    def __call__(self, plan: Sequence[Sequence[Planned]]) -> Iterator[Batch]:
        """The batches of a plan, in its order; of arrays by threads, of tensors by processes, which begin at once."""
        if self._feed is None:
            return self._by_threads(plan)
        self._plan.batches = plan
        with warnings.catch_warnings():
            # Python warns of forks of a process with threads: these only work on arrays, and take no lock of others.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            return iter(self._feed)

    def _by_threads(self, plan: Sequence[Sequence[Planned]]) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._makers) as pool:
            pending: list[tuple[Sequence[Planned], list[Future[LabelledImage]]]] = []
            for members in [*plan, *[()] * _AHEAD]:
                pending.append((members, [pool.submit(self._batches.make, one) for one in members]))
                if len(pending) > _AHEAD:
                    ready, futures = pending.pop(0)
                    if ready:
                        yield self._batches.collate(ready, [future.result() for future in futures])


def makers(wanted: int | None, here: Place, batch_bytes: int, shared: str = "/dev/shm") -> tuple[int, bool]:
    """How many make the batches of a worker, and whether they are processes.

    `batch_bytes`: what a process hands over at once, through the memory file system `shared`; where that has no room
    for one process, threads must do.
    """
    if here.device.startswith("cuda"):
        room = int(resources.available_disk(Path(shared)) * _SHARE) // here.local_world // (_AHEAD * batch_bytes)
        if count := min(wanted or max(here.threads, 1), room):
            return count, True
    return wanted or 4, False


def _alone(_: int) -> None:
    """One thread per process: there is one process per core."""
    cv2.setNumThreads(0)


class _Plan(Sampler[Sequence[Planned]]):
    """What the batches of the coming epoch are made of."""

    batches: Sequence[Sequence[Planned]] = ()

    def __iter__(self) -> Iterator[Sequence[Planned]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class _Made(Dataset[Batch]):
    """Batches by what they are made of."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, planned: Any) -> Batch:
        return self._batches.batch(planned)
