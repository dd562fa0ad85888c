"""Training against `yolov5 train` of the package, in the same run: speed, and how good the result is.

    python bench/training.py OUT speed [--only yolov5n]     steady epochs on two cores: yolov5n at 320, yolov5s at 416
    python bench/training.py OUT parity [--set heads]       three seeds, yolov5n at 224, fine-tuned on drawn streets
    python bench/training.py OUT gpu                        steady epochs on one GPU: yolov5s at 640, yolov5x at 1024
    python bench/training.py OUT gpu --without-ray          the same on a machine that has no Ray: the loop alone

Both train on the same images with the same hyperparameter file, batch, schedule and images kept in memory; rounds
alternate, medians are compared. Rates are those of the training part of an epoch, the first epochs left out. Quality
is AP as the package's own `val` measures both results. Exit code 1 where a bar is missed: 1.5 × images/s on CPUs, 1.2 ×
on a GPU that is at least 90 % busy, mean mAP@.5 lower by at most 0.01. Images are drawn scenes, of which there are
enough for steady figures; with `--set heads` parity takes the few real ones of DEPERS_DATA (default ../shared/data).
It holds the weights that parity starts from, too.
"""

import argparse
import csv
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import simplejpeg
import yaml

from depers.boxes import to_normalized_xywh
from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.street_scenes.scenes import draw_scene

CPU_BAR, GPU_BAR, BUSY_BAR, QUALITY_BAR = 1.5, 1.2, 90, 0.01
_WARM_UP = 2  # epochs

# The package calls what numpy has removed, loads pickles of its own in the way that torch has given up, and asks the
# network for a font, for weights, for requirements and for an image to try mixed precision on.
PATCHES = """
import json, sys, time
import numpy as np, torch
np.trapz = np.trapezoid
load = torch.load
torch.load = lambda *a, **k: load(*a, **(k | {"weights_only": False}))
import yolov5.utils.general as general
general.check_font = lambda *a, **k: None
"""
TRAIN = (
    PATCHES
    + """
import yolov5.train as train
train.attempt_download_from_hub = lambda *a, **k: None
import yolov5.models.experimental as experimental
train.attempt_download = experimental.attempt_download = lambda path, *a, **k: path
train.check_requirements = lambda *a, **k: None
train.check_amp = lambda model: next(model.parameters()).device.type != "cpu"
times, started = [], []
def begin(*a, **k):
    if torch.cuda.is_available(): torch.cuda.synchronize()
    started.append(time.perf_counter())
def end(*a, **k):
    if torch.cuda.is_available(): torch.cuda.synchronize()
    times.append(time.perf_counter() - started[-1])
callbacks = train.Callbacks()
callbacks.register_action("on_train_epoch_start", callback=begin)
callbacks.register_action("on_train_epoch_end", callback=end)
opt = train.parse_opt(True)
for name, value in json.loads(sys.argv[1]).items():
    setattr(opt, name, value)
train.main(opt, callbacks)
json.dump(times, open(opt.project + "/times.json", "w"))
"""
)
WITHOUT_RAY = """
import json, os, sys, time
from depers.training.callbacks import TrainingCallback
from depers.training.processes.checkpoints import CheckpointWriter
from depers.training.images.data import read_splits
from depers.training.loop import train
from depers.training.options import Options
from depers.training.processes.process_group import ProcessGroup
options = Options(**json.loads(sys.argv[1]))
device = "cuda:0" if options.device == "cuda" else "cpu"
windows = {}
class Callback(TrainingCallback):
    def on_message(self, text): print(text, flush=True)
    def on_epoch_end(self, row): print(row, flush=True)
    def on_batch_end(self, epoch, *_): windows.setdefault(epoch, [time.time()] * 2)[1] = time.time()
writer = CheckpointWriter(options.out)
group = ProcessGroup(device=device, threads=len(os.sched_getaffinity(0)))
train(options, read_splits(options.dataset), group, writer=writer, callback=Callback(), disk=options.out + "/images")
writer.close()
json.dump([windows[epoch] for epoch in sorted(windows)], open(options.out + "/windows.json", "w"))
"""
VALIDATE = (
    PATCHES
    + """
import yolov5.val as val
data, weights, imgsz, out = sys.argv[1:]
figures, *_ = val.run(data=data, weights=weights, imgsz=int(imgsz), batch_size=16, device="cpu", workers=0, plots=False,
                      project=out, name="val", exist_ok=True)
json.dump([float(value) for value in figures[:4]], open(out + "/figures.json", "w"))
"""
)


def _draw(root: Path, split: str, size_wh: tuple[int, int], index: int) -> None:
    scene = draw_scene(index, 7, size_wh)
    boxes = to_normalized_xywh(scene.boxes_xyxy, size_wh)
    jpeg = simplejpeg.encode_jpeg(scene.image, 90, "RGB", "420")
    (root / "images" / split / f"{index}.jpg").write_bytes(jpeg)
    (root / "labels" / split / f"{index}.txt").write_text(format_yolo(Labels(scene.class_ids, boxes)), encoding="utf-8")


def draw_dataset(root: Path, train: int, val: int, size_wh: tuple[int, int]) -> Path:
    """Write street scenes; return the path of their data.yaml."""
    for split, first, count in (("train", 0, train), ("val", 100_000, val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        with multiprocessing.Pool() as pool:
            pool.map(partial(_draw, root, split, size_wh), range(first, first + count))
    write_data_yaml(root, CLASSES)
    return _absolute(root)


def copy_dataset(source: Path, root: Path, name: str) -> Path:
    """Copy a set of one class, every third image for validation; return the path of its data.yaml."""
    for number, image in enumerate(sorted((source / "images").iterdir())):
        split = "train" if number % 3 else "val"
        label = source / "labels" / f"{image.stem}.txt"
        for kind, path in (("images", image), ("labels", label)):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
            if path.exists():
                shutil.copy(path, root / kind / split / path.name)
    write_data_yaml(root, [name])
    return _absolute(root)


def _absolute(root: Path) -> Path:
    """Make the path in data.yaml absolute, since the package looks for relative ones in its own folder."""
    path = root / "data.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) | {"path": str(root)}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


class Task:
    """One training, to be done by both."""

    def __init__(self, data: Path, model: str, imgsz: int, batch_size: int, epochs: int, **more: Any) -> None:
        self.data, self.model, self.imgsz, self.batch_size, self.epochs = data, model, imgsz, batch_size, epochs
        self.weights, self.device = more.get("weights"), more.get("device") or "cpu"
        self.without_ray = bool(more.get("without_ray"))
        self.images = len(list((data.parent / "images" / "train").iterdir()))

    def train_with_yolov5(self, out: Path, seed: int) -> tuple[list[float], Path]:
        """Return images per second of every epoch by `yolov5 train`, and its best weights."""
        options = {
            "data": str(self.data),
            "cfg": f"{self.model}.yaml",
            "weights": self.weights or "",
            "imgsz": self.imgsz,
        }
        options |= {"batch_size": self.batch_size, "epochs": self.epochs, "seed": seed, "cache": "ram", "noplots": True}
        options |= {"device": "0" if self.device == "cuda" else "cpu", "workers": os.cpu_count(), "project": str(out)}
        options |= {"name": "run", "exist_ok": True, "patience": 0}
        out.mkdir(parents=True)
        _run([sys.executable, "-W", "ignore", "-c", TRAIN, json.dumps(options)], out)
        times = json.loads((out / "times.json").read_text(encoding="utf-8"))
        return [self.images / seconds for seconds in times], out / "run" / "weights" / "best.pt"

    def train_with_depers(self, out: Path, seed: int) -> tuple[list[float], Path]:
        """Return the same of `depers train`, or of its loop alone."""
        options = {"dataset": str(self.data), "out": str(out), "model": self.model, "imgsz": self.imgsz, "seed": seed}
        options |= {"batch_size": self.batch_size, "epochs": self.epochs, "schedule": "linear", "cache": "ram"}
        options |= {"device": self.device, "patience": 0, **({"weights": self.weights} if self.weights else {})}
        if self.without_ray:
            command = [sys.executable, "-c", WITHOUT_RAY, json.dumps(options)]
        else:
            command = [sys.executable, "-m", "depers.cli", "train", str(self.data), str(out)]
            for name, value in options.items():
                if name not in ("dataset", "out"):
                    command += [f"--{name.replace('_', '-')}", str(value)]
        out.mkdir(parents=True)
        _run(command, out)
        with (out / "results.csv").open(encoding="utf-8") as file:
            return [float(row["images_per_s"]) for row in csv.DictReader(file)], out / "weights" / "best.pt"


def _run(command: Sequence[str], out: Path) -> None:
    with (out / "log.txt").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, cwd=out, check=False).returncode
    if code:
        raise SystemExit(f"{' '.join(command[:5])} …: exit code {code}\n{(out / 'log.txt').read_text()[-3000:]}")


class Busy:
    """How busy the GPU is meanwhile, by `nvidia-smi`: the median of samples, per cent."""

    def __enter__(self) -> "Busy":
        self.samples: list[tuple[float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        while not self._done.wait(0.5):
            values = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
            self.samples += [(time.time(), float(value)) for value in values[:1]]

    def compute_percent(self, out: Path) -> float:
        """Return the median within the training part of steady epochs where the loop has told it.

        It does without Ray; else of all samples with any load, which include the first epochs and validation.
        """
        path = out / "windows.json"
        if path.exists():
            windows = json.loads(path.read_text(encoding="utf-8"))[_WARM_UP:]
            # nvidia-smi tells of the last second at most, so one begins to listen a second later.
            chosen = [value for at, value in self.samples if any(start + 1 <= at <= end for start, end in windows)]
        else:
            chosen = [value for _, value in self.samples if value > 0]
        return statistics.median(chosen or [0.0])


def compare_speed(tasks: Sequence[Task], out: Path, repeats: int, bar: float, gpu: bool) -> bool:
    """Print the rates; return whether all reach the bar."""
    fine = True
    for task in tasks:
        rates: dict[str, list[float]] = {"yolov5": [], "depers": []}
        busy = 0.0
        for number in range(repeats):
            for name, train in (("yolov5", task.train_with_yolov5), ("depers", task.train_with_depers)):
                with Busy() if gpu else open(os.devnull) as watched:  # noqa: PTH123
                    folder = out / f"{task.model}-{name}-{number}"
                    steady = train(folder, number)[0][_WARM_UP:]
                if isinstance(watched, Busy) and name == "depers":
                    busy = watched.compute_percent(folder)
                rates[name].append(statistics.median(steady))
                print(f"{task.model} at {task.imgsz}, {name}: {rates[name][-1]:.1f} images/s", flush=True)
        ratio = statistics.median(rates["depers"]) / statistics.median(rates["yolov5"])
        line = f"{task.model} at {task.imgsz}: depers is {ratio:.2f} × yolov5 train; the bar is {bar}"
        if gpu:
            line += f"; GPU {busy:.0f} % busy; the bar is {BUSY_BAR}"
            fine &= busy >= BUSY_BAR
        print(f"{line}; load {os.getloadavg()[0]:.1f}", flush=True)
        fine &= ratio >= bar
    return fine


def compare_quality(task: Task, out: Path, seeds: Sequence[int]) -> bool:
    """Print both results' AP; return whether the mean is not lower by more than the bar."""
    precisions: dict[str, list[float]] = {"yolov5": [], "depers": []}
    for seed in seeds:
        for name, train in (("yolov5", task.train_with_yolov5), ("depers", task.train_with_depers)):
            folder = out / f"{name}-{seed}"
            rates, best = train(folder, seed)
            measured = out / f"val-{name}-{seed}"
            measured.mkdir()
            _run([sys.executable, "-c", VALIDATE, str(task.data), str(best), str(task.imgsz), str(measured)], measured)
            _, _, map50, map50_95 = json.loads((measured / "figures.json").read_text(encoding="utf-8"))
            precisions[name].append(map50)
            rate = statistics.median(rates[_WARM_UP:])
            print(
                f"seed {seed}, {name}: mAP@.5 {map50:.3f}, mAP@.5:.95 {map50_95:.3f}; {rate:.1f} images/s", flush=True
            )
    means = {name: statistics.mean(values) for name, values in precisions.items()}
    difference = means["depers"] - means["yolov5"]
    deviation = statistics.stdev(precisions["yolov5"])
    print(
        f"mean mAP@.5: yolov5 {means['yolov5']:.3f} (spread {deviation:.3f}), depers {means['depers']:.3f}:"
        f" {difference:+.3f}; the bar is -{QUALITY_BAR}; load {os.getloadavg()[0]:.1f}"
    )
    return difference >= -QUALITY_BAR


def main() -> int:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", choices=("speed", "parity", "gpu"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--imgsz", type=int, default=224, help="of parity")
    parser.add_argument("--set", choices=("streets", "heads"), default="streets", help="images of parity")
    parser.add_argument("--only", help="one model of those of speed or gpu")
    parser.add_argument("--without-ray", action="store_true", help="of gpu and speed: the training loop alone")
    parser.add_argument("--images", type=int, default=None, help="drawn for training")
    arguments = parser.parse_args()
    out = arguments.out.resolve() / arguments.what
    shutil.rmtree(out, ignore_errors=True)
    data = Path(os.environ.get("DEPERS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")).resolve()
    if arguments.what == "parity":
        if arguments.set == "heads":
            dataset = copy_dataset(data / "heads_scut", out / "dataset", "head")
        else:
            dataset = draw_dataset(out / "dataset", arguments.images or 240, 96, (640, 400))
        weights = str(data / "weights" / "yolov5n.pt")
        task = Task(dataset, "yolov5n", arguments.imgsz, 8, arguments.epochs or 12, weights=weights)
        return int(not compare_quality(task, out, (0, 1, 2)))
    gpu = arguments.what == "gpu"
    sizes = (("yolov5s", 640, 64), ("yolov5x", 1024, 16)) if gpu else (("yolov5n", 320, 16), ("yolov5s", 416, 16))
    count = arguments.images or (2048 if gpu else 96)
    dataset = draw_dataset(out / "dataset", count, 32 if gpu else 8, (1280, 720) if gpu else (640, 400))
    epochs, device = arguments.epochs or _WARM_UP + 3, "cuda" if gpu else "cpu"
    more = {"device": device, "without_ray": arguments.without_ray}
    tasks = [Task(dataset, *size, epochs, **more) for size in sizes if arguments.only in (None, size[0])]
    return int(not compare_speed(tasks, out, arguments.repeats, GPU_BAR if gpu else CPU_BAR, gpu))


if __name__ == "__main__":
    sys.exit(main())
