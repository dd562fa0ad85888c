"""The crash ledger: a file that ends the process that works on it is found, and costs itself alone.

What a dead process was at work on is repeated, for ever. So an actor that outlives workers, the `CrashLedger`, counts
how often work was begun and not ended. Work (the reading of an archive, a unit, a chunk, a stage of one of them) goes
through these states:

    begun      A worker is at it. Nearly all work is ended next, and the ledger forgets it.
    isolated   It was begun more than `_TRIES` times. It gets a process of its own, which does it file by file and notes
               each position before it comes there. Where that process ends, too, the ledger counts it against the last
               position, and the next process begins.
    poisonous  A position that ended the work `_TRIES` times (once may be a node's death), or that took longer than a
               file may: the process says so before it ends itself. A poisonous file is not touched any more: it fails,
               with the reason that the ledger knows.
    ended      All of it is done and recorded.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from depers.errors import UserError
from depers.runtime import time_budget

_TRIES = 2  # of the same work before it is isolated; and then at one position, until that is poisonous
MOST_LOSSES = 8
"""Processes of isolated work that may end at no position that was noted, before the work is given up."""
CRASHED = "ends the process that works on it"
_REPORT_SECONDS = 20


class Position(NamedTuple):
    """Where work has come to: a file by its offset in the unit or chunk, or a batch by that of its first file.

    Of an archive that is read, it is the number of the next chunk.
    """

    offset: int
    is_batch: bool = False


class Attempt(NamedTuple):
    """What the ledger knows as work begins: whether it must be isolated, and why which positions in it are poisonous.

    `losses` is how often its process ended at no position that was noted.
    """

    isolated: bool
    poisonous: Mapping[Position, str]
    losses: int = 0


def refuse_losses(attempt: Attempt) -> None:
    """Raise UserError for work over which so many processes ended, at no file in particular, that it is given up."""
    if attempt.losses > MOST_LOSSES:
        problem = f"{attempt.losses} processes ended over the same work, at no file in particular"
        raise UserError(f"{problem}: where memory is short, fewer --workers need less")


class CrashLedger:
    """An actor that outlives workers: how often work was begun, and at which position it ended its process."""

    def __init__(self) -> None:
        self._in_work: set[Hashable] = set()
        self._losses: Counter[Hashable] = Counter()
        self._positions: dict[Hashable, Position] = {}
        self._crashes: Counter[tuple[Hashable, Position]] = Counter()
        self._overdue: dict[Hashable, dict[Position, str]] = {}

    def begin(self, stage: str, work: Hashable) -> Attempt:
        """Note that a stage of work begins; where it was begun before, its process has ended."""
        key = stage, work
        if key in self._positions:
            self._crashes[key, self._positions.pop(key)] += 1
        elif key in self._in_work:
            self._losses[key] += 1
        self._in_work.add(key)
        poisonous = {
            position: CRASHED for (other, position), count in self._crashes.items() if other == key and count >= _TRIES
        }
        losses = self._losses[key]
        return Attempt(losses >= _TRIES, poisonous | self._overdue.get(work, {}), losses)

    def note(self, stage: str, work: Hashable, position: Position) -> None:
        """Note the position that the work has come to."""
        self._positions[stage, work] = position

    def end(self, stage: str, work: Hashable) -> None:
        """Forget work that is done."""
        self._leave((stage, work))
        self._losses.pop((stage, work), None)

    def give_up(self, work: Hashable, position: Position, reason: str, excused: Sequence[Hashable]) -> None:
        """Note that a position is poisonous, and that its process ends for it; the `excused` stages end with that."""
        self._overdue.setdefault(work, {})[position] = reason
        for key in excused:
            self._leave(key)

    def _leave(self, key: Hashable) -> None:
        self._in_work.discard(key)
        self._positions.pop(key, None)


def start_ledger() -> Any:
    """Start a ledger on the driver's node: where workers are, nodes come and go."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": place}
    return ray.remote(CrashLedger).options(**options).remote()


class LedgerClient:
    """The ledger as a worker sees it: every call returns once it is written down."""

    def __init__(self, ledger: Any, file_seconds: float) -> None:
        """Watch from now on that no file takes this process longer than `file_seconds`."""
        self._ledger, self._file_seconds = ledger, file_seconds
        self._in_work: set[tuple[str, Hashable]] = set()
        time_budget.enforce(file_seconds, self._give_up)

    @contextmanager
    def attempt(self, stage: str, work: Hashable) -> Iterator[Attempt]:
        """Begin a stage of work, and end it with the block, unless that raises."""
        import ray

        attempt: Attempt = ray.get(self._ledger.begin.remote(stage, work))
        self._in_work.add((stage, work))
        try:
            yield attempt
        finally:
            self._in_work.discard((stage, work))
        ray.get(self._ledger.end.remote(stage, work))

    def note(self, stage: str, work: Hashable, position: Position) -> None:
        """Note the position that the work has come to."""
        import ray

        ray.get(self._ledger.note.remote(stage, work, position))

    def _give_up(self, place: Any) -> None:
        import ray

        work, offset = place
        reason = time_budget.describe_overrun(self._file_seconds)
        ray.get(
            self._ledger.give_up.remote(work, Position(offset), reason, list(self._in_work)), timeout=_REPORT_SECONDS
        )
