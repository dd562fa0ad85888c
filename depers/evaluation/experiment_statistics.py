"""What an experiment's trainings say: the number of steps of each arm, differences, and how certain they are.

The rule, the figures and the contrast are stated here, before any training; nothing in them can be chosen afterwards.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from depers.evaluation import metrics
from depers.evaluation.metrics import MatchedImage
from depers.seeds import Branch, random_for
from depers.storage import tables

REAL, AUGMENTED, SYNTHETIC = "real", "real+augmented", "real+synthetic"
ARMS = (REAL, AUGMENTED, SYNTHETIC)
WINDOW = 3
"""Validations whose mean is the figure of a training at the last of them: a single one scatters."""
DRAWS = 500
RULE = (
    f"A training's figure after a number of steps is the mean of the last {WINDOW} validations up to it. Of each size"
    " and arm, the number of steps of a seed is that at which the mean figure of all other seeds is highest."
)
CONTRAST = f"mAP@.5 of {SYNTHETIC} minus {REAL}, the mean over sizes and seeds"
"""What the experiment is about: one number, named before the first training. All else is beside it."""
INTERVAL = (
    "The intervals hold the mean difference with 95 % certainty: Student's t with the deviation of"
    f" {DRAWS} resamples of the seeds and, together for all trainings, of the validation images."
)
_CERTAINTY = 0.95
_LABELS = b"labels of each image by class"


class TrainingResult(NamedTuple):
    """One training: real images, seed, arm, synthetic images, seconds, and by validation steps and figures so far."""

    size: int
    seed: int
    arm: str
    synthetic: int
    seconds: float
    steps: tuple[int, ...]
    map50: tuple[float, ...]
    map50_95: tuple[float, ...]


class Key(NamedTuple):
    """Which training."""

    size: int
    seed: int
    arm: str


class Matches(NamedTuple):
    """The detections of one validation at IoU 0.5, by class with falling confidence: the numbers of their images, and
    which are correct; `label_counts` (I, C) of the images."""

    images: tuple[NDArray[np.int32], ...]
    correct: tuple[NDArray[np.bool_], ...]
    label_counts: NDArray[np.int64]


class Difference(NamedTuple):
    """A mean difference between arms, its interval (NaN for a single seed), and in how many seeds it is above 0."""

    mean: float
    low: float
    high: float
    wins: int
    seeds: int

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if math.isnan(self.low):
            return "one seed says nothing"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "undecided"

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; what there is not is null."""
        values = {name: None if math.isnan(value) else value for name, value in self._asdict().items()}
        return {**values, "verdict": self.verdict}


class ArmFigures(NamedTuple):
    """An arm at one size: means and standard deviation (mAP@.5) over seeds, and the steps chosen for each seed."""

    map50: float
    map50_sd: float
    map50_95: float
    steps: tuple[int, ...]


class SizeComparison(NamedTuple):
    """One training-set size: its arms, and what synthetic images bring against each of the others."""

    size: int
    synthetic: int
    seeds: int
    arms: Mapping[str, ArmFigures]
    over_real: Difference
    over_augmented: Difference

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return {
            "real_images": self.size,
            "synthetic_images": self.synthetic,
            "seeds": self.seeds,
            "arms": {arm: figures._asdict() for arm, figures in self.arms.items()},
            "over_real": self.over_real.as_dict(),
            "over_augmented": self.over_augmented.as_dict(),
        }


class Comparison(NamedTuple):
    """The contrast over all sizes, the same against augmentation alone, and a row per size."""

    over_real: Difference
    over_augmented: Difference
    sizes: tuple[SizeComparison, ...]


def smooth(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each validation the mean of the last `WINDOW` up to it (V,); of fewer where there are no more."""
    array = np.asarray(values, np.float64)
    return np.array([array[max(0, end - WINDOW) : end].mean() for end in range(1, len(array) + 1)])


def choose_validations(curves: NDArray[np.float64]) -> list[int]:
    """Return for each seed the validation at which its training counts; `curves` (S, V) are smoothed figures.

    It is the best one of the other seeds' mean, so that no seed's own luck chooses; the last one for a single seed.
    """
    count = len(curves)
    if count == 1:
        return [curves.shape[1] - 1]
    return [int((curves.sum(0) - curves[seed]).argmax()) for seed in range(count)]


def sort_matches(images: Sequence[MatchedImage], class_count: int) -> Matches:
    """Return the matched detections of a validation in the order in which average precision needs them."""
    judged = [metrics.drop_ignored(image) for image in images]
    numbers = np.repeat(np.arange(len(judged), dtype=np.int32), [len(image.confidences) for image in judged])
    confidences, ids = (np.concatenate([image[column] for image in judged]) for column in (1, 2))
    correct = np.concatenate([image.correct[:, 0] for image in judged])
    order = np.argsort(-confidences, kind="stable")
    rows = [order[ids[order] == class_id] for class_id in range(class_count)]
    counts = np.array([np.bincount(image.label_ids, minlength=class_count) for image in judged])
    return Matches(tuple(numbers[row] for row in rows), tuple(correct[row] for row in rows), counts)


def format_matches(matches: Matches) -> bytes:
    """Return the content of a file that `read_matches` reads: a Parquet table with a row per detection."""
    counts = [len(images) for images in matches.images]
    columns = {
        "class_id": np.repeat(np.arange(len(counts), dtype=np.int16), counts),
        "image": np.concatenate(matches.images),
        "correct": np.concatenate(matches.correct),
    }
    labels = json.dumps(matches.label_counts.tolist())
    return tables.to_parquet(pa.table(columns).replace_schema_metadata({_LABELS: labels}))


def read_matches(data: bytes) -> Matches:
    """Return what `format_matches` has written."""
    table = pq.read_table(pa.BufferReader(data))
    labels = np.array(json.loads(table.schema.metadata[_LABELS]), np.int64)
    class_ids, images, correct = (table[name].to_numpy() for name in ("class_id", "image", "correct"))
    ends = np.searchsorted(class_ids, np.arange(1, labels.shape[1]))
    return Matches(tuple(np.split(images, ends)), tuple(np.split(correct, ends)), labels)


def measure_map50(matches: Matches, weights: NDArray[np.float64]) -> float:
    """Return mAP@.5 where each image counts as often as `weights` (I,) say; all 1: that of `metrics.measure`."""
    precisions = []
    for class_id, labels in enumerate((weights @ matches.label_counts).tolist()):
        if not labels:
            continue
        counts = weights[matches.images[class_id]]
        true = (counts * matches.correct[class_id]).cumsum()
        precision = true / np.maximum(counts.cumsum(), 1e-9)
        precisions.append(metrics.average_precision(true / labels, precision) if len(true) else 0.0)
    return float(np.mean(precisions)) if precisions else 0.0


def compare(
    results: Sequence[TrainingResult], validations: Mapping[Key, Sequence[Matches]], draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compare the arms; `validations` are the matched detections of each training, by validation.

    Every size must have the same seeds, each with all arms. `seed` is that of the resamples.
    """
    by_key = {Key(result.size, result.seed, result.arm): result for result in results}
    sizes, seeds = (sorted({getattr(result, name) for result in results}) for name in ("size", "seed"))
    figures = np.zeros((len(ARMS), len(sizes), len(seeds)))
    resampled = np.zeros((*figures.shape, draws))
    rng = random_for(seed, Branch.EXPERIMENT_RESAMPLES)
    image_count = len(next(iter(validations.values()))[0].label_counts)
    image_weights = rng.multinomial(image_count, np.full(image_count, 1 / image_count), draws).astype(np.float64)
    seed_weights = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), draws) / len(seeds)
    rows = []
    for row, size in enumerate(sizes):
        arms = {}
        for arm_number, arm in enumerate(ARMS):
            trainings = [by_key[Key(size, seed, arm)] for seed in seeds]
            choices = choose_validations(np.array([smooth(training.map50) for training in trainings]))
            for column, (training, validation) in enumerate(zip(trainings, choices, strict=True)):
                figures[arm_number, row, column] = smooth(training.map50)[validation]
                window = validations[Key(size, training.seed, arm)][max(0, validation + 1 - WINDOW) : validation + 1]
                for draw, weights in enumerate(image_weights):
                    resampled[arm_number, row, column, draw] = np.mean([measure_map50(m, weights) for m in window])
            values = figures[arm_number, row]
            map50_95 = [smooth(t.map50_95)[validation] for t, validation in zip(trainings, choices, strict=True)]
            steps = tuple(t.steps[validation] for t, validation in zip(trainings, choices, strict=True))
            deviation = float(values.std(ddof=1)) if len(seeds) > 1 else math.nan
            arms[arm] = ArmFigures(float(values.mean()), deviation, float(np.mean(map50_95)), steps)
        synthetic = by_key[Key(size, seeds[0], SYNTHETIC)].synthetic
        over = [_differ(figures[:, row : row + 1], resampled[:, row : row + 1], seed_weights, arm) for arm in ARMS[:2]]
        rows.append(SizeComparison(size, synthetic, len(seeds), arms, *over))
    over_real, over_augmented = (_differ(figures, resampled, seed_weights, arm) for arm in ARMS[:2])
    return Comparison(over_real, over_augmented, tuple(rows))


def _differ(
    figures: NDArray[np.float64], resampled: NDArray[np.float64], seed_weights: NDArray[np.float64], arm: str
) -> Difference:
    """Return how much higher the figures (A, N, S) of synthetic images are than those of another arm."""
    first, second = ARMS.index(arm), ARMS.index(SYNTHETIC)
    by_seed = (figures[second] - figures[first]).mean(0)
    differences = (resampled[second] - resampled[first]).mean(0)  # (S, draws)
    return bound(by_seed, (differences * seed_weights.T).sum(0))


def bound(by_seed: NDArray[np.float64], means: NDArray[np.float64]) -> Difference:
    """Return the mean of the differences `by_seed` (S,) with its interval, by the `means` of the resamples (draws,)."""
    from scipy.stats import t

    count, mean, half = len(by_seed), float(by_seed.mean()), math.nan
    if count > 1:
        deviation = float(means.std(ddof=1)) * math.sqrt(count / (count - 1))  # resampled seeds spread less
        half = float(t.ppf((1 + _CERTAINTY) / 2, count - 1)) * deviation
    return Difference(mean, mean - half, mean + half, int((by_seed > 0).sum()), count)
