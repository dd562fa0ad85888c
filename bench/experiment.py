"""Does synthesis help? `depers experiment` on real photographs with heads and with faces, and both together.

    python bench/experiment.py OUT                           heads and faces at 8, 16 and 64 images, 12 seeds each
    python bench/experiment.py OUT --sets heads --sizes 256  one set, another size; there are also plates, and cars
    python bench/experiment.py OUT --seeds 1 --sizes 8       one cell, to see how long the rest will take

Photographs, labels and the weights to start from are those of DEPERS_DATA (default ../shared/data): classroom cameras
with heads, people with and without masks with faces, cars, and their plates, in the split that comes with them. The
same command goes on where it was interrupted. It ends with each set's table, and with what was declared before: the
mean of the sets' contrasts with its interval; sets are independent of one another. In a folder OUT other sizes, seeds
or steps are refused.
"""

import argparse
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

from scipy.stats import t

from depers.commands import experiment
from depers.commands.experiment import ExperimentResult, Options
from depers.datasets.data_yaml import write_data_yaml
from depers.runtime import progress
from depers.runtime.cluster import start_ray


class LabelledSet(NamedTuple):
    """A class, its id in the labels, the `folders` that are labelled for it, COCO's class to start from."""

    class_name: str
    class_id: int
    folders: tuple[str, ...]
    start_class: str


SETS = {
    "heads": LabelledSet("head", 1, ("scuta", "scutb"), "person"),
    "faces": LabelledSet("face", 2, ("mask",), "person"),
    "plates": LabelledSet(
        "carplate", 4, ("oalpr_br", "oalpr_eu", "oalpr_us", "oi_plates", "oi_plates2", "romanian"), "car"
    ),
    "cars": LabelledSet(
        "car", 0, ("highway", "coco", "oi_vehicles", "oi_vehicles2", "oalpr_br", "oalpr_eu", "oalpr_us"), "car"
    ),
}
"""People labelled all but the cars outside the first two folders, which a detector did."""
_DECLARED_SETS = ["heads", "faces"]
_CERTAINTY = 0.95


def copy_set(source: Path, root: Path, name: str) -> Path:
    """Write a dataset of one class; return its folder."""
    class_name, class_id, folders, _ = SETS[name]
    for split in ("train", "val"):
        for folder in folders:
            for image in sorted((source / "images" / split / folder).iterdir()):
                text = (source / "labels" / split / folder / f"{image.stem}.txt").read_text(encoding="utf-8")
                rows = [line.split() for line in text.splitlines()]
                lines = [" ".join(["0", *row[1:]]) for row in rows if row[0] == str(class_id)]
                for kind in ("images", "labels"):
                    (root / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, root / "images" / split / f"{folder}-{image.name}")
                label = root / "labels" / split / f"{folder}-{image.stem}.txt"
                label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    write_data_yaml(root, [class_name])
    return root


def pool(results: list[ExperimentResult]) -> str:
    """Return the mean of the contrasts of independent sets, with its interval, in one line."""
    differences = [result.comparison.over_real for result in results]
    mean = sum(difference.mean for difference in differences) / len(differences)
    freedom = min(difference.seeds for difference in differences) - 1
    halves = [(difference.high - difference.low) / 2 for difference in differences]
    quantiles = [float(t.ppf((1 + _CERTAINTY) / 2, difference.seeds - 1)) for difference in differences]
    deviations = [half / quantile for half, quantile in zip(halves, quantiles, strict=True)]
    half = float(t.ppf((1 + _CERTAINTY) / 2, freedom)) * math.hypot(*deviations) / len(differences)
    wins = sum(difference.wins for difference in differences)
    seeds = sum(difference.seeds for difference in differences)
    interval = f"{mean - half:+.4f} … {mean + half:+.4f}"
    return f"all sets: {mean:+.4f}, 95 % interval {interval}, higher in {wins} of {seeds} seeds"


def main() -> int:
    """Run what is not done, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=_DECLARED_SETS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 16, 64])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--validations", type=int, default=5)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--synthesize-with", nargs="*", default=[])
    parser.add_argument("--share", type=float, default=0.5)
    arguments = parser.parse_args()
    data = Path(os.environ.get("DEPERS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")).resolve()
    out = arguments.out.resolve()
    results = []
    start = time.monotonic()
    start_ray()
    for name in arguments.sets:
        dataset = out / f"{name}-data"
        if not (dataset / "data.yaml").exists():
            copy_set(data / "detector", dataset, name)
        options = Options(
            str(dataset),
            str(out / name),
            sizes=tuple(arguments.sizes),
            seeds=arguments.seeds,
            share=arguments.share,
            steps=arguments.steps,
            validations=arguments.validations,
            weights=str(data / "weights" / "yolov5n.pt"),
            imgsz=arguments.imgsz,
            batch_size=8,
            synthesize_with=tuple(arguments.synthesize_with),
            train_with=(
                f"start_classes={SETS[name].class_name}={SETS[name].start_class}",
                "optimizer=AdamW",
                "learning_rate=0.001",
                "warmup_epochs=0.25",
                "device=cpu",
            ),
        )
        with progress.shown_on(sys.stderr):
            results.append(experiment.run(options))
    for name, result in zip(arguments.sets, results, strict=True):
        seconds = sum(run.seconds for run in result.runs)
        print(f"{name}: {len(result.runs)} trainings, {seconds:.0f} s of a core", *result.summary(), "", sep="\n")
    if arguments.seeds > 1:
        print(pool(results))
    print(f"this call took {time.monotonic() - start:.0f} s; load {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
