"""COCO's annotations as columns, a piece of the file at a time: a million of them are read by all cores in seconds.

What is in a piece is read at once where all of it is as nearly all annotations are. Where anything is not, that piece
is left to `coco.CocoFile`, annotation by annotation.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import resources
from depers.normalization.formats.coco import AREA, HUGE, CocoBox, CocoFile, is_turned, read_key
from depers.normalization.formats.json_lists import Piece, read_piece
from depers.normalization.formats.remarks import find_region_flags, find_score, find_scores, is_region, is_set

_NUMBERS = {int, float}


class AnnotationTable(NamedTuple):
    """Annotations in the order of the file, each with a box: the columns of `CocoBox` (N,), and of all of them sums.

    `classes` are places among the `categories`; `boxes` (N, 4) are cx, cy, w, h. The others are as `CocoFile` has them.
    """

    image_ids: Sequence[Any]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    crowd_masks: int
    box_areas: int
    corner_areas: int


Reader = Callable[[Sequence[Piece]], Iterable[AnnotationTable | None]]
"""Gives what is in each piece of a file, in order; None for one that is to be read annotation by annotation."""


def read_parts(file: CocoFile, read: Reader) -> Iterator[AnnotationTable | list[CocoBox]]:
    """Yield the annotations of a file in its order. Raise UserError as `CocoFile` does."""
    count, pieces = 0, file.find_pieces("annotations")
    for piece, table in zip(pieces, read(pieces), strict=False):
        if table is not None:
            file.box_areas += table.box_areas
            file.corner_areas += table.corner_areas
            yield table
            count += len(table.boxes)
            continue
        items = file.read_piece(piece)
        if items is None:  # and all after it are no better
            break
        yield [*file.make_boxes(items, count + 1)]
        count += len(items)
    else:
        if pieces:
            return
    yield from ([box] for box in file.stream_boxes(count))


def read_tables(
    open_anew: Callable[[], BinaryIO], pieces: Sequence[Piece], categories: Mapping[object, str]
) -> list[AnnotationTable | None]:
    """Return the annotations in each piece of a file; None for a piece that is not read here."""
    places = {name: place for place, name in enumerate(dict.fromkeys(categories.values()))}
    class_places = {key: places[name] for key, name in categories.items()}
    tables: list[AnnotationTable | None] = []
    with open_anew() as stream, resources.collect_no_garbage():
        for piece in pieces:
            try:
                tables.append(make_table(read_piece(stream, piece), class_places))
            except (ValueError, RecursionError):
                tables.append(None)
    return tables


def make_table(items: Sequence[Any], class_places: Mapping[object, int]) -> AnnotationTable | None:
    """Return annotations as columns; None where one of them is not as nearly all are."""
    if not {*map(type, items)} <= {dict}:
        return None
    columns = _Columns(items)
    keys, attributes = columns.names, columns.take("attributes")
    if any(is_turned(fields) or find_score(fields) is not None for fields in attributes or ()):
        return None
    if find_scores(keys) and any(find_score(item) is not None for item in items):
        return None
    bboxes, classes = columns.take("bbox") or (), [*map(class_places.get, columns.take_keys("category_id"))]
    if len(bboxes) < len(items) or None in classes:
        return None
    if not {*map(type, bboxes)} <= {list} or not {*map(len, bboxes)} <= {4}:
        return None
    numbers = [*itertools.chain.from_iterable(bboxes)]
    if not {*map(type, numbers)} <= _NUMBERS or (numbers and not -HUGE < min(numbers) <= max(numbers) < HUGE):
        return None
    xywh = np.array(numbers, np.float64).reshape(-1, 4)
    is_crowd = columns.read_flags("iscrowd")
    is_ignored = is_crowd.copy()
    for name in find_region_flags(keys - {"iscrowd"}):
        is_ignored |= columns.read_flags(name)
    if attributes is not None:
        is_ignored |= np.array([is_region(fields) for fields in attributes], np.bool_)
    segmentations, areas = columns.take("segmentation"), columns.take("area") or ()
    masks = np.array(
        [isinstance(shape, dict) for shape in segmentations or itertools.repeat(None, len(items))], np.bool_
    )
    if segmentations is not None:
        areas = [0 if shape else area for shape, area in zip(segmentations, areas, strict=False)]
    box_areas, corner_areas = _compare_areas(areas, xywh) if any(areas) else (0, 0)
    return AnnotationTable(
        columns.take_keys("image_id"),
        np.array(classes, np.int64),
        np.hstack([xywh[:, :2] + xywh[:, 2:] / 2, xywh[:, 2:]]),
        is_ignored,
        int((is_crowd & masks).sum()),
        box_areas,
        corner_areas,
    )


class _Columns:
    """Objects as columns: at once where all of them have the same keys in the same order, else value by value."""

    def __init__(self, items: Sequence[dict[str, Any]]) -> None:
        self._items = items
        kinds = {*map(tuple, items)}
        self.names: set[Any] = {*itertools.chain.from_iterable(kinds)}
        self._columns: dict[Any, Sequence[Any]] | None = None
        if len(kinds) == 1:
            self._columns = dict(zip(*kinds, zip(*map(dict.values, items), strict=True), strict=True))

    def take(self, name: object) -> Sequence[Any] | None:
        """Return the values of a key, None for an object without it; None where no object has it."""
        if name not in self.names:
            return None
        return self._columns[name] if self._columns is not None else [item.get(name) for item in self._items]  # type: ignore[call-overload]

    def take_keys(self, name: object) -> Sequence[Any]:
        """Return the values of a key as ids (`read_key`)."""
        values = self.take(name) or [None] * len(self._items)
        return values if {*map(type, values)} <= {int} else [*map(read_key, values)]

    def read_flags(self, name: object) -> NDArray[np.bool_]:
        """Return which objects have a flag set."""
        values = self.take(name) or ()
        if not any(values):
            return np.zeros(len(self._items), np.bool_)
        return np.array([is_set(value) for value in values], np.bool_)


def _compare_areas(areas: Sequence[object], xywh: NDArray[np.float64]) -> tuple[int, int]:
    """Return how many areas are that of the box, and that of two corners in its place; what is no area counts not."""
    numbers = (area if isinstance(area, (int, float)) and 0 < area < HUGE else math.nan for area in areas)
    values = np.array([*numbers], np.float64)
    x, y, w, h = xywh.T
    with np.errstate(over="ignore", invalid="ignore"):
        areas_of_boxes, areas_of_corners = w * h, (w - x) * (h - y)
    return int(_are_close(values, areas_of_boxes).sum()), int(
        ((w > x) & (h > y) & _are_close(values, areas_of_corners)).sum()
    )


def _are_close(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each pair what `math.isclose` says of it; `one` is finite or NaN."""
    is_close: NDArray[np.bool_] = np.abs(one - other) <= AREA * np.maximum(np.abs(one), np.abs(other))
    return is_close & np.isfinite(other)
