"""`depers normalize`: the competition's size in seconds, and the memory of few and of millions of labels.

    python bench/normalize.py [--images 2002] [--few 200000] [--many 2000000] [--repeats 3]

The first part is 1080p street scenes with three label files each but for two that have two (2002 images, 6004 files),
beside a plain copy of the same files. The second is COCO JSON and YOLO text with 100 boxes per (tiny) image, `few` and
`many` boxes in all; the peak is that of all processes together.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import simplejpeg
from job import watch

from depers.datasets.labels import CLASSES
from depers.street_scenes.scenes import draw_scene

BOXES = 100  # per image of the second part


def write_competition(raw: Path, count: int) -> int:
    """Write street scenes in the competition's layout; return the number of label files."""
    (raw / "images").mkdir(parents=True)
    (raw / "labels").mkdir()
    scenes = [draw_scene(index, 1, (1920, 1080)) for index in range(16)]
    images = [simplejpeg.encode_jpeg(np.ascontiguousarray(scene.image), 90, "RGB", "420") for scene in scenes]
    files = 0
    for index in range(count):
        scene, name = scenes[index % 16], f"24-11-2021_05-31-51_AM.{index:04d}"
        (raw / "images" / f"{name}.jpg").write_bytes(images[index % 16])
        for class_id in range(2 if index in (0, 1) else 3):
            boxes = scene.boxes_xyxy[scene.class_ids == class_id] / [1920, 1080, 1920, 1080]
            lines = (f"0 {(a + c) / 2:.6f} {(b + d) / 2:.6f} {c - a:.6f} {d - b:.6f}\n" for a, b, c, d in boxes)
            (raw / "labels" / f"{name}_{CLASSES[class_id]}..txt").write_text("".join(lines))
            files += 1
    return files


def write_many(raw: Path, kind: str, boxes: int) -> None:
    """Write tiny images, all of them links to one, with `BOXES` each: a COCO file, or YOLO text."""
    images = raw / "images"
    images.mkdir(parents=True)
    (raw / "one").write_bytes(simplejpeg.encode_jpeg(np.full((64, 64, 3), 90, np.uint8), 90, "RGB"))
    names = [f"{index:07d}" for index in range(boxes // BOXES)]
    for name in names:
        (images / f"{name}.jpg").hardlink_to(raw / "one")
    (raw / "one").unlink()
    places = [(x * 6.0, y * 6.0) for x, y in itertools.product(range(10), range(10))]
    if kind == "yolo":
        (raw / "labels").mkdir()
        (raw / "classes.txt").write_text("\n".join(CLASSES))
        text = "".join(
            f"{n % 5} {(x + 2) / 64:.6f} {(y + 2) / 64:.6f} 0.062500 0.062500\n" for n, (x, y) in enumerate(places)
        )
        for name in names:
            (raw / "labels" / f"{name}.txt").write_text(text)
        return
    with (raw / "instances.json").open("w") as file:
        file.write('{"annotations": [\n')
        for image, name in enumerate(names):
            for number, (x, y) in enumerate(places):
                box = {
                    "id": number,
                    "image_id": image,
                    "category_id": number % 5,
                    "bbox": [x, y, 4.0, 4.0],
                    "iscrowd": 0,
                }
                box["segmentation"] = [[x, y, x + 4, y, x + 4, y + 4, x, y + 4]]
                last = name == names[-1] and number == len(places) - 1
                file.write(json.dumps(box) + ("\n" if last else ",\n"))
        entries = [{"id": n, "file_name": f"{name}.jpg", "width": 64, "height": 64} for n, name in enumerate(names)]
        categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
        file.write(f'], "images": {json.dumps(entries)}, "categories": {json.dumps(categories)}}}')


def main() -> None:
    """Print the seconds of the first part, and the peaks of the second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2002)
    parser.add_argument("--few", type=int, default=200_000)
    parser.add_argument("--many", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-normalize-"))
    if options.images:
        files, times, copies = write_competition(work / "raw", options.images), [], []
        for _ in range(options.repeats):
            started = time.monotonic()
            shutil.copytree(work / "raw", work / "copy")
            copies.append(time.monotonic() - started)
            times.append(watch(["normalize", str(work / "raw"), str(work / "out")], work / "out").seconds)
            shutil.rmtree(work / "out")
            shutil.rmtree(work / "copy")
        listing = ", ".join(f"{seconds:.1f}" for seconds in times)
        print(
            f"{options.images} images, {files} label files: median {statistics.median(times):.1f} s of {listing};",
            end=" ",
        )
        print(f"a plain copy {statistics.median(copies):.1f} s; load {os.getloadavg()[0]:.1f}", flush=True)
        shutil.rmtree(work / "raw")
    for kind in ("coco", "yolo") if options.many else ():
        peaks = []
        for count in (options.few, options.many):
            write_many(work / "raw", kind, count)
            run = watch(["normalize", str(work / "raw"), str(work / "out")], work / "out")
            peaks.append(run.peak_mib)
            print(
                f"{kind}, {count} boxes: {run.seconds:.0f} s, peak {run.peak_mib:.0f} MiB; {run.last_line}", flush=True
            )
            shutil.rmtree(work / "raw")
            shutil.rmtree(work / "out")
        ratio = options.many / options.few
        print(f"{kind}: {ratio:.0f} × the boxes, {peaks[1] / peaks[0]:.2f} × the memory; load {os.getloadavg()[0]:.1f}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
