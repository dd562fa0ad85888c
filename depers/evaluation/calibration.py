"""Thresholds for privacy: the confidence from which a detector covers a stated share of what is labelled.

A label counts as found where the boxes of its class, grown by the margin that anonymization adds, together cover most
of its area: that is what redaction needs, and neither an overlap of 0.5, which leaves half a face, nor one box per
label says so. Every label has a highest threshold at which it is found. Thresholds are tried from the lowest on, each
with the lower bound on recall that `recall_bounds` gives for labels that come in images, or in groups of images; the
class's threshold is the last before the first that does not show the target. As recall falls with the threshold, this
order costs nothing: to be wrong, the bound must be wrong at the one threshold where the recall is just below the target
(fixed sequence testing, as in Learn then Test, Angelopoulos et al. 2021). It takes images, or groups, as independent
draws from what will be anonymized.

`detection/thresholds.py` describes `thresholds.json`, which `depers evaluate --target-recall` writes and
`depers anonymize --thresholds` takes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, areas_added, clip, grow
from depers.detection.thresholds import VERSION, Settings
from depers.evaluation.metrics import IOU_THRESHOLDS, find_ignored, match
from depers.evaluation.recall_bounds import MOST_CLUSTERS, bound_as_missed, least_clusters, lower_bound
from depers.evaluation.samples import Sample

_STEP = 1e-6  # thresholds have six decimals and lie below the confidence that shall pass them, also in float32


class Calibration(NamedTuple):
    """One class: the threshold, None with a reason where none can be supported, and what holds at it.

    `found` of `labels` are found, in `images` that have any, of so many `groups`; so the recall is at least `bound`
    with the certainty asked for. In `whole_images` of the images nothing is missed, and their share is at least
    `whole_bound`, with the certainty that a given threshold would have: that it was chosen on the same images, by the
    recall, is left out of account (`bench/thresholds.py --chosen` measures what that does). All of these with every box
    at hand where there is no threshold. `precision` is the share of the boxes at the threshold that are right at IoU
    0.5, `false_per_image` the number of others; None where there is no threshold.
    """

    name: str
    target: float
    groups: int
    images: int
    labels: int
    threshold: float | None
    reason: str
    found: int
    bound: float
    whole_images: int
    whole_bound: float
    precision: float | None
    false_per_image: float | None


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


class ClassLabels(NamedTuple):
    """A class's labels, each with the confidence from which it is found, its image and its group, counted from 0."""

    from_confidence: NDArray[np.float32]
    images: NDArray[np.int64]
    groups: NDArray[np.int64]

    def bounds_above(self, threshold: float, certainty: float) -> tuple[int, float, int, float]:
        """Return labels found above the threshold, the bound on recall, images without a miss, and that on those."""
        misses = self.from_confidence <= threshold
        labels = np.bincount(self.groups, minlength=1)
        bound = lower_bound(np.bincount(self.groups, misses, len(labels)), labels, certainty)
        images, first = np.unique(self.images, return_index=True)
        with_misses = np.isin(images, self.images[misses])
        group_of_image = self.groups[first]
        image_counts = np.bincount(group_of_image, minlength=1)
        whole_bound = lower_bound(np.bincount(group_of_image, with_misses, len(image_counts)), image_counts, certainty)
        return int((~misses).sum()), bound, int((~with_misses).sum()), whole_bound


def calibrate(
    samples: Sequence[Sample],
    names: Sequence[str],
    detectable: Sequence[str],
    targets: Mapping[str, float],
    *,
    margin: float,
    coverage: float,
    certainty: float,
    groups: Sequence[str] | None = None,
) -> list[Calibration]:
    """Calibrate every class that has a target; `detectable` are the classes that the weights know.

    `groups` says for every sample which others it goes with (default: each image stands alone).
    """
    group_names = [sample.path for sample in samples] if groups is None else groups
    ids = np.unique(np.array(group_names, np.str_), return_inverse=True)[1] if samples else np.zeros(0, np.int64)
    is_grouped = len(set(group_names)) < len(samples)
    return [
        _calibrate_class(
            samples, ids, is_grouped, names.index(name), name, target, name in detectable, margin, coverage,
            certainty,
        )
        for name, target in targets.items()
    ]  # fmt: skip


def _calibrate_class(
    samples: Sequence[Sample],
    group_ids: NDArray[np.int64],
    is_grouped: bool,
    class_id: int,
    name: str,
    target: float,
    detectable: bool,
    margin: float,
    coverage: float,
    certainty: float,
) -> Calibration:
    from_confidence, confidences, correct = [np.zeros(0, np.float32)], [np.zeros(0)], [np.zeros(0, np.bool_)]
    image_ids = [np.zeros(0, np.int64)]
    labelled_images = 0
    for index, sample in enumerate(samples):
        if class_id not in sample.labelled:
            continue
        labelled_images += 1
        of_class, labels = sample.class_ids == class_id, sample.label_boxes_xyxy[sample.label_ids == class_id]
        boxes, scores = sample.boxes_xyxy[of_class], sample.confidences[of_class]
        visible = clip(labels, sample.size_wh)
        from_confidence.append(covered_from(visible, grow(boxes, margin, sample.size_wh), scores, coverage))
        image_ids.append(np.full(len(labels), index, np.int64))
        ids = np.zeros(len(boxes), np.int64), np.zeros(len(labels), np.int64)
        right = match(boxes, ids[0], labels, ids[1], IOU_THRESHOLDS[:1])
        counted = ~find_ignored(right, sample.shares_ignored()[of_class])[:, 0]
        confidences.append(scores[counted])
        correct.append(right[counted, 0])
    images = np.concatenate(image_ids)
    class_labels = ClassLabels(np.concatenate(from_confidence), images, group_ids[images])
    reachable, bound, whole_count, whole_bound = class_labels.bounds_above(0, certainty)
    group_sizes = np.unique(class_labels.groups, return_counts=True)[1]
    counts = len(group_sizes), len(np.unique(images)), len(images)
    refused = Calibration(name, target, *counts, None, "", reachable, bound, whole_count, whole_bound, None, None)
    if not detectable:
        return refused._replace(reason="these weights do not know the class")
    least = least_clusters(group_sizes, target, certainty)
    if least is None or len(group_sizes) < least:
        kind = "groups" if is_grouped else "images"
        units = f"{kind} like these with labels of the class" if len(images) else f"{kind} with a label of the class"
        number = f"more than {MOST_CLUSTERS}" if least is None else f"at least {least}"
        return refused._replace(reason=f"{number} {units} are needed to show it, but there are {len(group_sizes)}")
    threshold = choose_threshold(class_labels, target, certainty)
    if threshold is None:
        share = f"{reachable} of {len(images)} labels are found with every box at hand"
        return refused._replace(reason=f"{share}, which shows a recall of {bound:.4f} only")
    if threshold <= 0:
        return refused._replace(reason="only boxes of no confidence would reach it")
    covered, bound, whole_count, whole_bound = class_labels.bounds_above(threshold, certainty)
    confident, hits = np.concatenate(confidences) > threshold, np.concatenate(correct)
    return Calibration(
        name,
        target,
        *counts,
        threshold=threshold,
        reason="",
        found=covered,
        bound=bound,
        whole_images=whole_count,
        whole_bound=whole_bound,
        precision=float(hits[confident].mean()) if confident.any() else 0.0,
        false_per_image=float((confident & ~hits).sum() / max(labelled_images, 1)),
    )


def choose_threshold(class_labels: ClassLabels, target: float, certainty: float) -> float | None:
    """Return the highest threshold up to which every one shows the target, rounded down; None where none does."""
    order = np.argsort(class_labels.from_confidence, kind="stable")
    rising = class_labels.from_confidence[order]
    bounds = bound_as_missed(class_labels.groups[order], certainty)[:-1]  # where those before each label are missed
    candidates = np.flatnonzero(np.diff(rising, prepend=np.float32(0)) > 0)  # of equals the first
    failures = np.flatnonzero(bounds[candidates] < target)
    passing = candidates[: failures[0]] if len(failures) else candidates
    if not len(passing):
        return None
    return round((math.floor(float(rising[passing[-1]]) / _STEP) - 1) * _STEP, 6)


def format_thresholds(calibrations: Sequence[Calibration], settings: Settings, details: Mapping[str, Any]) -> str:
    """Return the text of thresholds.json; `details` say how the thresholds were found."""
    classes = {row.name: {k: v for k, v in row._asdict().items() if k != "name"} for row in calibrations}
    content = {
        "version": VERSION,
        "thresholds": {row.name: row.threshold for row in calibrations},
        "settings": settings.as_dict(),
        "details": {**details, "classes": classes},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def certainty_together(calibrations: Sequence[Calibration], certainty: float) -> float:
    """Return how certain it is at least that the bounds of all classes with a threshold hold at once (Bonferroni)."""
    promises = sum(row.threshold is not None for row in calibrations)
    return round(max(0.0, 1 - promises * (1 - certainty)), 6)


def describe_certainty(calibrations: Sequence[Calibration], certainty: float) -> str:
    """Return what the bounds of the table promise, each by itself and all together."""
    text = f"Each bound (at least) holds by itself, with a certainty of {certainty:g}"
    promises = sum(row.threshold is not None for row in calibrations)
    if promises < 2:
        return f"{text}."
    together = certainty_together(calibrations, certainty)
    alone = 1 - (1 - certainty) / promises
    return (
        f"{text}; those of all {promises} classes at once with {together:g} or more (--certainty {alone:.4g} makes it"
        f" {certainty:g})."
    )


def format_table(calibrations: Sequence[Calibration], certainty: float) -> str:
    """Return the calibration for the terminal, a line per class, and what its bounds promise."""
    grouped = any(row.groups != row.images for row in calibrations)
    heads = [*(["Groups"] if grouped else []), "Images", "Labels", "Target", "Threshold", "Recall", "at least"]
    heads += ["Whole", "at least", "P", "False/image"]
    lines = [f"{'Class':>22}" + "".join(f"{head:>12}" for head in heads)]
    for row in calibrations:
        counts = [*([row.groups] if grouped else []), row.images, row.labels, row.target]
        line = f"{row.name:>22}" + "".join(f"{value:12g}" for value in counts)
        if row.threshold is None:
            lines.append(f"{line}        none: {row.reason}")
        else:
            shares = row.found / row.labels, row.bound, row.whole_images / row.images, row.whole_bound
            figures = (row.threshold, *shares, row.precision, row.false_per_image)
            lines.append(line + "".join(f"{value:12.4g}" for value in figures))
    lines.append("Whole: the share of images in which nothing of the class is missed.")
    return "\n".join([*lines, describe_certainty(calibrations, certainty)])
