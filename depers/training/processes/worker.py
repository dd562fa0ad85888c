"""One process of a training, from its options to what it leaves: the data are brought, and the loop goes on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

import torch

from depers import storage
from depers.errors import UserError, describe
from depers.resources import GIB, format_bytes
from depers.storage.cache import DatasetCache
from depers.training.callbacks import GuardedCallbacks, TrainingCallback, load_callback
from depers.training.images.data import read_splits
from depers.training.images.sharing import remove_shared, share_splits
from depers.training.loop import train
from depers.training.options import Options
from depers.training.processes.checkpoints import CheckpointWriter, read_state
from depers.training.processes.notices import NoticeBoard, TrainingStoppedError
from depers.training.processes.process_group import ProcessGroup

_MEMORY_WORDS = ("out of memory", "ALLOC_FAILED")
"""Of the driver, of cuBLAS and of cuDNN, whose errors are not torch's class for it."""


def work(
    options: Options,
    datasets: Sequence[tuple[str, float]],
    group: ProcessGroup,
    callback: TrainingCallback,
    name: str,
    notices: NoticeBoard | None = None,
) -> None:
    """Train as one process of a group; `datasets` with their weights, `name` of what the processes of a node share.

    What the `notices` say is heeded: where they say so, the process ends before all is done.

    Raise UserError for what the user can put right.
    """
    if options.callback and group.rank == 0:
        callback = GuardedCallbacks(callback, load_callback(options.callback))
    (dataset, weight), *further = datasets
    cache = DatasetCache(options.cache_folder, options.cache_limit * GIB)
    writer = CheckpointWriter(options.out, warn=callback.on_message) if group.rank == 0 else None
    shared = storage.join(options.cache_folder, "images", name)
    problem: UserError | None = None
    state = None
    try:
        try:
            splits = share_splits(
                lambda: read_splits(dataset, further, weight, cache, options.share), group, f"{shared}-examples"
            )
            state = read_state(options.out) if group.rank == 0 else None
        except UserError as error:
            problem = error
        try:
            group.raise_together(problem)
        finally:
            remove_shared(group, f"{shared}-examples")
        callback.on_start(asdict(options))
        for note in splits.notes if group.rank == 0 else ():
            callback.on_message(note)
        checkpoint, state = group.broadcast(state), None
        with _explain_memory(options, group):
            train(options, splits, group, checkpoint, writer, callback, shared, notices)
        if writer:
            writer.close()
        callback.on_end("")
    except TrainingStoppedError as stop:
        callback.on_end(str(stop))
    except Exception as error:
        callback.on_end(describe(error))
        raise
    finally:
        if writer:
            with suppress(UserError):  # the last epoch's state must not be lost with an error
                writer.close()
        cache.close()


@contextmanager
def _explain_memory(options: Options, group: ProcessGroup) -> Iterator[None]:
    """Raise UserError, which says what to lower, where the block runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        is_of_device = group.device.startswith("cuda") and any(words in str(error) for words in _MEMORY_WORDS)
        if isinstance(error, torch.OutOfMemoryError) or is_of_device:
            memory = f"the memory of {group.device} ({format_bytes(_count_bytes(group.device))})"
        elif "not enough memory" in str(error):  # of torch's allocator for CPUs, which has no class of its own
            memory = "the memory"
        else:
            raise
        images = options.batch_size // group.world_size
        hint = "lower --batch-size (--nominal-batch keeps the images of a step) or --imgsz, or take a smaller --model"
        problem = f"{memory} does not hold a batch of {images} images at --imgsz {options.imgsz}"
        raise UserError(f"{problem}: {hint}") from None


def _count_bytes(device: str) -> int:
    return torch.cuda.get_device_properties(device).total_memory if device.startswith("cuda") else 0
