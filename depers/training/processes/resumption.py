"""Going on where a training stopped: what is captured of it, when that is written, and how it is restored."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from depers import storage
from depers.errors import UserError
from depers.training import report
from depers.training.processes import checkpoints, outputs
from depers.training.processes.checkpoints import CheckpointWriter
from depers.training.processes.notices import Notice, NoticeBoard, TrainingStoppedError
from depers.training.state import TrainState

NOTICE_STEPS = {"cpu": 1, "cuda": 8}
"""Optimizer steps between two looks at the notices, by the device: asking a GPU for numbers makes it wait."""


def capture(state: TrainState) -> dict[str, Any]:
    """Return all to go on from, as it is now."""
    return {
        "model": state.model.state_dict(),
        "average": state.average.model.state_dict(),
        "updates": state.average.updates,
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "random": checkpoints.get_random_state(),
        "found": state.average_precisions,
        "rows": state.rows,
        "epoch": state.epoch,
        "batch": state.batch,
        "losses": state.losses,
        "best": state.best_fitness,
        "best_epoch": state.best_epoch,
    }


def save_epoch(state: TrainState, weights: bytes, writer: CheckpointWriter) -> None:
    """Hand over what an epoch leaves: weights first, then the state to go on from, and last what people look at."""
    files: dict[str, Any] = {outputs.BEST: weights} if state.best_checkpoint is weights else {}
    files |= {outputs.LAST: weights, outputs.RESULTS: report.format_csv(state.rows).encode()}
    events = {report.EVENTS: partial(report.format_events, list(state.rows))}
    writer.put(files | _capture_files(state), events)


def save_state(state: TrainState, writer: CheckpointWriter | None) -> None:
    """Hand over the state to go on from, in the middle of an epoch; all workers call this, one has the writer.

    Raise UserError, on all of them, where nothing can go on from it: the state that was written before stays.
    """
    check_numbers(state)
    losses = state.group.sum(state.losses)
    if writer:
        writer.put(_capture_files(state))
    if state.group.rank:
        losses.zero_()  # from here on they are among rank 0's


@torch.no_grad()
def check_numbers(state: TrainState) -> None:
    """Raise UserError, on all workers, where losses or weights of any of them are no longer numbers."""
    tensors = [tensor for tensor in (*state.model.state_dict().values(), state.losses) if tensor.is_floating_point()]
    is_broken = ~torch.nn.utils.get_total_norm(tensors).isfinite()
    if state.group.sum(is_broken.float().reshape(1)).item():
        raise UserError(f"the loss is no longer a number in epoch {state.epoch + 1}: lower --learning-rate")


def heed(state: TrainState, notices: NoticeBoard, writer: CheckpointWriter | None) -> None:
    """Write the state where any worker has heard that its node leaves, or that all are to stop.

    All workers call this after the same step. Raise TrainingStoppedError, on all of them, where they are to stop.
    """
    notice = notices.take()
    heard = torch.tensor([float(notice == each) for each in (Notice.SAVE, Notice.STOP)], device=state.device)
    is_leaving, must_stop = state.group.sum(heard).tolist()
    if is_leaving or must_stop:
        save_state(state, writer)
    if must_stop:
        raise TrainingStoppedError("there is room for more workers: going on with them")


def _capture_files(state: TrainState) -> dict[str, Any]:
    copy = checkpoints.copy_to_cpu(capture(state))  # the next step changes the weights while they are written
    progress = outputs.format_progress(outputs.Progress(state.batch))
    return {outputs.STATE: partial(checkpoints.serialize_state, copy), outputs.PROGRESS: progress}


def restore(state: TrainState, checkpoint: Mapping[str, Any]) -> None:
    """Go back to where the state was captured: weights, optimizer, random numbers, rows; on rank 0 the best weights.

    Raise UserError where the checkpoint is not of this training.
    """
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    shapes = [parameter.shape for parameter in parameters]
    checkpoints.check_state(state.options.out, checkpoint, capture(state), shapes)
    state.model.load_state_dict(checkpoint["model"])
    state.average.model.load_state_dict(checkpoint["average"])
    state.average.updates = checkpoint["updates"]
    state.optimizer.load_state_dict(checkpoint["optimizer"])
    state.scaler.load_state_dict(checkpoint["scaler"])
    checkpoints.set_random_state(checkpoint["random"])
    state.epoch, state.rows, state.batch = checkpoint["epoch"], checkpoint["rows"], checkpoint["batch"]
    state.average_precisions = checkpoint["found"]
    state.best_fitness, state.best_epoch = checkpoint["best"], checkpoint["best_epoch"]
    starts = state.schedule.starts
    if state.epoch >= len(starts) or not starts[state.epoch] <= state.batch <= [*starts, starts[-1]][state.epoch + 1]:
        uri = storage.join(state.options.out, outputs.STATE)
        raise UserError(f"{uri}: must be the state of this training, but its batch {state.batch} is not of its epoch")
    if state.group.rank == 0:
        state.losses.copy_(checkpoint["losses"])  # of all workers
        if state.best_fitness >= 0:
            state.best_checkpoint = storage.read_bytes(storage.join(state.options.out, outputs.BEST))
