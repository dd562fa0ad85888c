"""How the real pipelines scale from 1 to 64 workers, with the work of a unit simulated by sleeping.

    python bench/scale.py [anonymize synthesize] [--workers 1 4 16 64] [--unit-seconds 2.5] [--rounds 4]

What is simulated is the computing of a unit: it sleeps `--unit-seconds`, in a logical core of a local Ray that has as
many of them as there are workers. All the rest is what a run does: listing, units, Ray's scheduling, actors or tasks,
reading each file and its record's writing, lease, resume check, manifest. So the figure says from how many workers on
the driver, Ray and the records hold the others up; it says nothing about storage, which is this machine's disk.

Real units take longer: `anonymize` takes 31 ms of a core per image, so a unit of 256 files, which a million files are
cut into, 7.9 s; `synthesize` 5.2 ms, a unit of 64 images 0.33 s. 64 workers of 2.5 s end 26 units per second: as many
as 200 cores anonymizing a million photographs, or 8 cores synthesizing. `--unit-seconds` changes that.

The rate is that between a quarter and three quarters of the units, by when they are recorded: without the start of 64
processes on the cores of one machine, and without the end, when some have nothing to do. Efficiency is against as many
times the rate of one worker.
"""

import argparse
import functools
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import simplejpeg
from extract import draw_dataset

from depers.anonymization import redact_step
from depers.api import run_verb
from depers.commands import anonymize, extract, synthesize
from depers.runtime import units
from depers.synthesis import renderer

VERBS = ("anonymize", "synthesize")
_FILES_PER_UNIT = 8  # of a small input
_STORE_BYTES = 512 * 2**20
_WORKER_BYTES = 120 * 2**20  # of a process of Ray with depers imported, but no detector


def sleep_and_redact(seconds: float, redact: Any, item: Any, boxes: Any, **options: Any) -> Any:
    """Do what the last step of `anonymize` does, after the time that a photograph takes."""
    time.sleep(seconds)
    return redact(item, boxes, **options)


def sleep_and_record(seconds: float, bank: Any, job: Any, first: int, last: int) -> int:
    """Write the record of rendered images, after the time that they take; the images themselves are not written."""
    import pyarrow as pa

    time.sleep(seconds)
    count = job.images(first, last)
    rows = [{"path": f"{first}-{number}.jpg", "objects": 0, "labels": 0, "bytes": 0} for number in range(count)]
    table = pa.Table.from_pylist(rows, schema=renderer.RECORD)
    units.write_record(units.locate_inside(job.out), renderer.unit_name(first), table, out=job.out)
    return int(count)


def measure_rate(records: Path) -> float:
    """Return units per second between a quarter and three quarters of the records."""
    times = sorted(path.stat().st_mtime for path in records.glob("*.parquet"))
    first, last = len(times) // 4, len(times) * 3 // 4
    return (last - first) / (times[last] - times[first])


def run_anonymize(work: Path, workers: int, unit_count: int, unit_seconds: float) -> float:
    """Anonymize small images whose boxes are known, so that no detector computes; return units per second."""
    source, boxes, out = (work / name for name in ("photos", "boxes", "safe"))
    (boxes / "labels").mkdir(parents=True)
    (boxes / "classes.txt").write_text("face\n")
    source.mkdir()
    image = simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8), 90, "RGB", "420")
    for number in range(unit_count * _FILES_PER_UNIT):
        (source / f"{number:06}.jpg").write_bytes(image)
        (boxes / f"labels/{number:06}.txt").write_text("")
    seconds = unit_seconds / _FILES_PER_UNIT
    redact = functools.partial(sleep_and_redact, seconds, redact_step.redact_item)
    anonymize.redact_item, original = redact, anonymize.redact_item  # type: ignore[assignment]
    try:
        options = anonymize.Options(str(source), str(out), boxes=str(boxes), topology="fused", workers=workers)
        run_verb("anonymize", options)
    finally:
        anonymize.redact_item = original
    return measure_rate(work / "safe-records" / "units")


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
    return measure_rate(out / "_depers" / "units")


def draw_nothing(*arguments: Any) -> Any:
    """Return an empty sheet."""
    return np.zeros((16, 16, 3), np.uint8)


def main() -> None:
    """Measure every verb with every number of workers; print rates and efficiencies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", default=list(VERBS), choices=VERBS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--unit-seconds", type=float, default=2.5)
    parser.add_argument("--rounds", type=int, default=4, help="units per worker")
    options = parser.parse_args()
    runs = {"anonymize": run_anonymize, "synthesize": run_synthesize}
    for verb in options.verbs:
        single = 0.0
        for workers in options.workers:
            if psutil.virtual_memory().available < workers * _WORKER_BYTES:
                print(f"{verb}, {workers} workers: left out, too little memory is free", flush=True)
                continue
            ray.init(
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                log_to_driver=False,
                logging_level="error",
            )
            work = Path(tempfile.mkdtemp(prefix="depers-scale-"))
            try:
                rate = runs[verb](work, workers, max(12, workers * options.rounds), options.unit_seconds)
            finally:
                ray.shutdown()
                shutil.rmtree(work)
            single = single or rate / workers
            figures = f"{rate:.2f} units/s, {rate / single / workers:.1%} of {workers} × one worker"
            ideal = f"{rate * options.unit_seconds / workers:.1%} of no overhead at all"
            print(f"{verb}, {workers} workers: {figures}, {ideal}; load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
