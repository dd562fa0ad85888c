"""The training loop: YOLOv5's model, optimizer and moving average, our data and loss, one worker's view, from top to
bottom.

It knows nothing of Ray: `train` runs alone, or as one of several processes of a torch process group. Files go to a
`CheckpointWriter`, what people want to see meanwhile to a `TrainingCallback`.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from depers.detection import yolo
from depers.detection.detector import cpu_has_bfloat16
from depers.errors import UserError
from depers.evaluation import metrics
from depers.evaluation.metrics import MatchedImage
from depers.seeds import Branch, random_for
from depers.training import report, validation
from depers.training.callbacks import TrainingCallback
from depers.training.images.batches import Batch, Batches
from depers.training.images.data import Splits
from depers.training.images.device_finish import finish_batch
from depers.training.images.examples import map_sizes
from depers.training.images.image_cache import cache_images, fit_size
from depers.training.images.loader import Loader, choose_workers
from depers.training.model import build_model, measure_boxes, weigh_images
from depers.training.processes import checkpoints, outputs, resumption
from depers.training.processes.checkpoints import CheckpointWriter
from depers.training.processes.notices import NoticeBoard
from depers.training.processes.process_group import ProcessGroup, synchronize_batch_norm
from depers.training.schedule import Schedule
from depers.training.state import TrainData, TrainState, build
from depers.training.validation import ValidationBatches, ValidationResult

if TYPE_CHECKING:
    from depers.training.options import Options

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LOSSES = ("box", "obj", "cls")
_FIGURES = ("precision", "recall", "map50", "map50_95", "fitness", *(f"val_{name}" for name in _LOSSES))
"""Columns of results.csv that a validation gives."""


def train(
    options: "Options",
    splits: Splits,
    group: ProcessGroup,
    checkpoint: Mapping[str, Any] | None = None,
    writer: CheckpointWriter | None = None,
    callback: TrainingCallback | None = None,
    disk: str = "",
    notices: NoticeBoard | None = None,
) -> None:
    """Train in this process, as one of `group.world_size`; `checkpoint` is the state that an earlier call wrote last.

    `disk`: a name, without suffix, for the files of decoded images that all workers of the node share. `notices`, which
    all workers have or none, are heeded after a step. Raises UserError, the same on all workers, for what cannot be
    trained, and TrainingStoppedError where they say so.
    """
    callback = callback or TrainingCallback()
    if group.threads:
        torch.set_num_threads(group.threads)
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.use_deterministic_algorithms(True)
    dtype = _DTYPES[choose_precision(options.precision, torch.device(group.device))]
    hyp = yolo.read_hyperparameters(options.hyperparameters)
    if options.augmentation:
        hyp |= yolo.read_augmentations(options.augmentation)
    if options.learning_rate is not None:
        hyp["lr0"] = options.learning_rate

    # The model, the same on every worker; then the images, all of which are decoded once before the first epoch.
    messages: list[str] = []
    sizes_wh = map_sizes(splits.train, partial(fit_size, imgsz=options.imgsz))
    model = build_model(options, splits.names, measure_boxes(splits.train, sizes_wh), hyp, messages)
    data = prepare_data(options, splits, group, hyp, max(int(model.stride.max()), 32), disk, messages)
    state = build(options, group, data, model, dtype, hyp)
    if checkpoint:
        resumption.restore(state, checkpoint)
        del checkpoint  # as large as what has been made of it
        steps = int(state.schedule.ends[state.schedule.starts[state.epoch] : state.batch].sum())
        messages.append(f"going on after epoch {state.epoch}" + (f" and {steps} steps" if steps else ""))
    parallelize(state)
    if group.rank == 0:
        _announce(state, messages, callback)
        if writer and not state.batch:
            writer.put({}, {"train_batch.jpg": partial(report.draw_batch, data.first_batch, splits.names)})

    while state.epoch < options.epochs:
        if is_out_of_patience(state.rows, state.best_epoch, options.patience):
            if group.rank == 0:
                callback.on_message(
                    f"stopped: epoch {state.best_epoch} was better than the {options.patience} after it"
                )
            break
        start = time.perf_counter()
        row = {"epoch": state.epoch + 1.0}
        losses, images_per_s = train_epoch(state, callback, writer, notices)
        resumption.check_numbers(state)
        row |= dict(zip(_LOSSES, losses, strict=True))
        if not options.image_weights and state.epoch + 1 < options.epochs:
            # Made while this epoch is judged; not where the judgement decides what comes next.
            state.next_epoch = begin_epoch(state, state.epoch + 1)

        weights = serialize_average(state)
        matches: list[MatchedImage] = []
        if (state.epoch + 1) % options.validate_every == 0 or state.epoch + 1 == options.epochs:
            figures, matches = validate_epoch(state, group.broadcast(weights))
        else:
            figures = dict.fromkeys(_FIGURES, math.nan)
        row |= figures
        row["learning_rate"] = state.schedule.compute_rates(state.schedule.starts[state.epoch + 1] - 1).weights
        row |= {"images_per_s": images_per_s, "seconds": time.perf_counter() - start}
        state.epoch += 1
        state.rows.append(row)
        state.losses.zero_()
        if matches and group.rank == 0:
            callback.on_validation(state.epoch, matches, len(splits.names))
        if writer:
            resumption.save_epoch(state, weights, writer)
        if group.rank == 0:
            callback.on_epoch_end(row)
        if notices and state.epoch < options.epochs:  # with few images every step ends an epoch
            resumption.heed(state, notices, writer)

    results = state.best_results
    if results is None:  # of weights of an earlier run: once more, for the report
        results, _ = validate(state, group.broadcast(state.best_checkpoint if group.rank == 0 else b""))
    if writer:
        contents = state.rows, splits, results, data.val_images, data.val_canvases_wh, data.first_batch
        files = {outputs.PROGRESS: outputs.format_progress(outputs.Progress(state.batch, options.epochs))}
        writer.put(files, {outputs.REPORT: partial(report.make_report, *contents)})


def is_out_of_patience(rows: Sequence[Mapping[str, float]], best_epoch: int, patience: int) -> bool:
    """Return whether `patience` epochs have brought nothing better than `best_epoch`, from the rows of results.csv.

    Asked after each epoch, it can be told after those that were validated; with a patience of 0 it never is.
    """
    is_validated = bool(rows) and not math.isnan(rows[-1]["fitness"])
    return is_validated and len(rows) - best_epoch >= patience > 0


def choose_precision(precision: str, device: torch.device) -> str:
    """Return the arithmetic: that of the option; `auto` takes bfloat16 where it is native. Raises UserError."""
    if precision == "float16" and device.type == "cpu":
        raise UserError("--precision float16 is for GPUs; a CPU has float32, and where it is native, bfloat16")
    if precision != "auto":
        return precision
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bfloat16()
    return "bfloat16" if native else "float16" if device.type == "cuda" else "float32"


def prepare_data(
    options: "Options",
    splits: Splits,
    group: ProcessGroup,
    hyp: Mapping[str, float],
    stride: int,
    disk: str,
    messages: list[str],
) -> TrainData:
    """Decode all images once, plan the batches, and make the first. Adds lines on it to `messages`.

    Raises UserError, the same on all workers, for images that cannot be decoded or do not fit.
    """
    images = []
    for name, examples in (("train", splits.train), ("val", splits.val)):
        sizes_wh = map_sizes(examples, partial(fit_size, imgsz=options.imgsz))
        threads = options.loaders or max(group.threads, 4)
        file, reduced = f"{disk}-{name}.rgb", name == "train"  # figures are of images decoded whole, as YOLOv5's are
        split_images, message = cache_images(examples, sizes_wh, options.cache, group, file, threads, reduced)
        images.append(split_images)
        messages.append(f"{name} {message}")
    batches = Batches(
        splits,
        images[0],
        hyp,
        imgsz=options.imgsz,
        stride=stride,
        batch_size=options.batch_size,
        seed=options.seed,
        rectangular=hyp["mosaic"] == 0 if options.rectangular is None else options.rectangular,
        continuous=options.steps is not None,
        is_finished=not group.device.startswith("cuda"),
    )
    image_weights = _weigh_images(options, splits, [0.0] * len(splits.names))
    first_batch = batches.make_example(batches.plan(0, image_weights)[: report.SAMPLE_COUNT])
    canvases_wh = validation.choose_canvases(splits.val, options.imgsz, stride)
    val_batches = ValidationBatches(images[1], splits.val, canvases_wh, len(splits.names))
    # Batches of the next epoch are made while validation's are.
    batch_bytes = 2 * 3 * options.imgsz**2 * options.batch_size // group.world_size
    workers = choose_workers(options.loaders, group, batch_bytes)
    loader, val_loader = Loader(batches, *workers), Loader(val_batches, *workers)
    return TrainData(splits, images[1], canvases_wh, val_batches, stride, batches, loader, val_loader, first_batch)


def _weigh_images(options: "Options", splits: Splits, average_precisions: list[float]) -> NDArray[np.float64] | None:
    """Return how often images are drawn (N,), by how well their classes are found so far; None: all equally often."""
    if not options.image_weights:
        return None
    return weigh_images(splits.train, len(splits.names), average_precisions)


def parallelize(state: TrainState) -> None:
    """Let the workers share gradients, and if the options say so batch normalization; compile where they say so."""
    if state.options.sync_batch_norm and state.group.world_size > 1:
        synchronize_batch_norm(state.model)
    if state.options.compile:
        state.model.compile()
    if state.group.world_size > 1:
        device_ids = [state.device] if state.device.type == "cuda" else None
        state.parallel_model = DistributedDataParallel(state.model, device_ids=device_ids)


def _announce(state: TrainState, messages: list[str], callback: TrainingCallback) -> None:
    """Say what will be trained on what, then the messages that have come up."""
    splits, batches = state.data.splits, state.data.batches
    if state.options.steps is None:
        counts = f"{batches.images_per_pass} images per epoch of {len(splits.train)}"
    else:
        counts = f"{len(state.schedule.ends) * state.options.batch_size} images in all of {len(splits.train)}"
    counts += f", {len(splits.val)} for validation"
    workers = f"{state.group.world_size} worker(s) on {state.device.type}, {str(state.dtype).removeprefix('torch.')}"
    start = f"from {state.options.weights}" if state.options.weights else "from scratch: with few images --weights help"
    callback.on_message(f"{counts}; {state.schedule.steps} optimizer steps; {workers}; {start}")
    for message in messages:
        callback.on_message(message)


def begin_epoch(state: TrainState, epoch: int) -> tuple[int, Iterator[Batch]]:
    """Return how many images are left of an epoch, and this worker's part of them, batch by batch, as it is made.

    Batches are planned when they are to be made: a plan of millions of images is not there as a whole.
    """
    batches = state.data.batches
    image_weights = _weigh_images(state.options, state.data.splits, state.average_precisions)
    numbers = range(max(state.batch, state.schedule.starts[epoch]), state.schedule.starts[epoch + 1])
    image_count = sum(batches.count(number, image_weights) for number in numbers)
    plan = (list(state.group.share(batches.plan(number, image_weights))) for number in numbers)
    return image_count, state.data.loader.load(plan)


def train_epoch(
    state: TrainState, callback: TrainingCallback, writer: CheckpointWriter | None, notices: NoticeBoard | None = None
) -> tuple[list[float], float]:
    """Train what is left of an epoch; return the means of its losses, and the images per second of all workers."""
    options, group, device = state.options, state.group, state.device
    start = time.perf_counter()
    first, end = state.schedule.starts[state.epoch : state.epoch + 2]
    step_count = int(state.schedule.ends[: state.batch].sum())
    image_count, batches = state.next_epoch or begin_epoch(state, state.epoch)
    state.next_epoch = None
    state.model.train()
    if state.chooser:
        state.chooser.resume()
    torch.backends.cudnn.benchmark = not (options.multi_scale or options.deterministic)  # tries each shape once
    for number, batch in enumerate(batches, state.batch):
        _set_rates(state.optimizer, state.schedule, number)
        images = torch.as_tensor(batch.images).to(device, non_blocking=True)
        if batch.mirrored is not None:
            tables = None if batch.tables is None else torch.as_tensor(batch.tables).to(device, non_blocking=True)
            images = finish_batch(images, tables, torch.as_tensor(batch.mirrored).to(device, non_blocking=True))
        pixels = images.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
        if options.multi_scale:
            rng = random_for(options.seed, Branch.SCALE, number)
            pixels = _resize_at_random(pixels, rng, options.imgsz, state.data.stride)
        is_step = bool(state.schedule.ends[number])
        with contextlib.nullcontext() if is_step or group.world_size == 1 else state.parallel_model.no_sync():
            with torch.autocast(device.type, state.dtype, enabled=state.dtype is not torch.float32):
                predictions = state.parallel_model(pixels)  # per level (B, anchors, rows, columns, 5 + classes)
            targets = torch.as_tensor(batch.targets).to(device, non_blocking=True)
            unlabelled = torch.as_tensor(batch.unlabelled).to(device) if batch.unlabelled.any() else None
            ignored = torch.as_tensor(batch.ignored).to(device) if len(batch.ignored) else None
            loss, parts = state.loss([level.float() for level in predictions], targets, unlabelled, ignored)
            # The workers' losses add up, but sharing gradients averages.
            state.scaler.scale(loss * group.world_size).backward()
        state.losses += parts
        state.batch = number + 1
        if state.chooser:
            state.chooser.count_batch()
        if is_step:
            _step(state)
            step_count += 1
            if options.save_every and step_count % options.save_every == 0 and state.batch < end:
                resumption.save_state(state, writer)
            if notices and step_count % resumption.NOTICE_STEPS[device.type] == 0 and state.batch < end:
                resumption.heed(state, notices, writer)
        if group.rank == 0:  # asking a GPU for its numbers at every batch would make it wait
            means = (state.losses / (state.batch - first)).tolist() if device.type == "cpu" else []
            callback.on_batch_end(state.epoch + 1, state.batch - first, end - first, means)
    means = (group.sum(state.losses.clone()) / (end - first)).tolist()
    torch.backends.cudnn.benchmark = False
    if state.chooser:
        state.chooser.pause()
    return means, image_count / (time.perf_counter() - start)


def _set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, batch: int) -> None:
    """Give the optimizer's groups (the first has the biases, as YOLOv5 makes them) the rates of a batch."""
    rates = schedule.compute_rates(batch)
    for index, parameters in enumerate(optimizer.param_groups):
        parameters["lr"] = rates.weights if index else rates.biases
        if "momentum" in parameters:
            parameters["momentum"] = rates.momentum


def _resize_at_random(pixels: Tensor, rng: np.random.Generator, imgsz: int, stride: int) -> Tensor:
    """Resize a batch to half to one and a half times `imgsz`, in multiples of the stride, as YOLOv5."""
    size = int(rng.integers(imgsz // 2, imgsz * 3 // 2 + stride)) // stride * stride
    factor = size / max(pixels.shape[2:])
    shape = [math.ceil(side * factor / stride) * stride for side in pixels.shape[2:]]
    return torch.nn.functional.interpolate(pixels, shape, mode="bilinear", align_corners=False)


def _step(state: TrainState) -> None:
    """Move the weights along the gradients that have added up, and the moving average after them."""
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 10.0)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.average.update()


def serialize_average(state: TrainState) -> bytes:
    """Return the averaged weights as they are now, as a file's content; empty but on rank 0."""
    if state.group.rank:
        return b""
    state.average.describe(state.model)
    return checkpoints.serialize_weights(state.average.model, state.epoch)


def validate_epoch(state: TrainState, weights: bytes) -> tuple[dict[str, float], list[MatchedImage]]:
    """Judge the weights after this epoch, and note whether they are the best.

    Return their columns of results.csv, and the matched detections of the validation images.
    """
    names = state.data.splits.names
    results, losses = validate(state, weights)
    matches = [result.match() for result in results]
    figures = metrics.measure(matches, names)
    by_class = {row.name: row.map50_95 for row in figures.classes}
    state.average_precisions = [by_class.get(name, 0.0) for name in names]
    if state.options.best_by == "recall":
        fitness = validation.measure_coverage(results, state.data.splits.val, len(names), state.options.false_per_image)
    else:
        fitness = validation.compute_fitness(figures.mean)
    if fitness == 0:
        state.best_epoch = state.epoch + 1  # patience begins with the first object that is found
    if fitness > state.best_fitness:
        state.best_fitness, state.best_epoch, state.best_checkpoint = fitness, state.epoch + 1, weights
        state.best_results = results
    columns = {name: getattr(figures.mean, name) for name in ("precision", "recall", "map50", "map50_95")}
    columns["fitness"] = fitness
    return columns | {f"val_{name}": loss for name, loss in zip(_LOSSES, losses, strict=True)}, matches


def validate(state: TrainState, weights: bytes) -> tuple[list[ValidationResult], list[float]]:
    """Detect in all validation images, each worker in its share; return the results, and the means of the losses."""
    options, data, group = state.options, state.data, state.group
    plan = list(data.val_batches.plan(range(len(data.splits.val))[group.rank :: group.world_size], options.batch_size))
    worker_results, losses = validation.predict(
        weights,
        zip(plan, data.val_loader.load(plan), strict=True),
        data.splits.val,
        data.val_images.sizes_wh,
        data.val_canvases_wh,
        options.imgsz,
        group.device,
        loss=state.val_loss,
    )
    results = [result for share in group.gather(worker_results) for result in share]
    means: list[float] = (group.sum(losses) / len(data.splits.val)).tolist()
    return sorted(results, key=lambda result: result.number), means
