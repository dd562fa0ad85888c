"""A pass without Ray, in processes of this machine.

It is for inputs so small that starting a cluster would take longest, and for folders on the disks of a machine that is
in no cluster: there Ray's own processes take a tenth of the time from the work. What lies in other stores is left to
Ray, whose workers do two units at a time and so wait less for them.

The steps, and so the bytes, are those of the fused topology: a `FusedWorker` in each process of the `local_pool`, on
one core. Archives are left to Ray, which spreads their chunks; in a pass without it they are refused.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from depers import storage
from depers.archives import registry
from depers.errors import UserError
from depers.pipeline.isolation import work_one_by_one
from depers.pipeline.options import PassOptions
from depers.pipeline.row_join import RowPlace
from depers.pipeline.steps import PassJob
from depers.pipeline.workers import DetectorFacts, Work, contain, describe_detector, load_worker
from depers.resources import MIB
from depers.runtime import local_pool
from depers.runtime.file_guard import FileGuard
from depers.runtime.local_pool import PoolPlan
from depers.runtime.takeover import Source
from depers.runtime.units import Unit
from depers.storage.selection import parse_moment

_MODULES = ("depers.pipeline.local", "depers.detection.detector", "depers.detection.yolo", "depers.redaction.files")
_MOST_FILES, _MOST_BYTES = 64, 256 * MIB  # of a small input: more is done sooner by a cluster
_FILES_PER_PROCESS = 8  # below which a further process costs more than it saves


def plan_processes(options: PassOptions, *further_places: str) -> PoolPlan | None:
    """Return the processes of this machine, which is in no cluster, that do a pass soonest; None where Ray shall do it.

    With `--topology auto` they do it where INPUT is small, or it, OUT and the `further_places` are on this machine's
    disks; not where there are archives, or a GPU that may be used, nor with thresholds beside a GPU: they hold for what
    it computes, or what CPUs do, and which it is must not depend on how much INPUT holds.
    """
    if options.dry_run:
        return plan_one()
    is_auto = options.topology == "auto"
    if not (is_auto or options.topology == "local") or (is_auto and options.device == "cuda"):
        return None
    if registry.kind_of(options.input) and storage.is_file(options.input):
        return None
    if is_auto and options.thresholds is not None and options.device == "auto" and _has_gpu():
        return None
    is_remote = any(storage.is_remote(place) for place in (options.input, options.out, *further_places))
    is_bounded = is_auto and (is_remote or (options.device == "auto" and _has_gpu()))
    cores = options.workers or len(os.sched_getaffinity(0))
    count, size = 0, 0
    try:
        moment = parse_moment(options.s3_as_of) if options.s3_as_of else None
        for entry in storage.iterate_files(options.input, options.follow_links, moment):
            count, size = count + 1, size + entry.size
            if is_auto and registry.kind_of(entry.path):
                return None
            if is_bounded and (count > _MOST_FILES or size > _MOST_BYTES):
                return None
            if not is_auto and count >= cores * _FILES_PER_PROCESS:
                break  # more change nothing
    except (OSError, UserError):
        count = 0  # the job will say what is wrong
    return PoolPlan(_MODULES, max(1, min(cores, count // _FILES_PER_PROCESS)))


def _has_gpu() -> bool:
    """Return whether the machine has a GPU of NVIDIA's, by its devices: to ask the library would take seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def plan_one() -> PoolPlan:
    """Return one process, for a sample."""
    return PoolPlan(_MODULES, 1)


def start_inspection(job: PassJob, checkpoints: Sequence[bytes]) -> Callable[[], DetectorFacts]:
    """Have a process load the detector; return what waits for it and gives what `workers.inspect_weights` does."""
    pool = local_pool.find_pool()
    assert pool is not None
    calls = [(job, tuple(checkpoints))]
    executor = ThreadPoolExecutor(1)
    future = executor.submit(lambda: next(pool.run(_inspect, calls, job.file_seconds, 1)))
    executor.shutdown(wait=False)
    return future.result


def run(
    job: PassJob,
    checkpoints: Sequence[bytes],
    units: Sequence[Unit],
    places: Mapping[str, RowPlace],
    retries: frozenset[str],
    workers: int | None,
    sources: Mapping[str, tuple[Source, ...]],
) -> Generator[list[str], None, None]:
    """Do the units; yield the statuses of the rows of each as it is done. Raise UserError where one is an archive."""
    if archive := next((unit for unit in units if unit.archive), None):
        path = archive.entries[0].path
        raise UserError(f"{job.input}: holds an archive, {path}, which --topology local cannot do: leave it to auto")
    pool = local_pool.find_pool()
    assert pool is not None
    works = (
        Work(
            unit,
            is_retry=unit.name in retries,
            sources=sources.get(unit.name, ()),
            place=places.get(unit.name),
        )
        for unit in units
    )
    calls = ((job, tuple(checkpoints), work) for work in works)
    yield from pool.run(_do, calls, job.file_seconds, workers)


def _inspect(job: PassJob, checkpoints: tuple[bytes, ...], guard: FileGuard | None = None) -> DetectorFacts:
    return describe_detector(load_worker(job, checkpoints).detector)


def _do(job: PassJob, checkpoints: tuple[bytes, ...], work: Work, guard: FileGuard) -> list[str]:
    """Do a unit, file by file where its processes have ended too often; return the statuses of its rows."""
    worker, note, work = load_worker(job, checkpoints), guard.note, work.load_rows()
    if note is None:
        return worker.work(work.withhold(guard.poisonous))
    return contain(job, work, None, lambda: work_one_by_one(worker, work, None, guard.poisonous, note))
