"""What a function that works on strangers' files knows of them, whoever runs it."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

from depers.observation.meter import Stage, stage
from depers.runtime import time_budget
from depers.runtime.crash_ledger import Position


class FileGuard:
    """What a task knows of its files, by their offsets: which are poisonous, and why; it hears when they are begun."""

    def __init__(
        self,
        work: Hashable = None,
        poisonous: Mapping[Position, str] | None = None,
        note: Callable[[Position], None] | None = None,
    ) -> None:
        self._work, self.poisonous, self.note = work, poisonous or {}, note

    def find_reason(self, offset: int) -> str:
        """Return why a file is not to be touched; empty where it is."""
        return self.poisonous.get(Position(offset), "")

    @contextmanager
    def watch(self, offset: int) -> Iterator[None]:
        """Count the block's time against the budget of a file, and know where the process has come to if it ends."""
        if self.note is not None:
            self.note(Position(offset))
        with stage(Stage.COMPUTE), time_budget.watch((self._work, offset)):
            yield
