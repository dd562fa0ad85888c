"""One worker's training as it stands: the data, the parts that learn, and how far they have come."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from depers.detection import yolo
from depers.training.images.batches import Batch, Batches
from depers.training.images.data import Splits
from depers.training.images.image_cache import ScaledImages
from depers.training.images.loader import Loader
from depers.training.loss import Loss
from depers.training.moving_average import MovingAverage
from depers.training.processes.process_group import ProcessGroup
from depers.training.schedule import Schedule, make_schedule
from depers.training.threads import ThreadChooser
from depers.training.validation import ValidationBatches, ValidationResult

if TYPE_CHECKING:
    from depers.training.options import Options


@dataclass(frozen=True)
class TrainData:
    """The images of a training, and the batches that are made of them."""

    splits: Splits
    val_images: ScaledImages
    val_canvases_wh: list[tuple[int, int]]
    val_batches: ValidationBatches
    stride: int
    batches: Batches
    loader: Loader
    val_loader: Loader
    first_batch: Batch
    """A few images of the first batch, for people to look at."""


@dataclass
class TrainState:
    """One worker's training: the parts that learn, and how far they have come."""

    options: "Options"
    group: ProcessGroup
    data: TrainData
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    """Of the forward pass; weights and losses are float32."""
    model: Any
    parallel_model: Any
    """The model itself, or as the workers share its gradients."""
    average: MovingAverage
    optimizer: torch.optim.Optimizer
    scaler: Any
    loss: Loss
    """Of a batch of all workers."""
    val_loss: Loss
    """Of a worker's own validation images: the others have other batches."""
    average_precisions: list[float]
    """Per class, of the last epoch; 0 before the first."""
    losses: Tensor
    """Sums of the losses (3,) over the batches of the epoch that runs."""
    chooser: ThreadChooser | None
    """On a CPU; not where the bits count, since other threads add up in another order."""
    batch: int = 0
    """Batches that are done, from the first."""
    epoch: int = 0
    """Epochs that are done."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """A row of results.csv for each of them."""
    best_fitness: float = -1.0
    best_epoch: int = 0
    best_checkpoint: bytes = b""
    """Weights as in a file; of an earlier run only on rank 0."""
    best_results: list[ValidationResult] | None = None
    """What they find in the validation images; None of weights of an earlier run."""
    next_epoch: tuple[int, Iterator[Batch]] | None = None
    """How many images the next epoch shows, and its batches, where making them has begun."""


def build(
    options: "Options",
    group: ProcessGroup,
    data: TrainData,
    model: Any,
    dtype: torch.dtype,
    hyp: Mapping[str, float],
) -> TrainState:
    """Return the state before the first epoch: schedule, optimizer, moving average, losses."""
    names, device = data.splits.names, torch.device(group.device)
    model = model.to(device, memory_format=torch.channels_last if options.channels_last else torch.contiguous_format)
    nominal_batch = options.nominal_batch or (options.batch_size if options.steps else 64)
    accumulate = max(round(nominal_batch / options.batch_size), 1)
    schedule = make_schedule(
        epochs=options.epochs,
        batches_per_pass=data.batches.per_pass,
        accumulate=accumulate,
        hyp=hyp,
        steps=options.steps,
        warmup_epochs=options.warmup_epochs,
        fall=options.schedule,
    )
    parts = yolo.load_training_parts()
    decay = hyp["weight_decay"] * options.batch_size * accumulate / nominal_batch
    optimizer = parts.smart_optimizer(model, options.optimizer, hyp["lr0"], hyp["momentum"], decay)
    for parameters in optimizer.param_groups:
        parameters["fused"] = True  # one pass over all parameters: a third of the time of a step for each
    is_free = device.type == "cpu" and not options.deterministic
    return TrainState(
        options=options,
        group=group,
        data=data,
        schedule=schedule,
        device=device,
        dtype=dtype,
        model=model,
        parallel_model=model,
        average=MovingAverage(model, options.average_share),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),  # type: ignore[attr-defined]
        loss=Loss(model, names, group.sum if group.world_size > 1 else None),
        val_loss=Loss(model, names),
        average_precisions=[0.0] * len(names),
        losses=torch.zeros(3, device=device),
        chooser=ThreadChooser(group.threads or torch.get_num_threads()) if is_free else None,
    )
