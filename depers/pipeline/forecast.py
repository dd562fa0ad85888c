"""What a pass would be about, and how long it would take: a listing, and a measured sample. Nothing is written."""

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from depers.archives import registry
from depers.archives.base import Chunk
from depers.detection.settings import read_checkpoints
from depers.imaging import sniffing
from depers.pipeline import local
from depers.pipeline.archive_steps import read_chunks
from depers.pipeline.options import PassOptions
from depers.pipeline.outcomes import finish
from depers.pipeline.run import plan_units
from depers.pipeline.steps import Item, PassJob, detect, prepare, read, unpack
from depers.pipeline.workers import FusedWorker, load_worker
from depers.resources import format_bytes
from depers.runtime import local_pool
from depers.runtime.file_guard import FileGuard
from depers.runtime.results import VerbResult
from depers.runtime.units import Unit
from depers.storage import Entry
from depers.storage.selection import Selection

_SAMPLE = 32  # images
_MOST_SECONDS = 30.0  # that they take
_MOST_FORMATS = 12  # that are told one by one


class Trial(NamedTuple):
    """Images that were worked on as in a run: how many, their bytes, and the seconds of one core that they took."""

    images: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Forecast(VerbResult):
    """What INPUT holds, and what a sample of it took."""

    input: str
    formats: Mapping[str, tuple[int, int]]
    """How many files, and how many bytes, by the ends of their names."""
    archive_bytes: int
    images: int
    """Loose files that are called as images are."""
    trial: Trial
    cores: int
    """Of this machine."""

    @property
    def core_seconds(self) -> float:
        """How many seconds of a core of this machine it would take: loose images by number, archives by their bytes."""
        if not self.trial.images:
            return 0.0
        archive_seconds = self.trial.seconds / max(1, self.trial.bytes) * self.archive_bytes
        return self.trial.seconds / self.trial.images * self.images + archive_seconds

    def summary(self) -> list[str]:
        """Return the lines that say so."""
        files, size = (sum(values) for values in zip(*self.formats.values(), strict=True)) if self.formats else (0, 0)
        lines = [f"{self.input}: {files} files, {format_bytes(size)}; nothing is written (--dry-run)"]
        ranked = sorted(self.formats.items(), key=lambda item: -item[1][1])
        texts = [f"{name or 'without'} {count} ({format_bytes(total)})" for name, (count, total) in ranked]
        more = [f"and {len(texts) - _MOST_FORMATS} more"] if len(texts) > _MOST_FORMATS else []
        lines.append(f"formats by name: {', '.join([*texts[:_MOST_FORMATS], *more])}")
        if not self.trial.images:
            return [*lines, "no estimate: the sample held no image that could be worked on"]
        per_image = self.trial.seconds / self.trial.images
        hours = self.core_seconds / 3600
        trial = f"a sample of {self.trial.images} images took {per_image:.3f} s of a core each"
        whole = f"all: about {hours:.2g} core-hours, {_describe(self.core_seconds / self.cores)} on {self.cores} cores"
        day = f"{max(1, round(hours / 24))} cores for a day" if hours > 24 else f"{_describe(self.core_seconds)} on one"
        return [
            *lines,
            f"{trial}; {whole} such as this machine's, or {day}; start-up and storage's latency come on top",
        ]


def _describe(seconds: float) -> str:
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def forecast(job: PassJob, options: PassOptions) -> Forecast:
    """Return what a run would be about. Raise UserError for a wrong INPUT or weights.

    Boxes from elsewhere are not read: what looking them up takes is left out.
    """
    job = job._replace(boxes=None, settings=replace(job.settings, device="cpu"))
    units, _ = plan_units(job, options.follow_links, options.selection)
    counts, sizes = Counter[str](), Counter[str]()
    images, archives = list[Entry](), list[Unit]()
    for unit in units:
        archives += [unit] if unit.archive else []
        for entry in unit.entries:
            suffix = entry.path.rpartition("/")[2].rpartition(".")[2].lower() if "." in entry.path else ""
            counts[suffix] += 1
            sizes[suffix] += max(0, entry.size)
            images += [entry] if not unit.archive and not entry.status and _is_image(entry) else []
    sample = list(Selection(limit=_SAMPLE).apply(images))
    smallest = min(archives, key=lambda unit: unit.entries[0].size, default=None)
    checkpoints = read_checkpoints(job.weights)
    calls = [(job, tuple(checkpoints), sample, None if sample else smallest)]
    with ExitStack() as stack:
        if local_pool.find_pool() is None:
            stack.enter_context(local_pool.open_pool(local.plan_one()))
        pool = local_pool.find_pool()
        assert pool is not None
        trial = next(pool.run(_measure, calls, job.file_seconds, 1)) if sample or smallest else Trial()
    return Forecast(
        input=job.input,
        formats={name: (count, sizes[name]) for name, count in counts.items()},
        archive_bytes=sum(max(0, unit.entries[0].size) for unit in archives),
        images=len(images),
        trial=trial,
        cores=len(os.sched_getaffinity(0)),
    )


def _is_image(entry: Entry) -> bool:
    return sniffing.has_image_suffix(entry.path) and registry.kind_of(entry.path) is None


def _measure(
    job: PassJob, checkpoints: tuple[bytes, ...], entries: Sequence[Entry], archive: Unit | None, guard: FileGuard
) -> Trial:
    """Work on some images, or on those that an archive begins with, one by one; nothing is written."""
    worker = load_worker(job, checkpoints)
    items = [read(job, entry) for entry in entries]
    if archive is not None:
        contents = read_chunks(job, archive, frozenset())
        chunk = next((content for content in contents if isinstance(content, Chunk)), None)
        path = archive.entries[0].path
        items = [unpack(path, member) for member in islice(chunk.members, 4 * _SAMPLE)] if chunk else []
    items = [item for item in items if item.data and not item.status and not item.reason][:_SAMPLE]
    if items:
        _work(job, items[0], worker)  # what is done once for all
    images = size = 0
    seconds = 0.0
    for index, item in enumerate(items):
        if guard.find_reason(index) or seconds > _MOST_SECONDS:
            continue
        with guard.watch(index):
            start = time.process_time()
            _work(job, item, worker)
            seconds += time.process_time() - start
        images, size = images + 1, size + len(item.data)
    return Trial(images, size, seconds)


def _work(job: PassJob, item: Item, worker: FusedWorker) -> None:
    [detection] = detect(job, [prepare(job, item, worker.stride)], worker.detector)
    finish(job, *detection)
