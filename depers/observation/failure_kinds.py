"""Reasons of failed files, by kind: a metric's label must have few values, and a reason names paths and numbers."""

import re
from enum import StrEnum


class FailureKind(StrEnum):
    """Whose a failure is."""

    STORAGE = "storage"
    """It could not be read or written."""
    DAMAGED = "damaged"
    """It is cut off, or not what its format says."""
    LIMIT = "limit"
    """It is larger, slower or holds more than is allowed."""
    CRASH = "crash"
    """It ends the process that works on it."""
    BOXES = "boxes"
    """What is known about its boxes is not about it, or cannot be meant."""
    DETECTOR = "detector"
    """The detector gave no answer that can be used."""
    NAME = "name"
    """It has a path that no result can have."""
    OTHER = "other"


_PATTERNS = (
    (FailureKind.CRASH, r"ends the process|processes ended|workers have ended"),
    (FailureKind.LIMIT, r"took longer than|must have at most|more than --|megapixels|--max-"),
    (FailureKind.NAME, r"^a (path|name|key) must|must be a folder, but is|two names"),
    (
        FailureKind.BOXES,
        r"boxes? (cannot|were found)|has no (row|labels|digest)|has a box|(has|shares) (its )?labels|has lost its boxes"
        r"|several rows|nobody looked|changed since its boxes|but its boxes are|is called .* in |YOLO text",
    ),
    (FailureKind.DETECTOR, r"detection failed|detector|not finite"),
    (FailureKind.STORAGE, r"cannot be (read|written|recorded) \(|storage|an earlier result cannot be removed"),
    (
        FailureKind.DAMAGED,
        r"damaged|truncated|cut off|cannot be (decoded|prepared|finished|read|opened|redacted)|must be an? |must hold"
        r"|invalid|corrupt|broken|incomplete|encrypted|is no ",
    ),
)
_KINDS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _PATTERNS)


def classify_reason(reason: str) -> FailureKind:
    """Return the kind of a reason; of one that nobody foresaw `other`."""
    return next((kind for kind, pattern in _KINDS if pattern.search(reason)), FailureKind.OTHER)
