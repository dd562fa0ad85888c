"""A watch over images without a box: a detector that finds nothing publishes everything, and looks like a good run."""

from collections.abc import Generator, Iterator, Sequence

from depers.errors import UserError
from depers.runtime.progress import report
from depers.statuses import FileStatus

WARN_AFTER = 100
"""Images in a row without a box after which a run warns."""
_CHECK = "check --weights, --classes, --confidence, --thresholds and --imgsz, and look at some of the images"


class CleanWatch:
    """Counts, in the order in which units end, how many images in a row are clean; `longest` is the most of a run.

    What is no image, or failed, neither ends nor lengthens a row.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.longest, self._count, self._stop_after = 0, 0, stop_after

    def follow(self, results: Generator[list[str], None, None]) -> Iterator[list[str]]:
        """Yield the statuses of each unit's files as they come. Raise UserError after `stop_after` clean ones."""
        try:
            for statuses in results:
                self.add(statuses)
                yield statuses
        finally:
            results.close()  # which ends the work, also where an exception keeps this frame

    def add(self, statuses: Sequence[str]) -> None:
        """Count the statuses of a unit's files. Raise UserError after `stop_after` clean ones."""
        for status in statuses:
            if status == FileStatus.REDACTED:
                self._count = 0
            elif status == FileStatus.CLEAN:
                self._count += 1
                if self._count == WARN_AFTER > self.longest:
                    report(f"warning: {describe(WARN_AFTER)}")
                self.longest = max(self.longest, self._count)
                if self._count == self._stop_after:
                    raise UserError(f"--stop-after-clean {self._stop_after}: {describe(self._count)}")


def describe(count: int) -> str:
    """Return what a row of clean images means, on one line."""
    return f"{count} images in a row have not one box: {_CHECK}"
