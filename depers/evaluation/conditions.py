"""Figures by condition: by group of images (a camera, a day) and by brightness, where a mean hides what fails."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from depers.evaluation.metrics import measure
from depers.evaluation.samples import ImageResult
from depers.imaging.likeness import SIDE, Likeness
from depers.imaging.near_twins import find_near_twins

_BRIGHTNESS = (("dark (mean gray below 64)", 64.0), ("dim (64 to 128)", 128.0), ("bright (from 128)", np.inf))


class Slice(NamedTuple):
    """Some of the images: what is measured in them, `name` one value of `condition`; their indices among all."""

    condition: str
    name: str
    indices: tuple[int, ...]


class SliceRow(NamedTuple):
    """One line of the table: recall at the confidence given and IoU 0.5, mAP over the classes with labels there."""

    condition: str
    name: str
    images: int
    labels: int
    recall: float
    map50: float
    map50_95: float


def join_twins(groups: Sequence[str], likenesses: Sequence[Likeness | None]) -> list[str]:
    """Return the groups of images, those that hold twins of one another as one: a burst is one draw, not many."""
    places = np.array([index for index, likeness in enumerate(likenesses) if likeness is not None], np.int64)
    leaders = {group: group for group in groups}

    def find_leader(group: str) -> str:
        while leaders[group] != group:
            group = leaders[group]
        return group

    digests: dict[int, int] = {}
    pairs = [(index, digests.setdefault(likenesses[index].digest, index)) for index in places.tolist()]
    thumbnails = [np.zeros((SIDE, SIDE), np.uint8) if each is None else each.thumbnail for each in likenesses]
    if len(places):
        twins = find_near_twins(np.stack(thumbnails), places)
        pairs += [(int(places[image]), int(places[first])) for image, (_, first) in twins.items()]
    for number, other in pairs:
        one, another = sorted((find_leader(groups[number]), find_leader(groups[other])))
        leaders[another] = one
    return [find_leader(group) for group in groups]


def slice_by_brightness(likenesses: Sequence[Likeness | None]) -> list[Slice]:
    """Return the images by their mean gray, from 0 to 255, without those that cannot be decoded."""
    means = np.array([np.nan if each is None else each.thumbnail.mean() for each in likenesses])
    low, slices = 0.0, []
    for name, high in _BRIGHTNESS:
        slices.append(Slice("brightness", name, tuple(np.flatnonzero((means >= low) & (means < high)).tolist())))
        low = high
    return [part for part in slices if part.indices]


def slice_by_group(groups: Sequence[str]) -> list[Slice]:
    """Return the images by their groups, `groups` having that of each."""
    indices: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        indices.setdefault(group, []).append(index)
    return [Slice("group", group, tuple(indices[group])) for group in sorted(indices)]


def measure_slices(
    slices: Sequence[Slice], results: Sequence[ImageResult], names: Sequence[str], detectable: Sequence[bool]
) -> list[SliceRow]:
    """Return the table, of each condition the slices with the lowest recall first; of all labels that can be found."""
    is_detectable = np.asarray(detectable, np.bool_)
    rows = []
    for part in slices:
        slice_results = [results[index] for index in part.indices]
        labels = sum(int(is_detectable[result.sample.label_ids].sum()) for result in slice_results)
        misses = sum(int((result.missed & is_detectable[result.sample.label_ids]).sum()) for result in slice_results)
        if labels:
            mean = measure([result.sample.match() for result in slice_results], names, detectable).mean
            figures = (labels - misses) / labels, mean.map50, mean.map50_95
            rows.append(SliceRow(part.condition, part.name, len(slice_results), labels, *figures))
    return sorted(rows, key=lambda row: (row.condition, row.recall, row.name))


def select_slices(rows: Sequence[SliceRow], slices: Sequence[Slice], count: int) -> Mapping[str, tuple[int, ...]]:
    """Return the images of the slices with the lowest recall of each condition, `count` at most, by what they are."""
    indices = {(part.condition, part.name): part.indices for part in slices}
    sheets: dict[str, tuple[int, ...]] = {}
    for condition in dict.fromkeys(row.condition for row in rows):
        for row in [row for row in rows if row.condition == condition][:count]:
            title = f"{condition} {row.name}: {row.recall:.3f} of {row.labels} labels found"
            sheets[title] = indices[condition, row.name]
    return sheets
