"""The crash ledger: a file that ends every process that works on it is found, and costs itself alone.

Ray Data repeats what a dead process was at work on, for ever. So an actor that outlives workers, the `CrashLedger`,
counts how often work was begun and not ended. Work (the reading of an archive, a unit, a chunk, a stage of one of them)
goes through these states:

    begun      A worker is at it. Nearly all work is ended next, and the ledger forgets it.
    isolated   It was begun more than `_TRIES` times. `run_isolated` gives it a process of its own, which does it file
               by file (`work_one_by_one`) and notes each position before it comes there. Where that process ends, too,
               the ledger counts it against the last position, and the next process begins.
    poisonous  A position that ended the work `_TRIES` times (once may be a node's death). A poisonous file is not
               touched any more: it fails, with that reason. In a poisonous batch, images are detected one by one, which
               leads to the one that is poisonous. An archive whose reading is poisonous ends before that chunk.
    ended      All of it is done and recorded.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from depers.archives.base import Chunk
from depers.pipeline.steps import DetectedItem, Outcome, PassJob, detect, prepare
from depers.pipeline.workers import FusedWorker, Work, finish_and_write, read_items, record_outcomes

_TRIES = 2  # of the same work before it is isolated; and then at one position, until that is poisonous
_LIGHT = 0.05  # CPUs


class Position(NamedTuple):
    """Where work has come to: a file by its offset in the unit or chunk, or a batch by that of its first file.

    Of an archive that is read, it is the number of the next chunk.
    """

    offset: int
    is_batch: bool = False


class Attempt(NamedTuple):
    """What the ledger knows as work begins: whether it must be isolated, and which positions in it are poisonous."""

    isolated: bool
    poisonous: frozenset[Position]


class CrashLedger:
    """An actor that outlives workers: how often work was begun, and at which position it ended its process."""

    def __init__(self) -> None:
        self._begun: Counter[Any] = Counter()
        self._positions: dict[Any, Position] = {}
        self._crashes: Counter[tuple[Any, Position]] = Counter()

    def begin(self, key: Any) -> Attempt:
        """Note that work begins; a position that was noted before ended its process."""
        self._begun[key] += 1
        if key in self._positions:
            self._crashes[key, self._positions.pop(key)] += 1
        poisonous = {position for (work, position), count in self._crashes.items() if work == key and count >= _TRIES}
        return Attempt(self._begun[key] > _TRIES, frozenset(poisonous))

    def note(self, key: Any, position: Position) -> None:
        """Note the position that the work has come to."""
        self._positions[key] = position

    def end(self, key: Any) -> None:
        """Forget work that is done."""
        self._begun.pop(key, None)
        self._positions.pop(key, None)


class LedgerClient:
    """The ledger as a worker sees it: every call returns once it is written down."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger

    @contextmanager
    def attempt(self, key: Any) -> Iterator[Attempt]:
        """Begin the work, and end it with the block, unless that raises."""
        import ray

        attempt: Attempt = ray.get(self._ledger.begin.remote(key))
        yield attempt
        ray.get(self._ledger.end.remote(key))

    def note(self, key: Any, position: Position) -> None:
        """Note the position that the work has come to."""
        import ray

        ray.get(self._ledger.note.remote(key, position))


def work_one_by_one(
    worker: FusedWorker,
    work: Work,
    chunk: Chunk | None,
    poisonous: frozenset[Position],
    note: Callable[[Position], None],
) -> list[str]:
    """Do the work file by file, each position noted first, but for `poisonous` files; return the rows' statuses.

    Batches are those of `FusedWorker.work`, since the last digits of detections depend on them, but a poisonous batch
    is detected image by image.
    """
    job, outcomes, first = worker.job, list[Outcome](), 0
    work = work._replace(poisonous=frozenset(offset for offset, is_batch in poisonous if not is_batch))
    items = read_items(job, work, chunk, worker.pool)
    while batch := list(islice(items, job.batch_size)):

        def note_file(index: int, first: int = first) -> None:
            if first + index not in work.poisonous:
                note(Position(first + index))

        prepared = []
        for index, item in enumerate(batch):
            note_file(index)
            prepared.append(prepare(job, item, worker.stride))
        if Position(first, is_batch=True) in poisonous:
            detected: list[DetectedItem] = []
            for index, item in enumerate(prepared):
                note_file(index)
                detected += detect(job, [item], worker.detector)
        else:
            note(Position(first, is_batch=True))
            detected = detect(job, prepared, worker.detector, note_file)
        for index, item_and_boxes in enumerate(detected):
            note_file(index)
            outcomes.append(finish_and_write(job, chunk is None, item_and_boxes))
        first += len(batch)
    return record_outcomes(job, work, chunk, outcomes)


def _work_isolated(job: PassJob, checkpoints: Any, ledger: Any, work: Work, chunk: Chunk | None) -> list[str]:
    client, key = LedgerClient(ledger), ("isolated", work.key)
    with client.attempt(key) as attempt:
        worker = FusedWorker(job._replace(settings=replace(job.settings, device="cpu")), checkpoints)
        return work_one_by_one(worker, work, chunk, attempt.poisonous, lambda position: client.note(key, position))


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
        except ray.exceptions.RayError:  # the process is gone, and the ledger knows at which position
            continue
