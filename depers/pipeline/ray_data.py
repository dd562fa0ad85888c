"""The pass as a Ray Data job; archives are opened into chunks on the way, and put together at the end.

    units → open → work → assemble                       on CPUs, where one actor per core does all steps
    units → open → prepare → detect → finish → assemble  around GPUs, which are fed and followed by CPU tasks

Ray Data does again what a dead process or node held. A file that itself ends every process that works on it would
so be tried for ever: the ledger knows what was begun too often.
"""

import gc
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from depers.archives.base import ArchiveEnd, Chunk
from depers.pipeline.archive_steps import ChunkHeading, assemble, read_chunks
from depers.pipeline.quarantine import CrashLedger, LedgerClient, alone
from depers.pipeline.steps import PassJob, Row
from depers.pipeline.workers import DetectStage, FusedWorker, Work, finish_stage, prepare_stage
from depers.runtime.units import Unit

_CORE, _LIGHT = 0.9, 0.05  # CPUs of an actor, and of a task that mostly waits for storage; none runs on a 0-CPU head
_DEPTH = 2  # calls at a time in one actor: while one computes, the other waits for storage
_QUEUED = 2  # further calls that an actor has at hand when those end, which they often do together
_READERS = 4  # archives that are read at once
_HELD_BYTES = 96 * 2**20  # of chunks per core that are read and not done: what actors work on, and as much again
_BLOCK_BYTES = 2**20  # Ray Data gathers rows up to this; a chunk is more, so it leaves its reader alone and at once


class PassRun(NamedTuple):
    """What a job runs with; `finished` are the chunks of archives that an earlier run did."""

    job: PassJob
    checkpoints: Any
    stride: int
    staged: bool
    workers: int | None
    precomputed: Any = None
    finished: Mapping[str, set[int]] = {}


def _row(work: Work, chunk: Chunk | None = None, end: ArchiveEnd | None = None, chunks: int = 0) -> Row:
    """What travels: work with the chunk that it is about, or the end of an archive that was read in `chunks`."""
    packed = [b"" if one is None else pickle.dumps(one, protocol=5) for one in (chunk, end)]
    return {"work": pickle.dumps(work, protocol=5), "chunk": packed[0], "end": packed[1], "chunks": chunks}


def _open(table: pa.Table, *, job: PassJob, ledger: Any, finished: Mapping[str, set[int]]) -> Iterator[pa.Table]:
    """A unit of loose files as it is; an archive as its chunks that are not finished, then its end."""
    work: Work = pickle.loads(table["work"][0].as_py())
    unit, chunks = work.unit, 0
    if unit.archive is None:
        yield table
        return
    heading = ChunkHeading(-1, (), b"")
    with LedgerClient(ledger).work(("open", unit.name)) as (_, deadly, note):
        note(-1)
        for part in read_chunks(job, unit, frozenset(finished.get(unit.name, ()))):
            if isinstance(part, ChunkHeading):
                heading = part
                continue
            if isinstance(part, Chunk):
                rows = work.precomputed.get(unit.entries[0].path, {})
                own: dict[int | None, Row] = {number: rows[number] for number in heading.files if number in rows}
                precomputed = {unit.entries[0].path: own} if own else {}
                row, chunks = _row(Work(unit, heading.number, heading.layout, precomputed), part), chunks + 1
            else:
                row = _row(work, end=part, chunks=chunks)
            yield pa.Table.from_pylist([row], _SCHEMA)
            if isinstance(part, Chunk) and part.number in deadly:
                reason = "cannot be read on: it ends the process that reads it"
                end = ArchiveEnd(part.number + 1, part.members[-1].number + 1, reason, heading.layout)
                yield pa.Table.from_pylist([_row(work, end=end, chunks=chunks)], _SCHEMA)
                break
            note(heading.number)


_SCHEMA = pa.schema([(name, pa.large_binary()) for name in ("work", "chunk", "end")] + [("chunks", pa.int64())])


def _done(work: Work, statuses: Sequence[str]) -> Row:
    return {"unit": work.unit.name, "statuses": list(statuses), "end": b"", "chunks": 0}


def _passed_on(row: Row) -> Row:
    work: Work = pickle.loads(row["work"])
    return _done(work, []) | {"end": row["end"], "chunks": row["chunks"]}


def _unpacked(row: Row) -> tuple[Work, Chunk | None]:
    return pickle.loads(row["work"]), pickle.loads(row["chunk"]) if row["chunk"] else None


class _Fused:
    """All steps, in an actor."""

    def __init__(self, job: PassJob, checkpoints: Any, ledger: Any) -> None:
        self.worker, self.told = FusedWorker(job, checkpoints), LedgerClient(ledger)
        self.alone = partial(alone, job, checkpoints, ledger)
        gc.freeze()  # collecting garbage would go through all of PyTorch and Ray again and again, 0.1 s each time

    def __call__(self, row: Row) -> Row:
        if row["end"]:
            return _passed_on(row)
        work, chunk = _unpacked(row)
        with self.told.work(work.key) as (careful, _, _):
            statuses = self.alone(work, chunk) if careful else self.worker.work(work, chunk)["statuses"]
        return _done(work, statuses)


@dataclass(frozen=True)
class _Around:
    """The tasks before and after a GPU's actor; what they may not do too often is done by one process, carefully."""

    job: PassJob
    checkpoints: Any
    ledger: Any
    stride: int

    def prepare(self, row: Row) -> Row:
        empty = row | {"items": b"", "statuses": []}
        if row["end"]:
            return empty
        work, chunk = _unpacked(row)
        with LedgerClient(self.ledger).work(("prepare", work.key)) as told:
            if told[0]:
                return empty | {"statuses": alone(self.job, self.checkpoints, self.ledger, work, chunk)}
            return empty | {"items": pickle.dumps(prepare_stage(self.job, self.stride, work, chunk), protocol=5)}

    def finish(self, row: Row) -> Row:
        if row["end"]:
            return _passed_on(row)
        work, chunk = _unpacked(row)
        if not row["items"]:
            return _done(work, row["statuses"])
        with LedgerClient(self.ledger).work(("finish", work.key)) as told:
            if told[0]:
                return _done(work, alone(self.job, self.checkpoints, self.ledger, work, chunk))
            return _done(work, finish_stage(self.job, pickle.loads(row["items"]), work, chunk)["statuses"])


class _Detect:
    """The step in between, in an actor with a GPU."""

    def __init__(self, job: PassJob, checkpoints: Any) -> None:
        self.stage = DetectStage(job, checkpoints)

    def __call__(self, row: Row) -> Row:
        found = pickle.dumps(self.stage.look(pickle.loads(row["items"])), protocol=5) if row["items"] else b""
        return row | {"items": found}


@dataclass
class _Archive:
    """An archive in work: how many of its chunks are done, and its end with their number, once it is known."""

    unit: Unit
    done: int = 0
    end: ArchiveEnd | None = None
    chunks: int = -1


def run(plan: PassRun, todo: Sequence[Unit]) -> Iterator[Row]:
    """Does the units; gives what workers say of each unit, chunk and archive as it is done, and ends when all are."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after Ray has set it up
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size, context.enable_progress_bars, context.execution_options.resource_limits
    context.target_max_block_size, context.enable_progress_bars = _BLOCK_BYTES, False  # bars would count blocks
    if not plan.staged:  # by itself Ray Data reads ahead until half of the object store is full
        held = _HELD_BYTES * max(1, int(ray.cluster_resources().get("CPU", 1)))
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=held)
    retries = os.environ.setdefault(
        "RAY_TASK_MAX_RETRIES", "-1"
    )  # of tasks as of actors; Ray Data has no option for it
    try:
        rows = _dataset(plan, todo).iter_rows()
        archives = {unit.name: _Archive(unit) for unit in todo if unit.archive}
        join = ray.remote(assemble).options(num_cpus=_LIGHT, max_retries=-1)
        joining: list[Any] = []
        for row in rows:
            if archive := archives.get(row["unit"]):
                if row["end"]:
                    archive.end, archive.chunks = pickle.loads(row["end"]), row["chunks"]
                else:
                    archive.done += 1
                if archive.done == archive.chunks:
                    joining.append(join.remote(plan.job, archive.unit, archive.end))
            if row["statuses"]:
                yield {"statuses": row["statuses"]}
            ready, joining = ray.wait(joining, num_returns=len(joining), timeout=0) if joining else ([], [])
            yield from ray.get(ready)
        while joining:
            (ready,), joining = ray.wait(joining)
            yield ray.get(ready)
    finally:
        context.target_max_block_size, context.enable_progress_bars, context.execution_options.resource_limits = before
        if retries == "-1":
            del os.environ["RAY_TASK_MAX_RETRIES"]


def _dataset(plan: PassRun, todo: Sequence[Unit]) -> Any:
    """The plan of the work, which runs while its rows are taken."""
    import ray
    import ray.data

    job, checkpoints = plan.job, [plan.checkpoints]  # in a list: Ray would fetch a bare reference for every call
    ledger = ray.remote(CrashLedger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    items = []
    for unit in todo:
        precomputed = (
            {entry.path: plan.precomputed.of(entry.path) for entry in unit.entries} if plan.precomputed else {}
        )
        items.append(_row(Work(unit, precomputed=precomputed)))
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if any(unit.archive for unit in todo):
        dataset = dataset.map_batches(
            _open,
            fn_kwargs={"job": job, "ledger": ledger, "finished": plan.finished},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=min(_READERS, len(items))),
            num_cpus=_LIGHT,
        )
    gpus = job.settings.device == "cuda"
    cluster = ray.cluster_resources()
    if not plan.staged:
        cores = max(1, int(cluster.get("CPU", 1)))
        size = plan.workers or (cores if any(unit.archive for unit in todo) else min(cores, len(todo)))
        return dataset.map(
            _Fused,
            fn_constructor_args=(job, checkpoints, ledger),
            compute=_pool(size, plan.workers or None),
            num_cpus=_CORE,
        )
    around = _Around(job, checkpoints, ledger, plan.stride)
    size = plan.workers or max(1, int(cluster.get("GPU", 0)) if gpus else 1)
    resources = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 0.5}
    prepared = dataset.map(around.prepare, num_cpus=1)
    detected = prepared.map(
        _Detect, fn_constructor_args=(job, checkpoints), compute=_pool(size, plan.workers or None), **resources
    )
    return detected.map(around.finish, num_cpus=0.4)


def _pool(size: int, most: int | None) -> Any:
    """`size` actors, and more as the cluster grows, unless `most` bounds them."""
    import ray.data

    return ray.data.ActorPoolStrategy(
        min_size=size,
        max_size=most,
        max_tasks_in_flight_per_actor=_DEPTH + _QUEUED,
        max_concurrent_calls_per_actor=_DEPTH,
        enable_true_multi_threading=True,  # the worker has a lock of its own, around what computes
    )
