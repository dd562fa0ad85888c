"""Train a YOLOv5 detector: a loop of our own over the package's parts, spread over workers by Ray Train.

Reads dataset folders (data.yaml, images/, labels/). Writes below OUT

options.json                        the options that decide what is learnt
weights/best.pt, weights/last.pt    ordinary YOLOv5 checkpoints
results.csv, tensorboard/           a row per epoch
seen.parquet                        which images it uses, for `evaluate`
report.html, train_batch.jpg        curves, confusion matrix, labelled and predicted images
state/last.pt                       everything to go on with: the same command after an interruption does
"""

import math
from dataclasses import dataclass

from depers import storage
from depers.datasets import seen_images
from depers.datasets.data_yaml import check_labels
from depers.datasets.shards import list_shards
from depers.errors import UserError, short_reason
from depers.runtime import claims, progress
from depers.runtime.capacity import choose_device
from depers.runtime.results import VerbResult
from depers.storage import file_table
from depers.training.images.data import read_sources
from depers.training.options import Options, resolve_paths
from depers.training.processes.outputs import BEST, LAST, REPORT, read_progress, read_results


@dataclass(frozen=True, kw_only=True)
class TrainResult(VerbResult):
    """What was learnt: the figures of the best epoch, by validation, and where its weights are."""

    out: str
    weights: str
    report: str
    """Empty where it could not be made."""
    epochs: int
    best_epoch: int
    map50: float
    map50_95: float

    def summary(self) -> list[str]:
        """Return the line that says how good the best epoch is."""
        figures = f"mAP@.5 {self.map50:.3f}, mAP@.5:.95 {self.map50_95:.3f}"
        report = f"report {self.report}" if self.report else "its report could not be made"
        return [f"best epoch {self.best_epoch} of {self.epochs}: {figures}; {self.weights}; {report}"]


def check(options: Options) -> None:
    """Raise UserError for datasets that cannot be trained on, as far as their folders say, before Ray starts."""
    (uri, weight), *further = options.list_datasets()
    for dataset, source, _ in read_sources(uri, further, weight, options.share):
        for tars in dataset.shards:
            list_shards(tars)
        check_labels(source, *dataset.list_training_folders(), dataset.val if source == uri else None)


def run(options: Options) -> TrainResult:
    """Train on the Ray cluster. Raises UserError before the first epoch for what is wrong."""
    out, options = options.out, resolve_paths(options)  # the result names OUT as the caller does
    storage.check(options.out, "OUT")
    with file_table.list_once():
        check(options)
        decisive = options.decisive()
    note = storage.join(options.out, "options.json")
    raisable = () if options.steps else ("epochs",)  # with --steps, epochs are what validation parts them into
    with claims.hold(options.out, decisive, note=note, empty=False, raisable=raisable):
        return _train(options, out)


def _note_images(options: Options) -> None:
    """Write OUT/seen.parquet, by which `evaluate` knows what taught and chose the weights; it costs no training.

    Before the first epoch, after which there are weights, whatever becomes of the training; until then, images may be
    put right.
    """
    if all(storage.exists(storage.join(options.out, name)) for name in (seen_images.NAME, LAST)):
        return
    try:
        seen_images.write_seen(options.out, [uri for uri, _ in options.list_datasets()], options.weights)
    except (UserError, OSError) as error:
        progress.report(f"warning: which images were used could not be noted: {short_reason(error)}")


def _train(options: Options, out: str) -> TrainResult:
    """Train on all workers, unless that is done; `out` is OUT as the caller names it."""
    from depers.training.processes.ray_train import fit

    report = storage.join(options.out, REPORT)
    if read_progress(options.out).finished_epochs != options.epochs or not storage.exists(report):
        device = choose_device(options.device, options.least_train_workers or options.train_workers)
        _note_images(options)
        fit(options, options.list_datasets(), device == "cuda")
    _note_images(options)  # of a training that an earlier version has done
    rows = read_results(options.out)
    best = max((row for row in rows if not math.isnan(row["fitness"])), key=lambda row: row["fitness"])
    return TrainResult(
        out=out,
        weights=storage.join(out, BEST),
        report=storage.join(out, REPORT) if storage.exists(report) else "",
        epochs=len(rows),
        best_epoch=round(best["epoch"]),
        map50=best["map50"],
        map50_95=best["map50_95"],
    )
