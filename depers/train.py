"""Train a YOLOv5 detector: a loop of our own over the package's parts, spread over workers by Ray Train.

Reads a dataset folder (data.yaml, images/, labels/), writes OUT/weights/best.pt and last.pt (ordinary YOLOv5
checkpoints) and OUT/results.csv. The same command after an interruption goes on with the epoch that was cut off.
"""

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from depers import labels, storage
from depers.options import UserError, argument, option
from depers.training_data import Example, read_example

STRIDE = 32
_READERS = 16  # threads that mostly wait for storage
_MAY_CHANGE = ("out", "workers", "device", "loader_threads", "cache")  # between a run and its continuation


@dataclass(frozen=True)
class Options:
    """Train a detector on a dataset, with Ray Train."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI")
    out: str = argument("folder or s3:// URI for weights/best.pt, weights/last.pt, results.csv")
    model: str = option("yolov5n", "yolov5n … yolov5x, yolov5n6 … yolov5x6, or a model YAML file")
    weights: str | None = option(None, "checkpoint to start from; otherwise from scratch")
    imgsz: int = option(640, "longer side of the pictures in training, pixels, a multiple of 32")
    epochs: int = option(100, "how often every picture is seen")
    steps: int | None = option(
        None, "optimizer steps in all, instead of passes over the pictures; an epoch is then an equal part of them"
    )
    batch_size: int = option(16, "pictures per step, over all workers")
    workers: int = option(1, "processes that train together and share gradients")
    device: str = option(
        "auto", "gpu: one per worker; auto: gpu if the cluster has enough", choices=("auto", "cpu", "gpu")
    )
    optimizer: str = option("SGD", "optimizer", choices=("SGD", "Adam", "AdamW"))
    learning_rate: float = option(0.01, "its peak, after the warm-up; falls to a hundredth along a cosine")
    warmup_epochs: float = option(3.0, "epochs of rising learning rate")
    hyperparameters: str = option("scratch-low", "loss gains and augmentation: a name of YOLOv5's, or a YAML file")
    loader_threads: int = option(4, "threads per worker that prepare pictures")
    cache: bool = option(True, "keep decoded pictures in memory, if they fit")
    seed: int = option(0, "seed of weights, order and augmentation")

    def __post_init__(self) -> None:
        if self.imgsz < STRIDE or self.imgsz % STRIDE:
            raise UserError(f"--imgsz must be a multiple of {STRIDE}, but got {self.imgsz}")
        for name in ("epochs", "batch_size", "workers", "loader_threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, but got {getattr(self, name)}")
        if self.batch_size % self.workers:
            raise UserError(f"--batch-size must be a multiple of --workers ({self.workers}), but got {self.batch_size}")
        if self.steps is not None and self.steps < self.epochs:
            raise UserError(f"--steps must be at least --epochs ({self.epochs}), but got {self.steps}")
        if not 0 < self.learning_rate < 10:
            raise UserError(f"--learning-rate must be between 0 and 10, but got {self.learning_rate}")
        if self.warmup_epochs < 0:
            raise UserError(f"--warmup-epochs must not be negative, but got {self.warmup_epochs}")


def read_splits(dataset: str) -> tuple[tuple[str, ...], dict[str, list[Example]]]:
    """The class names and the examples of `train` and `val`, all labels read and all pictures' headers seen.

    Raises UserError for what cannot be trained on: a missing or empty split, one that validates on its own training
    pictures, no labels at all, a faulty label file, a file that is no picture.
    """
    found = labels.read_dataset(dataset)
    if found.train is None or found.val is None:
        missing = "train" if found.train is None else "val"
        raise UserError(f"{dataset}: data.yaml must name a folder for {missing!r}, but has none")
    for folder in (found.train, *found.added):
        if storage.overlap(folder, found.val):
            raise UserError(f"{dataset}: train and val must be different pictures, but are {folder} and {found.val}")
    folders = {"train": found.train, "val": found.val}
    splits = {name: _read_split(found, folder) for name, folder in folders.items()}
    for folder in found.added:
        splits["train"] += _read_split(found, folder)
    for name, examples in splits.items():
        if not examples:
            raise UserError(f"{dataset}: {name} must hold pictures, but {folders[name]} has none")
        if not any(len(example.class_ids) for example in examples):
            raise UserError(f"{dataset}: {name} must hold labels, but none of its {len(examples)} pictures has one")
    return tuple(found.names), splits


def _read_split(dataset: labels.Dataset, folder: str) -> list[Example]:
    """The examples of one folder; a picture without a label file has no objects."""

    def read(pair: tuple[str, str]) -> Example:
        picture, label_file = pair
        found = labels.read_labels(label_file, len(dataset.names))
        return read_example(picture, found.class_ids, found.boxes_xywh)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, labels.pairs(folder)))


def run(options: Options) -> int:
    """Trains on the Ray cluster, one line per epoch. Raises UserError before the first epoch for what is wrong."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchConfig, TorchTrainer

    shown_out, options = options.out, absolute(options)
    names, splits = read_splits(options.dataset)
    storage.check(options.out, "OUT")
    _same_run(options)
    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    if options.device == "gpu" and gpus < options.workers:
        raise UserError(f"--device gpu needs a GPU for each of {options.workers} workers, but the cluster has {gpus}")
    use_gpu = options.device == "gpu" or (options.device == "auto" and gpus >= options.workers)
    if options.workers > cpus:
        raise UserError(f"--workers must be at most the cluster's {cpus} CPUs, but got {options.workers}")
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    each = max(1, min(cpus // options.workers, largest))
    filesystem, path = storage.arrow_filesystem(storage.join(options.out, "run"))
    config = {"options": asdict(options), "names": names, "splits": splits, "threads": each}

    trainer = TorchTrainer(
        _work,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray_train.ScalingConfig(
            num_workers=options.workers, use_gpu=use_gpu, resources_per_worker={"CPU": each, "GPU": int(use_gpu)}
        ),
        run_config=ray_train.RunConfig(
            name="state",
            storage_filesystem=filesystem,
            storage_path=path,
            checkpoint_config=ray_train.CheckpointConfig(num_to_keep=1),
        ),
    )
    counts = " and ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    where = f"{options.workers} worker(s) on {'GPU' if use_gpu else 'CPU'}"
    print(f"{options.model} at {options.imgsz} px on {counts} pictures, {where}", flush=True)
    if len(_rows(options.out)) < options.epochs:
        with _Follower(options.out, options.epochs):
            trainer.fit()
    rows = _rows(options.out)
    best = max(rows, key=lambda row: 0.1 * row["map50"] + 0.9 * row["map50_95"])
    print(
        f"best epoch {best['epoch']:.0f} of {options.epochs}: mAP@.5 {best['map50']:.3f},"
        f" mAP@.5:.95 {best['map50_95']:.3f}; {storage.join(shown_out, 'weights', 'best.pt')}",
        flush=True,
    )
    return 0


def _work(config: dict[str, Any]) -> None:
    """One worker of Ray Train: finds its place and the state to go on from, and runs the loop."""
    import torch
    from ray import train as ray_train
    from ray.train.torch import get_device

    from depers.training_loop import Place, train

    context = ray_train.get_context()
    state = None
    if checkpoint := ray_train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / "state.pt", map_location="cpu", weights_only=True)

    def report(row: dict[str, float], state: dict[str, Any] | None) -> None:
        """Called by every worker, since Ray waits for all of them; only rank 0 has a state to keep."""
        if state is None:
            ray_train.report(row)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save(state, Path(folder) / "state.pt")
            ray_train.report(row, checkpoint=ray_train.Checkpoint.from_directory(folder))

    place = Place(context.get_world_rank(), context.get_world_size(), str(get_device()), config["threads"])
    train(Options(**config["options"]), config["names"], config["splits"], place, state, report)


def absolute(options: Options) -> Options:
    """The options with absolute paths: Ray Train's workers run in a folder of their own."""
    paths = {"dataset": options.dataset, "out": options.out, "weights": options.weights}
    # These two may be a name as well; a file comes second, as where they are read.
    paths |= {name: value for name in ("model", "hyperparameters") if Path(value := getattr(options, name)).is_file()}
    local = {name: str(Path(path).resolve()) for name, path in paths.items() if path and not storage.is_s3(path)}
    return replace(options, **local)  # type: ignore[arg-type]


def _same_run(options: Options) -> None:
    """Notes the options of a new run in OUT; refuses to continue a run that had others."""
    wanted = {name: value for name, value in asdict(options).items() if name not in _MAY_CHANGE}
    note = storage.join(options.out, "options.json")
    if storage.exists(note):
        before = json.loads(storage.read_bytes(note))
        for name, value in wanted.items():
            if before.get(name) != value:
                flag = "--" + name.replace("_", "-") if name != "dataset" else "DATASET"
                raise UserError(
                    f"{options.out} holds a run with {flag} {before.get(name)}, but got {value}: choose another OUT"
                )
    storage.write_bytes(note, json.dumps(wanted, indent=1).encode())


def _rows(out: str) -> list[dict[str, float]]:
    """The rows of results.csv so far."""
    path = storage.join(out, "results.csv")
    if not storage.exists(path):
        return []
    header, *lines = storage.read_bytes(path).decode().splitlines()
    return [dict(zip(header.split(","), map(float, line.split(",")), strict=True)) for line in lines]


class _Follower:
    """Prints a line for every epoch that appears in results.csv, wherever the workers run."""

    def __init__(self, out: str, epochs: int) -> None:
        self._out, self._epochs = out, epochs
        self._seen = len(_rows(out))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        if self._seen:
            print(f"going on after epoch {self._seen}", flush=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._print_new()

    def _follow(self) -> None:
        while not self._done.wait(1.0):
            self._print_new()

    def _print_new(self) -> None:
        for row in _rows(self._out)[self._seen :]:
            self._seen += 1
            print(
                f"epoch {row['epoch']:3.0f}/{self._epochs}  box {row['box']:.4f}  obj {row['obj']:.4f}"
                f"  cls {row['cls']:.4f}  mAP@.5 {row['map50']:.3f}  mAP@.5:.95 {row['map50_95']:.3f}"
                f"  {row['images_per_s']:.1f} images/s  {row['seconds']:.0f} s",
                flush=True,
            )
