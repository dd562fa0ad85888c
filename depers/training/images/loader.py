"""Batches made ahead of their use: by threads beside a CPU that trains, by processes where a GPU must be fed.

Threads share Python's lock with the loop that starts a GPU's kernels, and keep it waiting; processes do not, and they
share the images in memory with it, since they are its forks. The batches are the same.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Protocol

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from depers import resources
from depers.training.images.augmentation import LabelledImage
from depers.training.images.batches import Batch
from depers.training.processes.process_group import ProcessGroup

_AHEAD = 2  # batches, of all threads or of each process
_SHARE = 0.8  # of the shared memory that is free


class BatchMaker(Protocol):
    """What makes batches of what they are planned to have, one spec for each image: `Batches`, or those of validation.

    Safe to call from several threads and processes.
    """

    def make_sample(self, spec: Any) -> LabelledImage:
        """Make one image."""

    def collate(self, specs: Sequence[Any], samples: Sequence[LabelledImage]) -> Batch:
        """Join the images that have been made of `specs` into a batch."""

    def make_batch(self, specs: Sequence[Any]) -> Batch:
        """Make a batch in this thread."""


class Loader:
    """Makes planned batches."""

    def __init__(self, batches: BatchMaker, num_workers: int, use_processes: bool) -> None:
        """Take how many threads, or processes, make images; processes start with the first plan, and stay."""
        self._batches, self._num_workers = batches, num_workers
        self._sampler = _PlanSampler()
        self._data_loader: Any = None
        if use_processes:
            self._data_loader = DataLoader(
                _PlannedBatches(batches),
                batch_size=None,
                sampler=self._sampler,
                num_workers=num_workers,
                prefetch_factor=_AHEAD,
                persistent_workers=True,
                pin_memory=torch.cuda.is_available(),
                multiprocessing_context="fork",  # a spawned process would need a copy of the images
                worker_init_fn=_use_one_thread,
            )

    def load(self, plan: Iterable[Sequence[Any]]) -> Iterator[Batch]:
        """Return the batches of a plan, in its order: of arrays by threads, of tensors by processes.

        The plan is asked for a batch when that is to be made, by this thread. Processes begin at once, threads with the
        first batch that is asked for.
        """
        if self._data_loader is None:
            return self._load_by_threads(plan)
        self._sampler.plan = plan
        with warnings.catch_warnings():
            # Python warns of forks of a process with threads: these only work on arrays, and take no foreign lock.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            return iter(self._data_loader)

    def _load_by_threads(self, plan: Iterable[Sequence[Any]]) -> Iterator[Batch]:
        with ThreadPoolExecutor(self._num_workers) as pool:
            pending: list[tuple[Sequence[Any], list[Future[LabelledImage]]]] = []
            for specs in chain(plan, repeat((), _AHEAD)):
                pending.append((specs, [pool.submit(self._batches.make_sample, spec) for spec in specs]))
                if len(pending) > _AHEAD:
                    next_specs, futures = pending.pop(0)
                    if next_specs:
                        yield self._batches.collate(next_specs, [future.result() for future in futures])


def choose_workers(
    loaders: int | None, group: ProcessGroup, batch_bytes: int, shared_memory: str = "/dev/shm"
) -> tuple[int, bool]:
    """Return how many threads or processes make a training worker's batches, and whether they are processes.

    `loaders`: the option. `batch_bytes`: what a process hands over at once, through the memory file system
    `shared_memory`; where that has no room for one process, threads must do.
    """
    if group.device.startswith("cuda"):
        room = int(resources.available_disk(Path(shared_memory)) * _SHARE) // group.local_world_size
        if count := min(loaders or max(group.threads, 1), room // (_AHEAD * batch_bytes)):
            return count, True
    return loaders or 4, False


def _use_one_thread(_: int) -> None:
    """Let OpenCV use one thread per process: there is one process per core."""
    cv2.setNumThreads(0)


class _PlanSampler(Sampler[Sequence[Any]]):
    """The plan of the coming epoch, batch by batch."""

    plan: Iterable[Sequence[Any]] = ()

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return iter(self.plan)


class _PlannedBatches(Dataset[Batch]):
    """Batches by what they are made of."""

    def __init__(self, batches: BatchMaker) -> None:
        self._batches = batches

    def __getitem__(self, specs: Any) -> Batch:
        return self._batches.make_batch(specs)
