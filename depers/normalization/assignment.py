"""Which image goes where: the split, the names in the dataset, and the tasks that write it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from depers import storage
from depers.datasets.splits import Strata, group_names, split
from depers.errors import UserError
from depers.normalization.catalog import Catalogue
from depers.normalization.index import LabelIndex
from depers.normalization.rules import Box
from depers.normalization.writing import Task


class Plan(NamedTuple):
    """Where every image goes: names in the dataset and splits by the catalogue's number, "" where it is left out."""

    names: list[str]
    splits: list[str]

    @property
    def total(self) -> int:
        """The images that are not left out."""
        return sum(map(bool, self.splits))


def split_anew(
    catalogue: Catalogue,
    left_out: set[int],
    class_ids: Mapping[int, int],
    index: LabelIndex,
    how: tuple[float, int, str | None],
) -> Plan:
    """Splits the images, but those `left_out`, by `how`: the share of val, a seed, the groups' regular expression.

    Spread evenly are the boxes of every class (`class_ids` are the dataset's, by the catalogue's class numbers), the
    images without any, and the sets. Raises UserError where the expression finds nothing in an image's name.
    """
    val_fraction, seed, group_by = how
    numbers = [number for number in range(len(catalogue.images)) if number not in left_out]
    names = [one.prefix + image.name for one, image in catalogue.images]
    groups = group_names([catalogue.images[number][1].name for number in numbers], group_by)
    groups = [catalogue.images[n][0].prefix + group for n, group in zip(numbers, groups, strict=True)]
    own: dict[str, Strata] = {one.prefix: [(one.prefix, 1)] if one.prefix else [] for one in catalogue.sets}
    strata: list[Strata] = [[("background", 1), *own[one.prefix]] for one, _ in catalogue.images]
    for number, counts in index.class_counts():
        if known := [(class_ids[c], count) for c, count in counts if c in class_ids]:
            strata[number] = [*known, *own[catalogue.images[number][0].prefix]]
    splits = [""] * len(names)
    chosen = split(groups, val_fraction, seed, [strata[number] for number in numbers])
    for number, where in zip(numbers, chosen, strict=True):
        splits[number] = where
    return Plan(names, splits)


def split_as_found(catalogue: Catalogue, left_out: set[int]) -> Plan:
    """Splits the images, but those `left_out`, as their folders say. Raises UserError where those say nothing."""
    names = [one.prefix + image.name for one, image in catalogue.images]
    splits = [""] * len(names)
    taken: dict[tuple[str, str], str] = {}
    for number, (one, image) in enumerate(catalogue.images):
        if number in left_out:
            continue
        splits[number], name = own_split(image.name)
        names[number] = one.prefix + name
        other = taken.setdefault((splits[number], names[number]), image.path)
        if splits[number] and other != image.path:
            raise UserError(f"{one.uri}: with --keep-splits, {other} and {image.path} would be the same image")
    return Plan(names, splits)


def own_split(name: str) -> tuple[str, str]:
    """The split that an image's folder says (train2017, valid, …; "" for test), and its name without that folder.

    Raises UserError where no folder says one.
    """
    *folders, last = name.split("/")
    for index, folder in enumerate(folders):
        found = re.fullmatch(r"(train|val|test)(?:ing|id|idation)?[-_]?\d*", folder, re.IGNORECASE)
        if found:
            where = found[1].lower()
            return "" if where == "test" else where, "/".join([*folders[:index], *folders[index + 1 :], last])
    raise UserError(f"--keep-splits needs folders named train, val, valid or test, but {name!r} lies in none")


def tasks_of(catalogue: Catalogue, plan: Plan, class_ids: Mapping[int, int], index: LabelIndex) -> Iterator[Task]:
    """The images with a split, in order, each with its boxes of the dataset's classes."""
    boxes, sizes = _Follower(index.boxes()), _Follower((number, (w, h)) for number, w, h in index.sizes())
    for number, (one, image) in enumerate(catalogue.images):
        found, declared_wh = boxes.at(number) or [], sizes.at(number)
        if not plan.splits[number]:
            continue
        kept = tuple(
            Box(catalogue.files[box.file], box.line, class_ids[box.class_number], *box[4:])
            for box in found
            if box.class_number in class_ids
        )
        source, path = storage.join(one.uri, image.path), one.prefix + image.path
        entry = one.entries[image.path]
        stamp = f"{entry.size} {entry.etag}"
        yield Task(source, path, plan.names[number], plan.splits[number], stamp, declared_wh, kept)


class _Follower:
    """Values that come in the order of their numbers, to be asked for in that order."""

    def __init__(self, pairs: Iterator[tuple[int, Any]]) -> None:
        self._pairs, self._next = pairs, next(pairs, None)

    def at(self, number: int) -> Any:
        """The value of a number, None where there is none; numbers before it are passed by."""
        while self._next is not None and self._next[0] < number:
            self._next = next(self._pairs, None)
        return self._next[1] if self._next is not None and self._next[0] == number else None


def refuse_leftovers(out: str, plan: Plan) -> None:
    """Raises UserError for files that another run left: they would be in both splits, or labels in neither."""
    tasks = (Task("", "", name, where, "", None, ()) for name, where in zip(plan.names, plan.splits, strict=True))
    allowed = {path for task in tasks for path in (task.image_uri, task.labels_uri)}
    for folder in ("images", "labels"):
        root = storage.join(out, folder)
        for entry in storage.list_files(root) if storage.is_dir(root) else []:
            if storage.join(folder, entry.path) not in allowed:
                raise UserError(f"{out}: must be empty or hold the same dataset, but holds {folder}/{entry.path}")
