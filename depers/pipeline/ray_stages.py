"""The stages of a pass as Ray runs them: what travels between them, the opening of archives, actors and tasks.

units → open → work                       FusedStage, an actor per core
units → open → prepare → detect → finish  CpuStages around DetectActor, an actor per GPU
"""

import gc
import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from depers.archives.base import ArchiveEnd, Chunk
from depers.errors import UserError
from depers.observation.collector import collect
from depers.observation.context import RunContext
from depers.observation.meter import Stage, count, stage
from depers.observation.metrics import BYTES
from depers.pipeline.archive_steps import ChunkHeading, read_chunks
from depers.pipeline.box_tables import Row
from depers.pipeline.isolation import run_isolated
from depers.pipeline.steps import PassJob
from depers.pipeline.workers import (
    DetectStage,
    FusedWorker,
    Work,
    contain,
    finish_stage,
    prepare_stage,
    retry_failures,
)
from depers.runtime import time_budget
from depers.runtime.crash_ledger import Attempt, LedgerClient, Position
from depers.runtime.telemetry.observed_work import observe

T = TypeVar("T")

_MOST_STARTS = 10  # per worker, since one started well
_WHOLE = -1  # the number of work that is all of its unit

SCHEMA = pa.schema(
    [(name, pa.large_binary()) for name in ("work", "chunk", "end", "measured")] + [("chunks", pa.int64())]
)
"""What travels between the stages: pickled `Work` with the `Chunk` that it is about, or the `ArchiveEnd`, and how many
`chunks` of the archive were sent on before it; and the pickled `Measurement`s of the stages, one after another."""


def pack(work: Work, chunk: Chunk | None = None, end: ArchiveEnd | None = None, chunks: int = 0) -> Row:
    """Return a row of `SCHEMA`."""
    chunk_bytes, end_bytes = (b"" if value is None else pickle.dumps(value, protocol=5) for value in (chunk, end))
    return {
        "work": pickle.dumps(work, protocol=5),
        "chunk": chunk_bytes,
        "end": end_bytes,
        "chunks": chunks,
        "measured": b"",
    }


def _unpack(row: Row) -> tuple[Work, Chunk | None]:
    return pickle.loads(row["work"]), pickle.loads(row["chunk"]) if row["chunk"] else None


def open_unit(
    table: pa.Table, *, job: PassJob, ledger: Any, finished_chunks: Mapping[str, set[int]], context: RunContext
) -> Iterator[pa.Table]:
    """Yield a unit of loose files as it is; an archive as its chunks that are not finished, then its end."""
    work: Work = pickle.loads(table["work"][0].as_py())
    if work.unit.archive is None:
        yield table
        return
    work = work.load_rows()
    client, key = LedgerClient(ledger, job.file_seconds), ("open", work.unit.name)
    with client.attempt(*key) as attempt:
        rows = open_archive(job, work, finished_chunks, attempt, partial(client.note, *key))
        while True:
            with observe(context, "open", work.unit.name) as measurement:
                row = next(rows, None)
            if row is None:
                return
            yield pa.Table.from_pylist([row | {"measured": pickle.dumps(measurement, protocol=5)}], SCHEMA)


def open_archive(
    job: PassJob,
    work: Work,
    finished_chunks: Mapping[str, set[int]],
    attempt: Attempt,
    note: Callable[[Position], None],
) -> Iterator[Row]:
    """Yield the rows of `SCHEMA` for an archive; where reading on ends the process, its end comes before that."""
    unit, chunk_count, following = work.unit, 0, Position(0)
    if following in attempt.poisonous:
        yield pack(work, end=ArchiveEnd(0, 0, f"cannot be read: it {attempt.poisonous[following]}", b""))
        return
    heading = ChunkHeading(-1, (), b"")
    note(following)
    contents = read_chunks(job, unit, frozenset(finished_chunks.get(unit.name, ())))
    while True:
        with time_budget.watch((unit.name, following.offset)), stage(Stage.OPEN):
            content = next(contents, None)
        if content is None:
            return
        if isinstance(content, ChunkHeading):
            heading = content
            continue
        if isinstance(content, ArchiveEnd):
            yield pack(work, end=content, chunks=chunk_count)
            continue
        count(BYTES, "read", sum(len(member.data or b"") for member in content.members))
        path = unit.entries[0].path
        rows = work.precomputed.get(path, {})
        chunk_rows: dict[int | None, Row] = {number: rows[number] for number in heading.files if number in rows}
        precomputed = {path: chunk_rows} if chunk_rows else {}
        chunk_count += 1
        yield pack(Work(unit, heading.number, heading.layout, precomputed), content)
        following = Position(content.number + 1)
        if following in attempt.poisonous:
            members = content.members[-1].number + 1
            reason = f"cannot be read on: it {attempt.poisonous[following]}"
            yield pack(work, end=ArchiveEnd(following.offset, members, reason, heading.layout), chunks=chunk_count)
            return
        note(following)


def report(work: Work, statuses: Sequence[str]) -> Row:
    """Return what the driver hears of work that is done: the statuses of its rows."""
    number = _WHOLE if work.number is None else work.number
    report = {"unit": work.unit.name, "number": number, "statuses": list(statuses)}
    return report | {"end": b"", "chunks": 0, "measured": b""}


def _report_end(row: Row) -> Row:
    """Return what the driver hears of an archive that was read to its end."""
    return report(pickle.loads(row["work"]), []) | {name: row[name] for name in ("end", "chunks", "measured")}


def observe_call(context: RunContext, step: str, row: Row, call: Callable[[Work, Chunk | None], Row]) -> Row:
    """Return the row that a stage makes of another, with what all stages have measured so far."""
    work, chunk = _unpack(row)
    name = work.unit.name if work.number is None else f"{work.unit.name}/{work.number}"
    with observe(context, step, name) as measurement:
        result = call(work, chunk)
    return result | {"measured": row["measured"] + pickle.dumps(measurement, protocol=5)}


def collect_measurements(data: bytes) -> None:
    """Add up what lies pickled in a row."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        collect(pickle.load(stream))


class FusedStage:
    """All steps, in an actor."""

    def __init__(self, job: PassJob, checkpoints: Any, ledger: Any, context: RunContext) -> None:
        self.ledger, self.context = LedgerClient(ledger, job.file_seconds), context
        self.worker = _start_worker(self.ledger, lambda: FusedWorker(job, checkpoints))
        self.run_isolated = partial(run_isolated, job, checkpoints, ledger)
        gc.freeze()  # collecting garbage would go through all of PyTorch and Ray again and again, 0.1 s each time

    def __call__(self, row: Row) -> Row:
        if row["end"]:
            return _report_end(row)
        return observe_call(self.context, "work", row, self._work)

    def _work(self, work: Work, chunk: Chunk | None) -> Row:
        with self.ledger.attempt("work", work.key) as attempt:
            if attempt.isolated:
                return report(work, self.run_isolated(work, chunk))
            return report(work, self.worker.work(work.load_rows().withhold(attempt.poisonous), chunk))


@dataclass(frozen=True)
class CpuStages:
    """The tasks before and after a GPU's actor; what was begun too often is done in isolation instead."""

    job: PassJob
    checkpoints: Any
    ledger: Any
    stride: int
    context: RunContext

    def prepare(self, row: Row) -> Row:
        """Add the pickled `items` for the detector; none, but the `statuses`, where the work was isolated."""
        row = row | {"items": b"", "statuses": []}
        if row["end"]:
            return row
        return observe_call(self.context, "prepare", row, partial(self._prepare, row))

    def _prepare(self, row: Row, work: Work, chunk: Chunk | None) -> Row:
        with self._attempt("prepare", work) as attempt:
            if attempt.isolated:
                return row | {"statuses": run_isolated(self.job, self.checkpoints, self.ledger, work, chunk)}
            items: list[bytes] = []

            def run() -> list[str]:
                if (statuses := retry_failures(self.job, work.load_rows())) is not None:
                    return statuses
                prepared = prepare_stage(self.job, self.stride, work.load_rows().withhold(attempt.poisonous), chunk)
                items.append(pickle.dumps(prepared, protocol=5))
                return []

            statuses = contain(self.job, work, chunk, run)
            return row | {"items": b"".join(items), "statuses": statuses}

    def finish(self, row: Row) -> Row:
        """Finish and record the detected `items`."""
        if row["end"]:
            return _report_end(row)
        return observe_call(self.context, "finish", row, partial(self._finish, row))

    def _finish(self, row: Row, work: Work, chunk: Chunk | None) -> Row:
        if not row["items"]:
            return report(work, row["statuses"])
        with self._attempt("finish", work) as attempt:
            if attempt.isolated:
                return report(work, run_isolated(self.job, self.checkpoints, self.ledger, work, chunk))
            work = work.withhold(attempt.poisonous)
            return report(work, finish_stage(self.job, pickle.loads(row["items"]), work, chunk))

    def _attempt(self, stage: str, work: Work) -> AbstractContextManager[Attempt]:
        return LedgerClient(self.ledger, self.job.file_seconds).attempt(stage, work.key)


class DetectActor:
    """The step in between, in an actor with a GPU."""

    def __init__(self, job: PassJob, checkpoints: Any, ledger: Any, context: RunContext) -> None:
        self.job, self.ledger, self.context = job, LedgerClient(ledger, job.file_seconds), context
        self.stage = _start_worker(self.ledger, lambda: DetectStage(job, checkpoints))
        self.run_isolated = partial(run_isolated, job, checkpoints, ledger)

    def __call__(self, row: Row) -> Row:
        if not row["items"]:
            return row
        return observe_call(self.context, "detect", row, partial(self._detect, row))

    def _detect(self, row: Row, work: Work, chunk: Chunk | None) -> Row:
        with self.ledger.attempt("detect", work.key) as attempt:
            if attempt.isolated:
                return row | {"items": b"", "statuses": self.run_isolated(work, chunk)}
            items: list[bytes] = []

            def run() -> list[str]:
                detected = self.stage.detect(work.withhold(attempt.poisonous), pickle.loads(row["items"]))
                items.append(pickle.dumps(detected, protocol=5))
                return []

            statuses = contain(self.job, work, chunk, run)
            return row | {"items": b"".join(items), "statuses": statuses}


def _start_worker(ledger: LedgerClient, make: Callable[[], T]) -> T:
    """Return the worker that `make` makes. Raise UserError where too many processes ended over it on this node."""
    import ray

    cpus = max(1, os.cpu_count() or 1)
    with ledger.attempt("start", ray.get_runtime_context().get_node_id()) as attempt:
        if attempt.losses > _MOST_STARTS * cpus:
            problem = f"{attempt.losses} workers have ended while they started"
            raise UserError(f"{problem}: where memory is short, fewer --workers need less")
        return make()
