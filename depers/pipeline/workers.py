"""What runs on the cluster's machines: all steps in one process per core, or three stages around a GPU."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from depers import resources
from depers.archives.base import Chunk
from depers.pipeline import archive_steps
from depers.pipeline.steps import (
    DetectedItem,
    Item,
    Outcome,
    PassJob,
    Row,
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
    from depers.detection.detector import Detector

_THREADS = 8  # per worker, for what waits for storage
PrecomputedRows = dict[str, dict[int | None, Row]]
"""RowsByPath of an earlier table, by path and number."""
_NOTHING: PrecomputedRows = {}


class Work(NamedTuple):
    """What a worker does at once: a unit of loose files, or the chunk of an archive that comes with it.

    `condemned` are the places, in the unit or chunk, of files that ended the process that worked on them, and for a
    batch that did, `-1 - place` of its first file.
    """

    unit: Unit
    number: int | None = None
    layout: bytes = b""
    precomputed: PrecomputedRows = _NOTHING
    condemned: frozenset[int] = frozenset()

    @property
    def key(self) -> tuple[str, int | None]:
        """Its name."""
        return self.unit.name, self.number

    def precomputed_row(self, path: str, number: int | None) -> Row | None:
        """The row about one file."""
        return self.precomputed.get(path, {}).get(number)


def make_detector(job: PassJob, checkpoints: Sequence[bytes]) -> "Detector | None":
    """The job's detector, None where it needs none. Raises UserError for weights or classes that will not do."""
    if not job.weights:
        return None
    from depers.detection.detector import Detector

    return Detector(job.weights, checkpoints, job.classes, job.settings)


def inspect_weights(job: PassJob, checkpoints: Sequence[bytes]) -> tuple[list[str], int]:
    """The detector's class names and stride; raises UserError as `make_detector`."""
    detector = make_detector(job, checkpoints)
    return (detector.class_names, detector.stride) if detector else ([], 32)


def _items(job: PassJob, work: Work, chunk: Chunk | None, pool: ThreadPoolExecutor) -> Iterator[Item]:
    """The files in order; loose ones are read a few ahead, however many the unit has."""
    if chunk is not None:
        path = work.unit.entries[0].path
        for place, member in enumerate(chunk.members):
            yield _unless_condemned(work, place, unpack(path, member, work.precomputed_row(path, member.number)))
        return
    waiting: deque[Future[Item]] = deque()
    for place, entry in enumerate(work.unit.entries):
        if place in work.condemned:
            waiting.append(pool.submit(_unless_condemned, work, place, Item(entry.path, size=entry.size)))
        else:
            waiting.append(pool.submit(read, job, entry, work.precomputed_row(entry.path, None)))
        if len(waiting) > 2 * _THREADS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _unless_condemned(work: Work, place: int, item: Item) -> Item:
    if place not in work.condemned:
        return item
    return replace(item, data=b"", status="", reason="ends the process that works on it")


def _close(job: PassJob, work: Work, chunk: Chunk | None, outcomes: Sequence[Outcome]) -> Row:
    """Writes the record of a unit, or the part that a chunk makes; gives the statuses of its rows."""
    if chunk is not None:
        rows = archive_steps.write_chunk(job, work.unit, chunk, outcomes, work.layout)
    else:
        rows = [outcome.row for outcome in outcomes]
        retry = any(row.get("retry") for row in rows)
        tables.write_table(units.record_uri(job.out, work.unit.name, retry), archive_steps.to_table(job, rows))
    return {"statuses": [row["status"] for row in rows]}


def _finish(job: PassJob, alone: bool, item: Item, boxes: Sequence[Row]) -> Outcome:
    outcome = finish(job, item, boxes)
    return write(job, item, outcome) if alone else outcome


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

    def work(self, work: Work, chunk: Chunk | None = None) -> Row:
        files = _items(self.job, work, chunk, self.pool)
        done: list[Outcome] = []
        finishing: list[Future[Outcome]] = []
        while items := list(islice(files, self.job.batch_size)):
            with self.computing:
                found = detect(self.job, [prepare(self.job, item, self.stride) for item in items], self.detector)
            done += [future.result() for future in finishing]  # the batch before: it was finished meanwhile
            finishing = [self.pool.submit(self._finished, chunk is None, *one) for one in found]
        done += [future.result() for future in finishing]
        return _close(self.job, work, chunk, done)

    def _finished(self, alone: bool, item: Item, boxes: Sequence[Row]) -> Outcome:
        if not self.job.mirrors:  # it may write files of its own, which waits for storage
            return finish(self.job, item, boxes)
        with self.computing:  # nothing is gained by two at a time on one core, and the caches are lost
            outcome = finish(self.job, item, boxes)
        return write(self.job, item, outcome) if alone else outcome

    def carefully(self, work: Work, chunk: Chunk | None, note: Callable[[int], None]) -> Row:
        """One file after another, each noted down first: where the process ends, the note says which one did it.

        Batches are those of `work`, since the last digits of what is found hang on them. Where one ended the process,
        which is noted as `-1 - place` of its first file, its images are looked at one by one.
        """
        files, done, first = _items(self.job, work, chunk, self.pool), list[Outcome](), 0
        while items := list(islice(files, self.job.batch_size)):
            places = range(first, first + len(items))

            def begin(index: int, places: range = places) -> None:
                if places[index] not in work.condemned:
                    note(places[index])

            ready = []
            for index, item in enumerate(items):
                begin(index)
                ready.append(prepare(self.job, item, self.stride))
            if -1 - first in work.condemned:
                found = []
                for index, item in enumerate(ready):
                    begin(index)
                    found += detect(self.job, [item], self.detector)
            else:
                note(-1 - first)
                found = detect(self.job, ready, self.detector, begin)
            for index, one in enumerate(found):
                begin(index)
                done.append(_finish(self.job, chunk is None, *one))
            first += len(items)
        return _close(self.job, work, chunk, done)


def prepare_stage(job: PassJob, stride: int, work: Work, chunk: Chunk | None = None) -> list[Item]:
    """Staged, first: a CPU task that reads, decodes and letterboxes."""
    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as pool:
        items = list(pool.map(lambda item: prepare(job, item, stride), _items(job, work, chunk, readers)))
    return [replace(item, image=None) for item in items]  # the store carries canvases, not full frames


class DetectStage:
    """Staged, second: an actor per GPU."""

    def __init__(self, job: PassJob, checkpoints: Any) -> None:
        self.job, self.detector = job, make_detector(job, _get(checkpoints))

    def look(self, items: list[Item]) -> list[DetectedItem]:
        size = self.job.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [found for batch in batches for found in detect(self.job, batch, self.detector)]


def finish_stage(job: PassJob, found: list[DetectedItem], work: Work, chunk: Chunk | None = None) -> Row:
    """Staged, third: a CPU task that finishes and records."""
    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = list(pool.map(lambda one: _finish(job, chunk is None, *one), found))
    return _close(job, work, chunk, outcomes)


def _get(reference: Any) -> Any:
    import ray

    return ray.get(reference[0])
