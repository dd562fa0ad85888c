"""Evaluation parity: `depers evaluate` against the package's own `yolov5 val`, same weights, images and size.

    python bench/parity.py OUT [--set coco|plates] [--augment] [--precision float32] [--batch-size 1]

compares precision, recall, mAP@.5 and mAP@.5:.95 of every class and overall; exit code 1 where one differs by more than
the bar. The package pads an image to the shape of its neighbors in a batch, so that its own figures depend on the
batch size; at 1, the default here, they depend on the image alone, as those of depers always do. With another batch
size the package's own difference to its batch size 1 is printed beside.
The images and weights are those of DEPERS_DATA (default ../shared/data).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

BARS = {"float32": 0.002, "bfloat16": 0.05}  # bfloat16: single objects of a class decide whole points
FIGURES = ("P", "R", "mAP@.5", "mAP@.5:.95")
SETS = {"coco": ("coco_val", "yolov5n.pt"), "plates": ("plates_cars", "LP_detector_nano_61.pt")}

# The package calls what numpy has removed, and loads pickles of its own in the way that torch has given up.
PACKAGE = """
import json, sys
import numpy as np, torch
np.trapz = np.trapezoid
load = torch.load
torch.load = lambda *a, **k: load(*a, **(k | {"weights_only": False}))
import yolov5.utils.general, yolov5.val as val
yolov5.utils.general.check_font = lambda *a, **k: None  # fetches a font from the network
results = []
def ap_per_class(*a, **k):
    results.append(original(*a, **k))
    return results[-1]
original, val.ap_per_class = val.ap_per_class, ap_per_class
data, weights, out, imgsz, batch_size, augment = sys.argv[1:]
val.run(data=data, weights=weights, imgsz=int(imgsz), batch_size=int(batch_size), device="cpu", workers=0,
        augment=augment == "True", plots=False, verbose=True, project=out, name="val", exist_ok=True)
_, _, p, r, _, ap, ids = results[-1]
rows = {int(i): [float(x) for x in (p[n], r[n], ap[n, 0], ap[n].mean())] for n, i in enumerate(ids)}
rows["all"] = [float(x) for x in (p.mean(), r.mean(), ap[:, 0].mean(), ap.mean())]
json.dump(rows, open(out + "/figures.json", "w"))
"""


def make_dataset(data: Path, name: str, classes: list[str], folder: Path) -> Path:
    """Copy the images and labels (the package writes a cache beside them); return the path of their data.yaml."""
    for part in ("images", "labels"):
        shutil.copytree(data / name / part, folder / part / "val", dirs_exist_ok=True)
    content = {"path": str(folder), "train": "images/val", "val": "images/val", "nc": len(classes), "names": classes}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "data.yaml"


def run_package(
    dataset: Path, weights: Path, out: Path, figures: list[str], names: list[str]
) -> dict[str, list[float]]:
    """Return the package's figures by class name, and `all`."""
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", PACKAGE, str(dataset), str(weights), str(out), *figures]
    subprocess.run(command, check=True, cwd=out)
    rows = json.loads((out / "figures.json").read_text())
    return {key if key == "all" else names[int(key)]: row for key, row in rows.items()}


def run_depers(dataset: Path, weights: Path, out: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the figures of `depers evaluate` by class name, and `all`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "depers.cli", "evaluate", str(dataset), str(out), "--weights", str(weights)]
    command += ["--imgsz", str(arguments.imgsz), "--batch-size", "8", "--precision", arguments.precision]
    subprocess.run(command + ["--augment"] * arguments.augment, check=True, stdout=subprocess.DEVNULL)
    content = json.loads((out / "metrics.json").read_text())
    rows = {"all": content["all"], **content["classes"]}
    return {name: [row[key] for key in ("precision", "recall", "map50", "map50_95")] for name, row in rows.items()}


def compare(package_rows: dict[str, list[float]], depers_rows: dict[str, list[float]], title: str) -> float:
    """Print every class of which a figure differs by 0.0001, and the largest difference; return that."""
    print(f"\n{title}\n{'class':>16}" + "".join(f"{name:>27}" for name in FIGURES))
    worst = 0.0
    for name, row in package_rows.items():
        differences = [b - a for a, b in zip(row, depers_rows[name], strict=True)]
        worst = max(worst, *map(abs, differences))
        if name == "all" or max(map(abs, differences)) >= 0.0001:
            cells = (f"{a:10.4f}{b:9.4f}{b - a:+8.4f}" for a, b in zip(row, depers_rows[name], strict=True))
            print(f"{name:>16}" + "".join(cells))
    count = len(package_rows) - 1
    print(f"{count} classes, {len(FIGURES)} figures each and overall: the largest difference is {worst:.4f}")
    return worst


def main() -> int:
    """Run both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", choices=SETS, default="coco")
    parser.add_argument("--precision", choices=BARS, default="float32")
    parser.add_argument("--batch-size", type=int, default=1, help="the package's")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--augment", action="store_true")
    arguments = parser.parse_args()
    out = arguments.out.resolve() / arguments.set
    root = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("DEPERS_DATA", root.parent / "shared" / "data")).resolve()
    folder, file = SETS[arguments.set]
    weights = data / "weights" / file
    coco = yaml.safe_load((data / "coco80.yaml").read_text())["names"]
    names = list(coco.values() if isinstance(coco, dict) else coco) if arguments.set == "coco" else ["license_plate"]
    dataset = make_dataset(data, folder, names, out / "dataset")

    def compute_package_rows(batch_size: int) -> dict[str, list[float]]:
        figures = [str(arguments.imgsz), str(batch_size), str(arguments.augment)]
        return run_package(dataset, weights, out / f"yolov5-{batch_size}", figures, names)

    expected = compute_package_rows(arguments.batch_size)
    depers_rows = run_depers(dataset, weights, out / f"depers-{arguments.precision}", arguments)
    worst = compare(
        expected, depers_rows, f"yolov5 val --batch-size {arguments.batch_size}, depers {arguments.precision}"
    )
    if arguments.batch_size != 1:
        compare(
            expected,
            compute_package_rows(1),
            f"yolov5 val --batch-size {arguments.batch_size}, yolov5 val --batch-size 1",
        )
    print(f"the bar for {arguments.precision} is {BARS[arguments.precision]}")
    return int(worst > BARS[arguments.precision])


if __name__ == "__main__":
    sys.exit(main())
