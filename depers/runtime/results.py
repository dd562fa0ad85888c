"""What a verb gives back: how much there was, what failed, where its files are. The command line prints it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from depers.observation.usage import Usage
from depers.statuses import ArchiveStatus, FileStatus

_MOST_EXAMPLES = 10  # failures that are told one by one


class Failure(NamedTuple):
    """An input that failed: its path, in an archive also the member's name, its status and the reason."""

    path: str
    member: str | None
    status: str
    reason: str

    def __str__(self) -> str:
        """Return it on a line."""
        name = self.path if self.member is None else f"{self.path}: {self.member}"
        return f"{self.status}: {name}: {self.reason}"


@dataclass(frozen=True)
class Failures:
    """How many inputs failed, the first of them, and the table that has them all."""

    count: int = 0
    examples: tuple[Failure, ...] = ()
    table: str = ""

    def lines(self) -> list[str]:
        """Return a line for each of the first failures, and one that says how many more there are and where."""
        more = self.count - len(self.examples)
        lines = [str(failure) for failure in self.examples]
        return [*lines, f"… and {more} more {self.examples[0].status}: see {self.table}"] if lines and more else lines


class FailureCounter:
    """Counts the rows that failed, and keeps the first of them with their reasons; the table at `uri` has them all."""

    def __init__(self, uri: str, statuses: tuple[str, ...] = (FileStatus.FAILED, ArchiveStatus.INCOMPLETE)) -> None:
        self._uri, self._statuses = uri, statuses
        self._examples: list[Failure] = []
        self._count = 0

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table with the columns path, status, reason and perhaps member."""
        columns = {"path", "member", "status", "reason"} & set(table.schema.names)
        for row in table.select(sorted(columns)).to_pylist():
            if row["status"] in self._statuses:
                self._count += 1
                if self._count <= _MOST_EXAMPLES:
                    self._examples.append(Failure(row["path"], row.get("member"), row["status"], row["reason"]))

    def failures(self) -> Failures:
        """Return what failed so far."""
        return Failures(self._count, tuple(self._examples), self._uri)


@dataclass(frozen=True, kw_only=True)
class VerbResult(ABC):
    """What the results of all verbs have."""

    failures: Failures = field(default_factory=Failures)
    usage: Usage = field(default_factory=Usage)
    """Time by stage, cores, and what a million images cost."""

    @property
    def partial(self) -> bool:
        """Whether something failed, although the run went to its end: exit code 3 of the command line."""
        return self.failures.count > 0

    @abstractmethod
    def summary(self) -> list[str]:
        """Return the lines that say what the verb did."""
