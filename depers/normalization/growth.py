"""A dataset that grows with its raw sets: its images keep their splits, and what left the raw sets leaves the dataset.

`splits.parquet` among the records says which images the dataset has, or may have in part, and in which split. It is
written before the first image is, and after what departed has been removed.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from depers import storage
from depers.datasets.ignore_regions import FOLDER
from depers.errors import UserError
from depers.normalization.assignment import Assignment
from depers.normalization.rules import NO_BOXES
from depers.normalization.writing import ImageTask, TakenOver, identify, make_unit_name
from depers.runtime import takeover, units
from depers.runtime.takeover import FormerRows, Source
from depers.storage import tables
from depers.storage.tables import column, schema

SCHEMA = schema(
    column("name", pa.binary(), "the image's path in its split's folder, its bytes"),
    column("split", pa.string(), "`train`, `val` or `calibration`"),
)
_NAME = "splits.parquet"
_CHUNK = 64  # images of a unit, on average; a power of two
_FOLDERS = ("images", "labels", FOLDER)


class FormerImage(NamedTuple):
    """An image of an earlier run."""

    name: str
    split: str


def read_former(out: str) -> list[FormerImage]:
    """Return the images of earlier runs; none where there was no run."""
    uri = storage.join(units.locate_inside(out), _NAME)
    if not storage.exists(uri):
        return []
    with storage.translated_errors(uri):
        names, splits = (values.to_pylist() for values in tables.read_table(uri, SCHEMA.names).columns)
    pairs = zip(names, splits, strict=True)
    return [FormerImage(name.decode("utf-8", "surrogateescape"), split) for name, split in pairs]


def write_images(out: str, assignment: Assignment) -> None:
    """Note which images the dataset has."""
    pairs = [pair for pair in zip(assignment.names, assignment.splits, strict=True) if pair[1]]
    names = [name.encode("utf-8", "surrogateescape") for name, _ in pairs]
    with storage.translated_write_errors(out):
        table = pa.table([pa.array(names, pa.binary()), [split for _, split in pairs]], schema=SCHEMA)
        tables.write_table(storage.join(units.locate_inside(out), _NAME), table)


def find_departed(out: str, former: list[FormerImage], assignment: Assignment) -> list[str]:
    """Return the files in OUT of images that it shall not have, or not in that split, any more.

    Raise UserError where more than half of the images are gone, as with another RAW, or a disk that is not there; and
    for files that no run has left: they would be in both splits, or labels in neither.
    """
    remaining_names = {name for name, split in zip(assignment.names, assignment.splits, strict=True) if split}
    if 2 * (gone := sum(image.name not in remaining_names for image in former)) > len(former):
        problem = f"holds a dataset of {len(former)} images, of which RAW lacks {gone} now"
        raise UserError(f"{out}: {problem}: choose another OUT, or remove this one if that is meant")
    expected_paths = set(_list_paths(zip(assignment.names, assignment.splits, strict=True)))
    former_paths = set(_list_paths(former)) - expected_paths
    departed = []
    for folder in _FOLDERS:
        root = storage.join(out, folder)
        for entry in storage.list_files(root) if storage.is_dir(root) else []:
            path = storage.join(folder, entry.path)
            if path in former_paths:
                departed.append(path)
            elif path not in expected_paths:
                raise UserError(f"{out}: must be empty or hold the same dataset, but holds {path}")
    return departed


def _list_paths(images: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the paths of all that a dataset has of images, given by name and split; none without a split."""
    for name, split in images:
        if split:
            task = ImageTask("", "", name, split, "", None, None, NO_BOXES)
            yield from (task.image_uri, task.labels_uri, task.ignore_uri)


def cut(tasks: Iterable[ImageTask]) -> Iterator[list[ImageTask]]:
    """Yield the images of one unit after another; where one ends follows from its names, as in `units.cut`."""
    part: list[ImageTask] = []
    for task in tasks:
        part.append(task)
        if units.ends_stretch(task.name, len(part), _CHUNK):
            yield part
            part = []
    if part:
        yield part


def find_former_rows(out: str, exif_frame: str, parts: Callable[[], Iterator[list[ImageTask]]]) -> FormerRows:
    """Set aside what earlier runs recorded of units that are others now; return what of it still holds."""
    records = units.locate_inside(out)
    finished_names = units.list_finished(records).names
    if not finished_names and not units.list_former(records):
        return FormerRows({})
    names, identities = set[str](), dict[str, str]()
    for part in parts():
        name = make_unit_name(part, exif_frame)
        names.add(name)
        if name not in finished_names:
            identities |= identify(part, exif_frame)
    units.set_aside(records, names)
    return takeover.find_former_rows(records, identities)


def divide(part: list[ImageTask], former_rows: FormerRows) -> tuple[list[ImageTask], TakenOver]:
    """Return the images of a unit that are to be written, and what is known of the others."""
    remaining_tasks, keys_by_name = list[ImageTask](), dict[str, list[str]]()
    for task in part if former_rows else ():
        if (name := former_rows.find(task.key, lambda stamp: True)) is None:
            remaining_tasks.append(task)
        else:
            keys_by_name.setdefault(name, []).append(task.key)
    if not keys_by_name:
        return part, TakenOver()
    sources = tuple(Source(name, tuple(keys)) for name, keys in keys_by_name.items())
    return remaining_tasks, TakenOver(sources, tuple(task.key for task in part))
