"""From labelled datasets to checked examples for training: joined, weighted, labelled for all classes or for some."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.datasets import ignore_regions, labels
from depers.datasets.data_yaml import Dataset, labelled_classes, read_dataset
from depers.datasets.ignore_regions import IgnoreFolder
from depers.datasets.labels import Labels
from depers.errors import UserError
from depers.imaging.headers import ImageError, read_header

_READERS = 16  # threads that mostly wait for storage

Localize = Callable[[Sequence[str]], Mapping[str, str]]
"""Brings folders to this node where they are on S3; returns for each the local one."""


class Example(NamedTuple):
    """An image, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), center and size in 0…1.

    `labelled` are the classes that the image has labels for: objects of others may be there without. So may those of
    a class in its ignore regions, `ignored_ids` int64 (R,) and `ignored_xywh` float64 (R, 4).
    """

    path: str
    size_wh: tuple[int, int]
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    labelled: frozenset[int]
    ignored_ids: NDArray[np.int64] = np.zeros(0, np.int64)
    ignored_xywh: NDArray[np.float64] = np.zeros((0, 4))


class Splits(NamedTuple):
    """Class names, and the examples for training and validation.

    `parts`: for every dataset, how many of the training examples come from it, in their order, and its weight.
    """

    names: tuple[str, ...]
    train: list[Example]
    val: list[Example]
    parts: tuple[tuple[int, float], ...]


def read_splits(
    dataset: str,
    further: Sequence[tuple[str, float]] = (),
    weight: float = 1.0,
    localize: Localize | None = None,
    share: float | None = None,
) -> Splits:
    """Read the class names and the examples of `train` and `val`: all labels, and all images' headers.

    `further` are datasets with their weights: they add their training images, for those of the classes that they
    name. `share` is how much of DATASET's comes from the further folders of its data.yaml. Raises UserError for what
    cannot be trained on: a missing or empty split, one that validates on its own training images, no labels at all, a
    faulty label file, a file that is no image, an unknown class.
    """
    main = read_dataset(dataset)
    sources = [(main, dataset, weight), *((read_dataset(uri), uri, part_weight) for uri, part_weight in further)]
    if main.train is None or main.val is None:
        split = "train" if main.train is None else "val"
        raise UserError(f"{dataset}: data.yaml must name a folder for {split!r}, but has none")
    train: list[Example] = []
    parts = []
    for source, uri, part_weight in sources:
        for name in source.names:
            if name not in main.names:
                raise UserError(f"{uri}: its classes must be among {', '.join(main.names)}, but it has {name!r}")
        folders = [folder for folder in (source.train, *source.additional_train) if folder]
        for folder in folders:
            if storage.overlap(folder, main.val):
                raise UserError(f"{uri}: train and val must be different images, but are {folder} and {main.val}")
        by_folder = [_read_folder(source, folder, main.names, localize) for folder in folders]
        examples = [example for folder_examples in by_folder for example in folder_examples]
        _check(uri, "train", folders, examples)
        train += examples
        first, rest = len(by_folder[0]), len(examples) - len(by_folder[0])
        additional_share = share if share is not None and uri == dataset else source.additional_share
        if additional_share is not None and first and rest:
            parts += [
                (first, part_weight),
                (rest, part_weight * additional_share / (1 - additional_share) * first / rest),
            ]
        else:
            parts.append((len(examples), part_weight))
    val = _read_folder(main, main.val, main.names, localize, exact=True)
    _check(dataset, "val", [main.val], val)
    return Splits(main.names, train, val, tuple(parts))


def _check(uri: str, split: str, folders: Sequence[str], examples: Sequence[Example]) -> None:
    if not examples:
        raise UserError(f"{uri}: {split} must hold images, but {', '.join(folders) or 'data.yaml'} has none")
    if not any(len(example.class_ids) for example in examples):
        raise UserError(f"{uri}: {split} must hold labels, but none of its {len(examples)} images has one")


def _read_folder(
    dataset: Dataset, folder: str, names: Sequence[str], localize: Localize | None, exact: bool = False
) -> list[Example]:
    """Read the examples of one folder, with class ids that index `names`; no label file means no objects.

    An image that is labelled for some classes may have single labels of others, as synthetic ones do, which can be
    trained on, but not (`exact`) be measured with.
    """
    local_folder = folder
    if localize is not None:
        sidecars = [ignore_regions.locate_folder(folder, name) for name in ("labels", ignore_regions.FOLDER)]
        local_folder = localize([folder, *sidecars])[folder]
    ignore_folder = IgnoreFolder(local_folder, len(dataset.names))
    ids = np.array([names.index(name) for name in dataset.names], np.int64)
    translated_ids = {class_ids: frozenset(ids[sorted(class_ids)].tolist()) for _, class_ids in dataset.labelled}
    all_ids = frozenset(ids.tolist())

    def read(pair: tuple[str, str]) -> Example:
        image, label_file = pair
        entries = labels.read_labels(label_file, len(dataset.names))
        relative_path = image.removeprefix(local_folder.rstrip("/") + "/")
        labelled = translated_ids.get(labelled_classes(dataset, relative_path), all_ids)
        for class_id in ids[entries.class_ids].tolist():
            if exact and class_id not in labelled:
                label_names = ", ".join(names[i] for i in sorted(labelled))
                raise UserError(
                    f"{label_file}: data.yaml says that it holds only {label_names}, but it holds {names[class_id]}"
                )
        ignored = ignore_folder.read(image)
        ignored = ignored._replace(class_ids=ids[ignored.class_ids])
        if not exact:  # for measuring, a region is one however large: what is found and labelled in it is right
            ignored, labelled = ignore_regions.split_off_unlabelled(ignored, labelled)
        entries = entries._replace(class_ids=ids[entries.class_ids])
        return _read_example(image, entries, labelled, ignored)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, labels.list_pairs(local_folder)))


def _read_example(path: str, entries: Labels, labelled: frozenset[int], ignored: Labels) -> Example:
    """Look at an image's header, and join its size with its labels. Raises UserError where it is no image."""
    try:
        header = read_header(storage.read_bytes(path))
    except (ImageError, OSError) as error:
        raise UserError(f"{path}: must be a readable image, but {error}") from None
    rows = np.unique(np.column_stack(entries), axis=0)  # doubles count once, as in YOLOv5
    class_ids, boxes_xywh = rows[:, 0].astype(np.int64), rows[:, 1:].astype(np.float64)
    return Example(path, header.upright_wh, class_ids, boxes_xywh, labelled, *ignored)


def find_unlabelled(examples: Sequence[Example], class_count: int) -> NDArray[np.bool_]:
    """Return bool (N, C): the classes that each image has no labels for."""
    mask = np.ones((len(examples), class_count), np.bool_)
    for row, example in enumerate(examples):
        mask[row, sorted(example.labelled)] = False
    return mask
