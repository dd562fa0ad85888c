"""The training loop: YOLOv5's model, optimizer and moving average, our data and loss, one worker's view, from top to
bottom.

It knows nothing of Ray: `train` runs alone, or as one of several processes of a torch process group. What it leaves
goes to a `Writer`, what people want to see meanwhile to a `Watch`.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from depers import storage
from depers.detection import yolo
from depers.detection.detector import cpu_has_bfloat16
from depers.errors import UserError
from depers.evaluation import metrics
from depers.seeds import Branch, random_for
from depers.training import checkpoints, report, validation
from depers.training import image_cache as image_cache
from depers.training import loader as training_loader
from depers.training import model as training_model
from depers.training.batches import Batch, Batches, Planned
from depers.training.checkpoints import Writer
from depers.training.data import Splits
from depers.training.loss import Loss
from depers.training.process_group import Place, synchronize
from depers.training.schedule import Schedule, make_schedule

if TYPE_CHECKING:
    from depers.training.options import Options

_MIXED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Watch(Protocol):
    """Who follows a training; rank 0 calls it."""

    def say(self, line: str) -> None:
        """A line for people."""

    def batch(self, epoch: int, number: int, count: int, losses: Sequence[float]) -> None:
        """Batch `number` of `count` of an epoch is done; the means of the losses (box, obj, cls) so far, if known."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """An epoch is done, with its row of results.csv."""


class Unwatched:
    """A `Watch` that sees nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    def batch(self, epoch: int, number: int, count: int, losses: Sequence[float]) -> None:
        """Nothing."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Nothing."""


def train(
    options: "Options",
    data: Splits,
    here: Place,
    state: dict[str, Any] | None = None,
    writer: Writer | None = None,
    watch: Watch | None = None,
    disk: str = "",
) -> None:
    """Trains in this process, as one of `here.world`; `state` is what an earlier call has written last.

    `disk`: a name, without suffix, for the files of decoded images that all workers of the node share. Raises
    UserError, the same on all workers, for what cannot be trained.
    """
    watch = watch or Unwatched()
    device = torch.device(here.device)
    if here.threads:
        torch.set_num_threads(here.threads)
    mixed = _MIXED[precision(options.precision, device)]
    strength = yolo.hyperparameters(options.hyperparameters)
    if options.learning_rate is not None:
        strength["lr0"] = options.learning_rate

    # The model, the same on every worker; then the images, all of which are decoded once before the first epoch.
    lines: list[str] = []
    sizes_wh = [image_cache.scaled_size(example.size_wh, options.imgsz) for example in data.train]
    boxes = training_model.box_sizes(data.train, sizes_wh)
    model = training_model.prepare(options, data.names, boxes, strength, lines)
    images = []
    for name, split in (("train", data.train), ("val", data.val)):
        scaled = [image_cache.scaled_size(example.size_wh, options.imgsz) for example in split]
        paths, file = [example.path for example in split], f"{disk}-{name}.rgb"
        own, line = image_cache.prepare(
            paths, scaled, options.cache, here, file, options.loaders or max(here.threads, 4)
        )
        images.append(own)
        lines.append(f"{name} {line}")
    stride = max(int(model.stride.max()), 32)
    model = model.to(device, memory_format=torch.channels_last if options.channels_last else torch.contiguous_format)

    # The course of the training, and YOLOv5's moving average.
    nominal = options.nominal_batch or (options.batch_size if options.steps else 64)
    batches = Batches(
        data,
        images[0],
        strength,
        imgsz=options.imgsz,
        stride=stride,
        batch_size=options.batch_size,
        seed=options.seed,
        rectangular=strength["mosaic"] == 0 if options.rectangular is None else options.rectangular,
    )

    def chances_of() -> NDArray[np.float64] | None:
        """Of the images to be drawn, by what is found so far; nothing is at first, even where a run goes on."""
        return training_model.image_chances(data.train, len(data.names), found) if options.image_weights else None

    found = [0.0] * len(data.names)  # average precision per class
    first_batch = batches.batch(batches.plan(0, chances_of())[: report.SHOWN])
    makers, by_processes = training_loader.makers(
        options.loaders, here, 3 * options.imgsz**2 * options.batch_size // here.world
    )
    loader = training_loader.Loader(batches, makers, by_processes)
    accumulate = max(round(nominal / options.batch_size), 1)
    schedule = make_schedule(
        epochs=options.epochs,
        batches_per_pass=batches.per_pass,
        accumulate=accumulate,
        strength=strength,
        steps=options.steps,
        warmup_epochs=options.warmup_epochs,
        cosine=options.schedule == "cosine",
    )
    parts = yolo.training_parts()
    decay = strength["weight_decay"] * options.batch_size * accumulate / nominal
    optimizer = parts.smart_optimizer(model, options.optimizer, strength["lr0"], strength["momentum"], decay)
    for group in optimizer.param_groups:
        group["fused"] = True  # one pass over all parameters: a third of the time of a step for each
    steps = schedule.steps
    ema = parts.ModelEMA(model)  # over few steps it averages little: a short training's last weights are its best
    scaler: Any = torch.amp.GradScaler(device.type, enabled=mixed is torch.float16)  # type: ignore[attr-defined]
    done, best, best_epoch, rows = 0, -1.0, 0, []
    if state:
        model.load_state_dict(state["model"])
        ema.ema.load_state_dict(state["ema"])
        ema.updates = state["updates"]
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        checkpoints.set_random_state(state["random"])
        done, rows, found = state["epoch"], state["rows"], state["found"]
        best, best_epoch = state["best"], state["best_epoch"]
        lines.append(f"going on after epoch {done}")
    if options.sync_batch_norm and here.world > 1:
        synchronize(model)
    if options.compile:
        model.compile()
    trained = model
    if here.world > 1:
        trained = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    compute_loss = Loss(model, data.names, here.total if here.world > 1 else None)
    own_loss = Loss(model, data.names)  # of a worker's validation images: the others have other batches
    val_canvases = validation.canvases(data.val, options.imgsz, stride)

    def validate(checkpoint: bytes) -> tuple[list[validation.Found], list[float]]:
        """What a checkpoint finds in all validation images, and its losses; every worker looks at its share."""
        members = list(range(len(data.val)))[here.rank :: here.world]
        args = (images[1], data.val, val_canvases, options.batch_size, options.imgsz, here.device)
        seen, losses = validation.predict(checkpoint, members, *args, loss=own_loss)
        everything = sorted((one for share in here.gather(seen) for one in share), key=lambda one: one.number)
        return everything, (here.total(losses) / len(data.val)).tolist()

    if here.rank == 0:
        counts = f"{batches.images_per_pass} images per epoch of {len(data.train)}, {len(data.val)} for validation"
        how = f"{here.world} worker(s) on {device.type}, {str(mixed).removeprefix('torch.')}"
        watch.say(f"{counts}; {steps} optimizer steps; {how}")
        for line in lines:
            watch.say(line)
        if writer and not done:
            writer.put({"train_batch.jpg": report.labelled_batch(first_batch, data.names)})
    best_checkpoint = b""
    if done and here.rank == 0:
        best_checkpoint = storage.read_bytes(storage.join(options.out, "weights", "best.pt"))

    def begin(epoch: int) -> tuple[list[list[Planned]], Iterator[Batch]]:
        """What an epoch shows, and its batches, which are made from now on."""
        chances = chances_of()
        plan = [batches.plan(number, chances) for number in range(*schedule.starts[epoch : epoch + 2])]
        return plan, loader([here.share(members) for members in plan])

    begun = None
    for epoch in range(done, options.epochs):
        if epoch - best_epoch >= options.patience > 0:
            if here.rank == 0:
                watch.say(f"stopped: epoch {best_epoch} was better than the {options.patience} after it")
            break
        started = time.perf_counter()
        first, end = schedule.starts[epoch : epoch + 2]
        plan, made = begun or begin(epoch)
        model.train()
        torch.backends.cudnn.benchmark = not options.multi_scale  # tries what is fastest, once per shape
        losses = torch.zeros(3, device=device)
        for number, batch in enumerate(made, first):
            _set_rates(optimizer, schedule, number)
            inputs = torch.as_tensor(batch.images).to(device, non_blocking=True)
            pixels = inputs.permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            if options.multi_scale:
                pixels = _resized(pixels, random_for(options.seed, Branch.SCALE, number), options.imgsz, stride)
            stepping = bool(schedule.ends[number])
            with contextlib.nullcontext() if stepping or here.world == 1 else trained.no_sync():
                with torch.autocast(device.type, mixed, enabled=mixed is not torch.float32):
                    predictions = trained(pixels)  # per level (B, anchors, rows, columns, 5 + classes)
                targets = torch.as_tensor(batch.targets).to(device, non_blocking=True)
                hidden = torch.as_tensor(batch.unlabelled).to(device) if batch.unlabelled.any() else None
                loss: Any
                loss, items = compute_loss([level.float() for level in predictions], targets, hidden)
                scaler.scale(loss * here.world).backward()  # the workers' losses add up, sharing gradients averages
            if stepping:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                ema.update(model)
            losses += items
            if here.rank == 0:  # asking a GPU for its numbers at every batch would make it wait
                means = (losses / (number - first + 1)).tolist() if device.type == "cpu" else []
                watch.batch(epoch + 1, number - first + 1, end - first, means)
        means = (here.total(losses) / (end - first)).tolist()
        seconds = time.perf_counter() - started
        if not np.isfinite(sum(means)):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower --learning-rate")

        torch.backends.cudnn.benchmark = False
        # Made while this epoch is judged; not where what is found decides what comes next.
        begun = None if options.image_weights or epoch + 1 == options.epochs else begin(epoch + 1)
        ema.update_attr(model, include=("yaml", "nc", "names", "stride"))
        checkpoint = here.gather(_checkpoint_bytes(ema.ema, epoch) if here.rank == 0 else b"")[0]
        seen, val_means = validate(checkpoint)
        measured = metrics.measure([one.matched() for one in seen], data.names)
        average = {row.name: row.map50_95 for row in measured.classes}
        found = [average.get(name, 0.0) for name in data.names]
        fitness = validation.fitness(measured.mean)
        better = fitness > best
        if fitness == 0:
            best_epoch = epoch + 1  # patience begins with the first thing found
        if better:
            best, best_epoch, best_checkpoint = fitness, epoch + 1, checkpoint
        row = {"epoch": epoch + 1.0, **dict(zip(("box", "obj", "cls"), means, strict=True))}
        row |= {name: getattr(measured.mean, name) for name in ("precision", "recall", "map50", "map50_95")}
        row |= dict(zip(("val_box", "val_obj", "val_cls"), val_means, strict=True))
        row |= {"learning_rate": schedule.rates(end - 1).weights, "images_per_s": sum(map(len, plan)) / seconds}
        rows.append(row | {"seconds": time.perf_counter() - started})
        if here.rank == 0:
            watch.epoch(rows[-1])
        if writer:
            kept = {"model": model.state_dict(), "ema": ema.ema.state_dict(), "updates": ema.updates}
            kept |= {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
            kept |= {"random": checkpoints.random_state(), "found": found, "rows": list(rows)}
            kept |= {"epoch": epoch + 1, "best": best, "best_epoch": best_epoch}
            _keep(writer, checkpoints.snapshot(kept), checkpoint, better)

    # The best weights once more, on all validation images, for the report.
    shown, _ = validate(here.gather(best_checkpoint if here.rank == 0 else b"")[0])
    if writer:
        writer.put({"report.html": report.make(rows, data, shown, images[1], val_canvases, first_batch)})


def precision(wanted: str, device: torch.device) -> str:
    """The arithmetic: what is wanted; `auto` takes bfloat16 where it is native. Raises UserError."""
    if wanted == "float16" and device.type == "cpu":
        raise UserError("--precision float16 is for GPUs; a CPU has float32, and where it is native, bfloat16")
    if wanted != "auto":
        return wanted
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bfloat16()
    return "bfloat16" if native else "float16" if device.type == "cuda" else "float32"


def _set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, number: int) -> None:
    """Gives the optimizer's groups (the first has the biases, as YOLOv5 makes them) the rates of a batch."""
    rates = schedule.rates(number)
    for index, group in enumerate(optimizer.param_groups):
        group["lr"] = rates.weights if index else rates.biases
        if "momentum" in group:
            group["momentum"] = rates.momentum


def _resized(pixels: torch.Tensor, rng: np.random.Generator, imgsz: int, stride: int) -> torch.Tensor:
    """A batch at a random size from half to one and a half times `imgsz`, in multiples of the stride, as YOLOv5's."""
    size = int(rng.integers(imgsz // 2, imgsz * 3 // 2 + stride)) // stride * stride
    factor = size / max(pixels.shape[2:])
    shape = [math.ceil(side * factor / stride) * stride for side in pixels.shape[2:]]
    return torch.nn.functional.interpolate(pixels, shape, mode="bilinear", align_corners=False)


def _keep(writer: Writer, kept: dict[str, Any], checkpoint: bytes, better: bool) -> None:
    """Hands over what an epoch leaves: weights first, then what people read, and last the state to go on from."""
    rows = kept["rows"]
    files: dict[str, Any] = {"weights/best.pt": checkpoint} if better else {}
    files |= {"weights/last.pt": checkpoint, "results.csv": report.csv(rows).encode()}
    files |= {report.EVENTS: partial(report.tensorboard, rows)}
    writer.put({**files, checkpoints.STATE: partial(checkpoints.to_bytes, kept)})


def _checkpoint_bytes(model: Any, epoch: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        # Laid out as YOLOv5 expects weights: its layer fusion cannot read channels_last.
        yolo.save(deepcopy(model).to(memory_format=torch.contiguous_format), path, epoch)
        return path.read_bytes()
