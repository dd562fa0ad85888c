"""From labelled datasets to checked examples for training: joined, weighted, labelled for all classes or for some."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.datasets import labels
from depers.datasets.data_yaml import Dataset, labelled_classes, read_dataset
from depers.errors import UserError
from depers.imaging.headers import ImageError, read_header

_READERS = 16  # threads that mostly wait for storage

Place = Callable[[Sequence[str]], Mapping[str, str]]
"""Where folders are on this node: those on S3 are brought here."""


class Example(NamedTuple):
    """An image, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), center and size in 0…1.

    `labelled` are the classes that the image has labels for: objects of others may be there without.
    """

    path: str
    size_wh: tuple[int, int]
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    labelled: frozenset[int]


class Splits(NamedTuple):
    """Class names, and the examples for training and validation.

    `parts`: for every dataset, how many of the training examples are its own, in their order, and its weight.
    """

    names: tuple[str, ...]
    train: list[Example]
    val: list[Example]
    parts: tuple[tuple[int, float], ...]


def read_splits(
    dataset: str, more: Sequence[tuple[str, float]] = (), weight: float = 1.0, place: Place | None = None
) -> Splits:
    """The class names and the examples of `train` and `val`, all labels read and all images' headers seen.

    `more` are further datasets with their weights: they add their training images, for those of the classes that
    they name. Raises UserError for what cannot be trained on: a missing or empty split, one that validates on its own
    training images, no labels at all, a faulty label file, a file that is no image, an unknown class.
    """
    first = read_dataset(dataset)
    others = [(read_dataset(uri), uri, share) for uri, share in more]
    if first.train is None or first.val is None:
        missing = "train" if first.train is None else "val"
        raise UserError(f"{dataset}: data.yaml must name a folder for {missing!r}, but has none")
    train: list[Example] = []
    parts = []
    for found, uri, share in ((first, dataset, weight), *others):
        for name in found.names:
            if name not in first.names:
                raise UserError(f"{uri}: its classes must be among {', '.join(first.names)}, but it has {name!r}")
        folders = [folder for folder in (found.train, *found.additional_train) if folder]
        for folder in folders:
            if storage.overlap(folder, first.val):
                raise UserError(f"{uri}: train and val must be different images, but are {folder} and {first.val}")
        examples = [example for folder in folders for example in _read_folder(found, folder, first.names, place)]
        _check(uri, "train", folders, examples)
        train += examples
        parts.append((len(examples), share))
    val = _read_folder(first, first.val, first.names, place, exact=True)
    _check(dataset, "val", [first.val], val)
    return Splits(first.names, train, val, tuple(parts))


def _check(uri: str, split: str, folders: Sequence[str], examples: Sequence[Example]) -> None:
    if not examples:
        raise UserError(f"{uri}: {split} must hold images, but {', '.join(folders) or 'data.yaml'} has none")
    if not any(len(example.class_ids) for example in examples):
        raise UserError(f"{uri}: {split} must hold labels, but none of its {len(examples)} images has one")


def _read_folder(
    found: Dataset, folder: str, names: Sequence[str], place: Place | None, exact: bool = False
) -> list[Example]:
    """The examples of one folder, with class ids that index `names`; an image without a label file has no objects.

    An image that is labelled for some classes may have single labels of others, as synthetic ones do, which can be
    trained on, but not (`exact`) be measured with.
    """
    here = folder
    if place is not None:
        beside = labels.label_path(storage.join(folder, "x.jpg")).removesuffix("/x.txt")
        here = place([folder, beside])[folder]
    ids = np.array([names.index(name) for name in found.names], np.int64)
    known = {all_ids: frozenset(ids[sorted(all_ids)].tolist()) for _, all_ids in found.labelled}
    everything = frozenset(ids.tolist())

    def read(pair: tuple[str, str]) -> Example:
        image, label_file = pair
        own = labels.read_labels(label_file, len(found.names))
        inside = image.removeprefix(here.rstrip("/") + "/")
        labelled = known.get(labelled_classes(found, inside), everything)
        for class_id in ids[own.class_ids].tolist():
            if exact and class_id not in labelled:
                allowed = ", ".join(names[i] for i in sorted(labelled))
                raise UserError(
                    f"{label_file}: data.yaml says that it holds only {allowed}, but it holds {names[class_id]}"
                )
        return _example(image, ids[own.class_ids], own.boxes_xywh, labelled)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, labels.list_pairs(here)))


def _example(
    path: str, class_ids: NDArray[np.int64], boxes_xywh: NDArray[np.float64], labelled: frozenset[int]
) -> Example:
    """Looks at an image's header only. Raises UserError where it is none."""
    try:
        header = read_header(storage.read_bytes(path))
    except (ImageError, OSError) as error:
        raise UserError(f"{path}: must be a readable image, but {error}") from None
    both = np.unique(np.column_stack([class_ids, boxes_xywh]), axis=0)  # doubles count once, as in YOLOv5
    return Example(path, header.upright_wh, both[:, 0].astype(np.int64), both[:, 1:], labelled)


def unlabelled_mask(examples: Sequence[Example], class_count: int) -> NDArray[np.bool_]:
    """Bool (N, C): the classes that each image has no labels for."""
    mask = np.ones((len(examples), class_count), np.bool_)
    for row, example in enumerate(examples):
        mask[row, sorted(example.labelled)] = False
    return mask
