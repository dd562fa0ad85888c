"""What tools remark about a label, whatever its format: that it is a region, that a model found it, or no object.

Each tool has words of its own for it: `iscrowd`, `isgroupof`, `difficult`, `DontCare`, `confidence`. Here they are one.
"""

import math
from collections.abc import Iterable, Mapping

from depers.datasets.labels import read_number

_REGION_FLAGS = frozenset(
    ("iscrowd", "crowd", "isgroupof", "groupof", "isgroup", "ignore", "ignored", "isignore", "isignored", "difficult")
    + ("isdifficult", "unsure", "isunsure", "uncertain", "dontcare")
)
_SCORES = frozenset(("score", "confidence", "conf", "probability", "prob"))
_UNSET = frozenset(("", "0", "0.0", "false", "no", "n", "f", "none", "null", "unspecified"))
_REGION_WORDS = frozenset(
    ("ignore", "ignored", "ignoreregion", "ignoreregions", "ignoredregion", "ignoredregions", "dontcare", "donotcare")
    + ("crowd", "crowds", "void", "unlabeled", "unlabelled", "unsure", "uncertain")
)


def _simplify(name: object) -> str:
    return "".join(letter for letter in str(name).casefold() if letter.isalnum())


def is_set(flag: object) -> bool:
    """Say whether a flag is set, also where it is written as text."""
    return flag.strip().casefold() not in _UNSET if isinstance(flag, str) else bool(flag)


def find_region_flags(names: Iterable[object]) -> list[object]:
    """Return those of the names of a label's fields that say of it, if they are set, that it is no single object."""
    return [name for name in names if _simplify(name) in _REGION_FLAGS]


def is_region(fields: object) -> bool:
    """Say whether one of a label's fields says that it is several objects, or one that is to teach nothing."""
    return isinstance(fields, Mapping) and any(is_set(fields[name]) for name in find_region_flags(fields))


def find_scores(names: Iterable[object]) -> list[object]:
    """Return those of the names of a label's fields that may hold a score."""
    return [name for name in names if _simplify(name) in _SCORES]


def find_score(fields: object) -> object:
    """Return the score that says that a label is a detection; None for a label. People are certain: 1."""
    if not isinstance(fields, Mapping):
        return None
    for name in find_scores(fields):
        value = fields[name]
        number = read_number(value.strip()) if isinstance(value, str) else value
        if isinstance(number, (int, float)) and not math.isnan(number) and number != 1:
            return value
    return None


def means_region(class_name: str) -> bool:
    """Say whether a class is none, but what tools call regions in which nothing is labelled."""
    return _simplify(class_name) in _REGION_WORDS


def means_background(class_name: str) -> bool:
    """Say whether a class is what lists of names call the absence of any object."""
    return _simplify(class_name) in ("background", "bg")
