"""Work that ended its processes too often: done file by file, in a process of its own.

Each position is noted in the ledger of crashes (`runtime/crash_ledger.py`) before work comes there, so that the file
that ends the process is known, and costs itself alone. In a poisonous batch, images are detected one by one, which
leads to the one that is poisonous.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

from depers.archives.base import Chunk
from depers.pipeline.outcomes import finish, write
from depers.pipeline.steps import DetectedItem, Outcome, PassJob, detect, prepare
from depers.pipeline.workers import FusedWorker, Work, contain, fail_work, read_items, record_outcomes
from depers.runtime.crash_ledger import MOST_LOSSES, LedgerClient, Position

_LIGHT = 0.05  # CPUs
_STAGE = "isolated"


def work_one_by_one(
    worker: FusedWorker,
    work: Work,
    chunk: Chunk | None,
    poisonous: Mapping[Position, str],
    note: Callable[[Position], None],
) -> list[str]:
    """Do the work file by file, each position noted first, but for `poisonous` files; return the rows' statuses.

    Batches are those of `FusedWorker.work`, since the last digits of detections depend on them, but a poisonous batch
    is detected image by image.
    """
    job, outcomes, first = worker.job, list[Outcome](), 0
    work = work.withhold(poisonous)
    items = read_items(job, work, chunk, worker.pool)
    while batch := list(islice(items, job.batch_size)):

        @contextmanager
        def at(index: int, first: int = first) -> Iterator[None]:
            if first + index not in work.poisonous:
                note(Position(first + index))
            with work.watch(first + index):
                yield

        prepared = []
        for index, item in enumerate(batch):
            with at(index):
                prepared.append(prepare(job, item, worker.stride))
        if Position(first, is_batch=True) in poisonous:
            detected: list[DetectedItem] = []
            for index, item in enumerate(prepared):
                with at(index):
                    detected += detect(job, [item], worker.detector)
        else:
            note(Position(first, is_batch=True))
            detected = detect(job, prepared, worker.detector, at)
        for index, (item, boxes) in enumerate(detected):
            with at(index):
                outcome = finish(job, item, boxes)
            outcomes.append(write(job, item, outcome) if chunk is None else outcome)
        first += len(batch)
    return record_outcomes(job, work, chunk, outcomes)


def _work_isolated(job: PassJob, checkpoints: Any, ledger: Any, work: Work, chunk: Chunk | None) -> list[str]:
    client, key = LedgerClient(ledger, job.file_seconds), (_STAGE, work.key)
    with client.attempt(*key) as attempt:
        if attempt.losses > MOST_LOSSES:
            return fail_work(job, work, chunk, f"{attempt.losses} processes that worked on it or its neighbors ended")
        work = work.load_rows()
        worker = FusedWorker(job._replace(settings=replace(job.settings, device="cpu")), checkpoints)

        def run() -> list[str]:
            return work_one_by_one(worker, work, chunk, attempt.poisonous, lambda place: client.note(*key, place))

        return contain(job, work, chunk, run)


def run_isolated(job: PassJob, checkpoints: Any, ledger: Any, work: Work, chunk: Chunk | None) -> list[str]:
    """Do work file by file in a process of its own: nothing else dies with it, or is blamed for its end.

    Return the statuses of its rows.
    """
    import ray

    task = ray.remote(num_cpus=_LIGHT, max_retries=0, max_calls=1)(_work_isolated)
    while True:
        try:
            statuses: list[str] = ray.get(task.remote(job, checkpoints, ledger, work, chunk))
            return statuses
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:  # the process is gone, and the ledger knows at which position, or counts that
            continue
