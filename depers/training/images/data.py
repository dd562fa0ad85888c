"""From labelled datasets to checked examples for training: joined, weighted, labelled for all classes or for some."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import storage
from depers.datasets.data_yaml import Dataset, find_split_folder, read_dataset
from depers.errors import UserError
from depers.storage.cache import DatasetCache
from depers.training.images.examples import SCHEMA, Example, ExampleTable, LabelKinds
from depers.training.images.reader import ExampleReader


class Splits(NamedTuple):
    """Class names, and the examples for training and validation.

    `parts`: for every dataset, how many of the training examples come from it, in their order, and its weight.
    `notes`: lines on how they were read.
    """

    names: tuple[str, ...]
    train: Sequence[Example]
    val: Sequence[Example]
    parts: tuple[tuple[int, float], ...]
    notes: tuple[str, ...] = ()


def read_splits(
    dataset: str,
    further: Sequence[tuple[str, float]] = (),
    weight: float = 1.0,
    cache: DatasetCache | None = None,
    share: float | None = None,
) -> Splits:
    """Read the class names and the examples of `train` and `val`: all labels, and all images' sizes.

    `further` are datasets with their weights: they add their training images, for those of the classes that they
    name. `share` is how much of DATASET's comes from the further folders of its data.yaml. `cache` brings to this node
    what is on S3. Raises UserError for what cannot be trained on: a missing or empty split, one that validates on its
    own training images, no labels at all, a faulty label file, a file that is no image, an unknown class, a `share`
    without further folders.
    """
    sources = read_sources(dataset, further, weight, share)
    main = sources[0].dataset
    assert main.val is not None
    reader = ExampleReader(main.names, cache)
    tables, parts = [SCHEMA.empty_table()], list[tuple[int, float]]()
    for source, uri, part_weight in sources:
        folders = source.list_training_folders()
        part_tables = [reader.read_folder(source, folder) for folder in folders]
        part_tables += [reader.read_shards(source, tars) for tars in source.shards]
        _check(uri, "train", [*folders, *(tars.folder for tars in source.shards)], part_tables)
        tables += part_tables
        first, rest = len(part_tables[0]), sum(map(len, part_tables[1:]))
        additional_share = share if share is not None and uri == dataset else source.additional_share
        if share is not None and uri == dataset and not (first and rest):
            places = f"{first} in its first folder and {rest} in further ones"
            raise UserError(f"{uri}: --share needs images of both kinds, but there are {places}")
        if additional_share is not None and first and rest:
            rest_weight = part_weight * additional_share / (1 - additional_share) * first / rest
            parts.extend([(first, part_weight), (rest, rest_weight)])
        else:
            parts.append((first + rest, part_weight))
    train_table = pa.concat_tables(tables).combine_chunks()
    del tables
    val_table = reader.read_folder(main, main.val, exact=True)
    _check(dataset, "val", [main.val], [val_table])
    pa.default_memory_pool().release_unused()  # what reading took in between
    train, val = (ExampleTable(table, reader.kinds) for table in (train_table, val_table))
    return Splits(main.names, train, val, tuple(parts), tuple(reader.notes))


class TrainingSource(NamedTuple):
    """A dataset that is trained on, where it is, and its weight."""

    dataset: Dataset
    uri: str
    weight: float


def read_sources(
    uri: str, further: Sequence[tuple[str, float]] = (), weight: float = 1.0, share: float | None = None
) -> list[TrainingSource]:
    """Return the dataset at `uri`, and the further ones with their weights.

    Raises UserError for what cannot be trained on, as far as data.yaml says it: a missing split, one that validates on
    its own training images, an unknown class; and for a `share` of folders that the first data.yaml has not.
    """
    main = read_dataset(uri)
    val = find_split_folder(main, "val", uri)
    if not main.shards:
        find_split_folder(main, "train", uri)
    if share is not None and len(main.list_training_folders()) + len(main.shards) < 2:
        hint = "how much of --data is seen, its weight says (--data DATASET=WEIGHT)"
        raise UserError(f"{uri}: --share is about its further folders of training images, but it has none: {hint}")
    sources = [
        TrainingSource(main, uri, weight),
        *(TrainingSource(read_dataset(other), other, part) for other, part in further),
    ]
    for source in sources:
        for name in source.dataset.names:
            if name not in main.names:
                raise UserError(f"{source.uri}: its classes must be among {', '.join(main.names)}, but it has {name!r}")
        for folder in source.dataset.list_training_folders():
            if storage.overlap(folder, val):
                raise UserError(f"{source.uri}: train and val must be different images, but are {folder} and {val}")
    return sources


def _check(uri: str, split: str, places: Sequence[str], tables: Sequence[pa.Table]) -> None:
    images = sum(map(len, tables))
    if not images:
        raise UserError(f"{uri}: {split} must hold images, but {', '.join(places) or 'data.yaml'} has none")
    if not any(pc.max(pc.list_value_length(table["class_ids"])).as_py() for table in tables):
        raise UserError(f"{uri}: {split} must hold labels, but none of its {images} images has one")


def find_unlabelled(examples: Sequence[Example], class_count: int) -> NDArray[np.bool_]:
    """Return bool (N, C): the classes that each image has no labels for."""
    if isinstance(examples, ExampleTable):
        return ~examples.find_labelled(class_count)
    mask = np.ones((len(examples), class_count), np.bool_)
    for row, example in enumerate(examples):
        mask[row, sorted(example.labelled)] = False
    return mask


def group_by_labels(examples: Sequence[Example]) -> NDArray[np.int32]:
    """Return a number for each example, int32 (N,), the same where they are labelled for the same classes."""
    if isinstance(examples, ExampleTable):
        return examples.group()
    kinds = LabelKinds()
    return np.array([kinds.number(example.labelled) for example in examples], np.int32)
