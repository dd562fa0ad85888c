"""The pass as a Ray Data job; archives are opened into chunks on the way, and put together at the end.

    units → open → work → assemble                       on CPUs, where one actor per core does all steps
    units → open → prepare → detect → finish → assemble  around GPUs, which are fed and followed by CPU tasks

Ray Data repeats what a dead process or node was at work on. A file that itself ends every process that works on it
would so be tried for ever: the ledger of crashes (`runtime/crash_ledger.py`) knows what was begun too often.
"""

import itertools
import logging
import os
import pickle
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from depers.archives.base import ArchiveEnd, Chunk
from depers.observation.collector import collect
from depers.observation.context import RunContext, current_context
from depers.observation.meter import Measurement, Stage, count, stage
from depers.observation.metrics import RETRIES
from depers.pipeline.archive_steps import assemble, discard
from depers.pipeline.box_tables import Row
from depers.pipeline.ray_stages import (
    CpuStages,
    DetectActor,
    FusedStage,
    collect_measurements,
    observe_call,
    open_archive,
    open_unit,
    pack,
    report,
)
from depers.pipeline.repetition import LOOK_SECONDS, Repetitions
from depers.pipeline.row_join import RowPlace
from depers.pipeline.steps import PassJob
from depers.pipeline.workers import (
    Work,
    load_worker,
)
from depers.resources import MIB
from depers.runtime import capacity
from depers.runtime.crash_ledger import Attempt, start_ledger
from depers.runtime.takeover import Source
from depers.runtime.telemetry.observed_work import observe
from depers.runtime.units import Unit
from depers.statuses import ArchiveStatus

T = TypeVar("T")

_CORE, _LIGHT = 0.9, 0.05  # CPUs of an actor, and of a task that mostly waits for storage; none runs on a 0-CPU head
_DEPTH = 2  # calls at a time in one actor: while one computes, the other waits for storage
_QUEUED = 2  # further calls that an actor has at hand when those end, which they often do together
_MAX_RETRIES = "RAY_TASK_MAX_RETRIES"
_MOST_ASSEMBLIES = 5  # processes that may end over one archive
_READERS = 4  # archives that are read at once
_CHUNK_BYTES_PER_CORE = 96 * MIB  # that are read and not done: what actors work on, and as much again
_MOST_SHARE = 0.5  # of the object stores, which Ray Data takes by itself
_UPSCALING = 1.2  # calls in flight per call that runs, from which a pool grows: it doubles while there is more to do
_BLOCK_BYTES = MIB  # Ray Data gathers rows up to this; a chunk is more, so it leaves its reader alone and at once


class PassRun(NamedTuple):
    """What a job runs with; `finished_chunks` are those of archives that an earlier run did, by their units' names."""

    job: PassJob
    checkpoints: Any
    stride: int
    staged: bool
    workers: int | None
    places: Mapping[str, RowPlace] = {}
    """Where rows of an earlier table are, by the names of the units that they are about."""
    finished_chunks: Mapping[str, set[int]] = {}
    retries: frozenset[str] = frozenset()
    """The units of which storage failed some files in an earlier run."""
    sources: Mapping[str, tuple[Source, ...]] = {}
    """Where the rows of those files of units are that are not to be done again, by the units' names."""


@dataclass
class _OpenUnit:
    """A unit in work: which of its chunks are done, and of an archive its end with their number, once it is known."""

    unit: Unit
    chunks_done: set[int] = field(default_factory=set)
    end: ArchiveEnd | None = None
    chunks: int = 1

    def take(self, row: Row) -> bool:
        """Note what is reported; return whether it is news, and no second report of the same work."""
        if row["end"]:
            self.end, self.chunks = pickle.loads(row["end"]), row["chunks"]
            return False
        is_news = row["number"] not in self.chunks_done
        self.chunks_done.add(row["number"])
        return is_news

    def is_done(self) -> bool:
        """Return whether all of it is."""
        return (self.end is not None or self.unit.archive is None) and len(self.chunks_done) == self.chunks


def run(plan: PassRun, todo: Sequence[Unit]) -> Generator[list[str], None, None]:
    """Do the units; yield the statuses of the rows of each unit, chunk and archive as it is done."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # after Ray has set it up
    open_units, completions = {unit.name: _OpenUnit(unit) for unit in todo}, 0
    context = current_context()
    assemblies, gpus = _Assemblies(plan.job), int(plan.job.settings.device == "cuda")

    def start_twin(unit: Unit) -> Any:
        finished_chunks = open_units[unit.name].chunks_done | plan.finished_chunks.get(unit.name, set())
        options = {"num_cpus": _CORE, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        arguments = plan.job, [plan.checkpoints], _as_work(plan, unit), finished_chunks, context
        return ray.remote(_do_again).options(**options).remote(*arguments)

    twins = Repetitions(start_twin, {"CPU": _CORE, "GPU": gpus}, plan.workers)
    with _ray_settings(plan.staged), capacity.followed_nodes(), _RowReader(_dataset(plan, todo)) as reader:
        while open_units:
            row = reader.read(LOOK_SECONDS)
            rows = [*itertools.chain.from_iterable(twins.take_completed()), *([] if row is None else [row])]
            for row in rows:
                if (unit := open_units.get(row["unit"])) is None:
                    continue
                collect_measurements(row["measured"])
                if unit.take(row) and row["statuses"]:
                    yield row["statuses"]
                if unit.is_done():
                    del open_units[row["unit"]]
                    completions += 1
                    if unit.end is not None:
                        assemblies.start(unit.unit, unit.end)
            yield from assemblies.take_completed(wait=False)
            if not rows:
                candidates = [
                    unit.unit for unit in open_units.values() if unit.end is not None or not unit.unit.archive
                ]
                twins.start_slow(candidates if len(candidates) == len(open_units) else [], completions)
        twins.cancel()
    yield from assemblies.take_completed(wait=True)


def _do_again(job: PassJob, checkpoints: Any, work: Work, finished_chunks: set[int], context: RunContext) -> list[Row]:
    """Do a unit, of an archive what is not finished, in this process alone; return what the driver hears of it."""
    worker = load_worker(job, checkpoints)
    rows: Iterable[Row] = [pack(work)]
    if work.unit.archive is not None:
        rows = open_archive(job, work, {work.unit.name: finished_chunks}, Attempt(False, {}), lambda position: None)

    def call(part: Work, chunk: Chunk | None) -> Row:
        return report(part, worker.work(part, chunk))

    return [observe_call(context, "work", row, call) for row in rows if not row["end"]]


class _RowReader:
    """The rows of a dataset, read by a thread: the work on them runs as long as the block does."""

    def __init__(self, dataset: Any) -> None:
        self._dataset, self._rows = dataset, queue.SimpleQueue[Row | BaseException]()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "_RowReader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Nobody waits for what twins have done meanwhile; Ray Data has no public way to end what is in work.
        if self._thread.is_alive() and (executor := self._dataset._current_executor) is not None:
            executor.shutdown(force=True)

    def read(self, seconds: float) -> Row | None:
        """Return the next row, None where none comes so soon. Raise what the work raises."""
        try:
            row = self._rows.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(row, BaseException):
            raise row
        return row

    def _read(self) -> None:
        try:
            for row in self._dataset.iter_rows():
                self._rows.put(row)
            self._rows.put(RuntimeError("the work ended before all of it was done"))
        except BaseException as error:
            self._rows.put(error)


def _assemble(
    context: RunContext, function: Callable[..., ArchiveStatus], job: PassJob, unit: Unit, *arguments: Any
) -> tuple[ArchiveStatus, Measurement]:
    """Return what `assemble` or `discard` does of an archive, with what was measured."""
    with observe(context, "assemble", unit.name) as measurement, stage(Stage.ASSEMBLE):
        status = function(job, unit, *arguments)
    return status, measurement


class _Assemblies:
    """Archives that are being put together, each in a task."""

    def __init__(self, job: PassJob) -> None:
        self._job = job
        self._running: dict[Any, tuple[Unit, ArchiveEnd, int]] = {}

    def start(self, unit: Unit, end: ArchiveEnd, losses: int = 0) -> None:
        """Start a task; what has ended too many of them is given up instead, and says so."""
        import ray

        options, context = {"num_cpus": _LIGHT, "max_retries": 0}, current_context()
        if losses < _MOST_ASSEMBLIES:
            task = ray.remote(_assemble).options(**options).remote(context, assemble, self._job, unit, end)
        else:
            reason = f"cannot be put together: {losses} processes ended over it"
            task = ray.remote(_assemble).options(**options).remote(context, discard, self._job, unit, end, reason)
        self._running[task] = unit, end, losses

    def take_completed(self, wait: bool) -> Iterator[list[str]]:
        """Yield the status of each that is completed, or, to `wait`, of all."""
        import ray

        while self._running:
            completed, _ = ray.wait(list(self._running), timeout=None if wait else 0)
            if not completed:
                return
            unit, end, losses = self._running.pop(completed[0])
            try:
                status, measurement = ray.get(completed[0])
            except ray.exceptions.RayTaskError:
                raise
            except ray.exceptions.RayError:  # the process or its node is gone
                if losses > _MOST_ASSEMBLIES:
                    raise
                count(RETRIES, "process")
                self.start(unit, end, losses + 1)
            else:
                collect(measurement)
                yield [status]


@contextmanager
def _ray_settings(staged: bool) -> Iterator[None]:
    """Set what Ray Data has no options for, within the block."""
    import ray
    import ray.data

    context = ray.data.DataContext.get_current()
    settings: dict[str, Any] = {"target_max_block_size": _BLOCK_BYTES, "enable_progress_bars": False}
    settings["autoscaling_config"] = replace(context.autoscaling_config, actor_pool_util_upscaling_threshold=_UPSCALING)
    if not staged:  # by itself Ray Data reads ahead until half of the object store is full
        settings["override_object_store_memory_limit_fraction"] = _choose_store_share(ray.nodes())
    defaults = {name: getattr(context, name) for name in settings}
    for name, value in settings.items():  # bars would count blocks
        setattr(context, name, value)
    retries = os.environ.setdefault(_MAX_RETRIES, "-1")  # of tasks as of actors
    try:
        yield
    finally:
        for name, value in defaults.items():
            setattr(context, name, value)
        if retries == "-1":
            del os.environ[_MAX_RETRIES]


def _choose_store_share(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of the object stores that holds the bytes for each core of these nodes.

    Shares, and not bytes: nodes come and go, and what may be read ahead goes with them.
    """
    shares: list[float] = [
        _CHUNK_BYTES_PER_CORE * node["Resources"]["CPU"] / node["Resources"]["object_store_memory"]
        for node in nodes
        if node["Alive"] and node["Resources"].get("CPU") and node["Resources"].get("object_store_memory")
    ]
    return min([_MOST_SHARE, *shares])


def _as_work(plan: PassRun, unit: Unit) -> Work:
    is_retry, sources = unit.name in plan.retries, plan.sources.get(unit.name, ())
    return Work(unit, is_retry=is_retry, sources=sources, place=plan.places.get(unit.name))


def _dataset(plan: PassRun, todo: Sequence[Unit]) -> Any:
    """Return the plan of the work, which runs while its rows are taken."""
    import ray
    import ray.data

    context = current_context()
    job, checkpoints = plan.job, [plan.checkpoints]  # in a list: Ray would fetch a bare reference for every call
    ledger = start_ledger()
    items = [pack(_as_work(plan, unit)) for unit in todo]
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    if any(unit.archive for unit in todo):
        dataset = dataset.map_batches(
            open_unit,
            fn_kwargs={"job": job, "ledger": ledger, "finished_chunks": plan.finished_chunks, "context": context},
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.TaskPoolStrategy(size=min(_READERS, len(items))),
            num_cpus=_LIGHT,
        )
    gpus = job.settings.device == "cuda"
    if not plan.staged:
        limit = plan.workers or (None if any(unit.archive for unit in todo) else len(todo))
        size = min(capacity.count_cpus(), limit or capacity.count_cpus())
        return dataset.map(
            FusedStage,
            fn_constructor_args=(job, checkpoints, ledger, context),
            compute=_actor_pool(size, limit),
            num_cpus=_CORE,
        )
    stages = CpuStages(job, checkpoints, ledger, plan.stride, context)
    size = plan.workers or max(1, int(ray.cluster_resources().get("GPU", 0)) if gpus else 1)
    resources = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": 0.5}
    prepared = dataset.map(stages.prepare, num_cpus=1 if gpus else 0.5)  # one core has room for it beside the actor
    detected = prepared.map(
        DetectActor,
        fn_constructor_args=(job, checkpoints, ledger, context),
        compute=_actor_pool(size, plan.workers or None if gpus else size),
        **resources,
    )
    return detected.map(stages.finish, num_cpus=0.4)


def _actor_pool(size: int, limit: int | None) -> Any:
    """Return a pool that begins with `size` actors, and has more or fewer as the cluster does, at most `limit`.

    None but one must be there: nodes that leave take theirs along, and nobody waits for these.
    """
    import ray.data

    return ray.data.ActorPoolStrategy(
        min_size=1,
        initial_size=size,
        max_size=limit,
        max_tasks_in_flight_per_actor=_DEPTH + _QUEUED,
        max_concurrent_calls_per_actor=_DEPTH,
        enable_true_multi_threading=True,  # the worker has a lock of its own, around what computes
    )
