"""The training loop: YOLOv5's model, optimizer and moving average, our data and loss, one worker's view, from top to
bottom.

It knows nothing of Ray: `train` runs alone, or as one of several processes of a torch process group. What it leaves
goes to a `Writer`, what people want to see meanwhile to a `Watch`.
"""

import contextlib
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from depers import (
    checkpoints,
    memory,
    metrics,
    picture_cache,
    storage,
    training_data,
    training_model,
    training_report,
    validation,
    yolo,
)
from depers.boxes import letterbox
from depers.checkpoints import Writer
from depers.collective import Place, synchronize
from depers.detector import cpu_has_bfloat16
from depers.loss import Loss
from depers.options import UserError
from depers.picture_cache import Pictures
from depers.schedule import Schedule, make_schedule
from depers.training_data import Example, Maker, Making, Splits

if TYPE_CHECKING:
    from depers.train import Options

_SHUFFLE, _SCALE = 8, 9  # branches of the seed tree, beside those of `training_data`
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

    `disk`: a name, without suffix, for the files of decoded pictures that all workers of the node share. Raises
    UserError, the same on all workers, for what cannot be trained.
    """
    watch = watch or Unwatched()
    device = torch.device(here.device)
    if here.threads:
        torch.set_num_threads(here.threads)
    strength = yolo.hyperparameters(options.hyperparameters)
    if options.learning_rate is not None:
        strength["lr0"] = options.learning_rate
    rectangular = strength["mosaic"] == 0 if options.rectangular is None else options.rectangular

    # The model, the same on every worker; then the pictures, all of which are decoded once before the first epoch.
    lines: list[str] = []
    sizes_wh = [picture_cache.scaled_size(example.size_wh, options.imgsz) for example in data.train]
    boxes = training_model.box_sizes(data.train, sizes_wh)
    model = training_model.prepare(options, data.names, boxes, strength, lines)
    train_pictures = _pictures(options, data.train, here, f"{disk}-train", lines)
    val_pictures = _pictures(options, data.val, here, f"{disk}-val", lines)
    stride = max(int(model.stride.max()), 32)
    model = model.to(device, memory_format=torch.channels_last if options.channels_last else torch.contiguous_format)

    # The course of the training, and the average over its last twentieth, but never over more than YOLOv5's own.
    nominal = options.nominal_batch or (options.batch_size if options.steps else 64)
    pictures_per_pass = len(training_data.order_of_pass(data.parts, options.seed, 0))
    schedule = make_schedule(
        epochs=options.epochs,
        batches_per_pass=-(-pictures_per_pass // options.batch_size),
        accumulate=max(round(nominal / options.batch_size), 1),
        strength=strength,
        steps=options.steps,
        warmup_epochs=options.warmup_epochs,
        cosine=options.schedule == "cosine",
    )
    parts = yolo.training_parts()
    decay = strength["weight_decay"] * max(options.batch_size / nominal, 1)
    optimizer = parts.smart_optimizer(model, options.optimizer, strength["lr0"], strength["momentum"], decay)
    for group in optimizer.param_groups:
        group["fused"] = True  # one pass over all parameters: a third of the time of a step for each
    steps = schedule.steps
    ema = parts.ModelEMA(model, decay=min(0.9999, 1 - 1 / max(0.05 * steps, 10)), tau=min(2000, max(steps / 10, 1)))
    mixed = _MIXED[precision(options.precision, device)]
    scaler: Any = torch.amp.GradScaler(device.type, enabled=mixed is torch.float16)  # type: ignore[attr-defined]
    done, best, best_epoch, rows = 0, -1.0, 0, []
    found = [0.0] * len(data.names)  # average precision per class, for image weights
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
    unlabelled = training_data.unlabelled_mask(data.train, len(data.names))
    maker = Maker(train_pictures, data.train, strength, options.seed, rectangular)
    canvases = [_canvas(example, options.imgsz, stride, rectangular) for example in data.train]
    batches = _Batches(options, data, canvases, maker, unlabelled)
    val_canvases = validation.canvases(data.val, options.imgsz, stride)

    def validate(checkpoint: bytes) -> list[validation.Found]:
        """What a checkpoint finds in all validation pictures; every worker looks at its share."""
        members = list(range(len(data.val)))[here.rank :: here.world]
        args = (val_pictures, data.val, val_canvases, options.batch_size, options.imgsz, here.device)
        shares = here.gather(validation.predict(checkpoint, members, *args))
        return sorted((one for share in shares for one in share), key=lambda one: one.number)

    if here.rank == 0:
        counts = f"{pictures_per_pass} pictures per epoch of {len(data.train)}, {len(data.val)} for validation"
        how = f"{here.world} worker(s) on {device.type}, {str(mixed).removeprefix('torch.')}"
        watch.say(f"{counts}; {steps} optimizer steps; {how}")
        for line in lines:
            watch.say(line)
        if writer and not done:
            writer.put({"train_batch.jpg": training_report.labelled_batch(batches.first(), data.names)})
    best_checkpoint = b""
    if done and here.rank == 0:
        best_checkpoint = storage.read_bytes(storage.join(options.out, "weights", "best.pt"))

    for epoch in range(done, options.epochs):
        if epoch - best_epoch >= options.patience > 0:
            if here.rank == 0:
                watch.say(f"stopped: epoch {best_epoch} was better than the {options.patience} after it")
            break
        started = time.perf_counter()
        first, end = schedule.starts[epoch : epoch + 2]
        chances = training_model.image_chances(data.train, len(data.names), found) if options.image_weights else None
        plan = [batches.plan(number, chances) for number in range(first, end)]
        model.train()
        losses = torch.zeros(3, device=device)
        mine = [here.share(members) for members in plan]
        for number, batch in enumerate(training_data.batches(mine, options.loader_threads), first):
            _set_rates(optimizer, schedule, number)
            pixels = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            if options.multi_scale:
                pixels = _resized(pixels, training_data.random_for(options.seed, _SCALE, number), options.imgsz, stride)
            stepping = bool(schedule.ends[number])
            with contextlib.nullcontext() if stepping or here.world == 1 else trained.no_sync():
                with torch.autocast(device.type, mixed, enabled=mixed is not torch.float32):
                    predictions = trained(pixels)  # per level (B, anchors, rows, columns, 5 + classes)
                targets = torch.from_numpy(batch.targets).to(device)
                hidden = torch.from_numpy(batch.unlabelled).to(device) if batch.unlabelled.any() else None
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
        means = (here.total(losses) / len(plan)).tolist()
        seconds = time.perf_counter() - started
        if not np.isfinite(sum(means)):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower --learning-rate")

        ema.update_attr(model, include=("yaml", "nc", "names", "stride"))
        checkpoint = here.gather(_checkpoint_bytes(ema.ema, epoch) if here.rank == 0 else b"")[0]
        measured = metrics.measure([one.matched() for one in validate(checkpoint)], data.names)
        average = {row.name: row.map50_95 for row in measured.classes}
        found = [average.get(name, 0.0) for name in data.names]
        fitness = validation.fitness(measured.mean)
        better = fitness > best
        if better:
            best, best_epoch, best_checkpoint = fitness, epoch + 1, checkpoint
        row = {"epoch": epoch + 1.0, **dict(zip(("box", "obj", "cls"), means, strict=True))}
        row |= {name: getattr(measured.mean, name) for name in ("precision", "recall", "map50", "map50_95")}
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

    # The best weights once more, on all validation pictures, for the report.
    shown = validate(here.gather(best_checkpoint)[0])
    if writer:
        writer.put(
            {"report.html": training_report.make(rows, data, shown, val_pictures, val_canvases, batches.first())}
        )


def precision(wanted: str, device: torch.device) -> str:
    """The arithmetic: what is wanted; `auto` takes bfloat16 where it is native. Raises UserError."""
    if wanted == "float16" and device.type == "cpu":
        raise UserError("--precision float16 is for GPUs; a CPU has float32, and where it is native, bfloat16")
    if wanted != "auto":
        return wanted
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else cpu_has_bfloat16()
    return "bfloat16" if native else "float16" if device.type == "cuda" else "float32"


def _pictures(options: "Options", examples: Sequence[Example], here: Place, disk: str, lines: list[str]) -> Pictures:
    """All pictures of a split, decoded once and kept where they fit. Raises UserError on all workers."""
    paths = [example.path for example in examples]
    sizes_wh = [picture_cache.scaled_size(example.size_wh, options.imgsz) for example in examples]
    size = sum(3 * width * height for width, height in sizes_wh)
    problem, pictures = None, None
    free = here.gather((memory.free_memory(), memory.free_disk(Path(disk).parent)))
    try:
        planned = picture_cache.plan(
            options.cache, size, here.local_world, min(memory for memory, _ in free), min(disk for _, disk in free)
        )
        if planned.kind == "disk" and here.local_rank == 0:
            picture_cache.allocate(f"{disk}.rgb", size)
    except UserError as error:
        problem = error
    here.agree(problem)
    lines.append(f"pictures kept: {planned.kind} ({planned.reason})")
    pictures = Pictures(paths, sizes_wh, planned.kind, f"{disk}.rgb")
    here.gather(None)  # every worker of the node has the file
    if planned.kind == "disk" and here.local_rank == 0:
        Path(f"{disk}.rgb").unlink()  # it lasts as long as a worker has it
    everything = range(len(paths))
    mine = {"ram": everything, "disk": everything[here.local_rank :: here.local_world]}
    try:
        pictures.fill(mine.get(planned.kind, everything[here.rank :: here.world]), options.loader_threads)
    except UserError as error:
        problem = error
    here.agree(problem)
    return pictures


class _Batches:
    """What makes the batches of a training, by their number; those of one pass are planned together."""

    def __init__(
        self,
        options: "Options",
        data: Splits,
        canvases_wh: Sequence[tuple[int, int]],
        maker: Maker,
        unlabelled: NDArray[np.bool_],
    ) -> None:
        self._options, self._data, self._canvases, self._maker = options, data, canvases_wh, maker
        self._unlabelled = unlabelled
        self._groups = [example.labelled for example in data.train]
        self._pass = -1
        self._planned: list[tuple[tuple[int, int], list[int]]] = []
        self._indices: NDArray[np.int64] = np.zeros((0, 8), np.int64)

    def plan(self, number: int, chances: NDArray[np.float64] | None = None) -> Making:
        """Batch `number` of the training. `chances`: of the pictures, where a pass begins."""
        per_pass = len(self._planned)
        if self._pass < 0 or number // per_pass != self._pass:
            self._begin(number // per_pass if per_pass else 0, chances)
            if number // len(self._planned) != self._pass:  # the first pass has told how long a pass is
                self._begin(number // len(self._planned), chances)
        number_in_pass = number % len(self._planned)
        canvas, rows = self._planned[number_in_pass]
        return [
            (partial(self._maker, self._pass, row, self._indices[row].tolist(), canvas), self._unlabelled[index])
            for row in rows
            for index in self._indices[row, :1]
        ]

    def first(self) -> Making:
        """The training's first batch."""
        self._pass = -1
        return self.plan(0)

    def _begin(self, number: int, chances: NDArray[np.float64] | None) -> None:
        seed = self._options.seed
        order = training_data.order_of_pass(self._data.parts, seed, number, chances)
        partners = training_data.partners_of_pass(order, self._groups, 7, seed, number)
        self._indices = np.column_stack([order, partners])
        rng = training_data.random_for(seed, _SHUFFLE, number)
        self._planned = training_data.plan_batches(order.tolist(), self._canvases, self._options.batch_size, rng)
        self._pass = number


def _canvas(example: Example, imgsz: int, stride: int, rectangular: bool) -> tuple[int, int]:
    return letterbox(example.size_wh, imgsz, stride).canvas_wh if rectangular else (imgsz, imgsz)


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
    files |= {"weights/last.pt": checkpoint, "results.csv": training_report.csv(rows).encode()}
    files |= {training_report.EVENTS: partial(training_report.tensorboard, rows)}
    writer.put({**files, checkpoints.STATE: partial(checkpoints.to_bytes, kept)})


def _checkpoint_bytes(model: Any, epoch: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        # Laid out as YOLOv5 expects weights: its layer fusion cannot read channels_last.
        yolo.save(deepcopy(model).to(memory_format=torch.contiguous_format), path, epoch)
        return path.read_bytes()
