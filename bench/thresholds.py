"""How often a threshold for a target recall keeps its promise, where labels come in images, and what that costs.

    python bench/thresholds.py [--draws 2000] [--real] [--chosen]

From a population of images whose every miss is known, many samples are drawn. A sample breaks the promise where its
lower bound on recall reaches the target at the lowest threshold whose recall in the whole population is below it (lower
thresholds are tried before, so no other can be the first mistake). Bounds:

binomial       Clopper and Pearson (1934), labels as independent draws
design         the same on effective counts: design effect by linearization, t distribution (Korn and Graubard 1998)
whole          the same, images as if found or missed whole: (Σn)²/Σn² labels
percentile-t   bootstrap over images, studentized (Efron and Tibshirani 1993)
BCa            bootstrap over images, bias-corrected and accelerated (Efron 1987)
betting        a test martingale per image with the largest image's size as bound (Waudby-Smith and Ramdas 2024)
depers         `depers/evaluation/recall_bounds.py`

Simulated populations: 20 000 images; sizes constant, geometric or lognormal; a share of the labels takes its confidence
from its image, so that pairs are correlated; with `crowds`, the larger an image, the lower its confidences. `--real`
adds the people of 95 COCO photographs and the heads of 90 photographs of SCUT-HEAD, as a YOLOv5n finds them.

`--chosen` measures, instead of that, what `depers evaluate` writes: of each sample it chooses the threshold, and asks
the population whether the recall there is the target, and whether as many images are found whole as `whole_bound` says.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import beta, norm, t

from depers.boxes import clip, grow
from depers.datasets.data_yaml import read_dataset, write_data_yaml
from depers.evaluation.calibration import ClassLabels, choose_threshold, covered_from
from depers.evaluation.recall_bounds import bound_recall, sum_clusters
from depers.evaluation.samples import read_samples

TARGETS = (0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
CERTAINTY = 0.95
IMAGES = 20_000
RESAMPLES = 499
FEW = 60  # draws of the bootstraps, which take a thousand times as long
BOOTSTRAPS = ("percentile-t", "BCa")
Array = NDArray[np.float64]


class Population(NamedTuple):
    """The confidence from which each label (L,) is found, its image (L,), and the labels of each image (N,)."""

    name: str
    confidences: Array
    images: NDArray[np.int64]
    sizes: Array

    def misses(self, share: float) -> Array:
        """Return the misses of each image (N,) at the lowest threshold that misses more than this share of labels."""
        rising = np.sort(self.confidences)
        threshold = rising[min(int(share * len(rising) + 1e-9), len(rising) - 1)]
        return np.bincount(self.images, self.confidences <= threshold, len(self.sizes))

    def design_effect(self, share: float) -> float:
        """Return the variance of the recall of a sample over that of as many independent labels."""
        misses = self.misses(share)
        rate = misses.sum() / self.sizes.sum()
        return float(np.square(misses - rate * self.sizes).sum() / (rate * (1 - rate) * self.sizes.sum()))


def simulate(kind: str, mean: int, correlation: float, crowds: float = 0.0) -> Population:
    """Return a simulated population; pairs of labels of an image have that correlation at every threshold."""
    rng = np.random.default_rng(0)
    if kind == "constant":
        sizes = np.full(IMAGES, mean)
    elif kind == "geometric":
        sizes = rng.geometric(1 / mean, IMAGES)
    else:
        sizes = np.maximum(1, np.round(rng.lognormal(np.log(mean) - 0.5, 1, IMAGES))).astype(np.int64)
    images = np.repeat(np.arange(IMAGES), sizes)
    own, shared = rng.normal(size=len(images)), rng.normal(size=IMAGES)[images]
    confidences = np.where(rng.random(len(images)) < np.sqrt(correlation), shared, own) - crowds * np.log(sizes[images])
    name = f"{kind}, mean {mean}, correlation {correlation:g}" + (", crowds" if crowds else "")
    return Population(name, confidences, images, sizes.astype(np.float64))


def binomial(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
    missed, labels = misses.sum(1), sizes.sum(1)
    return np.asarray(beta.ppf(CERTAINTY, missed + 1, labels - missed) <= 1 - target)


def design(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
    labels, images = sizes.sum(1), sizes.shape[1]
    rate = misses.sum(1) / labels
    variance = np.square(misses - rate[:, None] * sizes).sum(1) * images / (images - 1) / labels**2
    effective = np.where(variance > 0, rate * (1 - rate) / np.where(variance > 0, variance, 1), labels)
    effective = np.minimum(effective, labels) * (norm.ppf(CERTAINTY) / t.ppf(CERTAINTY, images - 1)) ** 2
    return np.asarray(beta.ppf(CERTAINTY, rate * effective + 1, (1 - rate) * effective) <= 1 - target)


def whole(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
    labels = sizes.sum(1)
    rate, effective = misses.sum(1) / labels, labels**2 / np.square(sizes).sum(1)
    return np.asarray(beta.ppf(CERTAINTY, rate * effective + 1, (1 - rate) * effective) <= 1 - target)


def betting(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
    loss = (misses - (1 - target) * sizes) / (target * sizes.max(1, keepdims=True))  # at most 1
    bets = np.geomspace(1e-3, 0.99999, 20)
    wealth = np.stack([np.log1p(-bet * loss).sum(1) for bet in bets])
    return np.asarray(np.log(np.exp(wealth - wealth.max(0)).mean(0)) + wealth.max(0) >= -np.log(1 - CERTAINTY))


def bootstrap(
    judge: Callable[[Array, Array, Array, float], bool],
) -> Callable[[Array, Array, float], NDArray[np.bool_]]:
    """Return the judge of resampled images for many draws; without a miss, images are a binomial sample."""

    def judge_all(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
        rng, images = np.random.default_rng(1), sizes.shape[1]
        results = []
        for missed, labels in zip(misses[:FEW], sizes[:FEW], strict=True):
            weights = rng.multinomial(images, np.full(images, 1 / images), RESAMPLES).astype(np.float64)
            some = missed.any()
            results.append(judge(missed, labels, weights, target) if some else target**images <= 1 - CERTAINTY)
        return np.array(results)

    return judge_all


def percentile_t(missed: Array, labels: Array, weights: Array, target: float) -> bool:
    columns = np.stack([missed, labels, missed**2, missed * labels, labels**2], 1)
    sums, (m, n, mm, mn, nn) = columns.sum(0), (weights @ columns).T
    rate = sums[0] / sums[1]
    error = np.sqrt(sums[2] - 2 * rate * sums[3] + rate**2 * sums[4]) / sums[1]
    errors = np.sqrt(np.maximum(mm - 2 * m / n * mn + (m / n) ** 2 * nn, 0)) / n
    studentized = np.where(errors > 0, (m / n - rate) / np.maximum(errors, 1e-12), -np.inf)
    return bool(rate - np.quantile(studentized, 1 - CERTAINTY, method="lower") * error <= 1 - target)


def bca(missed: Array, labels: Array, weights: Array, target: float) -> bool:
    rate, rates = missed.sum() / labels.sum(), (weights @ missed) / (weights @ labels)
    below = ((rates < rate).mean() + (rates <= rate).mean()) / 2
    bias = norm.ppf(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    without = (missed.sum() - missed) / (labels.sum() - labels)
    deviations = without.mean() - without
    acceleration = (deviations**3).sum() / (6 * max((deviations**2).sum() ** 1.5, 1e-300))
    z = bias + norm.ppf(CERTAINTY)
    return bool(np.quantile(rates, norm.cdf(bias + z / (1 - acceleration * z))) <= 1 - target)


def depers(misses: Array, sizes: Array, target: float) -> NDArray[np.bool_]:
    return np.asarray(bound_recall(sum_clusters(misses, sizes), CERTAINTY) >= target)


BOUNDS: dict[str, Callable[[Array, Array, float], NDArray[np.bool_]]] = {
    "binomial": binomial,
    "design": design,
    "whole": whole,
    "percentile-t": bootstrap(percentile_t),
    "BCa": bootstrap(bca),
    "betting": betting,
    "depers": depers,
}


def find_people() -> Iterator[tuple[str, str, list[Path], str]]:
    """Yield name, class, images and the id of that class in their labels, of the real populations."""
    root = Path(os.environ.get("DEPERS_DATA", "../shared/data"))
    photos = [*root.glob("coco_*/images/*"), *root.glob("detector/images/*/coco/*")]
    yield "people, COCO", "human", photos, "0 3"
    yield "heads, SCUT-HEAD", "head", [*root.glob("heads_scut/images/**/*")], "0"


def detect_population(name: str, class_name: str, images: list[Path], class_ids: str, folder: Path) -> Population:
    """Return a real population: its images that have labels of the class, as a YOLOv5n finds them."""
    for kind in ("images/val", "labels/val"):
        (folder / kind).mkdir(parents=True)
    for number, image in enumerate(sorted(path for path in images if path.is_file())):
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        class_id = class_ids.split()[-1 if "detector" in str(image) else 0]
        rows = [line.split() for line in label.read_text().splitlines()] if label.exists() else []
        lines = [" ".join(["0", *row[1:]]) + "\n" for row in rows if row[0] == class_id]
        if lines:
            (folder / f"images/val/{number}{image.suffix}").write_bytes(image.read_bytes())
            (folder / f"labels/val/{number}.txt").write_text("".join(lines))
    write_data_yaml(folder, [class_name], ["val"])
    weights = Path(os.environ.get("DEPERS_DATA", "../shared/data")) / "weights/yolov5n_five_classes_start.pt"
    command = [
        sys.executable,
        "-m",
        "depers.cli",
        "evaluate",
        str(folder),
        str(folder / "out"),
        "--target-recall",
        "0.9",
    ]
    subprocess.run([*command, "--weights", f"{weights}:human={class_name}"], check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(folder / "out/detect-calibration/detections.parquet")
    samples = read_samples(table, str(folder / "images/val"), read_dataset(folder))
    found = [
        covered_from(clip(s.label_boxes_xyxy, s.size_wh), grow(s.boxes_xyxy, 0.1, s.size_wh), s.confidences, 0.9)
        for s in samples
    ]
    sizes = np.array([len(confidences) for confidences in found])
    confidences = np.concatenate(found).astype(np.float64)
    text = f"{name}: {sizes.sum()} in {len(sizes)} images"
    return Population(text, confidences, np.repeat(np.arange(len(sizes)), sizes), sizes.astype(np.float64))


def measure(population: Population, images: int, draws: int) -> None:
    """Print how many draws of that many images keep the promise at the worst target, and find a threshold at half."""
    rng = np.random.default_rng(5)
    chosen = rng.integers(0, len(population.sizes), (draws, images))
    sizes = population.sizes[chosen]
    kept: dict[str, list[float]] = {name: [] for name in BOUNDS}
    found: dict[str, list[float]] = {name: [] for name in BOUNDS}
    for target in TARGETS:
        for share, results in ((1 - target, kept), ((1 - target) / 2, found)):
            misses = population.misses(share)[chosen]
            for name, bound in BOUNDS.items():
                if name not in BOOTSTRAPS or (images <= 100 and target in TARGETS[::2]):
                    results[name].append(float(bound(misses, sizes, target).mean()))
    effects = [population.design_effect(1 - target) for target in TARGETS]
    cells = [
        f"{1 - max(kept[name]):.3f}, {found[name][len(found[name]) // 3]:.2f}" if kept[name] else "" for name in BOUNDS
    ]
    label = f"{population.name}, {images} drawn"
    print(f"| {label} | {min(effects):.1f} to {max(effects):.1f} | " + " | ".join(cells) + " |", flush=True)


def measure_choice(population: Population, images: int, draws: int) -> None:
    """Print how often thresholds that are chosen keep their target, and the bound on whole images its word.

    Both the least over the targets; and how often one is found for 0.9.
    """
    ends = population.sizes.cumsum().astype(np.int64)
    starts = ends - population.sizes.astype(np.int64)
    # As confidences are, above 0 and below 1: by rank.
    ranks = (population.confidences.argsort().argsort() + 1) / (len(population.confidences) + 1)
    confidences = ranks.astype(np.float32)
    rising = np.sort(confidences)
    whole_until = np.sort(np.minimum.reduceat(confidences, starts))
    broken = np.zeros((len(TARGETS), 2))
    found = np.zeros(len(TARGETS))
    rng = np.random.default_rng(6)
    for _ in range(draws):
        chosen = rng.integers(0, len(starts), images)
        rows = np.concatenate([np.arange(starts[image], ends[image]) for image in chosen])
        members = np.repeat(np.arange(images), (ends - starts)[chosen])
        labels = ClassLabels(confidences[rows], members, members)
        for index, target in enumerate(TARGETS):
            threshold = choose_threshold(labels, target, CERTAINTY)
            if threshold is not None:
                found[index] += 1
                recall = 1 - np.searchsorted(rising, threshold, "right") / len(rising)
                whole_share = 1 - np.searchsorted(whole_until, threshold, "right") / len(whole_until)
                broken[index] += recall < target, whole_share < labels.bounds_above(threshold, CERTAINTY)[3]
    kept = [f"{share:.3f}" for share in 1 - (broken / draws).max(axis=0)]
    cells = [f"{population.name}, {images} drawn", f"{found[TARGETS.index(0.9)] / draws:.2f}", *kept]
    print("| " + " | ".join(cells) + " |", flush=True)


def measure_sizes(population: Population, draws: int, is_chosen: bool) -> None:
    """Measure with samples of few and of many images."""
    for images in (100, 400):
        (measure_choice if is_chosen else measure)(population, images, draws)


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--real", action="store_true", help="also real photographs, below DEPERS_DATA")
    parser.add_argument("--chosen", action="store_true", help="the thresholds that evaluate chooses")
    arguments = parser.parse_args()
    if arguments.chosen:
        print("Draws in which a threshold is found for 0.9; in which it keeps its target, and as many images are found")
        print("whole as is said; both the least over the targets.\n")
        print("| population | found | target | whole images |\n|---|---|---|---|")
    else:
        print("Draws in which the promise is kept, the least over the targets; in which a threshold is found for 0.9")
        print("where the recall is 0.95. Bootstraps: of 100 images, and fewer draws.\n")
        print("| population | design effect | " + " | ".join(BOUNDS) + " |\n" + "|---" * (len(BOUNDS) + 2) + "|")
    for population in (
        simulate("constant", 1, 0),
        simulate("constant", 5, 0),
        simulate("constant", 5, 0.25),
        simulate("constant", 10, 0.5),
        simulate("constant", 10, 1),
        simulate("geometric", 5, 0.2),
        simulate("geometric", 5, 0.8),
        simulate("lognormal", 4, 0.2),
        simulate("lognormal", 5, 0.5),
        simulate("lognormal", 5, 0.3, crowds=0.5),
    ):
        measure_sizes(population, arguments.draws, arguments.chosen)
    if arguments.real:
        for description in find_people():
            with tempfile.TemporaryDirectory() as folder:
                measure_sizes(detect_population(*description, Path(folder)), arguments.draws, arguments.chosen)


if __name__ == "__main__":
    main()
