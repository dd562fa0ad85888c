"""List the training images of a dataset, and make sure that nothing of val is among them."""

import os
from collections import Counter
from collections.abc import Sequence

from depers import storage
from depers.datasets.data_yaml import Dataset, find_split_folder
from depers.datasets.ignore_regions import FOLDER, locate_folder
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.datasets.splits import group_names
from depers.errors import UserError
from depers.extraction.take_apart import background_path
from depers.storage import Entry


def find_training_folder(dataset: Dataset, out: str, source: str) -> str:
    """Return the folder of the training images; raise UserError where it overlaps val, or OUT the dataset.

    Val is not looked into: what it holds makes no difference. Nor are folders that were added to the training images:
    those may be synthetic, and what is cut from them would be pasted for the second time.
    """
    train = find_split_folder(dataset, "train", source)
    if dataset.val is not None and storage.overlap(train, dataset.val):
        folders = f"but train is {train} and val {dataset.val}"
        raise UserError(f"{source}: val must lie outside train, {folders}: what is cut from val must not be trained on")
    shards = (tars.folder for tars in dataset.shards)
    for folder in (dataset.root, train, dataset.val, *dataset.additional_train, *shards):
        if folder is not None and storage.overlap(folder, out):
            raise UserError(f"OUT must lie outside DATASET and DATASET outside OUT, but got {out} and {folder}")
    return train


def list_images(folder: str) -> list[Entry]:
    """Return the images in the folder of a split, with tags that also change with their labels.

    Raise UserError where there is none, or none of them has labels.
    """
    entries = storage.list_files(folder, follow_links=True)
    images = [entry for entry in entries if entry.path.lower().endswith(IMAGE_SUFFIXES)]
    if not images:
        suffixes = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{folder}: must hold images ({suffixes}), but none of {len(entries)} files is one")
    labels, regions = (_list_texts(locate_folder(folder, name)) for name in ("labels", FOLDER))
    tagged_images, labelled_count = [], 0
    for entry in images:
        name = f"{os.path.splitext(entry.path)[0]}.txt"  # noqa: PTH122 (as `label_path`)
        labelled_count += name in labels
        for text in (labels.get(name), regions.get(name)):
            entry = entry._replace(etag=f"{entry.etag} {text.size} {text.etag}") if text else entry
        tagged_images.append(entry)
    if not labelled_count:
        raise UserError(
            f"{locate_folder(folder, 'labels')}: must hold the labels of the images, but none of {len(images)} has any"
        )
    targets = Counter(background_path(entry.path) for entry in images)
    if doubles := [path for path, count in targets.items() if count > 1]:
        raise UserError(f"{folder}: images must differ in their names, but two would be {doubles[0]}")
    return tagged_images


def as_listed(image: Entry) -> Entry:
    """Return an image of `list_images` as its folder lists it, with its own tag alone."""
    return image._replace(etag=image.etag.partition(" ")[0])


def _list_texts(folder: str) -> dict[str, Entry]:
    entries = storage.list_files(folder, follow_links=True) if storage.is_dir(folder) else []
    return {entry.path: entry for entry in entries}


def check_groups(val: str | None, images: Sequence[Entry], group_by: str | None) -> None:
    """Raise UserError where `group_by` finds nothing, or the same in a training image as in one of val.

    Of val only the names are read, and only if that is possible.
    """
    groups = set(group_names([entry.path for entry in images], group_by))
    if val is None or group_by is None:
        return
    try:
        val_paths = [entry.path for entry in storage.list_files(val, follow_links=True)]
    except (UserError, OSError):
        return
    for path in val_paths:
        try:
            (group,) = group_names([path], group_by)
        except UserError:  # it is of no group, so of none that is in train
            continue
        if group in groups:
            raise UserError(
                f"--group-by finds {group!r} in both splits, such as {val}/{path}: split by it, or the sprites leak"
            )
