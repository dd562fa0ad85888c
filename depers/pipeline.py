"""Runs the steps of a pass on Ray, resumed, followed and accounted for; what verbs that look at pictures share."""

import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from depers import __version__, dataflow, storage, units
from depers.calibration import read_thresholds
from depers.dataflow import Pass
from depers.given import BoxSource, Rows
from depers.images import MAX_MEGAPIXELS
from depers.options import UserError, argument, option
from depers.prediction import PRECISIONS, Prediction, Weights, parse_weights
from depers.steps import Finish, Item, Job, Outcome, Row
from depers.storage import Entry
from depers.units import Unit
from depers.workers import inspect as inspect

_NOT_DECISIVE = ("input", "out", "device", "topology", "workers")
_FAILURES_SHOWN = 10


@dataclass(frozen=True)
class PassOptions:
    """What detection and anonymization have in common."""

    input: str = argument("folder of pictures and archives of pictures (recursive), a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = option(
        (), "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…]; repeat to combine detectors", metavar="W"
    )
    classes: tuple[str, ...] = option((), "only these classes (default: all that the weights give)", metavar="CLASS")
    confidence: float = option(0.15, "least confidence of a box, 0…1; low, so that rather too much is found")
    iou_threshold: float = option(0.5, "boxes of one class that overlap more than this are one, 0…1")
    thresholds: str | None = option(
        None, "thresholds.json from `depers evaluate`: the least confidence by class; the lowest for all others"
    )
    max_detections: int = option(1000, "most boxes of one picture")
    imgsz: int = option(640, "longer side for the detector in pixels, a multiple of 32")
    tile: int | None = option(
        None, "pictures larger than this many pixels are looked at whole and in overlapping tiles of this size"
    )
    augment: bool = option(False, "look at every picture several times, enlarged and mirrored: finds more, slower")
    batch_size: int = option(8, "pictures per inference")
    max_megapixels: float = option(MAX_MEGAPIXELS, "pictures that declare more pixels fail")
    device: str = option("auto", "where to detect", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "arithmetic on CPUs; auto: bfloat16 where it is native", choices=PRECISIONS)
    topology: str = option("auto", "auto: fused on CPUs, staged around GPUs", choices=("auto", "fused", "staged"))
    workers: int | None = option(None, "actors, or with a GPU none (default: one per core of the cluster)")

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        for name in ("confidence", "iou_threshold"):
            if not 0 < getattr(self, name) < 1:
                kebab = name.replace("_", "-")
                raise UserError(f"--{kebab} must be between 0 and 1, but got {getattr(self, name):g}")
        if self.imgsz < 32 or self.imgsz % 32:
            raise UserError(f"--imgsz must be a positive multiple of 32, but got {self.imgsz}")
        if self.tile is not None and self.tile < 64:
            raise UserError(f"--tile must be at least 64, but got {self.tile}")
        for name in ("batch_size", "workers", "max_megapixels", "max_detections"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be positive, but got {value}")
        self.check_sources()
        storage.check(self.input, "INPUT")
        storage.check(self.out, "OUT")

    def check_sources(self) -> None:
        """Raises UserError where nothing says what to look for."""
        if not self.weights:
            raise UserError("--weights must be given at least once")

    def decisive(self) -> dict[str, Any]:
        """The options that decide the bytes written; a run is only resumed with the same ones."""
        return {name: value for name, value in asdict(self).items() if name not in _NOT_DECISIVE}


def make_job(
    options: PassOptions,
    schema: pa.Schema,
    last: Callable[[str], Finish],
    *,
    multi_label: bool = False,
    half_stride_pad: bool = False,
    mirrors: bool = False,
    keep: tuple[str, ...] = (),
    boxes: BoxSource | None = None,
) -> Job:
    """The options as a job for the workers; `last` makes the last step, given OUT.

    Raises UserError for a malformed class map, or where there is no GPU.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if options.device == "cuda" and not gpus:
        raise UserError("--device cuda needs a GPU, but this Ray cluster has none")
    device = options.device if options.device != "auto" else "cuda" if gpus else "cpu"
    thresholds = thresholds_of(options)
    how = Prediction(
        imgsz=options.imgsz,
        confidence=min([options.confidence, *thresholds.values()]),  # also for classes that have no threshold
        iou_threshold=options.iou_threshold,
        max_detections=options.max_detections,
        multi_label=multi_label,
        device=device,
        precision=options.precision,
        augment=options.augment,
    )
    return Job(
        input=_absolute(options.input),
        out=_absolute(options.out),
        weights=tuple(parse_weights(text) for text in options.weights),
        classes=options.classes,
        how=how,
        batch_size=options.batch_size,
        max_megapixels=options.max_megapixels,
        half_stride_pad=half_stride_pad,
        schema=schema,
        finish=last(_absolute(options.out)),
        mirrors=mirrors,
        keep=keep,
        tile=options.tile,
        thresholds=thresholds,
        boxes=boxes,
    )


def thresholds_of(options: PassOptions) -> dict[str, float]:
    """The least confidence by class, where a file says so. Raises UserError."""
    return read_thresholds(options.thresholds) if options.thresholds else {}


def _absolute(uri: str) -> str:
    """Workers run in folders of their own."""
    return uri.rstrip("/") if storage.is_s3(uri) else os.path.abspath(uri)  # noqa: PTH100 (keeps links as they are)


def read_checkpoints(weights: Sequence[Weights]) -> list[bytes]:
    """The bytes of every `--weights`. Raises UserError where one cannot be read."""
    checkpoints = []
    for one in weights:
        try:
            checkpoints.append(storage.read_bytes(storage.check(one.uri, "--weights")))
        except FileNotFoundError:
            raise UserError(f"{one.uri}: no such weights file") from None
        except OSError as error:
            raise UserError(f"{one.uri}: weights cannot be read ({error.strerror or error})") from None
        if not checkpoints[-1]:
            raise UserError(f"{one.uri}: must be a YOLOv5 checkpoint, but the file is empty")
    return checkpoints


def class_names(options: PassOptions) -> list[str]:
    """The names of the classes that the weights give. Raises UserError."""
    import ray

    job = make_job(options, pa.schema([]), lambda out: _nothing)
    return list(ray.get(ray.remote(inspect).remote(job, read_checkpoints(job.weights)))[0])


def _nothing(item: Item, boxes: Sequence[Row]) -> Outcome:
    return Outcome({})


class Summary(NamedTuple):
    """What a pass did: the units that account for every input, the class names, and how fast it went."""

    job: Job
    units: list[Unit]
    class_names: list[str]
    rate: float | None
    """Images per second of this run, from its first unit to its last, so without start-up; None if none were left."""

    @property
    def speed(self) -> str:
        """The rate as text."""
        return f"{self.rate:.1f} images/s" if self.rate else "all done before"

    def tables(self) -> Iterator[pa.Table]:
        """The rows of all inputs, unit by unit. Raises RuntimeError unless every input has exactly one."""
        return units.collect(self.job.out, self.units, self.job.schema)


def run(job: Job, options: PassOptions, entries: Sequence[Entry] | None = None, rows: Rows | None = None) -> Summary:
    """Runs the job on the Ray cluster, resuming what OUT already holds.

    `entries` are the files to look at (default: all in INPUT), `rows` what earlier tables say about them. Raises
    UserError for a wrong INPUT, OUT, weights or classes.
    """
    import ray

    checkpoints = read_checkpoints(job.weights)
    reference = ray.put(checkpoints)
    inspection = ray.remote(inspect).options(num_cpus=0.05).remote(job, reference)  # imports torch; we list meanwhile
    digests = [hashlib.sha256(data).hexdigest()[:16] for data in checkpoints]
    everything = plan(job.input) if entries is None else units.cut(entries)
    class_names, stride = ray.get(inspection)
    units.claim(job.out, options.decisive() | {"weights_sha256": digests, "depers": __version__})
    recorded, parts = units.recorded(job.out), units.parts(job.out)
    todo = [unit for unit in everything if unit.name not in recorded]
    for name in parts.keys() - {unit.name for unit in todo}:
        units.remove_parts(job.out, name, parts[name])  # of an archive that was finished, or has changed since
    staged = options.topology == "staged" or (options.topology == "auto" and job.how.device != "cpu")
    about = "staged (CPU tasks around GPU actors)" if staged else "fused (one actor per core)"
    skipped = len(everything) - len(todo)
    print(f"{_count(everything)}, {skipped} of {len(everything)} units done before; {about}", file=sys.stderr)
    rate = None
    if todo:
        if rows is None and job.boxes is not None and not job.boxes.labels:
            rows = Rows(job.boxes.uri)
        work = dataflow.run(Pass(job, reference, stride, staged, options.workers, rows, parts), todo)
        total = sum(len(unit.entries) for unit in todo)
        rate = _follow(work, None if any(unit.archive for unit in todo) else total)
    return Summary(job, everything, class_names, rate)


def plan(folder: str) -> list[Unit]:
    """The units of everything in INPUT. Raises UserError where there is nothing, or what only OUT may hold."""
    found = units.cut(storage.list_files(folder))
    if not found:
        raise UserError(f"{folder}: must hold at least one file, but is empty")
    if any(entry.path.startswith(f"{units.FOLDER}/") for unit in found for entry in unit.entries):
        raise UserError(f"{folder}: must not hold a folder {units.FOLDER}, which is where OUT's records go")
    return found


def refuse_overlap(job: Job) -> None:
    """Raises UserError where INPUT and OUT lie in each other."""
    if storage.overlap(job.input, job.out):
        raise UserError(f"OUT must lie outside INPUT and INPUT outside OUT, but got {job.input} and {job.out}")


def _count(everything: Sequence[Unit]) -> str:
    archives = sum(unit.archive is not None for unit in everything)
    files = sum(len(unit.entries) for unit in everything) - archives
    return f"{files} files" + (f" and {archives} archives" if archives else "")


class Failures:
    """Counts failed rows, and prints the first of them with their reasons on stderr; `table` has them all."""

    def __init__(self, table: str) -> None:
        self._table = table
        self.count = 0

    def see(self, table: pa.Table) -> None:
        """Adds the rows of a table."""
        columns = {"path", "member", "status", "reason"} & set(table.schema.names)
        for row in table.select(sorted(columns)).to_pylist():
            if row["status"] in ("failed", "incomplete"):
                self.count += 1
                if self.count <= _FAILURES_SHOWN:
                    place = row["path"] if row.get("member") is None else f"{row['path']}: {row['member']}"
                    print(f"{row['status']}: {place}: {row['reason']}", file=sys.stderr)

    def close(self) -> None:
        """Says how many were not shown."""
        if self.count > _FAILURES_SHOWN:
            print(f"… and {self.count - _FAILURES_SHOWN} more failed: see {self._table}", file=sys.stderr)


def _follow(results: Iterable[Row], total: int | None) -> float:
    """A progress bar over the files, with what became of them.

    Gives files per second after the first unit; of a single unit, with its start.
    """
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    begun = started = time.monotonic()
    first = done = 0
    with tqdm(total=total, unit="image", smoothing=0.1, file=sys.stderr, mininterval=0.5) as bar:
        for row in results:
            counts.update(row["statuses"])
            bar.set_postfix(counts, refresh=False)
            bar.update(len(row["statuses"]))
            done += len(row["statuses"])
            if not first:
                started, first = time.monotonic(), done
    if done > first:
        begun, done = started, done - first
    return done / max(time.monotonic() - begun, 1e-9)
