"""Progress for people, lines, bars and rates; and for programs, as lines of JSON.

Nothing is shown by itself, so that a verb that is called as a function prints nothing; the command line shows it with
`shown_on`. `docs/operations.md` says what the JSON lines hold.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO

from depers.errors import to_line
from depers.observation.context import current_context
from depers.options.command_line import PROGRESS_STYLES

AUTO, JSON, NONE = PROGRESS_STYLES
_LEAST_SECONDS = 1.0  # that a rate needs: two units that end together say nothing about the next ones

_stream: TextIO | None = None
_style = AUTO


@contextmanager
def shown_on(stream: TextIO, style: str = AUTO) -> Iterator[None]:
    """Show lines and bars on `stream`, in one of `PROGRESS_STYLES`, while the block runs."""
    global _stream, _style
    outer = _stream, _style
    _stream, _style = (None if style == NONE else stream), style
    try:
        yield
    finally:
        _stream, _style = outer


def is_json() -> bool:
    """Return whether progress is shown as lines of JSON."""
    return _stream is not None and _style == JSON


def format_event(event: str, **fields: Any) -> str:
    """Return a JSON line about an event, with the time (UTC), and the run of the verb that it is about."""
    context, now = current_context(), datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"event": event, "time": now, "job": context.job, "verb": context.verb} | fields)


def report_event(event: str, **fields: Any) -> None:
    """Show a JSON line, where progress is shown so."""
    if _stream is not None and is_json():
        _stream.write(format_event(event, **fields) + "\n")
        _stream.flush()


def report(line: str) -> None:
    """Show a line, above the open bars, where progress is shown."""
    if _stream is None:
        return
    if _style == JSON:
        report_event("message", text=line)
        return
    from tqdm import tqdm

    tqdm.write(to_line(line), file=_stream)
    _stream.flush()


def report_lines(lines: Iterable[str]) -> None:
    """Show several lines, such as those of a verb that another one runs."""
    for line in lines:
        report(line)


def open_bar(total: int | None, description: str | None = None, terminal_only: bool = False, **options: Any) -> Any:
    """Return a bar over images, to be used as a context; `options` are those of tqdm.

    It shows nothing where progress is not shown, with `terminal_only` nothing where that is no terminal either. The
    metric of what is waiting follows it.
    """
    from depers.runtime.telemetry.bars import Bar  # importing tqdm takes time

    is_shown = _stream is not None and (not terminal_only or _stream.isatty() or _style == JSON)
    defaults: dict[str, Any] = {"unit": "image", "smoothing": 0.1, "mininterval": 0.5}
    return Bar(total=total, desc=description, file=_stream, disable=not is_shown, **(defaults | options))


class Speed(NamedTuple):
    """How fast a run was: images of this run, seconds that it took, and images per second where they can be told."""

    images: int
    seconds: float
    rate: float | None

    def __str__(self) -> str:
        """Return the rate as text, without one the seconds."""
        if not self.images:
            return "all done before"
        return f"{self.rate:.1f} images/s" if self.rate else f"in {self.seconds:.1f} s"


class Stopwatch:
    """Measures images per second from the first unit on: before it lies the start, in which nothing is done yet.

    A single unit, and units that end almost together, give no rate.
    """

    def __init__(self) -> None:
        self._start = self._first_end = self._end = time.monotonic()
        self._images = self._first_images = 0

    def add(self, images: int) -> None:
        """Add the images of a unit that has just ended."""
        self._end = time.monotonic()
        if not self._images:
            self._first_end, self._first_images = self._end, images
        self._images += images

    def speed(self) -> Speed:
        """Return the speed up to the last unit."""
        seconds = self._end - self._start
        rate = None
        if self._end - self._first_end >= _LEAST_SECONDS:
            rate = (self._images - self._first_images) / (self._end - self._first_end)
        return Speed(self._images, seconds, rate)


def follow(results: Iterable[Sequence[str]], total: int | None) -> Speed:
    """Read the results to their end, with a bar over the files; each result is the statuses of a unit's files."""
    counts: Counter[str] = Counter()
    stopwatch = Stopwatch()
    with open_bar(total) as bar:
        for statuses in results:
            counts.update(statuses)
            bar.set_postfix(counts, refresh=False)
            bar.update(len(statuses))
            stopwatch.add(len(statuses))
    return stopwatch.speed()
