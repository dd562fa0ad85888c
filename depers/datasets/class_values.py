"""Options that give each class a share: `0.99` for all, `face=0.995` for one."""

from collections.abc import Sequence

from depers.datasets.labels import read_number
from depers.errors import UserError


def read_class_shares(texts: Sequence[str], names: Sequence[str], option: str) -> dict[str, float]:
    """Return the share, more than 0 and less than 1, of each of the classes `names` that has one.

    What is given for one class counts before what is given for all. Raise UserError, which names `option`, for what is
    no such number, or no class of `names`.
    """
    shares: dict[str, float] = {}
    for text in sorted(texts, key=lambda text: "=" in text):  # those for one class come last
        name, equals, value = text.rpartition("=")
        share = read_number(value)
        if not 0 < share < 1:
            raise UserError(f"{option} must be a number between 0 and 1, or CLASS=NUMBER, but got {text!r}")
        if equals and name not in names:
            raise UserError(f"{option} {text}: the class must be one of {', '.join(names)}, but is {name!r}")
        shares |= {name: share} if equals else dict.fromkeys(names, share)
    return shares
