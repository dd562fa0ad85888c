"""`depers evaluate`: how well detectors do on a labelled dataset, with the figures of `yolov5 val` and what they miss.

Classes are matched by name, so that detectors trained elsewhere can be measured. An image that could not be read
counts as one in which nothing was found. An image that is labelled for some classes only (`labelled` in data.yaml)
says nothing about the others: there they are neither right nor false.

The figures are those of `yolov5 val --batch-size 1`. With larger batches the package pads an image to the shape of its
neighbors, which moves every figure a little; here they depend on the image alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.commands import detect
from depers.datasets.class_values import read_class_shares
from depers.datasets.data_yaml import Dataset, check_labels, find_split_folder, read_dataset, without_machine_labels
from depers.datasets.seen_images import NOT_KNOWN, count_seen, describe_seen
from depers.datasets.splits import group_names
from depers.detection import shipped
from depers.detection.contexts import format_rules, parse_rules
from depers.detection.settings import PRECISIONS, describe_weights_uri, parse_weights, read_checkpoints
from depers.detection.thresholds import Settings, describe_weights
from depers.errors import UserError
from depers.evaluation import calibration, submission
from depers.evaluation.calibration import Calibration
from depers.evaluation.competition_score import format_score, score_as_dict, score_file
from depers.evaluation.conditions import (
    join_twins,
    measure_slices,
    slice_by_brightness,
    slice_by_group,
)
from depers.evaluation.metrics import measure
from depers.evaluation.metrics_by_size import measure_sizes
from depers.evaluation.report import make_report
from depers.evaluation.samples import judge, read_samples
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    DETECTION,
    batch_size_option,
    confidence_option,
    device_option,
    imgsz_option,
    max_detections_option,
    precision_option,
    tile_option,
    weights_option,
    within_option,
    workers_option,
)
from depers.pipeline import run as pipeline
from depers.pipeline.likenesses import read_likenesses
from depers.runtime import lease, progress, units
from depers.runtime.results import VerbResult
from depers.statuses import FileStatus
from depers.storage import tables

_THRESHOLDS = "thresholds"


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Write OUT/metrics.json, metrics.csv and report.html, and the detections below OUT/detect."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = weights_option()
    score: str | None = option(
        None, "instead of weights: score this file in the competition's format, write OUT/score.json", metavar="FILE"
    )
    submission: str | None = option(
        None, "write the detections in the competition's format as well, and score them", metavar="FILE"
    )
    split: str = option("val", "which images", choices=("val", "train", "calibration"))
    confidence: float = confidence_option(
        0.001, "least confidence of a box; low, for the whole curve of precision over recall"
    )
    iou_threshold: float = option(
        0.6, "boxes of one class that overlap more than this are one, 0…1", above=0, below=1, group=DETECTION
    )
    max_detections: int = max_detections_option(300, ", the most certain of them")
    imgsz: int = imgsz_option()
    augment: bool = option(
        False, "look at every image three times, smaller and mirrored, as `yolov5 val --augment`", group=DETECTION
    )
    within: tuple[str, ...] = within_option()
    tile: int | None = tile_option()
    target_recall: tuple[str, ...] = option(
        (),
        "write OUT/thresholds.json: the confidence at which this share of all labels, such as 0.99, is redacted;"
        " face=0.99 for one class",
        group=_THRESHOLDS,
        metavar="[CLASS=]X",
    )
    certainty: float = option(
        0.95,
        "with --target-recall: how certain its lower bound shall be, 0…1",
        above=0,
        below=1,
        group=_THRESHOLDS,
    )
    coverage: float = option(
        0.9,
        "with --target-recall: how much of a label boxes must cover to redact it, 0…1",
        above=0,
        below=1,
        group=_THRESHOLDS,
    )
    margin: float = option(
        0.1,
        "with --target-recall: what `anonymize --margin` will add to boxes on each side",
        low=0,
        high=2,
        group=_THRESHOLDS,
    )
    classes: tuple[str, ...] = option(
        (),
        "with --target-recall: what `anonymize --classes` will look for (default: all that the weights know)",
        group=_THRESHOLDS,
        metavar="CLASS",
    )
    group_by: str | None = option(
        None,
        "regular expression that finds in each image's name what it was taken with or when, such as a camera (its first"
        " bracket, if any): figures by group, and with --target-recall the bound holds for groups, not for images",
        pattern=True,
        metavar="REGEX",
    )
    batch_size: int = batch_size_option()
    device: str = device_option()
    precision: str = precision_option(PRECISIONS, "; but float32 for figures")
    workers: int | None = workers_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        if self.score is not None and (self.weights or self.submission or self.target_recall):
            raise UserError("--score reads detections from a file: it must not go with --weights or what needs them")
        if self.score is None:
            self.detection(self.dataset)
        storage.check(self.dataset, "DATASET")
        storage.check(self.out, "OUT")

    @property
    def detectors(self) -> tuple[str, ...]:
        """Return the weights that are measured: those given, or that of the detector that is part of depers."""
        return self.weights or (shipped.NAME,)

    def name_detectors(self) -> list[str]:
        """Return the weights as results call them: as they were given, the detector of depers with its version."""
        parts = [
            text.partition(":") if text.startswith(f"{shipped.NAME}:") else (text, "", "") for text in self.detectors
        ]
        return [f"{describe_weights_uri(uri)}{colon}{class_map}" for uri, colon, class_map in parts]

    def detection(self, folder: str, classes: tuple[str, ...] = ()) -> detect.Options:
        """Return the options of the detection in `folder` that is measured, as `yolov5 val` detects."""
        return detect.Options(
            input=folder,
            out=storage.join(self.out, "detect"),
            weights=self.weights,
            classes=classes,
            confidence=self.confidence,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            imgsz=self.imgsz,
            augment=self.augment,
            tile=self.tile,
            within=self.within,
            batch_size=self.batch_size,
            device=self.device,
            precision="float32" if self.precision == "auto" else self.precision,
            workers=self.workers,
            follow_links=True,  # as training does
            multi_label=True,
            half_stride_pad=True,
        )

    def redaction(self, folder: str) -> detect.Options:
        """Return the options of the detection by which thresholds are found: as anonymization detects by default.

        Suppression goes by falling confidence, so the boxes above a threshold are those of a run with that threshold.
        """
        defaults = detect.Options(folder, storage.join(self.out, "detect-calibration"), self.weights)
        return replace(
            defaults,
            classes=self.classes,
            confidence=self.confidence,
            imgsz=self.imgsz,
            tile=self.tile,
            within=self.within,
            augment=self.augment,
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
            workers=self.workers,
            follow_links=True,
        )


def check(options: Options) -> None:
    """Raise UserError for a dataset that cannot be measured with, as far as its folders say, before Ray starts."""
    dataset = read_dataset(options.dataset)
    check_labels(options.dataset, find_split_folder(dataset, options.split, options.dataset))


@dataclass(frozen=True, kw_only=True)
class EvaluateResult(VerbResult):
    """How well the detectors do: what stands in `metrics`, or with `score` in OUT/score.json; `text` is its tables."""

    out: str
    figures: Mapping[str, Any]
    metrics: str
    """The file of the figures."""
    report: str | None = None
    thresholds: str | None = None
    text: str

    def summary(self) -> list[str]:
        """Return the tables of figures, and where the report is."""
        return [*self.text.splitlines(), f"report {self.report}" if self.report else self.metrics]


def _score(options: Options, dataset: Dataset, folder: str) -> EvaluateResult:
    """Score a file of detections in the competition's format."""
    assert options.score is not None
    detections = submission.read(options.score, len(dataset.names))
    score = score_file(detections, options.score, folder, dataset)
    content = {"file": options.score, "dataset": options.dataset, "split": options.split}
    content |= score_as_dict(score, dataset.names)
    target = storage.join(options.out, "score.json")
    storage.write_bytes(target, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    text = f"{len(detections.rows)} boxes\n{format_score(score, dataset.names)}"
    return EvaluateResult(out=options.out, figures=content, metrics=target, text=text)


def _calibrate(
    options: Options,
    dataset: Dataset,
    folder: str,
    targets: dict[str, float],
    seen: Mapping[str, Mapping[str, int] | str],
    groups: Mapping[str, str],
) -> list[Calibration]:
    """Detect as anonymization does, and write OUT/thresholds.json; `groups` has that of each image, by its path."""
    detection = options.redaction(folder)
    result = detect.run(detection, withholds=False)
    progress.report_lines(result.summary())
    table = _images(tables.read_table(storage.join(detection.out, "detections.parquet")))
    readable = table.filter(pc.equal(table["status"], FileStatus.DETECTED))  # anonymization withholds the others
    # What boxes were computed in, not what --precision says: `auto` is something else on another machine.
    arithmetic = tuple(sorted(set(readable["arithmetic"].to_pylist()) - {None}))
    if len(arithmetic) > 1:
        parts = " and ".join(arithmetic)
        progress.report(f"warning: images were looked at in {parts}: no other run has thresholds that hold for both")
    samples = read_samples(readable, folder, dataset)
    calibrations = calibration.calibrate(
        samples,
        dataset.names,
        result.class_names,
        targets,
        margin=options.margin,
        coverage=options.coverage,
        certainty=options.certainty,
        groups=[groups[sample.path] for sample in samples],
    )
    weights = [parse_weights(text) for text in options.detectors]
    settings = Settings(
        weights=describe_weights(weights, read_checkpoints(weights)),
        classes=tuple(sorted(result.class_names)),
        imgsz=options.imgsz,
        tile=options.tile,
        augment=options.augment,
        arithmetic=arithmetic,
        iou_threshold=detection.iou_threshold,
        margin=options.margin,
        within=format_rules(parse_rules(detection.chosen_rules)),
    )
    details: dict[str, Any] = {"dataset": options.dataset, "split": options.split, "images": len(readable)}
    details |= {"weights": options.name_detectors(), "coverage": options.coverage, "certainty": options.certainty}
    details |= {"certainty_together": calibration.certainty_together(calibrations, options.certainty)}
    details |= {
        "group_by": options.group_by,
        "promise": calibration.describe_certainty(calibrations, options.certainty),
    }
    details["seen_in_training"] = seen
    details["found"] = "covered by the grown boxes of its class together; precision at IoU 0.5"
    text = calibration.format_thresholds(calibrations, settings, details)
    storage.write_bytes(storage.join(options.out, "thresholds.json"), text.encode())
    return calibrations


def _images(table: pa.Table) -> pa.Table:
    """Return the rows that are about images: other files do not count, as `yolov5 val` has it."""
    return table.filter(pc.is_in(table["status"], value_set=pa.array([FileStatus.DETECTED, FileStatus.FAILED])))


def run(options: Options) -> EvaluateResult:
    """Measure detectors on a dataset. Raises UserError for a wrong dataset, options or weights."""
    out = storage.absolute(options.out)
    with lease.hold(units.locate_inside(out), out):
        return _evaluate(options)


def _evaluate(options: Options) -> EvaluateResult:
    check(options)
    dataset = without_machine_labels(read_dataset(options.dataset))
    folder = find_split_folder(dataset, options.split, options.dataset)
    if options.score is not None:
        return _score(options, dataset, folder)
    targets = read_class_shares(options.target_recall, dataset.names, "--target-recall")
    weights_classes = pipeline.read_class_names(options.detection(folder))
    detectable = [name in weights_classes for name in dataset.names]
    classes = tuple(name for name in dataset.names if name in weights_classes)
    if not classes:
        raise UserError(
            f"--weights must know a class of the dataset ({', '.join(dataset.names)}), but know"
            f" {', '.join(weights_classes)}; map them: W:{weights_classes[0]}=…"
        )
    detection = options.detection(folder, classes)
    detect_result = detect.run(detection, withholds=False)
    progress.report_lines(detect_result.summary())
    table = _images(tables.read_table(storage.join(detection.out, "detections.parquet")))
    measured = read_samples(table, folder, dataset)
    metrics = measure([sample.match() for sample in measured], dataset.names, detectable)
    sizes = measure_sizes(measured, dataset.names, detectable, metrics.confidence)
    failures = table.filter(pc.equal(table["status"], FileStatus.FAILED)).select(["path", "reason"]).to_pylist()
    failed = [(row["path"], row["reason"]) for row in failures]
    figures: dict[str, Any] = {"dataset": options.dataset, "split": options.split}
    figures |= {"weights": options.name_detectors()}
    figures |= {"imgsz": options.imgsz, "augment": options.augment, "failed": len(failed)}
    counts = count_seen([parse_weights(text).uri for text in options.detectors], folder)
    counts = {describe_weights_uri(uri): by_split for uri, by_split in counts.items()}
    seen = {name: NOT_KNOWN if by_split is None else by_split for name, by_split in counts.items()}
    figures["seen_in_training"] = seen
    warnings = describe_seen(counts, len(measured))
    figures |= metrics.as_dict() | {"sizes": [row._asdict() for row in sizes]}
    lines = [*warnings, metrics.format_text()]
    if options.submission:
        detections = submission.from_table(table, dataset.names)
        storage.write_bytes(options.submission, submission.format_submission(detections).encode())
        score = score_file(detections, options.submission, folder, dataset)
        figures["competition"] = score_as_dict(score, dataset.names)
        lines.append(f"{format_score(score, dataset.names)}\n{options.submission}")
    paths = [sample.path for sample in measured]
    likenesses = read_likenesses([storage.join(folder, path) for path in paths])
    groups = dict(zip(paths, join_twins(group_names(paths, options.group_by), likenesses), strict=True))
    calibrations: list[Calibration] = []
    thresholds = storage.join(options.out, "thresholds.json") if targets else None
    if targets:
        calibrations = _calibrate(options, dataset, folder, targets, seen, groups)
        lines.append(f"{calibration.format_table(calibrations, options.certainty)}\n{thresholds}")
    results = [judge(sample, metrics.confidence) for sample in measured]
    slices = slice_by_brightness(likenesses)
    if options.group_by:
        slices += slice_by_group(group_names(paths, options.group_by))
    slice_rows = measure_slices(slices, results, dataset.names, detectable)
    figures["conditions"] = [row._asdict() for row in slice_rows]
    page = make_report(
        metrics,
        sizes,
        calibrations,
        options.certainty,
        results,
        failed,
        folder,
        dataset.names,
        warnings,
        slices,
        slice_rows,
    )
    content = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    for name, text in (("metrics.json", content), ("metrics.csv", metrics.format_csv()), ("report.html", page)):
        storage.write_bytes(storage.join(options.out, name), text.encode())
    return EvaluateResult(
        failures=detect_result.failures,
        out=options.out,
        figures=figures,
        metrics=storage.join(options.out, "metrics.json"),
        report=storage.join(options.out, "report.html"),
        thresholds=thresholds,
        text="\n".join(lines),
    )
