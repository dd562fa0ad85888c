"""Progress."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from depers.runtime.units import Unit

_FAILURES_SHOWN = 10


def _count(everything: Sequence[Unit]) -> str:
    archives = sum(unit.archive is not None for unit in everything)
    files = sum(len(unit.entries) for unit in everything) - archives
    return f"{files} files" + (f" and {archives} archives" if archives else "")


class Failures:
    """Counts failed rows, and prints the first of them with their reasons on stderr; `table` has them all."""

    def __init__(self, table: str) -> None:
        self._table = table
        self.count = 0

    def see(self, table: pa.Table) -> None:
        """Adds the rows of a table."""
        columns = {"path", "member", "status", "reason"} & set(table.schema.names)
        for row in table.select(sorted(columns)).to_pylist():
            if row["status"] in ("failed", "incomplete"):
                self.count += 1
                if self.count <= _FAILURES_SHOWN:
                    place = row["path"] if row.get("member") is None else f"{row['path']}: {row['member']}"
                    print(f"{row['status']}: {place}: {row['reason']}", file=sys.stderr)

    def close(self) -> None:
        """Says how many were not shown."""
        if self.count > _FAILURES_SHOWN:
            print(f"… and {self.count - _FAILURES_SHOWN} more failed: see {self._table}", file=sys.stderr)


def _follow(results: Iterable[Mapping[str, Any]], total: int | None) -> float:
    """A progress bar over the files, with what became of them.

    Gives files per second after the first unit; of a single unit, with its start.
    """
    from tqdm import tqdm

    counts: Counter[str] = Counter()
    begun = started = time.monotonic()
    first = done = 0
    with tqdm(total=total, unit="image", smoothing=0.1, file=sys.stderr, mininterval=0.5) as bar:
        for row in results:
            counts.update(row["statuses"])
            bar.set_postfix(counts, refresh=False)
            bar.update(len(row["statuses"]))
            done += len(row["statuses"])
            if not first:
                started, first = time.monotonic(), done
    if done > first:
        begun, done = started, done - first
    return done / max(time.monotonic() - begun, 1e-9)
