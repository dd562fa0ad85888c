"""What Ray costs: `depers anonymize` against the same steps in plain multiprocessing, one process per core.

python bench/ray_cost.py --weights yolov5n.pt [--images 300] [--repeats 3]
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from job import draw, rate

from depers import storage
from depers.anonymization import manifest, redact_step
from depers.detection.settings import InferenceSettings, parse_weights
from depers.imaging.headers import MAX_MEGAPIXELS
from depers.pipeline.steps import PassJob
from depers.runtime import units


def with_ray(source: Path, out: Path, weights: str) -> float:
    """Images per second after the first unit."""
    return rate(["anonymize", str(source), str(out), "--weights", weights])


_worker: Any = None


def _begin(job: PassJob, weights: str) -> None:
    global _worker
    from depers.pipeline import workers

    checkpoints = [Path(weights).read_bytes()]
    workers._get = lambda reference: reference[0]  # no object store here
    _worker = workers.FusedWorker(job, [checkpoints])


def _work(unit: units.Unit) -> tuple[int, float]:
    from depers.pipeline.workers import Work

    return len(_worker.work(Work(unit))), time.monotonic()


def without_ray(source: Path, out: Path, weights: str) -> float:
    """The same units, the same steps, the same number of processes; images per second after the first unit."""
    last = partial(
        redact_step.redact_item,
        mode="pixelate",
        margin=0.1,
        keep_metadata=(),
        max_megapixels=MAX_MEGAPIXELS,
    )
    job = PassJob(
        input=str(source), out=str(out), weights=(parse_weights(weights),), classes=(), settings=InferenceSettings(),
        batch_size=8, max_megapixels=MAX_MEGAPIXELS, half_stride_pad=False, schema=manifest.SCHEMA, finish=last,
        mirrors=True,
    )  # fmt: skip
    cut = units.cut(storage.list_files(str(source)))
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), _begin, (job, weights)) as pool:
        done = sorted(pool.imap_unordered(_work, cut), key=lambda one: one[1])
    return sum(count for count, _ in done[1:]) / (done[-1][1] - done[0][1])


def main() -> None:
    """Alternates, and compares medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-ray-"))
    draw(work / "in", options.images)
    rates: dict[str, list[float]] = {"depers": [], "multiprocessing": []}
    for _ in range(options.repeats):
        for name, measure in (("depers", with_ray), ("multiprocessing", without_ray)):
            rates[name].append(measure(work / "in", work / "out", options.weights))
            print(f"{name}: {rates[name][-1]:.1f} images/s", flush=True)
            shutil.rmtree(work / "out")
    own, bare = (statistics.median(found) for found in rates.values())
    print(f"depers reaches {own / bare:.0%} of plain multiprocessing; load {os.getloadavg()[0]:.1f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
