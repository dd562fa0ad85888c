"""The only reader and writer of a dataset's data.yaml, which says what its classes are and where its images.

ROOT/data.yaml                      names, where the splits are, and which images are labelled for some classes only
ROOT/images/{train,val}/NAME.jpg
ROOT/labels/{train,val}/NAME.txt    what `labels` reads and writes

ROOT is a folder or an `s3://` URI.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import yaml

from depers import storage
from depers.datasets.ignore_regions import locate_folder
from depers.datasets.labels import IMAGE_SUFFIXES, SPLITS, find_images
from depers.datasets.shards import Shards, parse_shards
from depers.errors import UserError, one_line
from depers.storage import file_table
from depers.yaml_files import parse_yaml

HINT = "run `depers normalize` first, which makes a dataset of such a set"

SYNTHETIC_SHARE = 0.5
"""How much of what a training sees is synthetic, where it is not told otherwise: more has been found to harm."""


class Dataset(NamedTuple):
    """A dataset: its folder, class names in the order of their ids, and the image folders of its splits, if any.

    `labelled`: (prefix, class ids), longest prefix first. An image whose path in its split's folder begins with the
    prefix ("": every image) is labelled for those classes only: of the others it may show objects without a label.

    `additional_train`: where data.yaml lists several folders of training images, those after the first, such as
    synthetic ones. Training sees them too; sprites are cut and figures measured in the first alone.

    `machine_labelled`: (prefix, class ids) as `labelled`, which has them too: where a detector made the labels. They
    teach, but nothing is measured by them.

    `additional_share`: how much of what a training sees comes from `additional_train`, if data.yaml says so by its
    `share`, which YOLOv5 ignores.

    `calibration` are images that neither teach nor choose weights, for thresholds; YOLOv5 ignores the key.

    `shards` are tars with more images to train on, which YOLOv5 cannot read. data.yaml then leaves its `train` empty,
    so that YOLOv5 does not train on a part of the images, and names the folders in `train_beside_shards`.
    """

    root: str
    names: tuple[str, ...]
    train: str | None
    val: str | None
    labelled: tuple[tuple[str, frozenset[int]], ...] = ()
    additional_train: tuple[str, ...] = ()
    machine_labelled: tuple[tuple[str, frozenset[int]], ...] = ()
    additional_share: float | None = None
    calibration: str | None = None
    shards: tuple[Shards, ...] = ()

    def list_training_folders(self) -> list[str]:
        """Return all folders of training images."""
        return [folder for folder in (self.train, *self.additional_train) if folder]


def labelled_classes(dataset: Dataset, path: str) -> frozenset[int]:
    """Return the ids of the classes for which an image is labelled; `path` is that in its split's folder.

    Only of those does a missing box say that there is no object. The longest prefix counts; without any, all classes.
    """
    for prefix, class_ids in dataset.labelled:
        if path.startswith(prefix):
            return class_ids
    return frozenset(range(len(dataset.names)))


def without_machine_labels(dataset: Dataset) -> Dataset:
    """Return the dataset as labelled for what people labelled: what a detector labelled measures no other detector."""
    machine = dict(dataset.machine_labelled)
    labelled = [(prefix, class_ids - machine.get(prefix, frozenset())) for prefix, class_ids in dataset.labelled]
    return dataset._replace(labelled=tuple(labelled))


def read_dataset(dataset: str | Path) -> Dataset:
    """Return the dataset in a folder with a data.yaml, or of a YAML file in YOLOv5's format.

    A split that the file does not name, or whose value is empty, is None. Raise UserError naming what is wrong.
    """
    uri = storage.check(str(dataset), "DATASET")
    is_folder = storage.is_dir(uri)
    file = storage.join(uri, "data.yaml") if is_folder else uri
    try:
        content = parse_yaml(file, storage.read_bytes(file))
    except FileNotFoundError:
        if is_folder:
            raise UserError(f"{uri}: must be a dataset folder, but it has no data.yaml: {HINT}") from None
        raise UserError(f"{uri}: must be a dataset folder or its data.yaml, but nothing is there") from None
    except OSError as error:
        raise UserError(f"{file}: must be YAML, but {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping with names, train and val, but is {type(content).__name__}")
    path = content.get("path")
    if path is not None and not isinstance(path, str):
        raise UserError(f"{file}: path must be the path of a folder, but is {path!r}")
    root = _resolve(file.rpartition("/")[0] if "/" in file else ".", path or "")
    shards = _read_shards(file, root, content)
    key = "train_beside_shards" if shards else "train"
    value = content.get(key)
    values = value if isinstance(value, list) and value else [value]
    train, *additional_train = (_read_split(file, root, value, key) for value in values)
    val = content.get("val")
    if isinstance(val, list) and len(val) == 1:
        val = val[0]
    val, names = _read_split(file, root, val, "val"), class_names(file, content)
    labelled = _read_labelled(file, content, "labelled", names)
    machine_labelled = _read_labelled(file, content, "machine_labelled", names)
    for prefix, class_ids in machine_labelled:
        if not class_ids <= dict(labelled).get(prefix, frozenset()):
            raise UserError(f"{file}: machine_labelled {prefix!r} must be among the classes that are labelled there")
    additional = tuple(folder for folder in additional_train if folder)
    share = content.get("share")
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1):
        raise UserError(f"{file}: share must be a number between 0 and 1, but is {share!r}")
    calibration = _read_split(file, root, content.get("calibration"), "calibration")
    return Dataset(root, names, train, val, labelled, additional, machine_labelled, share, calibration, shards)


def _read_shards(file: str, root: str, content: Mapping[str, Any]) -> tuple[Shards, ...]:
    value = content.get("shards")
    values = value if isinstance(value, list) else [value] if value else []
    for pattern in values:
        if not isinstance(pattern, str):
            raise UserError(f"{file}: shards must be like shards/{{000000..000012}}.tar, but is {pattern!r}")
    if values and content.get("train"):
        hint = "folders beside tars are named by train_beside_shards"
        raise UserError(f"{file}: train must be empty where there are shards, but is {content['train']!r}: {hint}")
    return tuple(parse_shards(_resolve(root, pattern), file) for pattern in values)


def find_split_folder(dataset: Dataset, split: str, source: str) -> str:
    """Return the folder of images of a split, of several the first. Raise UserError where there is none."""
    folder = {"train": dataset.train, "val": dataset.val, "calibration": dataset.calibration}[split]
    if folder is not None:
        return folder
    if split == "train" and dataset.shards:
        tars = f"they are in tars ({dataset.shards[0].pattern}), which only `depers train` reads"
        raise UserError(f"{source}: the dataset must have its training images in a folder, but {tars}")
    raise UserError(f"{source}: the dataset must name a {split} split, but does not")


def _resolve(folder: str, path: str) -> str:
    """Return `path`, which may be absolute or a URI of a store, seen from `folder`.

    It may lie anywhere, as for YOLOv5: it is only read. In a store it does not climb out of its bucket.
    """
    if storage.is_remote(path):
        return path
    if storage.is_remote(folder):
        scheme, bucket, key = storage.split_uri(folder)
        below = posixpath.normpath(f"/{key}/{path}").strip("/")
        return f"{scheme}://{bucket}/{below}".rstrip("/")
    return str(Path(folder, path))


def class_names(file: str, content: dict[str, Any]) -> tuple[str, ...]:
    """Return the `names` of a data.yaml with this content, a list or numbered; raise UserError, which names `file`."""
    names = content.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{file}: names must be numbered from 0 without a gap, but the numbers are {list(names)}")
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"{file}: names must be a list of class names, but is {names!r}")
    if len(set(names)) < len(names):
        raise UserError(f"{file}: names must differ, but are {', '.join(names)}")
    count = content.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{file}: nc must be the number of names, {len(names)}, but is {count!r}")
    return tuple(names)


def _read_split(file: str, root: str, value: object, split: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        is_list = split.startswith("train")
        expectation = "the path of a folder or a list of them" if is_list else "the path of one folder"
        raise UserError(f"{file}: {split} must be {expectation}, but is {value!r}")
    folder = _resolve(root, value)
    if value.lower().endswith(".txt"):
        raise UserError(f"{file}: {split} must be a folder of images, but {folder} is a list of them: {HINT}")
    if not storage.is_dir(folder):
        beside = _resolve(root, value.removeprefix("../"))  # Roboflow's `../train/images`, as YOLOv5 takes it
        if beside == folder or not storage.is_dir(beside):
            raise UserError(f"{file}: {split} must be a folder of images, but {folder} is none: {HINT}")
        folder = beside
    return folder


def check_labels(source: str, *folders: str | None) -> None:
    """Raise UserError where one of the `folders` has no image, or an image in it has no label file.

    Such an image would be taught as background. Its labels may have another name, or may never have been made.
    `source` is the dataset as the user calls it.
    """
    for folder in folders:
        if folder is None:
            continue
        try:
            labels = locate_folder(folder, "labels")
        except UserError:
            raise UserError(
                f"{source}: images must lie in a folder named images, but lie in {folder}: {HINT}"
            ) from None
        if not storage.is_dir(labels):
            raise UserError(f"{source}: the labels of {folder} must be in {labels}, but nothing is there: {HINT}")
        texts, files = (file_table.tabulate_files(uri)["path"] for uri in (labels, folder))
        images = files.filter(find_images(files))
        if not len(images):
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"{source}: {folder} must hold images ({suffixes}), but none of {len(files)} files is one")
        expected = pc.replace_substring_regex(images, r"([^/])\.[^./]*$", r"\1.txt")  # as `label_path`
        bare = images.filter(pc.invert(pc.is_in(expected, value_set=texts.combine_chunks())))
        if len(bare):
            strangers = texts.filter(pc.invert(pc.is_in(texts, value_set=expected.combine_chunks())))
            example = f", while {file_table.decode(strangers[0].as_py())} has no image" if len(strangers) else ""
            raise UserError(
                f"{source}: every image must have a label file, an empty one where it shows nothing, but {len(bare)} of"
                f" {len(images)} in {folder} have none, such as {file_table.decode(bare[0].as_py())}{example}: {HINT}"
            )


def _read_labelled(
    file: str, content: Mapping[str, Any], key: str, names: Sequence[str]
) -> tuple[tuple[str, frozenset[int]], ...]:
    value = content.get(key)
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(prefix, str) for prefix in value):
        raise UserError(f"{file}: {key} must map prefixes of images' paths to class names, but is {value!r}")
    entries = []
    for prefix, classes in value.items():
        if not isinstance(classes, list) or not all(name in names for name in classes):
            known_names = ", ".join(names)
            raise UserError(f"{file}: {key} {prefix!r} must be a list of classes ({known_names}), but is {classes!r}")
        entries.append((prefix, frozenset(names.index(name) for name in classes)))
    return tuple(sorted(entries, key=lambda entry: (-len(entry[0]), entry[0])))


def write_data_yaml(
    root: str | Path,
    names: Sequence[str],
    splits: Sequence[str] = SPLITS[:2],
    labelled: Mapping[str, Sequence[str]] | None = None,
    machine_labelled: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write ROOT/data.yaml (ROOT may be an `s3://` URI), which names the folders of those `splits` that exist.

    `labelled` maps a prefix of images' paths in their split's folder, such as `heads/`, to the names of the classes
    that are labelled there, `machine_labelled` to those of them that a detector labelled; YOLOv5 ignores both keys.
    """
    folders = {split: f"images/{split}" if split in splits else "" for split in SPLITS}
    if not folders["calibration"]:
        del folders["calibration"]  # which YOLOv5 knows nothing of
    content: dict[str, Any] = {**folders, "nc": len(names), "names": list(names)}
    if labelled:
        content["labelled"] = {prefix: list(classes) for prefix, classes in labelled.items()}
    if machine_labelled:
        content["machine_labelled"] = {prefix: list(classes) for prefix, classes in machine_labelled.items()}
    _write(str(root), content)


def write_joined_yaml(
    root: str,
    names: Sequence[str],
    real: Dataset | None,
    prefix: str,
    shards: str | None = None,
) -> None:
    """Write ROOT/data.yaml, which adds the images in ROOT/images/train, below `prefix`, to those of `real`, if any.

    Training images are the dataset's and these, each half of what a training sees; validation images the dataset's.
    Folders are absolute, as YOLOv5 needs them where they are not below one. What these images are not labelled for,
    their ignore regions say. Where the images are in tars (`shards`), the file names those, and folders beside them by
    a key of its own: YOLOv5 would train on the folders alone.
    """
    content: dict[str, Any] = {"train": "images/train", "val": "", "nc": len(names), "names": list(names)}
    all_shards = [shards] if shards else []
    if real:
        folders = [storage.absolute(folder) for folder in (real.train, *real.additional_train) if folder]
        content["train"] = folders if shards else [*folders, storage.absolute(f"{root}/images/train")]
        all_shards = [*(storage.absolute(tars.pattern) for tars in real.shards), *all_shards]
        content["val"] = storage.absolute(real.val) if real.val else ""
        content["share"] = SYNTHETIC_SHARE
        content |= {"calibration": storage.absolute(real.calibration)} if real.calibration else {}
    labelled = [*real.labelled] if real else []
    if labelled:
        content["labelled"] = _named([*labelled, (f"{prefix}/", frozenset(range(len(names))))], names)
    if real and real.machine_labelled:
        content["machine_labelled"] = _named(real.machine_labelled, names)
    if all_shards:
        folders = content["train"] if real else []
        beside = {"train_beside_shards": folders} if folders else {}
        content |= {"train": "", "shards": all_shards[0] if len(all_shards) == 1 else all_shards} | beside
    _write(root, content)


def write_subset_yaml(root: str, dataset: Dataset) -> None:
    """Write ROOT/data.yaml for a part of a dataset: training images in ROOT/images/train, its own for validation."""
    content: dict[str, Any] = {"train": "images/train", "val": storage.absolute(dataset.val) if dataset.val else ""}
    content |= {"calibration": storage.absolute(dataset.calibration)} if dataset.calibration else {}
    content |= {"nc": len(dataset.names), "names": list(dataset.names)}
    if dataset.labelled:
        content["labelled"] = _named(dataset.labelled, dataset.names)
    if dataset.machine_labelled:
        content["machine_labelled"] = _named(dataset.machine_labelled, dataset.names)
    _write(root, content)


def _named(labelled: Iterable[tuple[str, frozenset[int]]], names: Sequence[str]) -> dict[str, list[str]]:
    """Return prefixes with the names of their classes; the last of a prefix counts."""
    return {prefix: [names[class_id] for class_id in sorted(class_ids)] for prefix, class_ids in labelled}


def _write(root: str, content: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_flow_style=None)
    storage.write_bytes(storage.join(root, "data.yaml"), text.encode())
