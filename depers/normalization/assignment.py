"""Which image goes where: the split, the names in the dataset, and the tasks that write it."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.datasets.splits import Strata, group_names, split_into
from depers.errors import UserError
from depers.normalization.catalog import Catalog, ClassMeanings
from depers.normalization.index import LabelIndex
from depers.normalization.rules import BOX_ROW, NO_BOXES, LabelBoxes, Problem
from depers.normalization.writing import ImageTask
from depers.statuses import ProblemAction
from depers.storage.overlapped import read_ahead


class Grouping(NamedTuple):
    """The groups of images that share a split: how many, and of the largest its size, an image, and what holds it.

    `bond` is `twins` where twins, or the same images in several sets, have joined what names would part, `group-by`
    where the names do not part it, "" where it is one image.
    """

    group_count: int
    largest_size: int
    example: str
    bond: str


class Assignment(NamedTuple):
    """Where every image goes: names in the dataset and splits by the catalog's number, "" where it is skipped.

    `grouping` is what kept images together, None where folders say the splits.
    """

    names: list[str]
    splits: list[str]
    grouping: Grouping | None = None

    @property
    def total(self) -> int:
        """The images that are not skipped."""
        return sum(map(bool, self.splits))


def find_copies(catalog: Catalog, skipped: set[int]) -> dict[int, int]:
    """Return which images are the same, byte for byte, as one of an earlier set, and its number.

    Only images of one size are read. What cannot be read is no copy of anything: who writes it says so.
    """
    sizes: dict[int, list[int]] = defaultdict(list)
    if len(catalog.sets) > 1:
        for number, (label_set, image) in enumerate(catalog.images):
            if number not in skipped:
                sizes[label_set.entries[image.path].size].append(number)
    copies: dict[int, int] = {}
    for numbers in sizes.values():
        if len({catalog.images[number][0].prefix for number in numbers}) == 1:
            continue
        firsts: dict[bytes, int] = {}
        images = [catalog.images[number] for number in numbers]
        uris = [storage.join(label_set.uri, image.path) for label_set, image in images]
        for number, (label_set, _), read in zip(numbers, images, read_ahead(uris), strict=True):
            with suppress(OSError):
                first = firsts.setdefault(hashlib.sha256(read()).digest(), number)
                if catalog.images[first][0] is not label_set:
                    copies[number] = first
    return copies


def describe_copies(catalog: Catalog, copies: Mapping[int, int]) -> Iterator[Problem]:
    """Yield a problem for each image that another set has, too: its labels there may be others."""
    for number, first in copies.items():
        path, first_path = (catalog.images[n][0].prefix + catalog.images[n][1].path for n in (number, first))
        yield Problem(path, 0, "image of another set", ProblemAction.ACCEPTED, f"the same as {first_path}")


def _join_groups(groups: Sequence[str], numbers: Sequence[int], copies: Iterable[tuple[int, int]]) -> list[str]:
    """Return the groups of images by number, of which those that have the same image are one."""
    group_of = dict(zip(numbers, groups, strict=True))
    leaders: dict[str, str] = {}

    def find_leader(group: str) -> str:
        while (above := leaders.get(group, group)) != group:
            group = above
        return group

    for number, first in copies:
        one, another = sorted((find_leader(group_of[number]), find_leader(group_of[first])))
        if one != another:
            leaders[another] = one
    return [find_leader(group) for group in groups]


def split_at_random(
    catalog: Catalog,
    skipped: set[int],
    class_ids: Mapping[int, int],
    index: LabelIndex,
    *,
    val_fraction: float,
    calibration_fraction: float,
    seed: int,
    group_by: str | None,
    copies: Iterable[tuple[int, int]],
    former_splits: Mapping[str, str] | None = None,
) -> Assignment:
    """Split the images that are not `skipped` by the shares of val and calibration, a seed, and the groups' expression.

    Distributed evenly are the boxes of every class (`class_ids` are the dataset's, by the catalog's class numbers), the
    images without any, and the sets. `copies` are pairs of images, such as twins, that go to one split. What has a
    split by its name in `former_splits` keeps it, and what belongs to it gets it.
    Raise UserError where the expression finds nothing in an image's name.
    """
    numbers = [number for number in range(len(catalog.images)) if number not in skipped]
    names = [label_set.prefix + image.name for label_set, image in catalog.images]
    groups = group_names([catalog.images[number][1].name for number in numbers], group_by)
    groups = [catalog.images[n][0].prefix + group for n, group in zip(numbers, groups, strict=True)]
    own_groups, groups = groups, _join_groups(groups, numbers, copies)
    prefixes = [label_set.prefix for label_set, _ in catalog.images]
    of_set: dict[str, Strata] = {prefix: [(prefix, 1)] if prefix else [] for prefix in dict.fromkeys(prefixes)}
    strata: list[Strata] = [[("background", 1), *of_set[prefix]] for prefix in prefixes]
    for number, counts in index.class_counts():
        if class_counts := [(class_ids[c], count) for c, count in counts if c in class_ids]:
            strata[number] = [*class_counts, *of_set[prefixes[number]]]
    splits = [""] * len(names)
    fractions = {"val": val_fraction, "calibration": calibration_fraction}
    given_splits = _keep_splits(groups, [names[number] for number in numbers], former_splits or {})
    chosen = split_into(groups, fractions, seed, [strata[number] for number in numbers], given_splits)
    for number, name in zip(numbers, chosen, strict=True):
        splits[number] = name
    grouping = None
    if numbers:
        size_by_group = Counter(groups)
        largest = max(size_by_group, key=lambda group: (size_by_group[group], group))
        members = [place for place, group in enumerate(groups) if group == largest]
        label_set, image = catalog.images[numbers[members[0]]]
        is_joined = len({own_groups[place] for place in members}) > 1
        bond = "twins" if is_joined else "group-by" if len(members) > 1 else ""
        example = label_set.prefix + image.path
        grouping = Grouping(len(size_by_group), len(members), example, bond)
    return Assignment(names, splits, grouping)


_BONDS = {
    ("twins", "near"): "are near twins: --twins identical parts them, in another OUT, but figures are then too good",
    ("twins", "identical"): "are identical: --twins none parts them, in another OUT, but figures are then too good",
    ("twins", "none"): "are the same in several sets",
}
"""What holds a group together, by its bond and `--twins`."""


def describe_shares(
    counts: Mapping[str, int], fractions: Mapping[str, float], grouping: Grouping, twins: str
) -> Iterator[tuple[str, str]]:
    """Yield each split of which the share of the images is not what was asked for, and a line that says why.

    `counts` are the images by split, `fractions` the shares asked for (0: none), `twins` is the option. A split has its
    share where it differs by one image, or by half of what it should have, and is not empty.
    """
    total = sum(counts.values())
    for split_name, fraction in fractions.items():
        count, expected = counts.get(split_name, 0), fraction * total
        if not expected or (count and abs(count - expected) <= max(1, expected / 2)):
            continue
        text = f"{split_name} has {count} of {total} images, a share of {count / total:.2g} for {fraction:g}"
        if grouping.bond:
            bond = _BONDS.get((grouping.bond, twins), "have the same in what --group-by finds in their names")
            example = f"the largest of {grouping.largest_size} images, such as {grouping.example}, that {bond}"
            text += f": they are {grouping.group_count} groups that stay whole, {example}"
        elif expected < 2:
            text += ": there are so few"
        else:  # whichever it is: a run that is taken up again says what one clean run says
            text += ": others could not be used, or had their splits before"
        yield split_name, text


def _keep_splits(groups: Sequence[str], names: Sequence[str], former_splits: Mapping[str, str]) -> dict[str, str]:
    """Return the splits of the groups that had one: where twins have joined several, that of most of their images."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for group, name in zip(groups, names, strict=True):
        if split_name := former_splits.get(name):
            counts[group][split_name] += 1
    return {group: max(sorted(count), key=count.__getitem__) for group, count in counts.items()}


def split_by_folders(catalog: Catalog, skipped: set[int]) -> Assignment:
    """Split the images that are not `skipped` as their folders say. Raise UserError where those say nothing."""
    names = [label_set.prefix + image.name for label_set, image in catalog.images]
    splits = [""] * len(names)
    paths: dict[tuple[str, str], str] = {}
    for number, (label_set, image) in enumerate(catalog.images):
        if number in skipped:
            continue
        splits[number], name = read_split(image.name)
        names[number] = label_set.prefix + name
        first_path = paths.setdefault((splits[number], names[number]), image.path)
        if splits[number] and first_path != image.path:
            raise UserError(
                f"{label_set.uri}: with --keep-splits, {first_path} and {image.path} would be the same image"
            )
    return Assignment(names, splits)


def read_split(name: str) -> tuple[str, str]:
    """Return the split that an image's folder says (train2017, valid, …; "" for test), and its name without that.

    Raise UserError where no folder says one.
    """
    *folders, last = name.split("/")
    for index, folder in enumerate(folders):
        match = re.fullmatch(r"(train|val|test|calibration)(?:ing|id|idation)?[-_]?\d*", folder, re.IGNORECASE)
        if match:
            split_name = match[1].lower()
            return "" if split_name == "test" else split_name, "/".join([*folders[:index], *folders[index + 1 :], last])
    raise UserError(
        f"--keep-splits needs folders named train, val, valid, calibration or test, but {name!r} lies in none"
    )


def make_tasks(
    catalog: Catalog,
    assignment: Assignment,
    meanings: ClassMeanings,
    class_count: int,
    index: LabelIndex,
    shapes: NDArray[np.void],
) -> Iterator[ImageTask]:
    """Yield the images with a split, in order, each with its boxes of the dataset's classes.

    A region of every class is one of each. `shapes` are those of all images, as `twins.SHAPE` has them.
    """
    ids = np.full(len(catalog.classes) + 1, -1, np.int64)
    ids[list(meanings.class_ids.keys())] = list(meanings.class_ids.values())
    is_every_class = np.isin(np.arange(len(ids)), [*meanings.regions])
    boxes, sizes = _OrderedReader(index.boxes()), _OrderedReader((number, (w, h)) for number, w, h in index.sizes())
    for number, (label_set, image) in enumerate(catalog.images):
        indexed_boxes, declared_wh = boxes.at(number), sizes.at(number)
        if not assignment.splits[number]:
            continue
        label_boxes = NO_BOXES
        if indexed_boxes is not None:
            label_boxes = _to_label_boxes(catalog, indexed_boxes, ids, is_every_class, class_count)
        source, path = storage.join(label_set.uri, image.path), label_set.prefix + image.path
        entry = label_set.entries[image.path]
        stamp = f"{entry.size} {entry.etag}"
        width, height, orientation = shapes[number].tolist()
        shape = ((width, height), orientation) if orientation else None
        name, split_name = assignment.names[number], assignment.splits[number]
        yield ImageTask(source, path, name, split_name, stamp, declared_wh, shape, label_boxes)


def _to_label_boxes(
    catalog: Catalog,
    boxes: NDArray[np.void],
    ids: NDArray[np.int64],
    is_every_class: NDArray[np.bool_],
    class_count: int,
) -> LabelBoxes:
    """Return the boxes of one image (`INDEXED_BOX`) that are of the dataset's classes."""
    is_every = is_every_class[boxes["class_number"]]
    class_ids = ids[boxes["class_number"]]
    if is_every.any():
        counts = np.where(is_every, class_count, 1)
        boxes, class_ids = np.repeat(boxes, counts), np.repeat(class_ids, counts)
        boxes["ignored"] |= np.repeat(is_every, counts)
        class_ids[np.repeat(is_every, counts)] = np.tile(np.arange(class_count), int(is_every.sum()))
    boxes, class_ids = boxes[class_ids >= 0], class_ids[class_ids >= 0]
    files, places = np.unique(boxes["file"], return_inverse=True)
    rows = np.empty(len(boxes), BOX_ROW)
    rows["path"], rows["class_id"] = places, class_ids
    for name in ("line", "box", "ignored"):
        rows[name] = boxes[name]
    return LabelBoxes(tuple(catalog.files[file] for file in files.tolist()), rows)


class _OrderedReader:
    """Values that come in the order of their numbers, to be asked for in that order."""

    def __init__(self, pairs: Iterator[tuple[int, Any]]) -> None:
        self._pairs, self._next = pairs, next(pairs, None)

    def at(self, number: int) -> Any:
        """Return the value of a number, None where there is none; numbers before it are passed by."""
        while self._next is not None and self._next[0] < number:
            self._next = next(self._pairs, None)
        return self._next[1] if self._next is not None and self._next[0] == number else None
