"""`depers experiment`: does synthesis help? Real images alone against real and synthetic ones, all else equal.

For every training-set size and seed, the same real images are trained on three times: alone, alone with the strongest
augmentation, and joined by images that are synthesized of nothing but them. All arms take equally many optimizer steps
and see equally many images, start from the same weights, and are validated on the same real images; each counts at
its own best number of steps, by a rule that is stated before. The seed decides the part of the dataset, the synthesis
and the training; parts are nested, and arms are compared seed by seed.

OUT/_depers/job.json          before the first training: sizes, seeds, the rule, the contrast, all options
OUT/cells/SIZE-SEED/          real: the part; extracted, synthetic; runs/ARM: the trainings
OUT/runs.csv                  a row per training and validation
OUT/experiment.json           the contrast and the table: each arm, the differences and their intervals
OUT/report.html               the same with plots
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from depers import __version__, storage
from depers.commands import extract, synthesize
from depers.datasets.data_yaml import Dataset, check_labels, find_split_folder, read_dataset, write_subset_yaml
from depers.datasets.digests import digest_dataset
from depers.datasets.ignore_regions import ignore_path
from depers.datasets.labels import label_path
from depers.detection.settings import find_weights
from depers.errors import UserError
from depers.evaluation.experiment_report import format_csv, format_table, make_report
from depers.evaluation.experiment_statistics import (
    ARMS,
    AUGMENTED,
    CONTRAST,
    REAL,
    RULE,
    SYNTHETIC,
    Comparison,
    Key,
    TrainingResult,
    compare,
    read_matches,
)
from depers.extraction.training_images import list_images
from depers.options import CheckedOptions, argument, option
from depers.options.command_line import parse
from depers.options.shared import TRAINING, batch_size_option, imgsz_option
from depers.runtime import capacity, claims, progress
from depers.runtime.results import VerbResult
from depers.runtime.tasks import run_tasks
from depers.seeds import Branch, random_for
from depers.training import options as training_options

_COPIERS = 16  # threads that mostly wait for storage
_FIXED = {
    "extract": ("dataset", "out"),
    "synthesize": ("extracted", "out", "count", "seed", "real", "shards"),
    "train": (
        "dataset",
        "out",
        "data",
        "model",
        "weights",
        "imgsz",
        "batch_size",
        "steps",
        "epochs",
        "patience",
        "augmentation",
        "validate_every",
        "train_workers",
        "seed",
    ),
}
"""What the experiment sets itself, and no `--extract-with`, `--synthesize-with` or `--train-with` may."""

_COMPARISON, _PASSED_ON = "comparison", "options of the steps"


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Train on real images alone, also with the strongest augmentation, and on the same with synthetic ones made of
    them; write the differences to OUT."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI; its val part validates")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    sizes: tuple[int, ...] = option(
        (),
        "real training images (default: a quarter, a half and all of them)",
        low=1,
        distinct=True,
        group=_COMPARISON,
        metavar="N",
    )
    seeds: int = option(
        3, "trainings of each arm and size; declared with the sizes, before the first", low=1, group=_COMPARISON
    )
    synthetic: float = option(30.0, "synthetic images per real one", above=0, high=1000, group=_COMPARISON)
    share: float = option(
        0.5,
        "how many of the images that a training with synthetic ones sees are these, 0…1",
        above=0,
        below=1,
        group=_COMPARISON,
    )
    strong_augmentation: str = option(
        "scratch-high",
        "hyperparameters, a name of YOLOv5's or a YAML file, whose augmentations the third arm has",
        group=_COMPARISON,
    )
    steps: int = option(1000, "most optimizer steps of a training", low=1, group=TRAINING)
    validations: int = option(
        10, "how often a training is validated: at these numbers of steps it may count", low=1, group=TRAINING
    )
    model: str = option("yolov5n", "yolov5n … yolov5x, yolov5n6 … yolov5x6, or a model YAML file", group=TRAINING)
    weights: str | None = option(
        None, "YOLOv5 checkpoint to start from, a path or URI, or default; otherwise from scratch", group=TRAINING
    )
    imgsz: int = imgsz_option(group=TRAINING)
    batch_size: int = batch_size_option(16, "images per step", group=TRAINING)
    extract_with: tuple[str, ...] = option(
        (), "an option of `depers extract`, such as fill=mean", group=_PASSED_ON, metavar="NAME=VALUE"
    )
    synthesize_with: tuple[str, ...] = option(
        (), "an option of `depers synthesize`, such as placement=uniform", group=_PASSED_ON, metavar="NAME=VALUE"
    )
    train_with: tuple[str, ...] = option(
        (), "an option of `depers train`, such as optimizer=AdamW", group=_PASSED_ON, metavar="NAME=VALUE"
    )

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        storage.check(self.dataset, "DATASET")
        storage.check(self.out, "OUT")
        cell = Cell(max(self.sizes, default=1), 0)
        self.extraction(cell)
        for arm in ARMS:
            self.training(cell, arm)

    def extraction(self, cell: "Cell") -> extract.Options:
        """Return the options of a cell's extraction. Raises UserError for a wrong --extract-with."""
        argv = [self.locate(cell, "real"), self.locate(cell, "extracted"), "--keep-labels"]
        return parse(
            extract.Options, [*argv, *_passed_on("extract", self.extract_with, extract.Options)], "depers extract"
        )

    def synthesis(self, cell: "Cell") -> synthesize.Options:
        """Return the options of a cell's synthesis. Raises UserError for a wrong --synthesize-with."""
        count = max(1, min(round(self.synthetic * cell.size), self.most_synthetic))
        argv = [self.locate(cell, "extracted"), self.locate(cell, "synthetic"), "--real=none", "--placement=exchange"]
        argv += [f"--count={count}", f"--seed={cell.seed}", "--per-background=1"]  # few, but of all backgrounds
        argv += _passed_on("synthesize", self.synthesize_with, synthesize.Options)
        return parse(synthesize.Options, argv, "depers synthesize")

    def training(self, cell: "Cell", arm: str) -> training_options.Options:
        """Return the options of one training; arms differ in data. Raises UserError for a wrong --train-with."""
        argv = [self.locate(cell, "real"), self.locate(cell, "runs", arm)]
        argv += [f"--model={self.model}", f"--imgsz={self.imgsz}"]
        argv += [f"--batch-size={self.batch_size}", f"--steps={self.steps}", f"--epochs={self.validations}"]
        argv += [f"--seed={cell.seed}", "--patience=0", *([f"--weights={self.weights}"] if self.weights else [])]
        # With a rate that does not fall, a training of fewer steps is the beginning of one of more.
        argv += ["--schedule=constant", "--average-share=0.05"]
        if arm == AUGMENTED:
            argv.append(f"--augmentation={self.strong_augmentation}")
        if arm == SYNTHETIC:
            weight = self.share / (1 - self.share) * cell.size / self.count_synthetic(cell)
            argv.append(f"--data={self.locate(cell, 'synthetic')}={weight!r}")
        return parse(
            training_options.Options,
            [*argv, *_passed_on("train", self.train_with, training_options.Options)],
            "depers train",
        )

    def decisive(self) -> dict[str, Any]:
        """Return what decides what comes out.

        Of datasets and files it is what they hold, not where they are. Raises UserError for one that cannot be read.
        """
        cell = Cell(1, 0)
        extraction = self.extraction(cell)
        return {
            "dataset_sha256": digest_dataset(self.dataset),
            "synthetic": self.synthetic,
            "share": self.share,
            "extraction": extraction.decisive() | {"weights_sha256": extraction.digest_weights()},
            "synthesis": self.synthesis(cell).decisive(),
            "training": self.training(cell, REAL).describe(),
            "strong_augmentation": self.training(cell, AUGMENTED).describe()["augmentation"],
        }

    @property
    def most_synthetic(self) -> int:
        """How many synthetic images a training sees, if each is seen once; more are not made."""
        training = self.training(Cell(1, 0), REAL)
        return math.ceil(self.share * self.steps * max(self.batch_size, training.nominal_batch or 0))

    def count_synthetic(self, cell: "Cell") -> int:
        """Return how many images a cell's synthesis makes."""
        synthesis = self.synthesis(cell)
        return synthesis.count * synthesis.variants

    def locate(self, cell: "Cell", *parts: str) -> str:
        """Return where something of a cell lies."""
        return storage.join(self.out, "cells", f"{cell.size}-{cell.seed}", *parts)


class Cell(NamedTuple):
    """What both arms share: `size` real images, and the seed."""

    size: int
    seed: int


def _passed_on(verb: str, pairs: Sequence[str], options_type: type[Any]) -> list[str]:
    """Return each `NAME=VALUE` as an argument of the verb; `NAME=yes` and `NAME=no` for its switches."""
    kinds = {field.name: field.type for field in fields(options_type)}
    argv = []
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not equals or name not in kinds or name in _FIXED[verb]:
            free = ", ".join(sorted(set(kinds) - set(_FIXED[verb])))
            raise UserError(f"--{verb}-with must be NAME=VALUE with a NAME among {free}, but got {pair!r}")
        flag = name.replace("_", "-")
        if kinds[name] in (bool, "bool"):
            if value not in ("yes", "no"):
                raise UserError(f"--{verb}-with {name} must be yes or no, but got {value!r}")
            argv.append(f"--{flag}" if value == "yes" else f"--no-{flag}")
        else:
            argv.append(f"--{flag}={value}")
    return argv


def plan_cells(options: Options, count: int) -> list[Cell]:
    """Return the cells, small ones first, for a dataset of `count` training images.

    Raises UserError for a larger size.
    """
    sizes = sorted(options.sizes) or sorted({max(1, count // 4), max(1, count // 2), count})
    if sizes[-1] > count:
        raise UserError(f"--sizes must be at most {count}, the dataset's training images, but got {sizes[-1]}")
    return [Cell(size, seed) for size in sizes for seed in range(options.seeds)]


def choose_images(paths: Sequence[str], cell: Cell) -> list[str]:
    """Return the images of a cell: of one seed, a smaller part lies in every larger one."""
    rng = random_for(cell.seed, Branch.EXPERIMENT)
    order = rng.permutation(len(paths))[: cell.size]
    return sorted(paths[index] for index in order)


def copy_images(dataset: Dataset, paths: Sequence[str], root: str) -> None:
    """Write a dataset of these training images and their labels, with the validation images where they are."""

    def copy(path: str) -> None:
        assert dataset.train is not None
        source, target = storage.join(dataset.train, path), storage.join("images", "train", path)
        storage.write_below(root, target, storage.read_bytes(source))
        for locate in (label_path, ignore_path):
            if storage.exists(locate(source)):
                storage.write_below(root, locate(target), storage.read_bytes(locate(source)))

    with ThreadPoolExecutor(_COPIERS) as pool:
        list(pool.map(copy, paths))
    storage.flush(root)
    write_subset_yaml(root, dataset)  # last: it says that all is there


@dataclass(frozen=True, kw_only=True)
class ExperimentResult(VerbResult):
    """What synthetic images bring, over all and by number of real ones, and the trainings that say so."""

    out: str
    report: str
    comparison: Comparison
    runs: Sequence[TrainingResult]

    def summary(self) -> list[str]:
        """Return the table of differences with the contrast, and where the report is."""
        return [*format_table(self.comparison).splitlines(), f"report {self.report}"]


def check(options: Options) -> None:
    """Raise UserError for a dataset that cannot be used, as far as its folders say, before Ray starts."""
    _read_dataset(options)


def _read_dataset(options: Options) -> tuple[Dataset, str]:
    """Return the dataset, and the folder of its training images. Raise UserError as `check`."""
    dataset = read_dataset(options.dataset)
    train, val = (find_split_folder(dataset, split, options.dataset) for split in ("train", "val"))
    if storage.overlap(train, val):
        raise UserError(f"{options.dataset}: train and val must be different images, but are {train} and val")
    if storage.overlap(storage.absolute(dataset.root), storage.absolute(options.out)):
        raise UserError(f"OUT must lie outside DATASET and DATASET outside OUT, but got {options.out}")
    check_labels(options.dataset, train, val)
    return dataset, train


def run(options: Options) -> ExperimentResult:
    """Run what is not done yet. Raises UserError for a wrong dataset or option."""
    out, options = options.out, _absolute(options)  # the result names OUT as the caller does
    dataset, train = _read_dataset(options)
    images = [entry.path for entry in list_images(train)]
    cells = plan_cells(options, len(images))
    declaration = {"sizes": sorted({cell.size for cell in cells}), "seeds": options.seeds}
    declaration |= {"contrast": CONTRAST, "rule": RULE, "depers": __version__}
    with claims.hold(options.out, options.decisive() | declaration) as lease:
        for cell in lease.guard(cells):
            _prepare(options, dataset, images, cell)
        results = []
        for result in lease.guard(_train_all(options, cells)):
            results.append(result)
            position = f"[{len(results)}/{len(ARMS) * len(cells)}]"
            progress.report(
                f"{position} {result.size} images, seed {result.seed}, {result.arm}: mAP@.5 {result.map50[-1]:.4f},"
                f" mAP@.5:.95 {result.map50_95[-1]:.4f}, {result.seconds:.0f} s"
            )
        results.sort(key=lambda result: (result.size, result.seed, ARMS.index(result.arm)))
        comparison = compare(results, _read_validations(options, results))
        _write(options, results, comparison)
    return ExperimentResult(
        out=out, report=storage.join(out, "report.html"), comparison=comparison, runs=tuple(results)
    )


def _absolute(options: Options) -> Options:
    """Return the options with absolute paths: workers run in folders of their own, and cells name one another."""
    paths = {"dataset": options.dataset, "out": options.out, "weights": find_weights(options.weights or "")}
    changes = {name: storage.absolute(path) for name, path in paths.items() if path}
    return replace(options, **changes)  # type: ignore[arg-type]


def _locate_record(options: Options, cell: Cell, arm: str) -> str:
    return options.locate(cell, "runs", f"{arm}.json")


def _prepare(options: Options, dataset: Dataset, paths: Sequence[str], cell: Cell) -> None:
    """Write the images of a cell, real and synthetic, unless its trainings are done."""
    if all(storage.exists(_locate_record(options, cell, arm)) for arm in ARMS):
        return
    real = options.locate(cell, "real")
    if not storage.exists(storage.join(real, "data.yaml")):
        copy_images(dataset, choose_images(paths, cell), real)
    if not storage.exists(storage.join(options.locate(cell, "synthetic"), "data.yaml")):
        extraction = extract.run(options.extraction(cell))
        progress.report_lines([*extraction.failures.lines(), *extraction.summary()])
        progress.report_lines(synthesize.run(options.synthesis(cell)).summary())


def _train_all(options: Options, cells: Sequence[Cell]) -> Iterator[TrainingResult]:
    """Yield the results of all trainings: first of those that are done, then of the others, as they end.

    Each runs alone in a process, as many at a time as there are cores (or GPUs): small trainings gain little from
    several cores, and lose much where these are not theirs alone.
    """
    from depers.training.processes.experiment_arm import read_record, train_arm

    calls = []
    device = capacity.choose_device(options.training(cells[0], REAL).device)
    for cell in cells:
        for arm in ARMS:
            record = _locate_record(options, cell, arm)
            if storage.exists(record):
                yield read_record(record)
                continue
            training = training_options.resolve_paths(options.training(cell, arm))
            synthetic = options.count_synthetic(cell) if arm == SYNTHETIC else 0
            calls.append((training, cell.size, arm, synthetic, record, device))
    if not calls:
        return
    gpus, nodes = int(device == "cuda"), capacity.measure()
    least_cpus = min((kind.cpus for kind in nodes.kinds if kind.cpus), default=1)
    threads = nodes.cpus_per_gpu() if gpus else max(1, least_cpus // len(calls))
    work = ((*call, threads) for call in calls)
    # Two at the same training would write each other's state.
    for result in run_tasks(train_arm, work, num_cpus=threads, num_gpus=gpus, repeatable=False):
        _remove_state(options, result)
        yield result


def _remove_state(options: Options, result: TrainingResult) -> None:
    """Remove what a training would be resumed from: it is done, and there are many."""
    out = options.locate(Cell(result.size, result.seed), "runs", result.arm)
    if not storage.is_remote(out):
        shutil.rmtree(Path(out, "state"), ignore_errors=True)


def _read_validations(options: Options, results: Sequence[TrainingResult]) -> dict[Key, list[Any]]:
    """Return the matched detections of all trainings, by validation."""
    from depers.training.processes.experiment_arm import locate_matches

    def read(uri: str) -> Any:
        return read_matches(storage.read_bytes(uri))

    validations = {}
    with ThreadPoolExecutor(_COPIERS) as pool:
        for result in results:
            locate = partial(locate_matches, options.locate(Cell(result.size, result.seed), "runs", result.arm))
            uris = [locate(number) for number in range(1, len(result.steps) + 1)]
            validations[Key(result.size, result.seed, result.arm)] = list(pool.map(read, uris))
    return validations


def _write(options: Options, results: Sequence[TrainingResult], comparison: Comparison) -> None:
    """Write the files of OUT."""
    content = {
        "depers": __version__,
        "options": asdict(options),
        "rule": RULE,
        "contrast": {"text": CONTRAST, **comparison.over_real.as_dict()},
        "over_augmented": comparison.over_augmented.as_dict(),
        "sizes": [row.as_dict() for row in comparison.sizes],
    }
    figures = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    page = make_report(results, comparison, asdict(options))
    for name, text in (("runs.csv", format_csv(results)), ("experiment.json", figures), ("report.html", page)):
        storage.write_bytes(storage.join(options.out, name), text.encode())
