"""Detection parity: `depers evaluate` against the package's own `yolov5 val`, same weights, pictures and size.

    python bench/parity.py OUT [--precision float32] [--batch-size 8]

prints both tables and the differences in AP@.5; exit code 1 where person or car differ by more than the bar.
The pictures and weights are those of DEPERS_DATA (default ../shared/data).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

BARS = {"float32": 0.005, "bfloat16": 0.01}
CLASSES = ("person", "car")

# The package calls what numpy has removed, and loads pickles of its own in the way that torch has given up.
THEIRS = """
import json, sys
import numpy as np, torch
np.trapz = np.trapezoid
load = torch.load
torch.load = lambda *a, **k: load(*a, **(k | {"weights_only": False}))
import yolov5.utils.general, yolov5.val as val
yolov5.utils.general.check_font = lambda *a, **k: None  # fetches a font from the network
kept = []
def ap_per_class(*a, **k):
    kept.append(original(*a, **k))
    return kept[-1]
original, val.ap_per_class = val.ap_per_class, ap_per_class
data, weights, out, imgsz, batch_size = sys.argv[1:]
val.run(data=data, weights=weights, imgsz=int(imgsz), batch_size=int(batch_size), device="cpu", workers=0,
        plots=False, verbose=True, project=out, name="val", exist_ok=True)
*_, ap, ids = kept[-1]
json.dump({int(i): [float(a[0]), float(a.mean())] for i, a in zip(ids, ap)}, open(out + "/ap.json", "w"))
"""


def make_dataset(data: Path, folder: Path) -> Path:
    """A copy of the pictures and labels (the package writes a cache beside them) with a data.yaml; its path."""
    for part in ("images", "labels"):
        shutil.copytree(data / "coco_val" / part, folder / part / "val", dirs_exist_ok=True)
    names = yaml.safe_load((data / "coco80.yaml").read_text())["names"]
    content = {"path": str(folder), "train": "images/val", "val": "images/val", "nc": len(names), "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "data.yaml"


def main() -> int:
    """Runs both and compares."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--precision", choices=BARS, default="float32")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--imgsz", type=int, default=640)
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    root = Path(__file__).resolve().parent.parent
    data = Path(os.environ.get("DEPERS_DATA", root.parent / "shared" / "data")).resolve()
    weights = data / "weights" / "yolov5n.pt"
    dataset = make_dataset(data, out / "dataset")
    names = yaml.safe_load(dataset.read_text())["names"]

    theirs_out = out / "yolov5"
    theirs_out.mkdir(parents=True, exist_ok=True)
    figures = [str(arguments.imgsz), str(arguments.batch_size)]
    command = [sys.executable, "-c", THEIRS, str(dataset), str(weights), str(theirs_out), *figures]
    subprocess.run(command, check=True, cwd=theirs_out)
    theirs = {names[int(i)]: ap for i, ap in json.loads((theirs_out / "ap.json").read_text()).items()}

    ours_out = out / f"depers-{arguments.precision}-{arguments.batch_size}"
    command = [sys.executable, "-m", "depers.cli", "evaluate", str(dataset), str(ours_out), "--weights", str(weights)]
    command += ["--imgsz", figures[0], "--batch-size", figures[1], "--precision", arguments.precision]
    subprocess.run(command, check=True)
    ours = json.loads((ours_out / "metrics.json").read_text())["classes"]

    bar = BARS[arguments.precision]
    print(f"\n{'class':>16}{'yolov5':>9}{'depers':>9}{'AP@.5':>9}{'yolov5':>10}{'depers':>9}{'AP@.5:.95':>11}")
    for name, (ap50, ap) in theirs.items():
        mine = ours[name]
        first = f"{ap50:9.4f}{mine['map50']:9.4f}{mine['map50'] - ap50:+9.4f}"
        print(f"{name:>16}{first}{ap:10.4f}{mine['map50_95']:9.4f}{mine['map50_95'] - ap:+11.4f}")
    differences = {name: abs(ours[name]["map50"] - theirs[name][0]) for name in CLASSES}
    text = ", ".join(f"{name} {value:.4f}" for name, value in differences.items())
    print(f"AP@.5 differs by {text}; the bar for {arguments.precision} is {bar}")
    return int(max(differences.values()) > bar)


if __name__ == "__main__":
    sys.exit(main())
