"""Images that are the same, or nearly: in both splits, they make every figure too good."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.imaging.likeness import SIDE
from depers.imaging.near_twins import find_near_twins
from depers.normalization.catalog import Catalog
from depers.normalization.rules import Problem
from depers.pipeline.likenesses import SHAPE, look_at
from depers.runtime.progress import open_bar
from depers.statuses import ProblemAction

KINDS = ("near", "identical", "none")
Guard = Callable[[Iterator[Any]], Iterator[Any]]


class Twins(NamedTuple):
    """By the number of each image that has a twin, that of one; of identical ones, `near` has the first at most.

    `pairs` hold each group together. `shapes` is of every image `SHAPE`, as far as it was looked at: what was decoded
    once need not be decoded again.
    """

    identical: dict[int, int]
    near: dict[int, int]
    pairs: list[tuple[int, int]]
    shapes: NDArray[np.void]


def find_twins(catalog: Catalog, skipped: set[int], kind: str, folder: Path, guard: Guard) -> Twins:
    """Return the twins among the images that are not `skipped`; `kind` is one of `KINDS`, `folder` for scratch files.

    `guard` passes results on, as long as OUT is this run's.

    What cannot be read or decoded has none: who writes it says so.
    """
    shapes = np.zeros(len(catalog.images), SHAPE)
    numbers = np.array([number for number in range(len(catalog.images)) if number not in skipped], np.int64)
    if kind == "none" or not len(numbers):
        return Twins({}, {}, [], shapes)
    digests = np.zeros(len(numbers), np.uint64)
    thumbnails = np.memmap(folder / "thumbnails", np.uint8, "w+", shape=(len(numbers), SIDE, SIDE))

    images = [catalog.images[number] for number in numbers.tolist()]
    uris = [storage.join(label_set.uri, image.path) for label_set, image in images]
    with open_bar(len(numbers), "twins") as bar:
        for start, part_shapes, part_digests, part in guard(look_at(uris)):
            rows = slice(start, start + len(part))
            shapes[numbers[rows]], digests[rows], thumbnails[rows] = part_shapes, part_digests, part
            bar.update(len(part))
    places = np.flatnonzero(shapes["orientation"][numbers])
    _, first, of_image = np.unique(digests[places], return_index=True, return_inverse=True)
    firsts = places[first[of_image]]
    identical: dict[int, int] = {}
    for number, first_number in zip(numbers[places].tolist(), numbers[firsts].tolist(), strict=True):
        if number != first_number:
            identical[number] = first_number
            identical.setdefault(first_number, number)
    if kind == "identical":
        return Twins(identical, {}, [*identical.items()], shapes)
    distinct = np.unique(firsts)
    twins = find_near_twins(thumbnails, distinct)
    links = np.array([(image, *pair) for image, pair in twins.items()], np.int64).reshape(-1, 3)
    links = numbers[distinct[links]]
    near = dict(links[:, :2].tolist())
    pairs = [*identical.items(), *((image, leader) for image, _, leader in links.tolist())]
    return Twins(identical, near, pairs, shapes)


def describe_twins(
    catalog: Catalog, twins: Twins, copies: Mapping[int, int], splits: Sequence[str]
) -> Iterator[Problem]:
    """Yield a problem for each image that is another one, or nearly; `copies` have theirs already.

    Where a twin is in another split than its image, which only given splits can bring about, the problem says so.
    """
    for kind, pairs in (("identical image", twins.identical), ("near twin", twins.near)):
        for number, twin in sorted(pairs.items()):
            if number in copies:
                continue
            path, twin_path = (catalog.images[n][0].prefix + catalog.images[n][1].path for n in (number, twin))
            detail = f"the same {'pixels' if kind == 'identical image' else 'scene'} as {twin_path}"
            if splits[number] and splits[twin] and splits[number] != splits[twin]:
                detail += f", but in {splits[number]}, not in {splits[twin]}: figures are too good"
            yield Problem(path, 0, kind, ProblemAction.ACCEPTED, detail)


def count_shared(twins: Twins, copies: Mapping[int, int], splits: Sequence[str]) -> int:
    """Return how many problems `describe_twins` yields about twins that share a split: nothing is wrong with these."""
    pairs = [*twins.identical.items(), *twins.near.items()]
    return sum(splits[number] == splits[twin] for number, twin in pairs if number not in copies)
