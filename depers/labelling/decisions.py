"""Decide what detectors teach about one image: pure functions on boxes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.boxes import Boxes, have_center_in, intersection_over_union
from depers.detection.detections import Detections


class Rules(NamedTuple):
    """When a box is a label, by class id: at least this confidence, found by at least this many of the weights.

    What is less certain than that, but at least `ignore_confidence`, is an ignore region. Boxes of one class that
    overlap by `iou_threshold` or more are one object. Of a class in `contexts`, only boxes count whose center lies in a
    box of the context's class, labelled or found with at least `ignore_confidence`: any other is background.
    """

    confidences: Mapping[int, float]
    agreements: Mapping[int, int]
    ignore_confidence: float
    iou_threshold: float = 0.5
    contexts: Mapping[int, int] = MappingProxyType({})


class Objects(NamedTuple):
    """What was found in one image, each object once, most certain first.

    `boxes_xyxy` float32 (N, 4) in pixels, `class_ids` int64 (N,), `confidences` float32 (N,) of its most certain box,
    `votes` int64 (N,): how many weights found it, `is_label` bool (N,): taught; otherwise it is an ignore region.
    """

    boxes_xyxy: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    confidences: NDArray[np.float32]
    votes: NDArray[np.int64]
    is_label: NDArray[np.bool_]


def decide(detections: Detections, known_xyxy: Boxes, known_ids: NDArray[np.int64], rules: Rules) -> Objects:
    """Return the objects of the classes in `rules` that are not among the known ones, and which of them are labels.

    `detections` are those of all weights together, `known_xyxy` (M, 4) and `known_ids` (M,) what people labelled. The
    box of an object is the most certain one; its confidence is that box's.
    """
    detections = detections.select(detections.confidences >= rules.ignore_confidence)
    chosen = np.isin(detections.class_ids, list(rules.confidences))
    for class_id, context_id in rules.contexts.items():
        is_context, is_known_context = detections.class_ids == context_id, known_ids == context_id
        context_xyxy = np.concatenate([detections.boxes_xyxy[is_context], known_xyxy[is_known_context]])
        chosen &= (detections.class_ids != class_id) | have_center_in(detections.boxes_xyxy, context_xyxy)
    detections = detections.select(np.flatnonzero(chosen))
    detections = detections.select(np.argsort(-detections.confidences, kind="stable"))
    is_same_class = detections.class_ids[:, None] == detections.class_ids[None]
    overlaps = is_same_class & (
        intersection_over_union(detections.boxes_xyxy, detections.boxes_xyxy) >= np.float32(rules.iou_threshold)
    )
    is_known = (
        (intersection_over_union(detections.boxes_xyxy, known_xyxy) >= np.float32(rules.iou_threshold))
        & (detections.class_ids[:, None] == known_ids[None])
    ).any(axis=1)
    is_free = np.ones(len(detections.confidences), np.bool_)
    firsts, votes = [], []
    for index in range(len(is_free)):
        if is_free[index]:
            members = overlaps[index] & is_free
            members[index] = True
            is_free &= ~members
            if not is_known[members].any():
                firsts.append(index)
                votes.append(len(set(detections.models[members].tolist())))
    objects, counts = detections.select(np.array(firsts, np.int64)), np.array(votes, np.int64)
    ids = objects.class_ids.tolist()
    least = np.array([rules.confidences[class_id] for class_id in ids], np.float32)
    agreement = np.array([rules.agreements[class_id] for class_id in ids], np.int64)
    is_label = (objects.confidences >= least) & (counts >= agreement)
    return Objects(objects.boxes_xyxy, objects.class_ids, objects.confidences, counts, is_label)
