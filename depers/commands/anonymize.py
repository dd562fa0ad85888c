"""`depers anonymize`: mirror images with faces, people and plates made unrecognizable, loose or in archives.

Every file, and every member of an archive, ends as exactly one manifest row: `redacted`, `clean` (nothing found),
`failed` with a reason, or, where it is no image, `passed_through` or `skipped`. What failed is absent from the output.
Each archive has a row of its own: `complete`, `incomplete`, or `failed`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from depers import storage
from depers.anonymization import name_map
from depers.anonymization.manifest import MANIFEST, SCHEMA, STATUSES
from depers.anonymization.name_map import NameMap
from depers.anonymization.redact_step import redact_item
from depers.anonymization.removal import Removal
from depers.anonymization.report import ManifestStatistics, make_report
from depers.anonymization.single_file import deliver, find_single_file, hold_alone
from depers.datasets.labels import CLASSES
from depers.detection import shipped
from depers.detection.settings import parse_weights
from depers.errors import UserError
from depers.imaging.metadata import exif
from depers.options import option
from depers.options.shared import REDACTION, RUNNING, classes_option
from depers.pipeline import clean_watch, local
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.box_sources import BoxSource, find_box_source, find_previous_source
from depers.pipeline.forecast import Forecast
from depers.pipeline.forecast import forecast as make_forecast
from depers.pipeline.options import find_records, records_option
from depers.pipeline.steps import PassJob
from depers.redaction.colors import MODES
from depers.runtime.cluster import count_nodes
from depers.runtime.local_pool import PoolPlan
from depers.runtime.progress import Speed
from depers.runtime.results import FailureCounter, VerbResult
from depers.statuses import ArchiveStatus, FileStatus
from depers.storage import tables

_KNOWN_BOXES = "known boxes"
_MOST_CLASSES = 8  # that a line tells one by one


@dataclass(frozen=True)
class Options(pipeline_options.PassOptions):
    """Mirror INPUT, a folder or one file, to OUT with every box made unrecognizable, and all metadata removed."""

    classes: tuple[str, ...] = classes_option(
        f"all that --weights give; without --weights what identifies: {', '.join(shipped.CLASSES)}"
    )
    records: str | None = records_option()
    keep_removed: bool = option(
        False, "results whose inputs are no longer in INPUT stay in OUT (default: they are removed)", group=REDACTION
    )
    mode: str = option(
        "pixelate",
        "what becomes of a box: 6 cells across at most, the same blurred, gray, or a smooth surface from all around",
        choices=MODES,
        group=REDACTION,
    )
    margin: float = option(
        0.1, "how much of a box's width and height is added on each side", low=0, high=2, group=REDACTION
    )
    boxes: str | None = option(
        None,
        "no detector, but these boxes: a detections.parquet, or a folder with labels/ and classes.txt or data.yaml",
        group=_KNOWN_BOXES,
    )
    previous_detections: str | None = option(
        None,
        "no detector, but the boxes of an earlier run over the same files: its OUT, records, manifest or"
        " detections.parquet; all of them, unless --confidence or --thresholds say which",
        group=_KNOWN_BOXES,
    )
    stop_after_clean: int | None = option(
        None,
        "stop with an error once so many images in a row have not one box (default: warn after"
        f" {clean_watch.WARN_AFTER})",
        low=1,
        ceiling=10**9,
        group=RUNNING,
    )
    keep: tuple[str, ...] = option(
        (),
        "keep files that are no images and match this pattern, as they are (default: none)",
        group=REDACTION,
        metavar="GLOB",
    )
    keep_columns: tuple[str, ...] = option(
        (),
        "keep columns of tables, or values within them (a.b), that match this pattern (default: only images)",
        group=REDACTION,
        metavar="GLOB",
    )
    keep_anyway: bool = option(
        False, "keep what --keep and --keep-columns name also where it holds images, or may", group=REDACTION
    )
    keep_metadata: tuple[str, ...] = option(
        (),
        "metadata to keep (default: only what is needed to look right)",
        choices=tuple(exif.GROUPS),
        group=REDACTION,
        metavar="NAME",
    )

    map: tuple[str, ...] = option(
        (),
        "what results and members of archives are called, rule after rule: strip:PREFIX, replace:/REGEX/TEXT/,"
        " hash:REGEX for what it finds, or hash for all folders and names (keyed, the suffix stays; the key lies with"
        " the records); may be repeated (default: as their inputs)",
        group=REDACTION,
        metavar="RULE",
    )

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        name_map.parse_rules(self.map)
        find_records(self.out, self.records)
        for text in self.weights:
            for name in parse_weights(text).class_map.values():
                if name not in CLASSES:
                    raise UserError(f"--weights {text}: a class must be one of {', '.join(CLASSES)}, but got {name!r}")

    def check_sources(self) -> None:
        """Raise UserError where more than one thing says where boxes are."""
        sources = [bool(self.weights), self.boxes is not None, self.previous_detections is not None]
        if sum(sources) > 1:
            raise UserError(
                "--weights, --boxes and --previous-detections exclude each other, but more than one is given"
            )
        place = "--boxes" if self.boxes is not None else "--previous-detections"
        if not self.detectors and (self.tile or self.augment):
            raise UserError(f"--tile and --augment say how a detector looks, but there is none with {place}")
        if not self.detectors and self.stop_after_clean:
            raise UserError(f"--stop-after-clean is about what a detector finds, but there is none with {place}")

    @property
    def detectors(self) -> tuple[str, ...]:
        """Return the weights in use: those given, or the default where boxes come from nowhere else."""
        return () if self.boxes is not None or self.previous_detections is not None else super().detectors

    @property
    def is_default(self) -> bool:
        """Return whether the detector is the one that is part of depers, as it is."""
        return self.detectors == (shipped.NAME,)

    @property
    def chosen_classes(self) -> tuple[str, ...]:
        """Return the names of the classes to look for; none where all that the weights give are meant."""
        return shipped.CLASSES if self.is_default and not self.classes else super().chosen_classes

    @property
    def chosen_thresholds(self) -> str | None:
        """Return where the thresholds in use are: those given, or those of the default detector."""
        is_open = self.thresholds is None and self.confidence is None
        return shipped.THRESHOLDS if self.is_default and is_open else self.thresholds

    def source(self, thresholds: Mapping[str, float]) -> BoxSource | None:
        """Return where boxes come from, if not from a detector. Raises UserError."""
        if self.boxes is not None:
            return find_box_source(storage.check(self.boxes, "--boxes"), self.chosen_classes)
        if self.previous_detections is not None:
            uri = storage.check(self.previous_detections, "--previous-detections")
            return find_previous_source(uri, self.confidence, thresholds)
        return None


@dataclass(frozen=True, kw_only=True)
class AnonymizeResult(VerbResult):
    """What became of the inputs: how many files (members of archives among them) and archives by status.

    One file has neither `manifest` nor `report`.
    """

    out: str
    manifest: str | None
    report: str | None
    files: Mapping[str, int]
    archives: Mapping[str, int]
    boxes: Mapping[str, int]
    """How many were redacted, by class."""
    targets: Sequence[str] | None
    """The classes that detectors looked for; None where boxes came from elsewhere."""
    speed: Speed
    clean_in_a_row: int
    """How many images in a row the detector found nothing in, at most, among those of this run."""
    is_written: bool = True
    """Whether OUT is the result; not where INPUT is one file, and failed."""
    notes: Sequence[str] = ()
    """What has to be seen about this run, such as thresholds of another detector."""

    def summary(self) -> list[str]:
        """Return the line that says what became of the inputs, the notes, a warning where a detector found nothing."""
        outcome = _count_text(self.files, STATUSES)
        if self.archives:
            outcome += f"; {sum(self.archives.values())} archives: {_count_text(self.archives, tuple(ArchiveStatus))}"
        inputs = sum(count for status, count in self.files.items() if status != FileStatus.REMOVED)
        place = self.out if self.is_written else f"nothing is written to {self.out}"
        places = f"manifest {self.manifest}; report {self.report}" if self.manifest else place
        lines = [f"{inputs} inputs: {outcome}; {self.speed}; {places}", *self._describe_classes(), *self.notes]
        warns = self.clean_in_a_row >= clean_watch.WARN_AFTER
        return [*lines, f"warning: {clean_watch.describe(self.clean_in_a_row)}"] if warns else lines

    def _describe_classes(self) -> list[str]:
        """Return the line that says what was looked for, how much of it was redacted, and what was not looked for."""
        if self.targets is None:
            return []
        names = sorted(self.targets, key=lambda name: -self.boxes.get(name, 0))  # stable: in the weights' order
        counts = ", ".join(f"{name} ({self.boxes.get(name, 0)} redacted)" for name in names[:_MOST_CLASSES])
        counts += f" and {len(names) - _MOST_CLASSES} more" if len(names) > _MOST_CLASSES else ""
        others = [name for name in CLASSES if name not in self.targets]
        return [f"looked for: {counts}" + (f"; not looked for: {', '.join(others)}" if others else "")]


def _count_text(counts: Mapping[str, int], statuses: Sequence[str]) -> str:
    """Return the counts by status as text; what must be told is told even where it is none."""
    return ", ".join(
        f"{counts.get(status, 0)} {status}" for status in statuses if counts.get(status) or status in STATUSES[:3]
    )


def plan_processes(options: Options) -> PoolPlan | None:
    """Return the processes of this machine that do the work; None where Ray shall do it."""
    return local.plan_processes(options, options.records or "")


def run(options: Options) -> AnonymizeResult:
    """Anonymize INPUT, a folder or one file, to OUT. Raises UserError for wrong options, weights or folders."""
    if options.s3_as_of is not None or (file := find_single_file(options.input, options.out)) is None:
        return _run(options)
    if options.records is not None:
        raise UserError(f"--records is for folders, but INPUT is a file, {options.input}, of which none are kept")
    if (nodes := count_nodes()) > 1:  # which would look for it on disks of their own
        raise UserError(f"{options.input}: must be a folder on a cluster of {nodes} nodes, but is a file")
    if options.map:
        raise UserError(f"--map is for folders, but INPUT is a file, {options.input}: name its result")
    with hold_alone(file) as (folder, out):
        result = _run(replace(options, input=folder, out=out, follow_links=True))
        has_result = deliver(file, out)
    if not has_result and not result.failures.count:
        raise UserError(f"{options.input}: must be an image, or an archive of images, but is neither")
    failures = replace(result.failures, table="")
    return replace(result, out=file.target, manifest=None, report=None, failures=failures, is_written=has_result)


def forecast(options: Options) -> Forecast:
    """Say what `run` would be about, and how long it would take: nothing is written. Raises UserError as it does."""
    return make_forecast(_make_job(options), options)


def _make_job(options: Options) -> PassJob:
    redact = partial(
        redact_item,
        mode=options.mode,
        margin=options.margin,
        keep_metadata=options.keep_metadata,
        max_megapixels=options.max_megapixels,
        keep_anyway=options.keep_anyway,
    )
    thresholds = pipeline_options.read_class_thresholds(options)
    records = find_records(options.out, options.records)
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: redact,
        mirrors=True,
        keep=options.keep,
        keep_columns=options.keep_columns,
        keep_anyway=options.keep_anyway,
        boxes=options.source(thresholds),
        records=records,
        rename=name_map.load(options.map, storage.absolute(options.out), records),
    )
    pipeline.refuse_overlap({"OUT": job.out, "INPUT": job.input, "records": job.records_beside})
    return job


def _run(options: Options) -> AnonymizeResult:
    job = _make_job(options)
    secrets = job.rename.note() if isinstance(job.rename, NameMap) else {}
    with pipeline.run(job, options, stop_after_clean=options.stop_after_clean, secrets=secrets) as summary:
        return _gather(job, summary, Removal(summary, options.keep_removed))


def _gather(job: PassJob, summary: pipeline.Summary, removal: Removal) -> AnonymizeResult:
    """Remove what has no input any more, write the manifest and the report; return what became of the inputs."""
    manifest = storage.join(job.records, MANIFEST)
    statistics, counter = ManifestStatistics(), FailureCounter(manifest)
    with tables.TableWriter(manifest, summary.note_moment(SCHEMA)) as writer:
        for table in removal.complete(summary.tables()):
            writer.write(table)
            statistics.add(table)
            counter.add(table)
    report = storage.join(job.records, "report.html")
    storage.write_bytes(report, make_report(job.out, statistics).encode())
    removal.settle()
    return AnonymizeResult(
        failures=counter.failures(),
        out=job.out,
        manifest=manifest,
        report=report,
        files=dict(statistics.files),
        archives=dict(statistics.archives),
        boxes=dict(statistics.classes),
        targets=summary.class_names if job.weights else None,
        speed=summary.speed,
        clean_in_a_row=summary.clean_in_a_row,
        notes=summary.notes,
    )
