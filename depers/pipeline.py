"""Runs the steps of a pass on Ray: fused on CPUs, staged around GPUs, resumed, followed and accounted for.

On a CPU one actor per core does all steps, which spares the copies between processes; a GPU is fed by CPU tasks and
followed by CPU tasks.
"""

import hashlib
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import __version__, storage, units
from depers.detections import Detections
from depers.images import MAX_MEGAPIXELS
from depers.options import REQUIRED, UserError, argument, option
from depers.prediction import PRECISIONS, Prediction, Weights, parse_weights
from depers.steps import Finish, Item, Job, Row, detect, finish, prepare, read, record
from depers.storage import Entry

if TYPE_CHECKING:
    from depers.detector import Detector

_NOT_DECISIVE = ("input", "out", "device", "topology", "workers")
_THREADS = 8  # per worker, for what waits for storage


@dataclass(frozen=True)
class PassOptions:
    """What detection and anonymization have in common."""

    input: str = argument("folder of pictures (recursive), a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = option(
        REQUIRED, "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…]; repeat to combine detectors", metavar="W"
    )
    classes: tuple[str, ...] = option((), "only these classes (default: all that the weights give)", metavar="CLASS")
    confidence: float = option(0.15, "least confidence of a box, 0…1; low, so that rather too much is found")
    iou_threshold: float = option(0.5, "boxes of one class that overlap more than this are one, 0…1")
    max_detections: int = option(1000, "most boxes of one picture")
    imgsz: int = option(640, "longer side for the detector in pixels, a multiple of 32")
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
        for name in ("batch_size", "workers", "max_megapixels", "max_detections"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"--{name.replace('_', '-')} must be positive, but got {value}")
        if not self.weights:
            raise UserError("--weights must be given at least once")
        storage.check(self.input, "INPUT")
        storage.check(self.out, "OUT")

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
) -> Job:
    """The options as a job for the workers; `last` makes the last step, given OUT.

    Raises UserError for a malformed class map, or where there is no GPU.
    """
    import ray

    gpus = ray.cluster_resources().get("GPU", 0)
    if options.device == "cuda" and not gpus:
        raise UserError("--device cuda needs a GPU, but this Ray cluster has none")
    device = options.device if options.device != "auto" else "cuda" if gpus else "cpu"
    how = Prediction(
        imgsz=options.imgsz,
        confidence=options.confidence,
        iou_threshold=options.iou_threshold,
        max_detections=options.max_detections,
        multi_label=multi_label,
        device=device,
        precision=options.precision,
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
    )


def _absolute(uri: str) -> str:
    """Workers run in folders of their own."""
    return uri.rstrip("/") if storage.is_s3(uri) else os.path.abspath(uri)  # noqa: PTH100 (keeps links as they are)


def make_detector(job: Job, checkpoints: Sequence[bytes]) -> "Detector":
    """The job's detector. Raises UserError for weights or classes that will not do."""
    from depers.detector import Detector

    return Detector(job.weights, checkpoints, job.classes, job.how)


class FusedWorker:
    """All steps in one process, on one core."""

    def __init__(self, job: Job, checkpoints: Any) -> None:
        import torch

        torch.set_num_threads(1)  # one actor per core
        self.job, self.detector = job, make_detector(job, _get(checkpoints))
        self.pool = ThreadPoolExecutor(_THREADS)

    def __call__(self, row: Row) -> Row:
        unit = pickle.loads(row["unit"])
        reads = [self.pool.submit(read, self.job, entry.path) for entry in unit.entries]
        done: list[Row] = []
        finishing: list[Future[Row]] = []
        while reads:
            batch = [reads.pop(0).result() for _ in range(min(self.job.batch_size, len(reads)))]
            results = detect([prepare(self.job, item, self.detector.stride) for item in batch], self.detector)
            done += [future.result() for future in finishing]  # the batch before: its writing overlapped with this one
            finishing = [self.pool.submit(self._finish, *result) for result in results]
        done += [future.result() for future in finishing]
        return record(self.job, unit, done)

    def _finish(self, item: Item, found: Detections) -> Row:
        return finish(self.job, item, found, self.detector.class_names, self.detector.model_names)


class PrepareStage:
    """Staged, first: CPU tasks that read, decode and letterbox one unit."""

    def __init__(self, job: Job, stride: int) -> None:
        self.job, self.stride = job, stride

    def __call__(self, row: Row) -> Row:
        unit = pickle.loads(row["unit"])
        with ThreadPoolExecutor(_THREADS) as pool:
            items = list(pool.map(self._prepare, unit.entries))
        return {"unit": row["unit"], "items": pickle.dumps(items, protocol=5)}

    def _prepare(self, entry: Entry) -> Item:
        prepared = prepare(self.job, read(self.job, entry.path), self.stride)
        return replace(prepared, picture=None)  # the store carries compressed bytes and canvases, not full frames


class DetectStage:
    """Staged, second: an actor per GPU."""

    def __init__(self, job: Job, checkpoints: Any) -> None:
        self.job, self.detector = job, make_detector(job, _get(checkpoints))

    def __call__(self, row: Row) -> Row:
        items: list[Item] = pickle.loads(row["items"])
        results = []
        for start in range(0, len(items), self.job.batch_size):
            results += detect(items[start : start + self.job.batch_size], self.detector)
        return {"unit": row["unit"], "results": pickle.dumps(results, protocol=5)}


class FinishStage:
    """Staged, third: CPU tasks that finish and record one unit."""

    def __init__(self, job: Job, names: Sequence[str]) -> None:
        self.job, self.names, self.models = job, names, [one.name for one in job.weights]

    def __call__(self, row: Row) -> Row:
        unit, results = pickle.loads(row["unit"]), pickle.loads(row["results"])
        with ThreadPoolExecutor(_THREADS) as pool:
            rows = list(pool.map(self._finish, results))
        return record(self.job, unit, rows)

    def _finish(self, result: tuple[Item, Detections]) -> Row:
        return finish(self.job, *result, self.names, self.models)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference[0])


def inspect(job: Job, checkpoints: Sequence[bytes]) -> tuple[list[str], int]:
    """The detector's class names and stride; raises UserError as `make_detector`."""
    detector = make_detector(job, checkpoints)
    return detector.class_names, detector.stride


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


class Summary(NamedTuple):
    """What a pass did: the rows of all inputs, the class names, and how fast it went."""

    table: pa.Table
    class_names: list[str]
    rate: float | None
    """Images per second of this run, from its first unit to its last, so without start-up; None if none were left."""

    @property
    def speed(self) -> str:
        """The rate as text."""
        return f"{self.rate:.1f} images/s" if self.rate else "all done before"


def run(job: Job, options: PassOptions) -> Summary:
    """Runs the job on the Ray cluster, resuming what OUT already holds.

    Raises UserError for a wrong INPUT, OUT, weights or classes.
    """
    import ray

    if storage.overlap(job.input, job.out):
        raise UserError(f"OUT must lie outside INPUT and INPUT outside OUT, but got {job.input} and {job.out}")
    checkpoints = read_checkpoints(job.weights)
    reference = ray.put(checkpoints)
    inspection = ray.remote(inspect).remote(job, reference)  # importing torch there, while the input is listed here
    digests = [hashlib.sha256(data).hexdigest()[:16] for data in checkpoints]
    everything = units.cut(storage.list_files(job.input))
    if not everything:
        raise UserError(f"{job.input}: must hold at least one file, but is empty")
    if any(entry.path.split("/")[0] == units.FOLDER for unit in everything for entry in unit.entries):
        raise UserError(f"{job.input}: must not hold a folder {units.FOLDER}, which is where OUT's records go")
    import ray.data  # some seconds, while the inspection runs

    class_names, stride = ray.get(inspection)
    units.claim(job.out, options.decisive() | {"weights_sha256": digests, "depers": __version__})
    finished = units.recorded(job.out)
    todo = [unit for unit in everything if unit.name not in finished]
    total = sum(len(unit.entries) for unit in todo)
    skipped = sum(len(unit.entries) for unit in everything) - total
    topology = _topology(options.topology, job.how.device)
    device = f"{job.how.device}, {'one actor per core' if topology == 'fused' else 'CPU tasks around GPU actors'}"
    print(f"{total + skipped} inputs, {skipped} done before; {topology} ({device})", file=sys.stderr)
    rate = None
    if todo:
        ray.data.DataContext.get_current().enable_progress_bars = False  # they count blocks; `_follow` counts pictures
        rows = [{"unit": pickle.dumps(unit)} for unit in todo]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # after Ray has set it up
        plan = _fused if topology == "fused" else _staged
        rate = _follow(plan(dataset, job, reference, class_names, stride, options.workers).iter_rows(), total)
    return Summary(units.collect(job.out, everything, job.schema), class_names, rate)


def print_failures(table: pa.Table, most: int = 10) -> None:
    """The first failures with their reasons, on stderr."""
    failed = table.filter(pc.equal(table["status"], "failed"))
    for row in failed.slice(0, most).to_pylist():
        print(f"failed: {row['path']}: {row['reason']}", file=sys.stderr)
    if len(failed) > most:
        print(f"… and {len(failed) - most} more failed: see the manifest", file=sys.stderr)


def _cpus(workers: int | None) -> int:
    import ray

    return workers or int(ray.cluster_resources().get("CPU", 1))


def _topology(wanted: str, device: str) -> str:
    return wanted if wanted != "auto" else "fused" if device == "cpu" else "staged"


def _fused(dataset: Any, job: Job, checkpoints: Any, names: list[str], stride: int, workers: int | None) -> Any:
    import ray.data

    actors = ray.data.ActorPoolStrategy(size=_cpus(workers), max_tasks_in_flight_per_actor=2)
    return dataset.map(FusedWorker, fn_constructor_args=(job, [checkpoints]), compute=actors, num_cpus=1)


def _staged(dataset: Any, job: Job, checkpoints: Any, names: list[str], stride: int, workers: int | None) -> Any:
    import ray
    import ray.data

    gpus = 1 if job.how.device == "cuda" else 0
    count = int(ray.cluster_resources().get("GPU", 0)) if gpus else 1
    actors = ray.data.ActorPoolStrategy(size=max(1, count))
    prepared = dataset.map(PrepareStage(job, stride).__call__, num_cpus=1)
    arguments, cpus = (job, [checkpoints]), 0 if gpus else 0.5
    detected = prepared.map(DetectStage, fn_constructor_args=arguments, compute=actors, num_gpus=gpus, num_cpus=cpus)
    return detected.map(FinishStage(job, names).__call__, num_cpus=0.5)


def _follow(rows: Iterable[Row], total: int) -> float:
    """A progress bar over the images, with what became of them. Gives images per second after the first unit."""
    from tqdm import tqdm

    counts: dict[str, int] = {}
    started, first = time.monotonic(), 0
    with tqdm(total=total, unit="image", smoothing=0.1, file=sys.stderr, mininterval=0.5) as bar:
        for row in rows:
            for status in row["statuses"]:
                counts[status] = counts.get(status, 0) + 1
            bar.set_postfix(counts, refresh=False)
            bar.update(len(row["statuses"]))
            if not first and len(row["statuses"]) < total:
                started, first = time.monotonic(), len(row["statuses"])
    return (total - first) / max(time.monotonic() - started, 1e-9)
