"""`depers label`: detectors label what people did not, in a dataset that is labelled for some classes only.

Writes a dataset to OUT: the images, with the labels that people made, unchanged, and those that detectors add.

OUT/data.yaml                   `labelled` with the added classes, `machine_labelled` says which these are, where
OUT/images, labels, ignore      as DATASET's; boxes that are neither certain nor unlikely are ignore regions
OUT/machine_labels.parquet      a row per image: what was found, how certainly, by how many of the weights
OUT/report.html                 counts by class, and a sample of images to look at

Only training images get labels from a detector: what it says measures nothing. In the others, regions as large as the
image say that the classes are not labelled.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers import __version__, storage
from depers.commands import detect
from depers.datasets.class_values import read_class_shares
from depers.datasets.data_yaml import Dataset, check_labels, find_split_folder, read_dataset, write_data_yaml
from depers.datasets.ignore_regions import locate_folder
from depers.datasets.labels import label_path
from depers.detection.detections import Detections, to_array
from depers.detection.settings import PRECISIONS, parse_weights, read_checkpoints
from depers.errors import UserError
from depers.extraction.training_images import list_images
from depers.labelling.decisions import Rules
from depers.labelling.report import make_report
from depers.labelling.steps import RECORD, LabellingJob, label_unit
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    DETECTION,
    batch_size_option,
    device_option,
    imgsz_option,
    precision_option,
    tile_option,
    workers_option,
)
from depers.pipeline import run as pipeline
from depers.runtime import claims, outputs, progress, takeover, units
from depers.runtime.lease import Lease
from depers.runtime.progress import Speed
from depers.runtime.results import FailureCounter, VerbResult
from depers.runtime.takeover import Source
from depers.runtime.tasks import choose_share, run_file_tasks
from depers.runtime.units import Unit
from depers.statuses import FileStatus
from depers.storage import Entry, tables
from depers.storage.tables import parquet_text

_LABELS = "labels"
_NOT_DECISIVE = ("dataset", "out", "weights", "batch_size", "device", "workers")
_MOST_BOXES = 1000  # of an image, per detector


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Add labels that detectors make, for classes that people have not labelled."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI")
    out: str = argument("folder for the new dataset, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = option(
        (), "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…]; several vote", group=DETECTION, metavar="W"
    )
    classes: tuple[str, ...] = option(
        (), "which classes to label (default: all of the dataset's that the weights give)", metavar="CLASS"
    )
    confidence: tuple[str, ...] = option(
        ("0.4",),
        "least confidence of a box that is taught; face=0.5 for one class",
        group=_LABELS,
        metavar="[CLASS=]X",
    )
    ignore_confidence: float = option(
        0.1,
        "what is less certain than --confidence, but at least this, is neither taught nor background",
        above=0,
        below=1,
        group=_LABELS,
    )
    agreement: int = option(
        1, "how many of the weights must find a box; of those that know the class, at most all", low=1, group=_LABELS
    )
    within: tuple[str, ...] = option(
        (),
        "only boxes of CLASS with their center in a box of CONTEXT count, others are background; CONTEXT is a class"
        " that the weights give, of the dataset or not: --weights W:car=vehicle,bus=vehicle --within carplate=vehicle",
        group=_LABELS,
        metavar="CLASS=CONTEXT",
    )
    iou_threshold: float = option(
        0.5, "boxes of one class that overlap by this are one object, 0…1", above=0, below=1, group=_LABELS
    )
    imgsz: int = imgsz_option()
    tile: int | None = tile_option()
    augment: bool = option(
        False, "look at every image several times, enlarged and mirrored: finds more, slower", group=DETECTION
    )
    batch_size: int = batch_size_option()
    device: str = device_option()
    precision: str = precision_option(PRECISIONS)
    workers: int | None = workers_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        if not self.weights:
            raise UserError("--weights must be given at least once")
        if self.agreement > len(self.weights):
            raise UserError(
                f"--agreement must be at most the number of --weights, {len(self.weights)}, but got {self.agreement}"
            )
        for number in range(len(self.weights)):
            self.detection("images", number)
        storage.check(self.dataset, "DATASET")
        storage.check(self.out, "OUT")

    def detection(self, folder: str, number: int, classes: tuple[str, ...] = ()) -> detect.Options:
        """Return the options of what one of the weights, by its number, looks for in a folder."""
        return detect.Options(
            input=folder,
            out=storage.join(self.out, f"detect-{number + 1}"),
            weights=(self.weights[number],),
            classes=classes,
            confidence=self.ignore_confidence,
            max_detections=_MOST_BOXES,
            imgsz=self.imgsz,
            tile=self.tile,
            augment=self.augment,
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
            workers=self.workers,
            follow_links=True,  # as training does
        )

    def decisive(self) -> dict[str, Any]:
        """Return what decides the bytes written; a run is only resumed with the same. Of weights: their maps."""
        values = {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}
        return values | {"class_maps": [parse_weights(text).class_map for text in self.weights]}


@dataclass(frozen=True, kw_only=True)
class LabelResult(VerbResult):
    """What detectors added: labels and ignore regions by class, and where the dataset and its report are."""

    out: str
    report: str
    images: int
    labels: Mapping[str, int]
    ignored: Mapping[str, int]
    speed: Speed

    def summary(self) -> list[str]:
        """Return the line that says what was added."""
        added = ", ".join(f"{name} {count}" for name, count in self.labels.items())
        counts = f"{self.images} training images, {self.failures.count} failed"
        regions = f"{sum(self.ignored.values())} ignore regions"
        return [f"{counts}; labels by detectors: {added}; {regions}; {self.speed}; report {self.report}"]


def parse_confidences(texts: Sequence[str], classes: Sequence[str]) -> dict[str, float]:
    """Return the least confidence of a label by class. Raise UserError as `read_class_shares`, and for one without."""
    confidences = read_class_shares(texts, classes, "--confidence")
    if names := [name for name in classes if name not in confidences]:
        raise UserError(f"--confidence must be given for {', '.join(names)} too, such as 0.4 for all")
    return confidences


def check(options: Options) -> None:
    """Raise UserError for a dataset that cannot be labelled, as far as its folders say, before Ray starts."""
    dataset = read_dataset(options.dataset)
    check_labels(options.dataset, dataset.train, dataset.val)
    _list_folders(options, dataset)


def _list_folders(options: Options, dataset: Dataset) -> dict[str, str]:
    """Return the folders of images by split. Raise UserError for a dataset that was made of others."""
    train = find_split_folder(dataset, "train", options.dataset)
    if dataset.additional_train or dataset.shards:
        raise UserError(
            f"{options.dataset}: train must be one folder, but is several: label the dataset that it was made of"
        )
    if dataset.machine_labelled:
        raise UserError(
            f"{options.dataset}: must hold what people labelled, but has machine_labelled: label the dataset that it"
            " was made of"
        )
    others = {"val": dataset.val, "calibration": dataset.calibration}
    folders = {"train": train} | {split: folder for split, folder in others.items() if folder is not None}
    out = storage.absolute(options.out)
    for folder in (dataset.root, *folders.values()):
        if storage.overlap(folder, out):
            raise UserError(f"OUT must lie outside DATASET and DATASET outside OUT, but got {out} and {folder}")
    return {split: storage.absolute(folder) for split, folder in folders.items()}


def parse_contexts(texts: Sequence[str], targets: Sequence[str], known_names: Sequence[str]) -> dict[str, str]:
    """Return by class, one of `targets`, the class in which it lies, one of `known_names`. Raise UserError."""
    contexts = {}
    for text in texts:
        name, equals, context = text.partition("=")
        if not equals or name not in targets or context not in known_names or name == context or name in contexts:
            raise UserError(
                f"--within must be CLASS=CONTEXT, once for a class that is labelled ({', '.join(targets)}), with"
                f" another that the weights give ({', '.join(known_names)}), but got {text!r}"
            )
        contexts[name] = context
    return contexts


def name_classes(dataset: Dataset, contexts: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of class ids: the dataset's, and after them contexts that are none of its classes."""
    return tuple(dict.fromkeys([*dataset.names, *contexts.values()]))


def _make_rules(options: Options, dataset: Dataset, train: str) -> tuple[Rules, tuple[str, ...], list[tuple[str, ...]]]:
    """Return when a box is a label, names by class id, and what each of the weights is asked for. Raise UserError."""
    known_names = [
        set(pipeline.read_class_names(options.detection("images", number))) for number in range(len(options.weights))
    ]
    detectable = [name for name in dataset.names if any(name in names for names in known_names)]
    targets = options.classes or tuple(detectable)
    for name in targets:
        if name not in detectable:
            raise UserError(
                f"--classes must be of the dataset ({', '.join(dataset.names)}) and known to the weights"
                f" ({', '.join(sorted(set().union(*known_names)))}), but {name!r} is not; map it: W:model_class={name}"
            )
    if not targets:
        names = ", ".join(sorted(set().union(*known_names)))
        raise UserError(f"--weights must know a class of the dataset ({', '.join(dataset.names)}), but know {names}")
    is_labelled = all(
        {dataset.names[class_id] for class_id in class_ids}.issuperset(targets) for _, class_ids in dataset.labelled
    )
    if is_labelled and not storage.is_dir(locate_folder(train)):  # no region says that an image is not labelled
        raise UserError(
            f"{options.dataset}: must hold images that are not labelled for {', '.join(targets)}, but people have"
            " labelled all: there is nothing to add"
        )
    confidences = parse_confidences(options.confidence, targets)
    ids = {name: dataset.names.index(name) for name in targets}
    agreements = {
        ids[name]: min(options.agreement, sum(name in names for names in known_names)) for name in targets
    }  # a detector that does not know a class does not vote on it
    contexts = parse_contexts(options.within, targets, sorted(set().union(*known_names)))
    class_names = name_classes(dataset, contexts)
    rules = Rules(
        {ids[name]: confidences[name] for name in targets},
        agreements,
        options.ignore_confidence,
        options.iou_threshold,
        {ids[name]: class_names.index(context) for name, context in contexts.items()},
    )
    wanted_names = dict.fromkeys([*targets, *contexts.values()])
    return rules, class_names, [tuple(name for name in wanted_names if name in known) for known in known_names]


def run(options: Options) -> LabelResult:
    """Write the dataset with the added labels. Raises UserError for a wrong dataset, options or weights."""
    dataset, out = read_dataset(options.dataset), storage.absolute(options.out)
    folders = _list_folders(options, dataset)
    rules, names, class_lists = _make_rules(options, dataset, folders["train"])
    entries = [
        entry._replace(path=f"{split}/{entry.path}")
        for split, folder in folders.items()
        for entry in outputs.check_inputs(folder, list_images(folder))
    ]
    entries = outputs.check_outputs(out, entries, locate=lambda path: f"images/{path}")
    job = LabellingJob(dataset, folders, out, rules)
    checkpoints = read_checkpoints([parse_weights(text) for text in options.weights])
    decisive = options.decisive() | {
        "class_names": dataset.names,
        "labelled": [[prefix, sorted(class_ids)] for prefix, class_ids in dataset.labelled],
        "weights_sha256": [hashlib.sha256(data).hexdigest() for data in checkpoints],
        "depers": __version__,
    }
    with claims.hold(out, decisive) as lease:
        storage.delete(storage.join(out, "data.yaml"))  # it is written last, and says that the dataset is whole
        findings = []
        for number, classes in enumerate(class_lists):
            if classes:
                result = detect.run(options.detection(folders["train"], number, classes), withholds=False)
                progress.report_lines(result.summary())
                findings.append(_Findings(result.detections, number, names))
        return _label(options, job, entries, findings, lease)


class _Findings:
    """What one of the weights found, by image."""

    def __init__(self, uri: str, number: int, names: Sequence[str]) -> None:
        self._number, self._names = number, names
        table = tables.read_table(uri, ["path", "member", "status", "reason", "width", "height", "boxes"])
        self._table = table.filter(pc.is_null(table["member"]))
        self._rows = {path: index for index, path in enumerate(self._table["path"].to_pylist())}

    def describe(self, path: str) -> dict[str, Any]:
        """Return `size_wh` and `detections` of an image, or the `reason` why it could not be looked at."""
        index = self._rows.get(parquet_text(path))
        if index is None:
            return {"reason": "was not looked at"}
        [row] = self._table.slice(index, 1).to_pylist()
        if row["status"] != FileStatus.DETECTED:
            return {"reason": row["reason"] or row["status"]}
        boxes = [box for box in row["boxes"] if not box["frame"]]
        return {
            "size_wh": (row["width"], row["height"]),
            "detections": Detections(
                to_array(boxes),
                np.array([box["confidence"] for box in boxes], np.float32),
                np.array([self._names.index(box["class"]) for box in boxes], np.int64),
                np.full(len(boxes), self._number, np.int64),
            ),
        }


def _merge(path: str, findings: Sequence[_Findings]) -> dict[str, Any]:
    """Return what all weights found in an image together, or the first reason why one could not look at it."""
    rows = [source.describe(path) for source in findings]
    if reasons := [row["reason"] for row in rows if "reason" in row]:
        return {"reason": reasons[0]}
    columns = zip(*(row["detections"] for row in rows), strict=True)
    return {"size_wh": rows[0]["size_wh"], "detections": Detections(*(np.concatenate(column) for column in columns))}


def _label(
    options: Options, job: LabellingJob, entries: Sequence[Entry], findings: Sequence[_Findings], lease: Lease
) -> LabelResult:
    """Do the units that are not done yet, and finish."""
    all_units = units.cut(entries)
    records = units.locate_inside(job.out)
    open_units = takeover.split_all(records, units.take_up(records, all_units))
    unfinished = sum(len(unit.entries) for unit, _ in open_units)

    def calls() -> Iterator[tuple[LabellingJob, Unit, dict[str, Any], tuple[Source, ...]]]:
        for unit, sources in open_units:
            paths = (entry.path for entry in unit.entries)
            rows = {
                path: _merge(path.partition("/")[2], findings)
                if path.startswith("train/")
                else {"reason": "it is measured with"}
                for path in paths
            }
            yield job, unit, rows, sources

    share = choose_share(job.out, *job.folders.values())
    speed = progress.follow(
        lease.guard(run_file_tasks(label_unit, calls(), limit=options.workers, num_cpus=share)), unfinished
    )
    _remove_stale(job.out, {entry.path for entry in entries})
    counter, table = FailureCounter(storage.join(job.out, "machine_labels.parquet")), _gather(job.out, all_units)
    counter.add(table)
    return _finish(options, job, table, counter, speed)


def _gather(out: str, all_units: Sequence[Unit]) -> pa.Table:
    """Write OUT/machine_labels.parquet and return it."""
    table = pa.concat_tables(units.read_records(units.locate_inside(out), all_units, RECORD)).sort_by("path")
    table = table.replace_schema_metadata()  # the first record's notes are about its own files
    tables.write_table(storage.join(out, "machine_labels.parquet"), table)
    return table


def _remove_stale(out: str, places: set[str]) -> None:
    """Remove images and texts of images that are in the dataset no more, and the records that speak of them."""
    texts = {label_path(f"images/{place}").removeprefix("labels/") for place in places}
    for folder, expected_paths in (("images", places), ("labels", texts), ("ignore", texts)):
        root = storage.join(out, folder)
        paths = [entry.path for entry in storage.list_files(root)] if storage.is_dir(root) else []
        storage.delete_files(out, [f"{folder}/{path}" for path in paths if path not in expected_paths])
    units.remove_former(units.locate_inside(out))


def _finish(options: Options, job: LabellingJob, table: pa.Table, counter: FailureCounter, speed: Speed) -> LabelResult:
    """Write the report, and last data.yaml; return what there is."""
    dataset, out = job.dataset, job.out
    targets = frozenset(job.rules.confidences)
    labelled = dataset.labelled or (("", frozenset(range(len(dataset.names)))),)
    machine_names = {prefix: _names(targets - class_ids, dataset.names) for prefix, class_ids in labelled}
    if not dataset.labelled and any(table["classes"].to_pylist()):  # single images said that they are not labelled
        machine_names = {"": _names(targets, dataset.names)}
    boxes = table["boxes"].combine_chunks().flatten()
    counts = Counter(zip(boxes.field("class").to_pylist(), boxes.field("use").to_pylist(), strict=True))
    names = _names(targets, dataset.names)
    report = storage.join(out, "report.html")
    with storage.translated_write_errors(out):
        page = make_report(job, table, counts, options.weights)
        storage.write_bytes(report, page.encode())
        write_data_yaml(
            out,
            dataset.names,
            tuple(job.folders),
            {prefix: _names(class_ids | targets, dataset.names) for prefix, class_ids in labelled}
            if dataset.labelled
            else {"": list(dataset.names)}
            if machine_names[""]
            else None,
            {prefix: classes for prefix, classes in machine_names.items() if classes},
        )
    return LabelResult(
        failures=counter.failures(),
        out=options.out,
        report=report,
        images=pc.sum(pc.equal(table["split"], "train")).as_py() or 0,
        labels={name: counts[name, "label"] for name in names},
        ignored={name: counts[name, "ignore"] for name in names},
        speed=speed,
    )


def _names(class_ids: frozenset[int], names: Sequence[str]) -> list[str]:
    return [names[class_id] for class_id in sorted(class_ids)]
