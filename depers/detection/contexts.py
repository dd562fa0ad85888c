"""What lies where it belongs: a licence plate on a vehicle is believed sooner than one on a wall.

A rule `CLASS=CONTEXT` says that a box of the class whose center lies in no box of the context has a tenth of its
confidence. Thresholds, figures and suppression see that confidence alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from depers.boxes import have_center_in
from depers.detection.detections import Detections
from depers.errors import UserError

NO_RULE = "none"
"""What `--within` calls no rule, also where there would be one by default."""
CONTEXT_CONFIDENCE = 0.1
"""Least confidence of a box that is a context."""
_OUTSIDE = np.float32(0.1)  # what the confidence of a box outside is multiplied by

Rule = tuple[str, str]
"""The name of a class, and that of its context."""


def parse_rules(texts: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules that `CLASS=CONTEXT,…` say. Raise UserError for any other text, and for two about a class."""
    pairs = [pair.strip() for text in texts for pair in text.split(",")]
    if pairs == [NO_RULE]:
        return ()
    rules: dict[str, str] = {}
    for pair in pairs:
        name, equals, context = (part.strip() for part in pair.partition("="))
        if not (equals and name and context) or name == context or name in rules:
            raise UserError(
                f"--within must be CLASS=CONTEXT, once for a class, with two classes that differ, or {NO_RULE},"
                f" but got {pair!r}"
            )
        rules[name] = context
    return tuple(rules.items())


def format_rules(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Return rules as texts, in the order of their classes."""
    return tuple(f"{name}={context}" for name, context in sorted(rules))


def discount(parts: Sequence[Detections], contexts: Mapping[int, int]) -> list[Detections]:
    """Return detections of the views of one image, in its pixels, with a tenth of the confidence of those outside.

    `contexts` are ids of classes with those of their contexts, which count wherever a view has found them.
    """
    confidences = [part.confidences.copy() for part in parts]
    for class_id, context_id in contexts.items():
        context_xyxy = np.concatenate([_select_contexts(part, context_id) for part in parts])
        for part, values in zip(parts, confidences, strict=True):
            is_outside = (part.class_ids == class_id) & ~have_center_in(part.boxes_xyxy, context_xyxy)
            values[is_outside] *= _OUTSIDE
    return [_sort(part._replace(confidences=values)) for part, values in zip(parts, confidences, strict=True)]


def _sort(detections: Detections) -> Detections:
    """Return detections with the highest confidence first."""
    return detections.select(np.argsort(-detections.confidences, kind="stable"))


def _select_contexts(part: Detections, context_id: int) -> NDArray[np.float32]:
    is_context = (part.class_ids == context_id) & (part.confidences >= CONTEXT_CONFIDENCE)
    return np.asarray(part.boxes_xyxy[is_context], np.float32)
