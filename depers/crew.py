"""Spreads units over the cluster with Ray: few in flight, so memory is flat; what a dead worker held is done again.

On a CPU one actor per core does all steps, which spares the copies between processes; a GPU is fed by CPU tasks and
followed by CPU tasks. Archives are read by light tasks that stream their slices, and put together by others.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from depers import storage
from depers.archive_steps import Heading, assemble, read_slices
from depers.archives import End
from depers.steps import Job, Row
from depers.units import Unit
from depers.workers import (
    DetectStage,
    FusedWorker,
    Work,
    finish_stage,
    note_uri,
    prepare_stage,
    work_carefully,
)

_CORE, _LIGHT = 0.9, 0.05  # CPUs of an actor, and of a task that mostly waits for storage; none runs on a 0-CPU head
_DEPTH = 2  # calls in flight per worker
_READERS = 4  # archives that are read at once, or more on large clusters
_UNTAKEN = 6  # objects (headings and slices) of an archive that lie ready before its reader pauses
_CRASHES = 2  # of a worker with the same work, after which that is done carefully; of one file, until it is given up
_GROWTH_SECONDS = 10.0
_SLICES = 64  # of an archive, before it is read: how many workers it may occupy

log = logging.getLogger("depers")


@dataclass
class _Archive:
    """An archive in work: its stream of slices, and how many of them are out."""

    unit: Unit
    stream: Any
    open: int = 0
    seen: int = 0
    members: int = 0
    layout: bytes = b""
    end: End | None = None
    done: set[int] = field(default_factory=set)
    lost: bool = False
    """Whether a slice got lost with the machine that held it, so that the archive must be read again."""


@dataclass
class _Task:
    """Work in flight, with the reference of its slice and the worker that has it."""

    work: Work
    piece: Any = None
    worker: int | None = None
    archive: _Archive | None = None


@dataclass
class Crew:
    """The workers of a job, and what they have in hand."""

    job: Job
    checkpoints: Any
    stride: int
    staged: bool
    workers: int | None
    given: Any = None
    """`given.Rows`, of which each unit gets its own."""
    finished: Mapping[str, set[int]] = field(default_factory=dict)
    """The slices of archives that an earlier run finished."""

    def __post_init__(self) -> None:
        import ray

        gpus = self.job.how.device == "cuda"
        forever = {"max_restarts": -1, "max_concurrency": _DEPTH}
        stage = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 0.5}
        self._resource = "GPU" if self.staged and gpus else "CPU"
        if self.staged:
            self._worker = ray.remote(DetectStage).options(**forever, **stage)
        else:
            self._worker = ray.remote(FusedWorker).options(**forever, num_cpus=_CORE)
        self._prepare = ray.remote(prepare_stage).options(num_cpus=1)
        self._finish = ray.remote(finish_stage).options(num_cpus=0.5)
        self._read = ray.remote(read_slices).options(
            num_cpus=_LIGHT,
            max_retries=_CRASHES,
            num_returns="streaming",
            _generator_backpressure_num_objects=_UNTAKEN,
        )
        self._assemble = ray.remote(assemble).options(num_cpus=_LIGHT, max_retries=-1)
        self._carefully = ray.remote(num_cpus=_LIGHT, max_retries=0, max_calls=1)(work_carefully)
        self._actors: list[Any] = []
        self._loads: list[int] = []
        self._flying: dict[Any, _Task] = {}
        self._assembling: dict[Any, _Archive] = {}
        self._again: deque[_Task] = deque()
        self._archives: list[_Archive] = []
        self._crashes: dict[Any, int] = {}
        self._grown = -_GROWTH_SECONDS

    def run(self, todo: Sequence[Unit]) -> Iterator[Row]:
        """Does the units; gives what workers say of each as it is done, and ends when all are."""
        import ray

        waiting = deque(todo)
        while True:
            self._grow(waiting)
            while self._has_room() and self._start_one(waiting):
                pass
            pending = [*self._flying, *self._assembling]
            streams = [one.stream for one in self._archives if one.end is None] if self._has_room() else []
            if not pending and not streams:
                if waiting or self._again:
                    continue
                return
            ready, _ = ray.wait([*pending, *streams], num_returns=1, timeout=_GROWTH_SECONDS, fetch_local=False)
            for reference in ready:
                if reference in self._assembling or reference in self._flying:
                    yield from self._land(reference)

    def _grow(self, waiting: "deque[Unit]") -> None:
        """As many workers as the cluster has cores by now, unless their number is given; never more than have work."""
        import ray

        if time.monotonic() - self._grown < _GROWTH_SECONDS:
            return
        self._grown = time.monotonic()
        there = max(1, int(ray.cluster_resources().get(self._resource, 0)))
        wanted = 1 if self.staged and self._resource == "CPU" else self.workers or there
        slices = _SLICES * (len(self._archives) + sum(unit.archive is not None for unit in waiting))
        wanted = min(wanted, max(1, len(waiting) + slices))
        while len(self._actors) < wanted:
            self._actors.append(self._worker.remote(self.job, [self.checkpoints]))
            self._loads.append(0)

    def _has_room(self) -> bool:
        depth = 4 * _DEPTH if self.staged else _DEPTH  # a GPU's tasks before and after it wait their turn
        return len(self._flying) < depth * len(self._actors)

    def _start_one(self, waiting: "deque[Unit]") -> bool:
        """Starts the next thing that can be started: what crashed, a slice that lies ready, a unit."""
        if self._again:
            self._start(self._again.popleft())
            return True
        for archive in list(self._archives):
            if archive.end is None and self._take_slice(archive):
                return True
        while waiting:
            if waiting[0].archive is None:
                unit = waiting.popleft()
                rows = {entry.path: self.given.of(entry.path) for entry in unit.entries} if self.given else {}
                self._start(_Task(Work(unit, given=rows)))
                return True
            if sum(one.end is None for one in self._archives) >= max(_READERS, len(self._actors) // 4):
                return False
            unit = waiting.popleft()
            self._open(unit, set(self.finished.get(unit.name, ())))
        return False

    def _open(self, unit: Unit, done: set[int]) -> None:
        stream = self._read.remote(self.job, unit, frozenset(done))
        self._archives.append(_Archive(unit, stream, done=done))

    def _take_slice(self, archive: _Archive) -> bool:
        """Starts the next slice of an archive, if it lies ready."""
        import ray

        ready, _ = ray.wait([archive.stream], timeout=0, fetch_local=False)
        if not ready:
            return False
        try:
            heading = ray.get(next(archive.stream))
            if isinstance(heading, Heading):
                piece = next(archive.stream)
        except ray.exceptions.RayTaskError:
            raise
        except (ray.exceptions.RayError, StopIteration):  # the process or its node is gone, with what it had read
            self._crashes[archive.unit.name] = self._crashes.get(archive.unit.name, 0) + 1
            archive.lost = self._crashes[archive.unit.name] <= _CRASHES
            reason = "cannot be read on: it ends the process that reads it"
            heading = End(archive.seen, archive.members, reason, archive.layout)
        if isinstance(heading, End):
            archive.end = heading
            self._maybe_assemble(archive)
            return True
        archive.open += 1
        archive.seen, archive.layout = heading.number + 1, heading.layout
        archive.members += len(heading.files)
        path = archive.unit.entries[0].path
        rows = self.given.of(path) if self.given else {}
        mine: dict[int | None, Row] = {number: rows[number] for number in heading.files if number in rows}
        work = Work(archive.unit, heading.number, heading.layout, {path: mine} if self.given else {})
        self._start(_Task(work, piece, archive=archive))
        return True

    def _start(self, task: _Task) -> None:
        arguments = [task.work] + ([task.piece] if task.piece is not None else [])
        if self._crashes.get(task.work.key, 0) >= _CRASHES:
            cautious = self.job._replace(how=replace(self.job.how, device="cpu"))
            reference = self._carefully.remote(cautious, [self.checkpoints], *arguments)
            task = replace(task, worker=None)
        else:
            worker = min(range(len(self._actors)), key=self._loads.__getitem__)
            self._loads[worker] += 1
            task = replace(task, worker=worker)
            if self.staged:
                prepared = self._prepare.remote(self.job, self.stride, *arguments)
                reference = self._finish.remote(self.job, self._actors[worker].look.remote(prepared), *arguments)
            else:
                reference = self._actors[worker].work.remote(*arguments)
        self._flying[reference] = task

    def _land(self, reference: Any) -> Iterator[Row]:
        """What came of a call; what a dead worker held is started again, at last carefully, without what killed it."""
        import ray

        archive = self._assembling.pop(reference, None)
        if archive is not None:
            yield ray.get(reference)
            return
        task = self._flying.pop(reference)
        if task.worker is not None:
            self._loads[task.worker] -= 1
        try:
            row = ray.get(reference)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:  # the process or its node is gone
            self._note_crash(task, error)
            return
        if task.archive is not None:
            task.archive.done.add(task.work.number or 0)
            task.archive.open -= 1
            self._maybe_assemble(task.archive)
        yield row

    def _note_crash(self, task: _Task, error: Exception) -> None:
        import ray

        if isinstance(error, ray.exceptions.ObjectLostError) and task.archive is not None:
            task.archive.lost = True
            task.archive.open -= 1
            self._maybe_assemble(task.archive)
            return
        key = task.work.key
        self._crashes[key] = self._crashes.get(key, 0) + 1
        log.debug("%s: the worker is gone (%s); again", key, error)
        note = note_uri(self.job.out, task.work)
        if task.worker is None and storage.exists(note):
            place = int(storage.read_bytes(note))
            self._crashes[(key, place)] = self._crashes.get((key, place), 0) + 1
            if self._crashes[(key, place)] >= _CRASHES:
                work = task.work._replace(condemned=task.work.condemned | {place})
                task = replace(task, work=work)
        self._again.append(task)

    def _maybe_assemble(self, archive: _Archive) -> None:
        """Puts an archive together once its end is known and all its slices are done."""
        if archive.end is None or archive.open:
            return
        self._archives.remove(archive)
        if archive.lost:
            self._open(archive.unit, archive.done)
        else:
            self._assembling[self._assemble.remote(self.job, archive.unit, archive.end)] = archive
