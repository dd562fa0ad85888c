"""How soon a training on very many images takes its first step, and what it needs in memory: a simulated dataset.

    python bench/million.py WORK [--images 1000000] [--train-workers 1 2]

Makes hard links in WORK to a few drawn scenes and their label texts, at most 60 000 per file, as many as file systems
allow; the index is written after the links, since linking a file changes its stamp. Then `depers train` (yolov5n, small
images, nothing kept) runs until its first optimizer step: seconds before and after the listing, and the memory of its
workers (PSS: what they share counts once). WORK is removed at the end.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import simplejpeg

from depers.boxes import to_normalized_xywh
from depers.datasets import image_index
from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.image_index import WrittenFile
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.resources import MIB
from depers.storage import file_table
from depers.street_scenes.scenes import draw_scene
from depers.training.callbacks import TrainingCallback

LINKS = 60_000
FOLDER = 1000  # images in a folder
VAL = 64  # images for validation
FEW = 1000  # images, beside which the others are measured


def make_sources(root: Path, count: int) -> list[tuple[Path, Path, tuple[int, int]]]:
    """Draw as many scenes as `count` links need; return image, text and size of each."""
    root.mkdir(parents=True)
    sources = []
    for number in range(-(-count // LINKS) + 1):
        scene = draw_scene(number, seed=7, size_wh=(160, 128) if number % 2 else (128, 128))
        size_wh = scene.image.shape[1::-1]
        image, text = root / f"{number}.jpg", root / f"{number}.txt"
        image.write_bytes(simplejpeg.encode_jpeg(scene.image, 90, "RGB"))
        boxes = to_normalized_xywh(scene.boxes_xyxy, size_wh)
        text.write_text(format_yolo(Labels(scene.class_ids, boxes)))
        sources.append((image, text, size_wh))
    return sources


def make_dataset(root: Path, count: int) -> None:
    """Write the links, the index of all of them, and data.yaml."""
    sources = make_sources(root / "sources", count)
    names = {"train": count, "val": VAL}
    for split, size in names.items():
        for number in range(size):
            folder, name = f"{number // FOLDER:06d}", f"{number:09d}"
            image, text, _ = sources[number % len(sources)]
            for kind, source, suffix in (("images", image, "jpg"), ("labels", text, "txt")):
                target = root / kind / split / folder
                if number % FOLDER == 0:
                    target.mkdir(parents=True)
                os.link(source, target / f"{name}.{suffix}")
    shutil.rmtree(root / "sources")  # which changes the stamps of what it held for the last time
    image_index.write_index(str(root), make_records(root, sources, names))
    write_data_yaml(root, CLASSES)


def make_records(
    root: Path, sources: list[tuple[Path, Path, tuple[int, int]]], names: dict[str, int]
) -> Iterator[pa.Table]:
    """Yield rows of the index, as units record them."""
    schema = pa.schema([image_index.RECORD_COLUMN])
    for split, size in names.items():
        templates = []
        for number, (_, _, size_wh) in enumerate(sources):
            stem = f"{split}/{number // FOLDER:06d}/{number:09d}"
            image, text = root / f"images/{stem}.jpg", root / f"labels/{stem}.txt"
            files = [WrittenFile("", path.read_bytes(), str(path.stat().st_ctime_ns)) for path in (image, text)]
            templates.append(image_index.describe(split, "", size_wh, *files, None))
        for start in range(0, size, 1 << 16):
            rows = []
            for number in range(start, min(start + (1 << 16), size)):
                path = f"{number // FOLDER:06d}/{number:09d}.jpg"
                row = templates[number % len(sources)] | {"path": path, "file": f"images/{split}/{path}"}
                rows.append({"indexed": row})
            yield pa.Table.from_pylist(rows, schema=schema)


class Callback(TrainingCallback):
    """Notes in the file that MILLION names when a worker had listed and read the dataset, and took its first step."""

    def __init__(self) -> None:
        """Follow the listings of this process, which begin after this."""
        self._times: dict[str, float] = {}
        self._tabulate_files = file_table.tabulate_files
        file_table.tabulate_files = self._list

    def _list(self, root: str) -> pa.Table:
        start = time.time()
        table = self._tabulate_files(root)
        self._times.setdefault("first", start)
        self._times["listing"] = self._times.get("listing", 0) + time.time() - start
        return table

    def on_start(self, options: Mapping[str, Any]) -> None:
        """Take note that the dataset is read."""
        self._times["read"] = time.time()

    def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
        """Take note of the first step, which the first batch is in the warm-up."""
        note = Path(os.environ["MILLION"])
        if batch == 1:
            self._times["step"] = time.time()
            note.with_suffix(".partial").write_text(json.dumps(self._times))
            note.with_suffix(".partial").rename(note)


def measure(data: Path, out: Path, workers: int) -> dict[str, float]:
    """Train until the first step; return seconds and MiB."""
    note = out.with_suffix(".json")
    argv = [sys.executable, "-m", "depers.cli", "train", str(data), str(out), "--model", "yolov5n", "--imgsz", "64"]
    argv += ["--epochs", "1", "--batch-size", "16", "--train-workers", str(workers), "--cache", "none"]
    argv += ["--cache-folder", str(out.with_suffix(".cache")), "--callback", f"{Path(__file__).resolve()}:Callback"]
    start = time.time()
    training = subprocess.Popen(argv, env=os.environ | {"MILLION": str(note)})
    driver = psutil.Process(training.pid)
    peak = 0.0
    try:
        while not note.exists():
            if training.poll() is not None:
                raise SystemExit(f"the training ended with {training.returncode}")
            peak = max(peak, driver.memory_info().rss)
            time.sleep(0.2)
        processes = [process for process in driver.children(recursive=True) if _is_worker(process)]
        memory = sum(process.memory_full_info().pss for process in processes)
    finally:
        training.send_signal(signal.SIGINT)
        training.wait()
    times = json.loads(note.read_text())
    return {
        "until the worker begins to read": times["first"] - start,
        "its listing": times["listing"],
        "its reading": times["read"] - times["first"] - times["listing"],
        "then until the first step": times["step"] - times["read"],
        "workers (MiB, PSS)": memory / MIB,
        "driver (MiB, peak)": peak / MIB,
    }


def _is_worker(process: psutil.Process) -> bool:
    """Return whether a process is a worker of Ray Train, which has mapped what it trains on."""
    with suppress(psutil.Error):
        return "TrainWorker" in " ".join(process.cmdline()) or "TrainWorker" in process.name()
    return False


def main() -> None:
    """Measure with few images, which shows what a training needs anyway, and with many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--train-workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    try:
        for count in (FEW, options.images):
            data = options.work / f"data-{count}"
            start = time.time()
            make_dataset(data, count)
            size = (data / image_index.NAME).stat().st_size / MIB
            print(f"{count} images made in {time.time() - start:.0f} s; index {size:.0f} MiB", flush=True)
            for workers in options.train_workers:
                figures = measure(data, options.work / f"out-{count}-{workers}", workers)
                parts = "; ".join(f"{name} {value:.1f}" for name, value in figures.items())
                print(f"{count} images, {workers} worker(s): {parts}", flush=True)
    finally:
        shutil.rmtree(options.work)


if __name__ == "__main__":
    main()
