"""Speed of `depers extract` on 1080p street scenes, against the same functions under multiprocessing; and its memory.

    python bench/extract.py [--images 400] [--repeats 3]
    python bench/extract.py --memory [--few 1000] [--many 20000]

Start-up is left out of both alike: the rates count from the first finished unit on. Rounds alternate between the two,
medians are compared, so that a noisy machine hits both; both run at the niceness of Ray's workers. Memory is compared
for images of 640×360, so that they fit on a disk.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import simplejpeg
from job import compute_steady_rate, watch

from depers.boxes import to_normalized_xywh
from depers.datasets.data_yaml import read_dataset, write_data_yaml
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.extraction.nesting import NESTING, parse_nesting
from depers.extraction.steps import extract_unit
from depers.extraction.take_apart import ExtractionJob
from depers.extraction.training_images import list_images
from depers.runtime import units
from depers.runtime.units import Unit
from depers.street_scenes.scenes import draw_scene

SIZE_WH = (1920, 1080)
SMALL_WH = (640, 360)


def draw_dataset(root: Path, count: int, size_wh: tuple[int, int] = SIZE_WH) -> None:
    """Write `count` labelled street scenes, quality 90: 16 of them drawn, the others the same or mirrored."""
    for kind in ("images", "labels"):
        (root / kind / "train").mkdir(parents=True)
    scenes = [draw_scene(index, 1, size_wh) for index in range(min(16, count))]
    for index in range(count):
        scene = scenes[index % len(scenes)]
        image, boxes = scene.image, scene.boxes_xyxy
        if (index // len(scenes)) % 2:
            image = np.ascontiguousarray(image[:, ::-1])
            boxes = np.column_stack([size_wh[0] - boxes[:, 2], boxes[:, 1], size_wh[0] - boxes[:, 0], boxes[:, 3]])
        text = format_yolo(Labels(scene.class_ids, to_normalized_xywh(boxes, size_wh)))
        (root / f"images/train/{index:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(image, 90, "RGB", "420"))
        (root / f"labels/train/{index:05d}.txt").write_text(text)
    write_data_yaml(root, CLASSES, ["train"])


def make_job(root: Path, out: Path) -> ExtractionJob:
    """Return the job that `depers extract` makes of its default options."""
    return ExtractionJob(
        images=str(root / "images/train"), out=str(out), dataset=read_dataset(root), group_by=None, fill="smooth",
        dilate=0.05, max_coverage=0.6, keep_labels=False, min_size=10.0, margin=0.1,
        nesting=parse_nesting(NESTING, CLASSES), seed=0, max_megapixels=80,
    )  # fmt: skip


def work(job: ExtractionJob, queue: "multiprocessing.Queue[Unit | None]") -> None:
    """Take units until there are none, in a process of its own."""
    os.nice(15)  # as Ray's workers: else whatever runs beside would slow down those alone
    while (unit := queue.get()) is not None:
        extract_unit(job, unit)


def measure_plain_rate(root: Path, out: Path) -> float:
    """Return images per second under multiprocessing, one process per core, from the first finished unit on."""
    context = multiprocessing.get_context("spawn")
    work_units = units.cut(list_images(str(root / "images/train")))
    cores = os.cpu_count() or 1
    queue = context.Queue()
    for unit in [*work_units, *[None] * cores]:
        queue.put(unit)
    processes = [context.Process(target=work, args=(make_job(root, out), queue)) for _ in range(cores)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return compute_steady_rate(out)


def compare(folder: Path, images: int, repeats: int) -> None:
    """Print rounds of both, then the medians and their ratio."""
    draw_dataset(folder / "scenes", images)
    plain_rates, rates, out = [], [], folder / "out"
    for _ in range(repeats):
        plain_rates.append(measure_plain_rate(folder / "scenes", out))
        shutil.rmtree(out)
        watch(["extract", str(folder / "scenes"), str(out)], out)
        rates.append(compute_steady_rate(out))
        shutil.rmtree(out)
        print(f"multiprocessing {plain_rates[-1]:.1f}, depers extract {rates[-1]:.1f} images/s", flush=True)
    ratio = statistics.median(rates) / statistics.median(plain_rates)
    print(f"load {os.getloadavg()[0]:.1f}; medians: multiprocessing {statistics.median(plain_rates):.1f} images/s,")
    print(f"depers extract {statistics.median(rates):.1f} images/s, which is {ratio:.0%} of it")


def compare_memory(folder: Path, few: int, many: int) -> None:
    """Print the peak memory over all processes with few and with many images."""
    peaks, out = [], folder / "out"
    for count in (few, many):
        draw_dataset(folder / str(count), count, SMALL_WH)
        run = watch(["extract", str(folder / str(count)), str(out)], out)
        peaks.append(run.peak_mib)
        print(f"{count} images: peak {run.peak_mib:.0f} MiB in {run.seconds:.0f} s; {run.last_line}", flush=True)
        for path in (folder / str(count), out):
            shutil.rmtree(path)
    print(f"load {os.getloadavg()[0]:.1f}; {many} need {peaks[1] / peaks[0]:.3f} × the memory of {few}")


def main() -> None:
    """Make a folder to work in, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=20_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="depers-extract-"))
    try:
        if options.memory:
            compare_memory(folder, options.few, options.many)
        else:
            compare(folder, options.images, options.repeats)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
