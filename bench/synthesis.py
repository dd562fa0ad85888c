"""Synthesis of 1080p images with 10 objects against the original algorithm, and against encoding alone.

    python bench/synthesis.py [--count 640] [--repeats 3]
    python bench/synthesis.py --plan 1000000
    python bench/synthesis.py --memory [--many 20000]

Rates in images per second, from the first finished unit to the last: `depers synthesize` with its default options,
the same functions under multiprocessing, encoding alone (the same images, as many
processes), and the original in one process, as it was written: paint all boxes of an image over, cut one box out of
another, paste that anywhere. `--plan N` times the planning of N images instead; `--memory` compares the
peaks over all processes of 1000 and of 20 000 images, of 640×360 so that they fit on a disk.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import simplejpeg
from job import compute_steady_rate, watch
from PIL import Image, ImageDraw

from depers.commands.synthesize import Options, read_assets
from depers.datasets import sprite_bank
from depers.datasets.labels import CLASSES
from depers.street_scenes.scenes import draw_scene, write_scene
from depers.synthesis import renderer

SIZE_WH = (1920, 1080)
SMALL_WH = (640, 360)
SCENES = 64
OBJECTS = ("--objects", "10", "--real", "none")


def run_depers(*arguments: str) -> str:
    """Run the command and return the last line that it prints. Raise where it fails."""
    command = [sys.executable, "-m", "depers.cli", *arguments]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process.stdout.strip().splitlines()[-1]


def make_bank(work: Path, size_wh: tuple[int, int] = SIZE_WH) -> str:
    """Draw street scenes in the raw layout, normalize and extract them below `work`; return the extraction."""
    for folder in ("images", "labels"):
        (work / "raw" / folder).mkdir(parents=True)
    for index in range(SCENES):
        write_scene(work / "raw", f"street-{index:03d}", draw_scene(index, 1, size_wh))
    run_depers("normalize", str(work / "raw"), str(work / "dataset"), "--val-fraction", "0")
    run_depers("extract", str(work / "dataset"), str(work / "extracted"))
    return str(work / "extracted")


def measure_plain_rate(extracted: sprite_bank.SpriteBank, job: renderer.RenderJob, processes: int) -> float:
    """Return the rate of the same functions under multiprocessing, at the niceness of Ray's workers; planned before."""
    tasks = [(extracted, job, *blocks) for blocks in job.units()]
    with multiprocessing.get_context("spawn").Pool(processes, os.nice, (15,)) as pool:
        pool.starmap(renderer.render_blocks, tasks, chunksize=1)
    return compute_steady_rate(Path(job.out))


def encode(paths: list[Path]) -> int:
    """Encode images at quality 90, again and again; return how many a second, without the reading of them."""
    images = itertools.cycle([simplejpeg.decode_jpeg(path.read_bytes(), "RGB") for path in paths])
    until, count = time.monotonic() + 4, 0
    while time.monotonic() < until:
        simplejpeg.encode_jpeg(next(images), 90, "RGB", "420")
        count += 1
    return count // 4


def measure_encoding_rate(out: Path, processes: int) -> float:
    """Return the rate at which so many processes only encode images of a finished run."""
    paths = sorted(out.glob("images/train/synthetic/*/*.jpg"))[: 12 * processes]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return float(sum(pool.map(encode, [paths[number::processes] for number in range(processes)], chunksize=1)))


def measure_original_rate(raw: Path, out: Path, count: int) -> float:
    """Return the rate of the original algorithm of 2022 in one process: one class id for all, and its defects."""
    out.mkdir()
    boxes: dict[Path, list[list[float]]] = {}
    for path in sorted((raw / "images").glob("*.jpg")):
        texts = [file.read_text() for file in sorted((raw / "labels").glob(f"{path.stem}_*.txt"))]
        boxes[path] = [[float(v) for v in line.split()[1:]] for text in texts for line in text.splitlines()]
    paths = [path for path, rows in boxes.items() if rows]
    rng = random.Random(0)
    started = time.monotonic()
    for number in range(count):
        source, donor = rng.choice(paths), rng.choice(paths)
        composite = Image.open(source).convert("RGB")
        for box in boxes[source]:
            paint_over(ImageDraw.Draw(composite), to_corners(box, composite.size), rng)
        crop_source = Image.open(donor).convert("RGB")
        crop = crop_source.crop(to_corners(rng.choice(boxes[donor]), crop_source.size))
        if crop.width < composite.width and crop.height < composite.height:  # else it was dropped
            x, y = rng.randrange(composite.width - crop.width), rng.randrange(composite.height - crop.height)
            composite.paste(crop, (x, y))
            center = (x + crop.width / 2) / composite.width, (y + crop.height / 2) / composite.height
            label = *center, crop.width / composite.width, crop.height / composite.height
            (out / f"{number}.txt").write_text("0 " + " ".join(f"{value:.6f}" for value in label) + "\n")
        composite.save(out / f"{number}.jpg", quality=90)
    return count / (time.monotonic() - started)


def to_corners(box: list[float], size_wh: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box of YOLO text in pixels."""
    (cx, cy, w, h), (width, height) = box, size_wh
    return (
        int((cx - w / 2) * width),
        int((cy - h / 2) * height),
        int((cx + w / 2) * width) + 1,
        int((cy + h / 2) * height) + 1,
    )


def paint_over(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], rng: random.Random, side: int = 10) -> None:
    """Draw small squares of random colors over a box, and past its edges."""
    for x in range(box[0], box[2], side):
        for y in range(box[1], box[3], side):
            draw.rectangle((x, y, x + side, y + side), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))


def compare(work: Path, count: int, repeats: int) -> None:
    """Print rounds of all four, then the medians and their ratios."""
    extracted, cores = make_bank(work), os.cpu_count() or 1
    rates: dict[str, list[float]] = {}
    for number in range(repeats):
        out = work / f"out{number}"
        run_depers("synthesize", extracted, str(out), "--count", str(count), *OBJECTS)
        depers_rate, job = compute_steady_rate(out), renderer.RenderJob(str(out), count, 1, False, len(CLASSES))
        measurements = {
            "depers synthesize": depers_rate,
            "multiprocessing": measure_plain_rate(sprite_bank.open_bank(extracted), job, cores),
            "encoding alone": measure_encoding_rate(out, cores),
            "the original": measure_original_rate(work / "raw", work / f"original{number}", 50),
        }
        print(", ".join(f"{name} {rate:.1f}" for name, rate in measurements.items()), flush=True)
        for name, rate in measurements.items():
            rates.setdefault(name, []).append(rate)
        shutil.rmtree(out)
    depers_rate = statistics.median(rates["depers synthesize"])
    print(f"load {os.getloadavg()[0]:.1f}, {cores} cores; medians of {repeats}:")
    for name, values in rates.items():
        middle = statistics.median(values)
        print(f"{name:<18}{middle:>8.1f} images/s   depers is {depers_rate / middle:.2f} ×")


def measure_planning(work: Path, count: int) -> None:
    """Print seconds and peak memory of planning `count` images in as many processes as there are cores."""
    options = Options(make_bank(work), str(work / "out"), count=count, objects=10)
    opened, cores = sprite_bank.open_bank(options.extracted), os.cpu_count() or 1
    assets, peak, started = read_assets(opened, options), 0.0, time.monotonic()
    job = renderer.RenderJob(options.out, count, 1, False, len(CLASSES))
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        parts = [(assets, options.recipe(False), job, part) for part in range(len(job.parts()))]
        results = pool.starmap_async(renderer.plan_part, parts, chunksize=1)
        while not results.ready():
            process = psutil.Process()
            members = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in members) / 2**20)
            results.wait(0.2)
        objects = sum(tally.objects for tally in results.get())
    seconds = time.monotonic() - started
    size = sum(path.stat().st_size for path in (work / "out" / "plan").iterdir()) / 2**20
    print(f"load {os.getloadavg()[0]:.1f}, {cores} cores: {count} images with {objects} objects planned in", end=" ")
    print(f"{seconds:.0f} s ({seconds * cores / count * 1e3:.2f} ms each), peak {peak:.0f} MiB, {size:.0f} MiB of plan")


def compare_memory(work: Path, many: int, few: int = 1000) -> None:
    """Print the peak memory over all processes with few and with many images."""
    extracted, peaks = make_bank(work, SMALL_WH), []
    for count in (few, many):
        out = work / "out"
        run = watch(["synthesize", extracted, str(out), "--count", str(count), *OBJECTS], out)
        peaks.append(run.peak_mib)
        print(f"{count}: peak {run.peak_mib:.0f} MiB in {run.seconds:.0f} s; {run.last_line}", flush=True)
        shutil.rmtree(out)
    print(f"load {os.getloadavg()[0]:.1f}; {many} need {peaks[1] / peaks[0]:.3f} × the memory of {few}")


def main() -> None:
    """Make a folder to work in, measure, and remove it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plan", type=int)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--many", type=int, default=20_000)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-synthesis-"))
    try:
        if options.plan:
            measure_planning(work, options.plan)
        elif options.memory:
            compare_memory(work, options.many)
        else:
            compare(work, options.count, options.repeats)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
