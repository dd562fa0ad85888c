"""The split into train, val and calibration: whole groups, seeded, each class near its share."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence

from depers.errors import UserError

_PASSES = 8  # over all groups, at most; three or four are usually enough
_IMAGES = object()  # the stratum that every image counts in
Strata = Sequence[tuple[Hashable, int]]


def group_names(names: Sequence[str], group_by: str | None) -> list[str]:
    """Return the group of every name: what the regular expression finds (its first bracket, if any), else the name.

    Raise UserError where it finds nothing, since that image could leak from one split into the other.
    """
    if group_by is None:
        return list(names)
    groups = []
    for name in names:
        match = re.search(group_by, name)
        group = match and (match[1] if match.re.groups else match[0])
        if not group:
            raise UserError(
                f"--group-by must find something in every image's name, but {group_by!r} does not in {name!r}"
            )
        groups.append(group)
    return groups


def split(
    groups: Sequence[str],
    val_fraction: float,
    seed: int,
    strata: Sequence[Strata] | None = None,
    given_splits: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the split, train or val, of every image from its group; images of a group stay together.

    `strata` (one per image) are pairs of anything that is to be spread evenly, such as a class, and how much of it
    the image has. Groups are taken in an order that the seed decides, and moved between the splits as long as the sum
    over all strata of (share in val − val_fraction)² falls; the number of images weighs as much as all others
    together. With more than one group and a fraction above 0 neither split is empty. The order of the images does not
    matter. `given_splits` are the splits of groups that stay where they are: val, or any other.
    """
    given_splits = given_splits or {}
    members: dict[str, list[int]] = defaultdict(list)
    for index, group in enumerate(groups):
        members[group].append(index)
    contents: dict[str, dict[Hashable, int]] = {}
    totals: Counter[Hashable] = Counter()
    for group, indices in members.items():
        content: Counter[Hashable] = Counter({_IMAGES: len(indices)})
        for index in indices if strata else ():
            for stratum, amount in strata[index] if strata else ():
                content[stratum] += amount
        contents[group] = {stratum: amount for stratum, amount in content.items() if amount}
        totals.update(contents[group])
    weights = {stratum: 1 / total**2 for stratum, total in totals.items()}
    weights[_IMAGES] = max(1, len(totals) - 1) / len(groups) ** 2 if groups else 0.0
    # The excess of val over its share; integers would do but for the fraction.
    excess = {stratum: -val_fraction * total for stratum, total in totals.items()}
    ranking = sorted(members.keys() - given_splits.keys(), key=lambda group: _rank(group, seed))
    val = {group for group in members if given_splits.get(group) == "val"}
    for group in val:
        for stratum, amount in contents[group].items():
            excess[stratum] += amount
    for _ in range(_PASSES):
        move_count = 0
        for group in ranking:
            sign = -1 if group in val else 1
            if len(val) + sign == len(members):
                continue
            change = sum(
                weights[stratum] * amount * (2 * sign * excess[stratum] + amount)
                for stratum, amount in contents[group].items()
            )
            if change < -1e-12:
                (val.discard if group in val else val.add)(group)
                move_count += 1
                for stratum, amount in contents[group].items():
                    excess[stratum] += sign * amount
        if not move_count:
            break
    if not val and val_fraction > 0 and len(members) > 1 and ranking:
        val.add(min(ranking, key=lambda group: len(members[group])))
    return ["val" if group in val else "train" for group in groups]


def split_into(
    groups: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
    strata: Sequence[Strata] | None = None,
    given_splits: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the split of every image: train, or one of those that `fractions` name, each with its share of the images.

    They are split off one after another as `split` does it, each from what those before it leave. `given_splits` are
    those of groups that have theirs.
    """
    splits = ["train"] * len(groups)
    rest = list(range(len(groups)))
    remaining = 1.0
    for name, fraction in fractions.items():
        if not fraction:
            continue
        part = [strata[index] for index in rest] if strata else None
        sides = {group: "val" if side == name else "train" for group, side in (given_splits or {}).items()}
        chosen = split([groups[index] for index in rest], fraction / remaining, seed, part, sides)
        for index, side in zip(rest, chosen, strict=True):
            splits[index] = name if side == "val" else "train"
        rest = [index for index in rest if splits[index] == "train"]
        remaining -= fraction
    return splits


def _rank(group: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {group}".encode("utf-8", "surrogatepass")).digest()
