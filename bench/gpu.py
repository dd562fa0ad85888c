"""`depers anonymize` around a GPU: images per second, how busy the GPU is, and how its boxes differ from the CPU's.

    python bench/gpu.py [--images 4000] [--weights W] [--compared 200] [--device cuda]

1080p street scenes. The staged run has CPU tasks before and after the GPU's actor; a GPU is worth its price where it
is busy, so its share of busy samples (`nvidia-smi`, twice a second, between the first and the last unit) stands beside
the rate. Then the first images are anonymized on the CPU, in float32, and both manifests compared: images whose boxes
are of the same number and classes, and the farthest edge of those, in pixels. With `--device cpu` the same is done
without a GPU, as a trial of the script.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from job import compute_steady_rate, draw

from depers.boxes import EDGES


class GpuSampler(threading.Thread):
    """Notes how busy GPUs are, in percent, with the time of each sample, until it is ended; nothing without any."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = []
        self.end = threading.Event()

    def run(self) -> None:
        """Note samples until the end."""
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while shutil.which(command[0]) and not self.end.wait(0.5):
            values = [float(line) for line in subprocess.run(command, capture_output=True, text=True).stdout.split()]
            if values:
                self.samples.append((time.time(), float(np.mean(values))))


def anonymize(source: Path, out: Path, weights: str, *options: str) -> None:
    """Run the command. Raise where it fails."""
    command = [sys.executable, "-m", "depers.cli", "anonymize", str(source), str(out), "--weights", weights, *options]
    if "default" in command:
        command += ["--classes", "all"]
    subprocess.run(command, check=True, capture_output=True)


def describe_busy(samples: list[tuple[float, float]], out: Path) -> str:
    """Return how busy GPUs were while units were recorded."""
    times = [path.stat().st_mtime for path in Path(f"{out}-records").glob("units/*.parquet")]
    values = [value for moment, value in samples if min(times) <= moment <= max(times)]
    if not values:
        return "no sample of a GPU"
    mean, median = np.mean(values), np.median(values)
    return f"GPU busy {mean:.0f} % in the mean, {median:.0f} % in the median of {len(values)} samples"


def compare(first: Path, second: Path) -> str:
    """Return how the boxes of two runs differ, of the images that both have."""
    tables = [pq.read_table(f"{out}-records/manifest.parquet").to_pylist() for out in (first, second)]
    by_path = {row["path"]: row["boxes"] for row in tables[0]}
    pairs = [(by_path[row["path"]], row["boxes"]) for row in tables[1]]
    alike, farthest = 0, 0.0
    for boxes, other_boxes in pairs:
        keys = [
            sorted((box["class"], [round(box[edge], 2) for edge in EDGES]) for box in each)
            for each in (boxes, other_boxes)
        ]
        if [name for name, _ in keys[0]] == [name for name, _ in keys[1]]:
            alike += 1
            edges = [np.array([place for _, place in key], float).reshape(-1, 4) for key in keys]
            nearest = [np.abs(edges[1] - edge).max(axis=1).min() for edge in edges[0]]
            farthest = max(farthest, *nearest, 0.0)
    text = f"{alike} of {len(pairs)} images have boxes of the same classes"
    return f"{text}; their farthest edge differs by {farthest:.2f} px"


def main() -> None:
    """Measure and compare; print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--compared", type=int, default=200)
    parser.add_argument("--weights", default="default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-gpu-"))
    source, part = work / "in", work / "part"
    draw(source, options.images)
    part.mkdir()
    for path in sorted(source.iterdir())[: options.compared]:
        (part / path.name).hardlink_to(path)
    sampler = GpuSampler()
    sampler.start()
    anonymize(source, work / "gpu", options.weights, "--device", options.device, "--topology", "staged")
    sampler.end.set()
    rate = compute_steady_rate(work / "gpu")
    print(f"{rate:.1f} images/s on {options.device}, staged, {os.cpu_count()} cores", end="; ")
    print(f"{describe_busy(sampler.samples, work / 'gpu')}; load {os.getloadavg()[0]:.1f}", flush=True)
    anonymize(part, work / "cpu", options.weights, "--device", "cpu", "--precision", "float32", "--topology", "fused")
    print(compare(work / "gpu", work / "cpu"))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
