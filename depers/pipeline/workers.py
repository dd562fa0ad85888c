"""What runs on the cluster's machines: all steps in one process per core, or three stages around a GPU."""

import itertools
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from depers import resources
from depers.archives.base import Chunk
from depers.errors import typed_reason
from depers.observation.meter import Stage, stage
from depers.observation.rows import count_rows
from depers.pipeline import archive_steps
from depers.pipeline.box_digests import identify
from depers.pipeline.box_tables import PrecomputedRows, Row
from depers.pipeline.outcomes import account, fail, finish, to_table, write
from depers.pipeline.row_join import RowPlace
from depers.pipeline.steps import DetectedItem, Item, Outcome, PassJob, detect, prepare, read, unpack
from depers.runtime import takeover, time_budget, units
from depers.runtime.crash_ledger import CRASHED, Position
from depers.runtime.takeover import Source
from depers.runtime.units import RecordNotes, Unit
from depers.statuses import FileStatus
from depers.storage.failures import as_outage, raise_outage
from depers.storage.tables import parquet_text

if TYPE_CHECKING:
    from depers.detection.detector import DetectorEnsemble

_THREADS = 8  # per worker, for what waits for storage
_NO_ROWS: PrecomputedRows = {}


class Work(NamedTuple):
    """What a worker does at once: a unit of loose files, or the chunk of an archive that comes with it.

    `poisonous` are the files that are not to be touched, by their offsets in the unit or chunk, and why.
    """

    unit: Unit
    number: int | None = None
    layout: bytes = b""
    precomputed: PrecomputedRows = _NO_ROWS
    poisonous: Mapping[int, str] = {}
    is_retry: bool = False
    """Whether an earlier run recorded it with failures that were storage's."""
    sources: tuple[Source, ...] = ()
    """Where the rows of the other files of the unit are, which the record takes over."""
    place: RowPlace | None = None
    """Where `precomputed` are before they are loaded."""

    @property
    def key(self) -> tuple[str, int | None]:
        """Its name in the ledger of crashes."""
        return self.unit.name, self.number

    def load_rows(self) -> "Work":
        """Return the work with the rows of an earlier table about its files. Raise OutageError."""
        return self if self.place is None else self._replace(precomputed=self.place.read(self.unit), place=None)

    def withhold(self, poisonous: Mapping[Position, str]) -> "Work":
        """Return the work with the files that the ledger knows to be poisonous."""
        return self._replace(poisonous={place.offset: why for place, why in poisonous.items() if not place.is_batch})

    def watch(self, offset: int) -> AbstractContextManager[None]:
        """Return a context in which time counts against the budget of a file."""
        return time_budget.watch((self.key, offset))

    def watch_from(self, first: int, index: int) -> AbstractContextManager[None]:
        """Return the same for the file at `index` of a batch whose first file is at the offset `first`."""
        return self.watch(first + index)

    def find_row(self, path: str, number: int | None) -> Row | None:
        """Return the row about one file in an earlier table."""
        return self.precomputed.get(path, {}).get(number)


def make_detector(job: PassJob, checkpoints: Sequence[bytes]) -> "DetectorEnsemble | None":
    """Return the job's detector, None where it needs none. Raise UserError for weights or classes that will not do."""
    if not job.weights:
        return None
    from depers.detection.detector import DetectorEnsemble

    return DetectorEnsemble(job.weights, checkpoints, job.classes, job.settings)


class DetectorFacts(NamedTuple):
    """What a driver has to know of a detector; of none, what a job without one takes."""

    class_names: list[str]
    stride: int = 32
    warnings: tuple[str, ...] = ()
    arithmetic: str = ""


def inspect_weights(job: PassJob, checkpoints: Sequence[bytes]) -> DetectorFacts:
    """Return the facts of the job's detector. Raise UserError as `make_detector`."""
    return describe_detector(make_detector(job, checkpoints))


def describe_detector(detector: "DetectorEnsemble | None") -> DetectorFacts:
    """Return the facts of a detector, if there is one."""
    if detector is None:
        return DetectorFacts([])
    return DetectorFacts(detector.class_names, detector.stride, tuple(detector.warnings), detector.arithmetic)


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
    return replace(item, data=b"", status="", reason=work.poisonous[index])


def record_outcomes(job: PassJob, work: Work, chunk: Chunk | None, outcomes: Sequence[Outcome]) -> list[str]:
    """Write the record of a unit, or a chunk's rows and bytes of the new archive; return the statuses of the rows.

    Raise OutageError where it cannot be written: without records nothing is done.
    """
    with stage(Stage.RECORD):
        return _record(job, work, chunk, account(job, _list_items(work, chunk), outcomes))


def _record(job: PassJob, work: Work, chunk: Chunk | None, outcomes: Sequence[Outcome]) -> list[str]:
    try:
        if chunk is not None:
            rows = archive_steps.write_chunk(job, work.unit, chunk, outcomes, work.layout)
        else:
            rows = [outcome.row for outcome in outcomes]
            entries = list(zip(work.unit.entries, outcomes, strict=True))
            retries = {entry.path: 0.0 for entry, outcome in entries if outcome.retry}
            overdue = [offset for offset, reason in work.poisonous.items() if reason != CRASHED]
            retries |= {work.unit.entries[offset].path: job.file_seconds for offset in overdue}
            table = to_table(job, rows)
            count_rows(table)
            stamps = {entry.path: outcome.stamp for entry, outcome in entries if outcome.stamp is not None}
            identities = identify(work.unit, work.precomputed)
            for path in retries:
                del identities[parquet_text(path)]
            notes = RecordNotes(retries, stamps, identities)
            table, notes = takeover.complete(job.records, table, notes.as_texts(), work.sources)
            units.write_record(job.records, work.unit.name, table, notes, work.is_retry, out=job.out)
    except OSError as error:
        raise as_outage(error, job.records) from error
    return [row["status"] for row in rows]


def _list_items(work: Work, chunk: Chunk | None) -> list[Item]:
    """Return the files of the work as items without their bytes."""
    if chunk is None:
        return [Item(entry.path, size=max(0, entry.size)) for entry in work.unit.entries]
    path = work.unit.entries[0].path
    return [replace(unpack(path, member), data=b"") for member in chunk.members]


def retry_failures(job: PassJob, work: Work) -> list[str] | None:
    """Read the files again that storage failed when an earlier run did the unit, or that may take longer now.

    Where none of them can be had yet, record why, leave all others as they are, and return the statuses of the rows.
    Return None where one can be had, or none is known: then the whole unit is done, and gives what one clean run gives.
    """
    record = units.read_retry(job.records, work.unit.name) if work.is_retry else None
    if record is None:
        return None
    notes = units.parse_notes(record)
    worth = {path for path, seconds in notes.retries.items() if seconds < job.file_seconds}
    entries = [entry for entry in work.unit.entries if parquet_text(entry.path) in worth]
    with ThreadPoolExecutor(_THREADS) as pool:
        items = list(pool.map(lambda entry: read(job, entry, work.find_row(entry.path, None)), entries))
    if not all(item.retry for item in items):
        return None
    outcomes = {parquet_text(item.path): finish(job, item, []) for item in items}
    rows = [outcomes[row["path"]].row if row["path"] in outcomes else row for row in record.to_pylist()]
    units.write_record(job.records, work.unit.name, to_table(job, rows), notes)
    return [row["status"] for row in rows]


def contain(job: PassJob, work: Work, chunk: Chunk | None, run: Callable[[], list[str]]) -> list[str]:
    """Return what `run` returns, the statuses of the work's rows; whatever it raises costs this work alone.

    Raise OutageError.
    """
    try:
        return run()
    except Exception as error:
        raise_outage(error)
        return fail_work(job, work, chunk, f"cannot be processed ({typed_reason(error)})")


def fail_work(job: PassJob, work: Work, chunk: Chunk | None, reason: str) -> list[str]:
    """Record all files of the work as failed, none of them written; return the statuses of the rows."""
    outcomes = []
    for item in _list_items(work, chunk):
        needs_work = item.status in ("", FileStatus.PASSED_THROUGH) and not item.reason
        outcome = fail(job, item, reason) if needs_work else finish(job, item, [])
        outcomes.append(write(job, item, outcome) if chunk is None else outcome)
    return record_outcomes(job, work, chunk, outcomes)


def finish_and_write(job: PassJob, work: Work, offset: int, is_loose: bool, detected: DetectedItem) -> Outcome:
    """Return the outcome of a file; that of a loose one is written to its place first."""
    with work.watch(offset), stage(Stage.FINISH):
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
        """Do a unit, or a chunk of an archive, and record it; return the statuses of its rows. Raise OutageError."""
        return contain(self.job, work, chunk, lambda: self._work(work, chunk))

    def _work(self, work: Work, chunk: Chunk | None) -> list[str]:
        if (statuses := retry_failures(self.job, work)) is not None:
            return statuses
        items = read_items(self.job, work, chunk, self.pool)
        outcomes: list[Outcome] = []
        futures: list[Future[Outcome]] = []
        first = 0
        while batch := list(islice(items, self.job.batch_size)):
            with self.computing:
                prepared = [
                    prepare_watched(self.job, work, self.stride, i, item) for i, item in enumerate(batch, first)
                ]
                with stage(Stage.DETECT):
                    detected = detect(self.job, prepared, self.detector, partial(work.watch_from, first))
            outcomes += [future.result() for future in futures]  # the batch before: it was finished meanwhile
            futures = [
                self.pool.submit(self._finish, work, i, chunk is None, each) for i, each in enumerate(detected, first)
            ]
            first += len(batch)
        outcomes += [future.result() for future in futures]
        return record_outcomes(self.job, work, chunk, outcomes)

    def _finish(self, work: Work, offset: int, is_loose: bool, detected: DetectedItem) -> Outcome:
        if not self.job.mirrors:  # it may write files of its own, which waits for storage
            return finish_and_write(self.job, work, offset, False, detected)
        with self.computing:  # nothing is gained by two at a time on one core, and the caches are lost
            outcome = finish_and_write(self.job, work, offset, False, detected)
        return write(self.job, detected.item, outcome) if is_loose else outcome


_workers: dict[bytes, FusedWorker] = {}
"""What this process works with, by the job."""


def load_worker(job: PassJob, checkpoints: Any) -> FusedWorker:
    """Return this process's worker for the job, which loads the detector once."""
    key = pickle.dumps(job)
    if key not in _workers:
        _workers.clear()
        _workers[key] = FusedWorker(job, checkpoints)
    return _workers[key]


def prepare_watched(job: PassJob, work: Work, stride: int, offset: int, item: Item) -> Item:
    """Return what `prepare` does, its time counted against the file's budget."""
    with work.watch(offset), stage(Stage.PREPARE):
        return prepare(job, item, stride)


def prepare_stage(job: PassJob, stride: int, work: Work, chunk: Chunk | None = None) -> list[Item]:
    """Read, decode and letterbox: the first stage, a CPU task."""
    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as pool:
        items = read_items(job, work, chunk, readers)
        prepared = list(pool.map(partial(prepare_watched, job, work, stride), itertools.count(), items))
    return [replace(item, image=None) for item in prepared]  # the store carries canvases, not full frames


class DetectStage:
    """Staged, second: an actor per GPU."""

    def __init__(self, job: PassJob, checkpoints: Any) -> None:
        self.job, self.detector = job, make_detector(job, _get(checkpoints))

    def detect(self, work: Work, items: Sequence[Item]) -> list[DetectedItem]:
        """Return the items with their boxes, detected a batch at a time; of poisonous files without."""
        items = [_withhold(work, index, item) for index, item in enumerate(items)]
        size, detected = self.job.batch_size, list[DetectedItem]()
        for first in range(0, len(items), size):
            batch = items[first : first + size]
            with stage(Stage.DETECT):
                detected += detect(self.job, batch, self.detector, partial(work.watch_from, first))
        return detected


def finish_stage(job: PassJob, detected: Sequence[DetectedItem], work: Work, chunk: Chunk | None = None) -> list[str]:
    """Finish and record: the third stage, a CPU task. Return the statuses of the rows. Raise OutageError."""

    def run() -> list[str]:
        def complete(numbered: tuple[int, DetectedItem]) -> Outcome:
            index, (item, boxes) = numbered
            withheld = DetectedItem(_withhold(work, index, item), boxes)
            return finish_and_write(job, work, index, chunk is None, withheld)

        with ThreadPoolExecutor(_THREADS) as pool:
            outcomes = list(pool.map(complete, enumerate(detected)))
        return record_outcomes(job, work, chunk, outcomes)

    return contain(job, work, chunk, run)


def _get(reference: Any) -> Any:
    """Return the checkpoints: a tuple of them as it is, in a list a reference to Ray's object store."""
    if isinstance(reference, tuple):
        return reference
    import ray

    return ray.get(reference[0])
