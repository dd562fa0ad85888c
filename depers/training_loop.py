"""The training loop: YOLOv5's model, loss and moving average, our data, one worker's view from top to bottom.

It knows nothing of Ray: `train` runs alone, or as one of several processes of a torch process group, and hands its
state to `report` after every epoch.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from depers import metrics, storage, training_data
from depers.boxes import letterbox
from depers.options import UserError
from depers.training_data import Example, Pictures

if TYPE_CHECKING:
    from depers.train import Options


class Place(NamedTuple):
    """Where a worker runs: its `rank` among `world` processes that train together, and its torch `device`."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    threads: int = 0


Report = Callable[[dict[str, float], dict[str, Any] | None], None]
"""Called by every worker after every epoch with the metrics and, from rank 0, the state to resume from."""


def learning_rate(step: int, steps: int, warmup: int) -> float:
    """The share of the peak learning rate at `step` of `steps`: a straight rise, then a cosine down to 1 %."""
    if step < warmup:
        return (step + 1) / warmup
    passed = (step - warmup) / max(steps - warmup, 1)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * passed)) / 2


def train(
    options: "Options",
    names: Sequence[str],
    splits: Mapping[str, Sequence[Example]],
    here: Place,
    state: dict[str, Any] | None,
    report: Report,
) -> None:
    """Trains in this process, as one of `here.world`; `state` is what an earlier call reported last."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from depers import yolo
    from depers.detector import cpu_has_bfloat16

    parts, strength = yolo.training_parts(), yolo.hyperparameters(options.hyperparameters)
    if here.threads:
        torch.set_num_threads(here.threads)
    torch.manual_seed(options.seed)
    device = torch.device(here.device)

    # Data: pictures scaled and kept in memory, their canvases, and the anchors that fit their boxes.
    train_set, val_set = (Pictures(splits[name], options.imgsz, options.cache, here.world) for name in ("train", "val"))
    for pictures in (train_set, val_set):
        pictures.check(options.loader_threads)
    canvases = [letterbox(example.size_wh, options.imgsz).canvas_wh for example in train_set.examples]
    model: Any = yolo.build(options.model, names)
    sizes = [e.boxes_xywh[:, 2:] * wh for e, wh in zip(train_set.examples, train_set.sizes_wh, strict=True)]
    if options.weights:
        _transfer(model, yolo.load(options.weights, storage.read_bytes(options.weights)))
    else:
        anchors = training_data.fit_anchors(np.concatenate(sizes), model.model[-1].nl, options.seed)
        torch.manual_seed(options.seed)
        model = yolo.build(options.model, names, anchors)

    # The loss expects its gains on the model, scaled to the number of levels, classes and pixels.
    levels = model.model[-1].nl
    model.hyp = {
        **strength,
        "box": strength["box"] * 3 / levels,
        "cls": strength["cls"] * len(names) / 80 * 3 / levels,
        "obj": strength["obj"] * (options.imgsz / 640) ** 2 * 3 / levels,
        "label_smoothing": 0.0,
    }
    model = model.to(device, memory_format=torch.channels_last)
    compute_loss = parts.ComputeLoss(model)
    optimizer = parts.smart_optimizer(
        model, options.optimizer, options.learning_rate, strength["momentum"], strength["weight_decay"]
    )
    for group in optimizer.param_groups:
        group["fused"] = True  # one pass over all parameters: a third of the time of a step for each

    # An average over the last twentieth of the run, but never more than YOLOv5's own.
    per_pass = len(training_data.plan_batches(canvases, options.batch_size, None))
    steps = options.steps or options.epochs * per_pass
    starts = [steps * epoch // options.epochs for epoch in range(options.epochs + 1)]
    warmup = round(options.warmup_epochs * steps / options.epochs)
    ema = parts.ModelEMA(model, decay=min(0.9999, 1 - 1 / max(0.05 * steps, 10)), tau=min(2000, max(steps / 10, 1)))
    first, best, rows = 0, -1.0, []
    if state:
        model.load_state_dict(state["model"])
        ema.ema.load_state_dict(state["ema"])
        ema.updates = state["updates"]
        optimizer.load_state_dict(state["optimizer"])
        first, best, rows = state["epoch"] + 1, state["best"], state["rows"]
    trained = model
    if here.world > 1:
        trained = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bfloat16()

    for epoch in range(first, options.epochs):
        started = time.perf_counter()
        plan: list[list[int]] = []  # this epoch's part of endless passes over all pictures
        for number in range(starts[epoch] // per_pass, (starts[epoch + 1] - 1) // per_pass + 1):
            rng = training_data.random_for(options.seed, 1, number)
            one = training_data.plan_batches(canvases, options.batch_size, rng)
            plan += one[max(starts[epoch] - number * per_pass, 0) : starts[epoch + 1] - number * per_pass]
        mine = [_share(members, here) for members in plan]

        def make(index: int, epoch: int = epoch) -> tuple[Any, Any]:
            rng = training_data.random_for(options.seed, 2, epoch, index)
            return training_data.place(train_set(index), train_set.examples[index], canvases[index], rng, strength)

        model.train()
        losses = torch.zeros(3, device=device)
        for number, batch in enumerate(training_data.batches(mine, make, options.loader_threads)):
            step = starts[epoch] + number
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * learning_rate(step, steps, warmup)
            pixels = torch.from_numpy(batch.images).to(device).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                predictions = trained(pixels)  # per level (B, anchors, rows, columns, 5 + classes)
            targets = torch.from_numpy(batch.targets).to(device)
            loss, items = compute_loss([level.float() for level in predictions], targets)
            (loss * here.world).backward()  # the loss is a sum over pictures; sharing gradients averages them
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(model)
            losses += items
        seconds = time.perf_counter() - started
        row = dict(zip(("box", "obj", "cls"), (losses / len(plan)).tolist(), strict=True))
        if not np.isfinite(sum(row.values())):
            raise UserError(f"the loss is no longer a number in epoch {epoch + 1}: lower --learning-rate")
        checkpoint: dict[str, Any] | None = None
        if here.rank == 0:
            ema.update_attr(model, include=("yaml", "nc", "names", "stride"))
            data = _checkpoint_bytes(ema.ema, epoch)
            mean = validate(data, val_set, names, options.imgsz, options.batch_size).mean
            row = {"epoch": epoch + 1, **row, "map50": mean.map50, "map50_95": mean.map50_95}
            row |= {"images_per_s": sum(map(len, plan)) / seconds, "seconds": time.perf_counter() - started}
            rows.append(row)
            fitness = 0.1 * mean.map50 + 0.9 * mean.map50_95  # as YOLOv5 weighs them
            if fitness > best:
                best = fitness
                storage.write_bytes(storage.join(options.out, "weights", "best.pt"), data)
            storage.write_bytes(storage.join(options.out, "weights", "last.pt"), data)
            storage.write_bytes(storage.join(options.out, "results.csv"), _csv(rows).encode())
            checkpoint = {"epoch": epoch, "best": best, "rows": rows, "updates": ema.updates}
            checkpoint |= {"model": model.state_dict(), "ema": ema.ema.state_dict()}
            checkpoint["optimizer"] = optimizer.state_dict()
        report(row, checkpoint)


def _share(members: list[int], here: Place) -> list[int]:
    """This worker's part of a batch; every worker has equally many, repeating some if need be."""
    missing = -len(members) % here.world
    return (members + (members * missing)[:missing])[here.rank :: here.world]


def validate(
    checkpoint: bytes, pictures: Pictures, names: Sequence[str], imgsz: int, batch_size: int
) -> metrics.Metrics:
    """The figures of a checkpoint on letterboxed pictures, by the detector that `depers detect` uses."""
    from depers.detector import Detector
    from depers.prediction import Prediction, Weights

    how = Prediction(imgsz, confidence=0.001, iou_threshold=0.6, max_detections=300, multi_label=True)
    detector = Detector([Weights("last.pt", {})], [checkpoint], [], how)
    canvases = [letterbox(example.size_wh, imgsz).canvas_wh for example in pictures.examples]
    matched = []
    for members in training_data.plan_batches(canvases, batch_size, None):
        placed = [training_data.place(pictures(i), pictures.examples[i], canvases[i]) for i in members]
        found = detector([image for image, _ in placed])
        for i, (_, wanted), one in zip(members, placed, found, strict=True):
            half = wanted[:, 3:] / 2
            boxes = np.concatenate([wanted[:, 1:3] - half, wanted[:, 1:3] + half], 1)
            boxes *= np.array(canvases[i] * 2, np.float32)
            label_ids = wanted[:, 0].astype(np.int64)
            correct = metrics.match(one.boxes_xyxy, one.class_ids, boxes, label_ids)
            matched.append(metrics.Picture(correct, one.confidences, one.class_ids, label_ids))
    return metrics.measure(matched, names)


def _checkpoint_bytes(model: Any, epoch: int) -> bytes:
    import torch

    from depers import yolo

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        # Laid out as YOLOv5 expects weights: its layer fusion cannot read channels_last.
        yolo.save(deepcopy(model).to(memory_format=torch.contiguous_format), path, epoch)
        return path.read_bytes()


def _transfer(model: Any, source: Any) -> None:
    """Takes over the weights that fit by name and shape, and the anchors, which belong to them."""
    target, given = model.state_dict(), source.state_dict()
    fitting = {name: value for name, value in given.items() if name in target and value.shape == target[name].shape}
    if not any(name.endswith("conv.weight") for name in fitting):
        raise UserError("--weights: no layer of the checkpoint fits --model; is it another size of YOLOv5?")
    model.load_state_dict(fitting, strict=False)


def _csv(rows: Sequence[Mapping[str, float]]) -> str:
    lines = [",".join(rows[0])]
    lines += [",".join(f"{value:.6g}" for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"
