"""From labelled datasets to checked examples for training: joined, weighted, labelled for all classes or for some."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.datasets import ignore_regions, labels
from depers.datasets.data_yaml import Dataset, labelled_classes, read_dataset
from depers.datasets.ignore_regions import IgnoreFolder
from depers.datasets.labels import Labels
from depers.errors import UserError
from depers.imaging.headers import ImageError, ImageHeader, read_header
from depers.training.images.examples import Example, ExampleTable

_READERS = 16  # threads that mostly wait for storage
_READ_AHEAD = 4096  # examples: each that is read and not yet kept is some objects
_JPEG = b"\xff\xd8"
_HEADER_BYTES = 1 << 16

Localize = Callable[[Sequence[str]], Mapping[str, str]]
"""Brings folders to this node where they are on S3; returns for each the local one."""


class Splits(NamedTuple):
    """Class names, and the examples for training and validation.

    `parts`: for every dataset, how many of the training examples come from it, in their order, and its weight.
    """

    names: tuple[str, ...]
    train: Sequence[Example]
    val: Sequence[Example]
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
    parts: list[tuple[int, float]] = []

    def read_all() -> Iterator[Example]:
        for source, uri, part_weight in sources:
            for name in source.names:
                if name not in main.names:
                    raise UserError(f"{uri}: its classes must be among {', '.join(main.names)}, but it has {name!r}")
            folders = [folder for folder in (source.train, *source.additional_train) if folder]
            for folder in folders:
                if storage.overlap(folder, str(main.val)):
                    raise UserError(f"{uri}: train and val must be different images, but are {folder} and {main.val}")
            counts = []
            for folder in folders:
                counts.append(Counts())
                yield from counts[-1].follow(_read_folder(source, folder, main.names, localize))
            _check(uri, "train", folders, counts)
            first, rest = counts[0].images, sum(count.images for count in counts[1:])
            additional_share = share if share is not None and uri == dataset else source.additional_share
            if additional_share is not None and first and rest:
                rest_weight = part_weight * additional_share / (1 - additional_share) * first / rest
                parts.extend([(first, part_weight), (rest, rest_weight)])
            else:
                parts.append((first + rest, part_weight))

    train = ExampleTable(read_all())
    count = Counts()
    val = ExampleTable(count.follow(_read_folder(main, main.val, main.names, localize, exact=True)))
    _check(dataset, "val", [main.val], [count])
    return Splits(main.names, train, val, tuple(parts))


class Counts:
    """How many images have gone by, and whether one of them has a label."""

    def __init__(self) -> None:
        self.images, self.is_labelled = 0, False

    def follow(self, examples: Iterable[Example]) -> Iterator[Example]:
        """Yield the examples, and count them."""
        for example in examples:
            self.images += 1
            self.is_labelled |= len(example.class_ids) > 0
            yield example


def _check(uri: str, split: str, folders: Sequence[str], counts: Sequence[Counts]) -> None:
    images = sum(count.images for count in counts)
    if not images:
        raise UserError(f"{uri}: {split} must hold images, but {', '.join(folders) or 'data.yaml'} has none")
    if not any(count.is_labelled for count in counts):
        raise UserError(f"{uri}: {split} must hold labels, but none of its {images} images has one")


def _read_folder(
    dataset: Dataset, folder: str, names: Sequence[str], localize: Localize | None, exact: bool = False
) -> Iterator[Example]:
    """Yield the examples of one folder, with class ids that index `names`; no label file means no objects.

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

    pairs = labels.list_pairs(local_folder)
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(pairs), _READ_AHEAD):
            yield from pool.map(read, pairs[start : start + _READ_AHEAD])


def _read_example(path: str, entries: Labels, labelled: frozenset[int], ignored: Labels) -> Example:
    """Look at an image's header, and join its size with its labels. Raises UserError where it is no image."""
    header = _read_header(path)
    rows = np.unique(np.column_stack(entries), axis=0)  # doubles count once, as in YOLOv5
    class_ids, boxes_xywh = rows[:, 0].astype(np.int64), rows[:, 1:].astype(np.float64)
    return Example(path, header.upright_wh, class_ids, boxes_xywh, labelled, *ignored)


def _read_header(path: str) -> ImageHeader:
    """Return an image's header: of a JPEG by its first bytes, where size and orientation stand there."""
    try:
        beginning = storage.read_range(path, 0, _HEADER_BYTES)
        if beginning.startswith(_JPEG):
            with suppress(ImageError):
                return read_header(beginning)
        return read_header(storage.read_bytes(path))
    except (ImageError, OSError) as error:
        raise UserError(f"{path}: must be a readable image, but {error}") from None


def find_unlabelled(examples: Sequence[Example], class_count: int) -> NDArray[np.bool_]:
    """Return bool (N, C): the classes that each image has no labels for."""
    if isinstance(examples, ExampleTable):
        return ~examples.find_labelled(class_count)
    mask = np.ones((len(examples), class_count), np.bool_)
    for row, example in enumerate(examples):
        mask[row, sorted(example.labelled)] = False
    return mask


def group_by_labels(examples: Sequence[Example]) -> Sequence[object]:
    """Return for each example what is the same where they are labelled for the same classes."""
    return examples.group() if isinstance(examples, ExampleTable) else [example.labelled for example in examples]
