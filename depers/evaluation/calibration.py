"""Thresholds for privacy: the confidence from which a detector covers a stated share of what is labelled.

A label counts as found where the boxes of its class, grown by the margin that anonymization adds, together cover most
of its area: that is what redaction needs, and neither an overlap of 0.5, which leaves half a face, nor one box per
label says so. Every label has a highest threshold at which it is found; the class's threshold is the k-th highest of
these, where k is the least number of n labels for which the exact binomial lower bound (Clopper and Pearson 1934) on
the recall is the target. As k follows from n alone, choosing the threshold by the same labels costs nothing: it is a
distribution-free tolerance limit (Wilks 1941). It takes the labels as independent draws from what will be anonymized;
those of one image are not quite, so give it many images.

`thresholds.json`, which `depers evaluate --target-recall` writes and `depers anonymize --thresholds` takes:

    {"version": 1, "thresholds": {class name: confidence, or null where none can be supported}, "details": {…}}
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, areas_added, clip, grow
from depers.datasets.labels import read_number
from depers.detection.thresholds import VERSION
from depers.errors import UserError
from depers.evaluation.metrics import IOU_THRESHOLDS, find_ignored, match
from depers.evaluation.samples import Sample

_STEP = 1e-6  # thresholds have six decimals and lie below the confidence that shall pass them, also in float32


class Calibration(NamedTuple):
    """One class: the threshold, None with a reason where none can be supported, and what holds at it.

    `found` of `labels` are found, so that the recall is at least `bound` with the certainty asked for (both with every
    box at hand where there is no threshold); `precision` is the share of the boxes at the threshold that are right at
    IoU 0.5, `false_per_image` the number of others. None where there is no threshold.
    """

    name: str
    target: float
    labels: int
    threshold: float | None
    reason: str
    found: int
    bound: float
    precision: float | None
    false_per_image: float | None


def parse_targets(texts: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return the target recall of each class that has one: `0.99` stands for all, `face=0.995` for one.

    Raise UserError for what is no number between 0 and 1, or no class of `names`.
    """
    targets: dict[str, float] = {}
    for text in sorted(texts, key=lambda text: "=" in text):  # those for one class come last
        name, equals, value = text.rpartition("=")
        target = read_number(value)
        if not 0 < target < 1:
            raise UserError(f"--target-recall must be a number between 0 and 1, or CLASS=NUMBER, but got {text!r}")
        if equals and name not in names:
            raise UserError(f"--target-recall {text}: the class must be one of {', '.join(names)}, but is {name!r}")
        targets |= {name: target} if equals else dict.fromkeys(names, target)
    return targets


def lower_bound(covered: int, labels: int, certainty: float) -> float:
    """Return the recall that `covered` of `labels` show with that certainty, at least: exact binomial, one-sided."""
    from scipy.stats import beta

    return float(beta.ppf(1 - certainty, covered, labels - covered + 1)) if covered else 0.0


def least_labels(target: float, certainty: float) -> int:
    """Return how many labels it takes to show the target where every one of them is found."""
    return math.ceil(math.log(1 - certainty) / math.log(target))


def least_covered(labels: int, target: float, certainty: float) -> int | None:
    """Return the least number of `labels` found that shows the target; None where all of them would be too few."""
    low, high = 0, labels + 1
    while high - low > 1:  # the bound rises with what is found
        middle = (low + high) // 2
        low, high = (low, middle) if lower_bound(middle, labels, certainty) >= target else (middle, high)
    return high if high <= labels else None


def covered_from(labels_xyxy: Boxes, boxes_xyxy: Boxes, confidences: NDArray[np.float32], share: float) -> NDArray[Any]:
    """Return the highest confidence from which the boxes (N, 4) together cover `share` of each label: float32 (M,).

    The boxes come with falling confidence. 0 where all of them do not cover it.
    """
    result = np.zeros(len(labels_xyxy), np.float32)
    for index, (x0, y0, x1, y1) in enumerate(labels_xyxy.astype(np.float64).tolist()):
        if x1 <= x0 or y1 <= y0:
            continue
        areas = areas_added((x0, y0, x1, y1), boxes_xyxy).cumsum()
        enough = np.flatnonzero(areas >= share * (x1 - x0) * (y1 - y0) * (1 - 1e-9))
        if len(enough):
            result[index] = confidences[enough[0]]
    return result


def calibrate(
    samples: Sequence[Sample],
    names: Sequence[str],
    detectable: Sequence[str],
    targets: Mapping[str, float],
    *,
    margin: float,
    coverage: float,
    certainty: float,
) -> list[Calibration]:
    """Calibrate every class that has a target; `detectable` are the classes that the weights know."""
    return [
        _calibrate_class(samples, names.index(name), name, target, name in detectable, margin, coverage, certainty)
        for name, target in targets.items()
    ]


def _calibrate_class(
    samples: Sequence[Sample],
    class_id: int,
    name: str,
    target: float,
    detectable: bool,
    margin: float,
    coverage: float,
    certainty: float,
) -> Calibration:
    from_confidence, confidences, correct = [np.zeros(0)], [np.zeros(0)], [np.zeros(0, np.bool_)]
    images = 0
    for sample in samples:
        if class_id not in sample.labelled:
            continue
        images += 1
        of_class, labels = sample.class_ids == class_id, sample.label_boxes_xyxy[sample.label_ids == class_id]
        boxes, scores = sample.boxes_xyxy[of_class], sample.confidences[of_class]
        visible = clip(labels, sample.size_wh)
        from_confidence.append(covered_from(visible, grow(boxes, margin, sample.size_wh), scores, coverage))
        ids = np.zeros(len(boxes), np.int64), np.zeros(len(labels), np.int64)
        right = match(boxes, ids[0], labels, ids[1], IOU_THRESHOLDS[:1])
        counted = ~find_ignored(right, sample.shares_ignored()[of_class])[:, 0]
        confidences.append(scores[counted])
        correct.append(right[counted, 0])
    falling = np.sort(np.concatenate(from_confidence))[::-1]
    count, reachable = len(falling), int((falling > 0).sum())
    bound = lower_bound(reachable, count, certainty)
    refused = Calibration(name, target, count, None, "", reachable, bound, None, None)
    if not detectable:
        return refused._replace(reason="these weights do not know the class")
    least = least_covered(count, target, certainty)
    if least is None:
        enough = least_labels(target, certainty)
        return refused._replace(reason=f"at least {enough} labels are needed to show it, but there are {count}")
    if reachable < least:
        share = f"{reachable} of {count} labels are found with every box at hand, which shows a recall of {bound:.4f}"
        return refused._replace(reason=f"{share} only")
    threshold = round((math.floor(float(falling[least - 1]) / _STEP) - 1) * _STEP, 6)
    if threshold <= 0:
        return refused._replace(reason="only boxes of no confidence would reach it")
    covered = int((falling > threshold).sum())
    confident, hits = np.concatenate(confidences) > threshold, np.concatenate(correct)
    return Calibration(
        name=name,
        target=target,
        labels=count,
        threshold=threshold,
        reason="",
        found=covered,
        bound=lower_bound(covered, count, certainty),
        precision=float(hits[confident].mean()) if confident.any() else 0.0,
        false_per_image=float((confident & ~hits).sum() / max(images, 1)),
    )


def format_thresholds(calibrations: Sequence[Calibration], details: Mapping[str, Any]) -> str:
    """Return the text of thresholds.json; `details` say how the thresholds were found."""
    classes = {row.name: {k: v for k, v in row._asdict().items() if k != "name"} for row in calibrations}
    content = {
        "version": VERSION,
        "thresholds": {row.name: row.threshold for row in calibrations},
        "details": {**details, "classes": classes},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def format_table(calibrations: Sequence[Calibration]) -> str:
    """Return the calibration for the terminal, a line per class."""
    heads = ("Labels", "Target", "Threshold", "Recall", "at least", "P", "False/image")
    lines = [f"{'Class':>22}" + "".join(f"{head:>12}" for head in heads)]
    for row in calibrations:
        if row.threshold is None:
            lines.append(f"{row.name:>22}{row.labels:12}{row.target:12g}        none: {row.reason}")
        else:
            figures = (row.threshold, row.found / row.labels, row.bound, row.precision, row.false_per_image)
            cells = "".join(f"{value:12.4g}" for value in figures)
            lines.append(f"{row.name:>22}{row.labels:12}{row.target:12g}{cells}")
    return "\n".join(lines)
