"""What runs on the cluster's machines: all steps in one process per core, or three stages around a GPU."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from depers import resources
from depers.archives.base import Chunk
from depers.pipeline import archive_steps
from depers.pipeline.box_sources import Row
from depers.pipeline.steps import (
    DetectedItem,
    Item,
    Outcome,
    PassJob,
    detect,
    finish,
    prepare,
    read,
    unpack,
    write,
)
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import tables

if TYPE_CHECKING:
    from depers.detection.detector import DetectorEnsemble

_THREADS = 8  # per worker, for what waits for storage
PrecomputedRows = dict[str, dict[int | None, Row]]
"""Rows of an earlier table, by path and number."""
_NO_ROWS: PrecomputedRows = {}


class Work(NamedTuple):
    """What a worker does at once: a unit of loose files, or the chunk of an archive that comes with it.

    `poisonous` are the indices, in the unit or chunk, of files that end the process that works on them.
    """

    unit: Unit
    number: int | None = None
    layout: bytes = b""
    precomputed: PrecomputedRows = _NO_ROWS
    poisonous: frozenset[int] = frozenset()

    @property
    def key(self) -> tuple[str, int | None]:
        """Its name in the ledger of crashes."""
        return self.unit.name, self.number

    def find_row(self, path: str, number: int | None) -> Row | None:
        """Return the row about one file in an earlier table."""
        return self.precomputed.get(path, {}).get(number)


def make_detector(job: PassJob, checkpoints: Sequence[bytes]) -> "DetectorEnsemble | None":
    """Return the job's detector, None where it needs none. Raise UserError for weights or classes that will not do."""
    if not job.weights:
        return None
    from depers.detection.detector import DetectorEnsemble

    return DetectorEnsemble(job.weights, checkpoints, job.classes, job.settings)


def inspect_weights(job: PassJob, checkpoints: Sequence[bytes]) -> tuple[list[str], int]:
    """Return the detector's class names and stride. Raise UserError as `make_detector`."""
    detector = make_detector(job, checkpoints)
    return (detector.class_names, detector.stride) if detector else ([], 32)


def read_items(job: PassJob, work: Work, chunk: Chunk | None, pool: ThreadPoolExecutor) -> Iterator[Item]:
    """Yield the files in order; loose ones are read a few ahead, however many the unit has."""
    if chunk is not None:
        path = work.unit.entries[0].path
        for index, member in enumerate(chunk.members):
            yield _withhold(work, index, unpack(path, member, work.find_row(path, member.number)))
        return
    reads: deque[Future[Item]] = deque()
    for index, entry in enumerate(work.unit.entries):
        if index in work.poisonous:
            reads.append(pool.submit(_withhold, work, index, Item(entry.path, size=entry.size)))
        else:
            reads.append(pool.submit(read, job, entry, work.find_row(entry.path, None)))
        if len(reads) > 2 * _THREADS:
            yield reads.popleft().result()
    while reads:
        yield reads.popleft().result()


def _withhold(work: Work, index: int, item: Item) -> Item:
    """Return the item, of a poisonous file without its bytes."""
    if index not in work.poisonous:
        return item
    return replace(item, data=b"", status="", reason="ends the process that works on it")


def record_outcomes(job: PassJob, work: Work, chunk: Chunk | None, outcomes: Sequence[Outcome]) -> list[str]:
    """Write the record of a unit, or a chunk's rows and bytes of the new archive; return the statuses of the rows."""
    if chunk is not None:
        rows = archive_steps.write_chunk(job, work.unit, chunk, outcomes, work.layout)
    else:
        rows = [outcome.row for outcome in outcomes]
        retry = any(outcome.retry for outcome in outcomes)
        tables.write_table(units.record_uri(job.records, work.unit.name, retry), archive_steps.to_table(job, rows))
    return [row["status"] for row in rows]


def finish_and_write(job: PassJob, is_loose: bool, detected: DetectedItem) -> Outcome:
    """Return the outcome of a file; that of a loose one is written to its place first."""
    outcome = finish(job, *detected)
    return write(job, detected.item, outcome) if is_loose else outcome


class FusedWorker:
    """All steps in one process, on one core; two calls at a time overlap what waits for storage with computing."""

    def __init__(self, job: PassJob, checkpoints: Any) -> None:
        self.job = job
        resources.keep_freed_memory()
        if job.weights:
            import torch

            torch.set_num_threads(1)  # one actor per core
        self.detector = make_detector(job, _get(checkpoints))
        self.stride = self.detector.stride if self.detector else 32
        self.pool = ThreadPoolExecutor(2 * _THREADS)
        self.computing = threading.Lock()

    def work(self, work: Work, chunk: Chunk | None = None) -> list[str]:
        """Do a unit, or a chunk of an archive, and record it; return the statuses of its rows."""
        items = read_items(self.job, work, chunk, self.pool)
        outcomes: list[Outcome] = []
        futures: list[Future[Outcome]] = []
        while batch := list(islice(items, self.job.batch_size)):
            with self.computing:
                detected = detect(self.job, [prepare(self.job, item, self.stride) for item in batch], self.detector)
            outcomes += [future.result() for future in futures]  # the batch before: it was finished meanwhile
            futures = [self.pool.submit(self._finish, chunk is None, item_and_boxes) for item_and_boxes in detected]
        outcomes += [future.result() for future in futures]
        return record_outcomes(self.job, work, chunk, outcomes)

    def _finish(self, is_loose: bool, detected: DetectedItem) -> Outcome:
        if not self.job.mirrors:  # it may write files of its own, which waits for storage
            return finish(self.job, *detected)
        with self.computing:  # nothing is gained by two at a time on one core, and the caches are lost
            outcome = finish(self.job, *detected)
        return write(self.job, detected.item, outcome) if is_loose else outcome


def prepare_stage(job: PassJob, stride: int, work: Work, chunk: Chunk | None = None) -> list[Item]:
    """Read, decode and letterbox: the first stage, a CPU task."""
    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as pool:
        items = list(pool.map(lambda item: prepare(job, item, stride), read_items(job, work, chunk, readers)))
    return [replace(item, image=None) for item in items]  # the store carries canvases, not full frames


class DetectStage:
    """Staged, second: an actor per GPU."""

    def __init__(self, job: PassJob, checkpoints: Any) -> None:
        self.job, self.detector = job, make_detector(job, _get(checkpoints))

    def detect(self, items: list[Item]) -> list[DetectedItem]:
        """Return the items with their boxes, detected a batch at a time."""
        size = self.job.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [detected for batch in batches for detected in detect(self.job, batch, self.detector)]


def finish_stage(job: PassJob, detected: list[DetectedItem], work: Work, chunk: Chunk | None = None) -> list[str]:
    """Finish and record: the third stage, a CPU task. Return the statuses of the rows."""
    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(pool.map(lambda item_and_boxes: finish_and_write(job, chunk is None, item_and_boxes), detected))
    return record_outcomes(job, work, chunk, outcomes)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference[0])
