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

from job import draw, measure_rate

from depers import storage
from depers.anonymization import manifest, redact_step
from depers.detection.settings import InferenceSettings, parse_weights
from depers.imaging.headers import MAX_MEGAPIXELS
from depers.pipeline.steps import PassJob
from depers.runtime import units


def measure_with_ray(source: Path, out: Path, weights: str) -> float:
    """Return images per second after the first unit."""
    return measure_rate(["anonymize", str(source), str(out), "--weights", weights])


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


def measure_without_ray(source: Path, out: Path, weights: str) -> float:
    """Return the same for the same units, the same steps and the same number of processes."""
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
    work_units = units.cut(storage.list_files(str(source)))
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), _begin, (job, weights)) as pool:
        batches = sorted(pool.imap_unordered(_work, work_units), key=lambda batch: batch[1])
    return sum(count for count, _ in batches[1:]) / (batches[-1][1] - batches[0][1])


def main() -> None:
    """Alternate, and compare medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-ray-"))
    draw(work / "in", options.images)
    rates: dict[str, list[float]] = {"depers": [], "multiprocessing": []}
    for _ in range(options.repeats):
        for name, measure in (("depers", measure_with_ray), ("multiprocessing", measure_without_ray)):
            rates[name].append(measure(work / "in", work / "out", options.weights))
            print(f"{name}: {rates[name][-1]:.1f} images/s", flush=True)
            shutil.rmtree(work / "out")
    ray_rate, bare_rate = (statistics.median(values) for values in rates.values())
    print(f"depers reaches {ray_rate / bare_rate:.0%} of plain multiprocessing; load {os.getloadavg()[0]:.1f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
