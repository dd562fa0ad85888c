"""The options of a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from depers import resources, storage
from depers.datasets import labels
from depers.datasets.digests import digest_dataset, digest_file
from depers.detection.settings import find_weights
from depers.errors import UserError
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    RUNNING,
    TRAINING,
    batch_size_option,
    device_option,
    imgsz_option,
    precision_option,
    seed_option,
    workers_option,
)
from depers.training.callbacks import parse_callback
from depers.yaml_files import parse_yaml

STRIDE = 32
_HYPERPARAMETERS = ("hyperparameters", "augmentation")
_MODEL, _IMAGES = "model", "images"
_NOT_DECISIVE = (
    "dataset", "data", "out", "train_workers", "least_train_workers", "interface", "device", "loaders", "cache",
    "cache_folder", "cache_limit", "max_failures", "save_every", "callback", "compile",
)  # fmt: skip
"""Options that may differ between a run and its continuation: they do not decide what is learnt."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Train a detector on datasets, with Ray Train."""

    HINTS: ClassVar[Mapping[str, str]] = {
        "workers": "processes that train together are --train-workers, those that prepare images (YOLOv5's --workers)"
        " --loaders"
    }

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI; its val part validates")
    out: str = argument("folder or s3:// URI for weights, results and report; an earlier run there is resumed")
    data: tuple[str, ...] = option(
        (),
        "further dataset for training, with how often an epoch shows each of its images; also DATASET's, if named",
        group=_IMAGES,
        metavar="DATASET=WEIGHT",
    )
    share: float | None = option(
        None,
        "how much of what training sees of DATASET comes from the further folders of its data.yaml, such as synthetic"
        " images (default: what data.yaml says, else all images equally often); of --data, weights say it, 0…1",
        above=0,
        below=1,
        group=_IMAGES,
    )
    model: str | None = option(
        None,
        "yolov5n … yolov5x, yolov5n6 … yolov5x6, or a model YAML file (default: that of --weights, else yolov5n)",
        group=_MODEL,
    )
    weights: str | None = option(
        None, "YOLOv5 checkpoint to start from, a path or URI, or default; otherwise from scratch", group=_MODEL
    )
    start_classes: tuple[str, ...] = option(
        (),
        "with --weights of other classes: which class starts from what they know of which, such as"
        " head=person,face=person; without it the head starts fresh",
        group=_MODEL,
        metavar="CLASS=CLASS,…",
    )
    imgsz: int = imgsz_option(note=", with P6 models of 64", group=_IMAGES)
    epochs: int = option(100, "how often every image is seen", low=1, group=TRAINING)
    steps: int | None = option(
        None,
        "optimizer steps in all, instead of passes over the images; an epoch is then an equal part of them",
        low=1,
        group=TRAINING,
    )
    batch_size: int = batch_size_option(16, "images per batch, over all workers", group=TRAINING)
    nominal_batch: int | None = option(
        None,
        "images per optimizer step, over several batches (default: 64; with --steps, one batch)",
        low=1,
        group=TRAINING,
        metavar="N",
    )
    train_workers: int = workers_option(1, "processes that train together and share gradients")
    least_train_workers: int | None = workers_option(
        None,
        "fewest of them with which to train where the cluster has no more; there are more again as it grows (default:"
        " --train-workers)",
    )
    interface: str | None = option(
        None,
        "network interface over which they talk (default: that of their node's address in the Ray cluster)",
        group=RUNNING,
        metavar="NAME",
    )
    device: str = device_option()
    precision: str = precision_option(("auto", "float32", "bfloat16", "float16"))
    channels_last: bool = option(True, "memory layout with channels last, faster in mixed precision", group=RUNNING)
    compile: bool = option(
        False, "compile the model (torch.compile): minutes at the start, faster epochs", group=RUNNING
    )
    sync_batch_norm: bool = option(
        False, "normalize over the batches of all workers, as if they were one", group=_MODEL
    )
    optimizer: str = option("SGD", "optimizer", choices=("SGD", "Adam", "AdamW"), group=TRAINING)
    learning_rate: float | None = option(
        None, "its peak (default: the hyperparameters' lr0)", above=0, below=10, group=TRAINING
    )
    warmup_epochs: float | None = option(
        None,
        "epochs of rising learning rate (default: the hyperparameters', and at least 100 batches)",
        low=0,
        group=TRAINING,
    )
    schedule: str = option(
        "cosine",
        "how the learning rate falls after the warm-up; constant, with --average-share, lets a training be judged at"
        " any of its steps",
        choices=("cosine", "linear", "constant"),
        group=TRAINING,
    )
    hyperparameters: str = option(
        "scratch-low", "rates, gains and augmentation: a name of YOLOv5's, or a YAML file", group=TRAINING
    )
    augmentation: str | None = option(
        None,
        "augmentations of these hyperparameters, a name or a YAML file, in place of those of --hyperparameters",
        group=TRAINING,
    )
    label_smoothing: float = option(
        0.0, "how much of a class target is spread over the others, 0…1", low=0, below=1, group=TRAINING
    )
    freeze: tuple[int, ...] = option(
        (), "one number: that many first layers stay as they are; several: these layers", low=0, group=_MODEL
    )
    image_weights: bool = option(False, "draw images more often whose classes are rare or found badly", group=_IMAGES)
    rectangular: bool | None = option(
        None,
        "batches of like-shaped images instead of mosaics (default: if the hyperparameters have no mosaic)",
        group=_IMAGES,
    )
    average_share: float | None = option(
        None,
        "average the weights over this share of the steps so far, such as 0.05 for some hundred steps (default:"
        " YOLOv5's moving average, for trainings of many thousand)",
        above=0,
        high=0.5,
        group=TRAINING,
    )
    multi_scale: bool = option(
        False, "every batch at a random size, half to one and a half times --imgsz", group=_IMAGES
    )
    autoanchor: bool = option(True, "fit anchors to the labels", group=_MODEL)
    validate_every: int = option(
        1, "epochs between validations; the last one is always validated", low=1, group=TRAINING
    )
    best_by: str = option(
        "fitness",
        "what best.pt is best in: YOLOv5's fitness (mAP), or for anonymizing the recall, the share of labels that are"
        " covered to 0.9 at --false-per-image",
        choices=("fitness", "recall"),
        group=TRAINING,
    )
    false_per_image: float = option(
        1.0, "with --best-by recall: false boxes of each class per image", above=0, high=1000, group=TRAINING
    )
    patience: int = option(
        100, "epochs without a better validation, after which training stops; 0: never", low=0, group=TRAINING
    )
    loaders: int | None = option(
        None,
        "threads, with a GPU processes, per worker that prepare images (default: 4, with a GPU its CPUs)",
        low=1,
        group=RUNNING,
    )
    cache: str = option(
        "auto",
        "where decoded images are kept; auto: what fits",
        choices=("auto", "ram", "disk", "none"),
        group=RUNNING,
    )
    cache_folder: str = option(
        resources.default_cache_folder(), "folder of each node for datasets from S3 and decoded images", group=RUNNING
    )
    cache_limit: float = option(100.0, "GiB that datasets from S3 may take there", low=0, group=RUNNING)
    callback: str | None = option(
        None,
        "class that follows the training, for MLflow, Weights & Biases and the like: MODULE:NAME or FILE.py:NAME",
        group=RUNNING,
        metavar="MODULE:NAME",
    )
    save_every: int | None = option(
        None,
        "optimizer steps after which the state to go on from is written, besides the end of every epoch",
        low=1,
        group=RUNNING,
        metavar="STEPS",
    )
    max_failures: int = option(
        3, "how often in a row dead workers are replaced without any progress; -1: always", low=-1, group=RUNNING
    )
    deterministic: bool = option(
        False, "only algorithms that give the same bits each time: slower on GPUs", group=RUNNING
    )
    seed: int = seed_option("seed of weights, order and augmentation", group=TRAINING)

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        stride = 2 * STRIDE if self.model and self.model.endswith("6") else STRIDE
        if self.imgsz % stride:
            raise UserError(f"--imgsz must be a multiple of {stride} for {self.model}, but got {self.imgsz}")
        if self.batch_size % self.train_workers:
            multiple = f"a multiple of --train-workers ({self.train_workers})"
            raise UserError(f"--batch-size must be {multiple}, but got {self.batch_size}")
        if self.least_train_workers is not None and self.least_train_workers > self.train_workers:
            bound = f"at most --train-workers ({self.train_workers})"
            raise UserError(f"--least-train-workers must be {bound}, but got {self.least_train_workers}")
        if self.steps is not None and self.steps < self.epochs:
            raise UserError(f"--steps must be at least --epochs ({self.epochs}), but got {self.steps}")
        if self.image_weights and self.rectangular:
            raise UserError("--image-weights and --rectangular exclude one another: batches would hold what was drawn")
        if self.start_classes and not self.weights:
            raise UserError("--start-classes needs --weights, whose classes it names")
        if self.callback:
            parse_callback(self.callback)
        self.list_datasets()

    def decisive(self) -> dict[str, Any]:
        """Return what decides what is learnt; a run is only resumed with the same.

        Of datasets and files it is what they hold, not where they are. Raises UserError for one that cannot be read.
        """
        return self.describe() | {"data": [[digest_dataset(uri), weight] for uri, weight in self.list_datasets()]}

    def describe(self) -> dict[str, Any]:
        """Return what `decisive` does, but for the datasets."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}
        files = {name: values[name] for name in ("model", *_HYPERPARAMETERS) if values[name]}
        files = {name: path for name, path in files.items() if Path(path).is_file()}
        contents = {name: parse_yaml(path, storage.read_bytes(path)) for name, path in files.items()}
        return values | contents | ({"weights": digest_file(find_weights(self.weights))} if self.weights else {})

    def list_datasets(self) -> list[tuple[str, float]]:
        """Return all datasets with their weights, DATASET first. Raises UserError for a faulty --data."""
        weights = {self.dataset: 1.0}
        for text in self.data:
            uri, equals, value = text.rpartition("=")
            weight = labels.read_number(value) if equals else 1.0
            if not weight > 0:
                raise UserError(f"--data must be DATASET=WEIGHT with a weight above 0, but got {text!r}")
            name = uri if equals else text
            if name in weights and name != self.dataset:
                raise UserError(f"--data names {name} twice")
            weights[name] = weight
        return list(weights.items())


def resolve_paths(options: Options) -> Options:
    """Return the options with absolute paths: Ray Train's workers run in a folder of their own."""
    paths = ("dataset", "out", "cache_folder")
    changes: dict[str, Any] = {name: storage.absolute(getattr(options, name)) for name in paths}
    if options.callback and parse_callback(options.callback)[0].endswith(".py"):
        changes["callback"] = storage.absolute(options.callback)
    if options.weights:
        changes["weights"] = storage.absolute(find_weights(options.weights))
    # These may be a name as well; a file comes second, as where they are read.
    files = {name: value for name in ("model", *_HYPERPARAMETERS) if (value := getattr(options, name))}
    changes |= {name: storage.absolute(value) for name, value in files.items() if Path(value).is_file()}
    changes["data"] = (
        tuple(f"{storage.absolute(uri)}={weight!r}" for uri, weight in options.list_datasets()) if options.data else ()
    )
    return replace(options, **changes)
