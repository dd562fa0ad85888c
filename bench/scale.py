"""How the real pipelines scale from 1 to 64 workers, with the work of a unit simulated by sleeping.

    python bench/scale.py [anonymize synthesize] [--workers 1 4 16 64] [--unit-seconds S] [--rounds 12]

What is simulated is the computing of a unit: it sleeps `--unit-seconds`, in a logical core of a local Ray that has as
many of them as there are workers. All the rest is what a run does: listing, units, Ray's scheduling, actors or tasks,
reading each file and its record's writing, lease, resume check, manifest. So the figure says from how many workers on
the driver, Ray and the records hold the others up; it says nothing about storage, which is this machine's disk.

The default for `anonymize` is 8 s, which a unit of 256 photographs takes at 31 ms of a core each (fewer files here, so
that their reading does not keep the one machine busy); for `synthesize` 1 s, where a unit of 64 images takes 0.33 s.

Units take from a fifth to nine fifths of that, by their names: where all took as long, all would be recorded at once.
The rate is that of units from a half of the units to seven eighths, by when they are recorded: without the start of 64
processes on the cores of one machine, and without the end, when some have nothing to do. Efficiency is against as many
times the rate of one worker.
"""

import argparse
import functools
import os
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import simplejpeg
from extract import draw_dataset

from depers.anonymization import redact_step
from depers.api import run_verb
from depers.commands import anonymize, extract, synthesize
from depers.runtime import units
from depers.synthesis import renderer

VERBS = ("anonymize", "synthesize")
_UNIT_SECONDS = {"anonymize": 8.0, "synthesize": 1.0}
_STORE_BYTES = 512 * 2**20
_WORKER_BYTES = 120 * 2**20  # of a process of Ray with depers imported, but no detector


def vary(seconds: float, key: str) -> float:
    """Return a time of work about `seconds`, the same for the same key."""
    return seconds * (0.2 + 1.6 * zlib.crc32(key.encode()) / 2**32)


def sleep_and_redact(seconds: float, redact: Any, item: Any, boxes: Any, **options: Any) -> Any:
    """Do what the last step of `anonymize` does, after the time that a photograph takes."""
    time.sleep(vary(seconds, item.path))
    return redact(item, boxes, **options)


def sleep_and_record(seconds: float, bank: Any, job: Any, first: int, last: int) -> int:
    """Write the record of rendered images, after the time that they take; the images themselves are not written."""
    time.sleep(vary(seconds, str(first)))
    count = job.images(first, last)
    rows = [{"path": f"{first}-{number}.jpg", "objects": 0, "labels": 0, "bytes": 0} for number in range(count)]
    table = pa.Table.from_pylist(rows, schema=renderer.RECORD)
    units.write_record(units.locate_inside(job.out), renderer.unit_name(first), table, out=job.out)
    return int(count)


def measure_rate(records: Path) -> float:
    """Return images per second from a half of the records to seven eighths, by the line through when they were made."""
    paths = sorted(records.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
    chosen = paths[len(paths) // 2 : len(paths) * 7 // 8]
    images = np.cumsum([pq.read_metadata(path).num_rows for path in chosen])
    return float(np.polyfit([path.stat().st_mtime - chosen[0].stat().st_mtime for path in chosen], images, 1)[0])


def choose_unit_size(unit_count: int) -> int:
    """Return how many files each of so many units has on average."""
    return next(size for size in (8, 16, 32) if units.choose_size(unit_count * size) == size)


def run_anonymize(work: Path, workers: int, unit_count: int, unit_seconds: float) -> float:
    """Anonymize small images whose boxes are known, so that no detector computes; return units per second."""
    source, boxes, out = (work / name for name in ("photos", "boxes", "safe"))
    (boxes / "labels").mkdir(parents=True)
    (boxes / "classes.txt").write_text("face\n")
    source.mkdir()
    image = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90, "RGB", "420")
    size = choose_unit_size(unit_count)
    for number in range(unit_count * size):
        (source / f"{number:06}.jpg").write_bytes(image)
        (boxes / f"labels/{number:06}.txt").write_text("")
    seconds = unit_seconds / size
    redact = functools.partial(sleep_and_redact, seconds, redact_step.redact_item)
    anonymize.redact_item, original = redact, anonymize.redact_item  # type: ignore[assignment]
    try:
        options = anonymize.Options(str(source), str(out), boxes=str(boxes), topology="fused", workers=workers)
        run_verb("anonymize", options)
    finally:
        anonymize.redact_item = original
    return measure_rate(work / "safe-records" / "units") / size


def run_synthesize(work: Path, workers: int, unit_count: int, unit_seconds: float) -> float:
    """Plan images, and record them as if they were rendered; return units per second."""
    scenes, extracted, out = (work / name for name in ("scenes", "extracted", "synthetic"))
    draw_dataset(scenes, 16, (320, 180))
    run_verb("extract", extract.Options(str(scenes), str(extracted)))
    renderer.render_blocks, original = functools.partial(sleep_and_record, unit_seconds), renderer.render_blocks
    sheet = renderer.draw_sheet
    renderer.draw_sheet = draw_nothing  # of images that are not there
    try:
        count = unit_count * renderer.plan_table.BLOCK
        run_verb("synthesize", synthesize.Options(str(extracted), str(out), count, objects=1, real="none"))
    finally:
        renderer.render_blocks, renderer.draw_sheet = original, sheet
    return measure_rate(out / "_depers" / "units") / renderer.plan_table.BLOCK


def draw_nothing(*arguments: Any) -> Any:
    """Return an empty sheet."""
    return np.zeros((16, 16, 3), np.uint8)


def main() -> None:
    """Measure every verb with every number of workers; print rates and efficiencies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", metavar="VERB", help="anonymize, synthesize; both by default")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--unit-seconds", type=float)
    parser.add_argument("--rounds", type=int, default=12, help="units per worker")
    options = parser.parse_args()
    runs = {"anonymize": run_anonymize, "synthesize": run_synthesize}
    for verb in options.verbs or VERBS:
        single, unit_seconds = 0.0, options.unit_seconds or _UNIT_SECONDS[verb]
        for workers in options.workers:
            if psutil.virtual_memory().available < workers * _WORKER_BYTES:
                print(f"{verb}, {workers} workers: left out, too little memory is free", flush=True)
                continue
            ray.init(
                "local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                logging_level="error",
            )
            work = Path(tempfile.mkdtemp(prefix="depers-scale-"))
            try:
                rate = runs[verb](work, workers, max(16, workers * options.rounds), unit_seconds)
            finally:
                ray.shutdown()
                shutil.rmtree(work)
            single = single or rate / workers
            figures = f"{rate:.3f} units/s, {rate / single / workers:.1%} of {workers} × one worker"
            print(f"{verb}, {workers} workers: {figures}; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
