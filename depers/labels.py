"""The only reader and writer of YOLO text and of the dataset folder.

ROOT/data.yaml                      names, where the splits are, and which pictures are labelled for some classes only
ROOT/images/{train,val}/NAME.jpg
ROOT/labels/{train,val}/NAME.txt    a line per box: class id, centre x, centre y, width, height, as fractions

ROOT is a folder or an `s3://` URI.
"""

import math
import os
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from depers import storage
from depers.options import UserError

CLASSES = ("car", "head", "face", "human", "carplate")
"""The classes in the order of their ids."""
SPLITS = ("train", "val")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What a picture's name in a dataset ends with, in lower case."""
_EDGE = 1e-3  # how far a box may reach over the picture's edge: annotation tools round


class Labels(NamedTuple):
    """The boxes of one picture: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), centre and size in 0…1."""

    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]

    @classmethod
    def of(cls, class_ids: Sequence[int], boxes_xywh: Sequence[Sequence[float]]) -> "Labels":
        """Labels from plain lists, which may be empty."""
        return cls(np.array(class_ids, np.int64), np.array(boxes_xywh, np.float64).reshape(-1, 4))


class Dataset(NamedTuple):
    """A dataset: its folder, class names in the order of their ids, and the picture folders of its splits, if any.

    `labelled`: (prefix, class ids), longest prefix first. A picture whose path in its split's folder begins with the
    prefix ("": every picture) is labelled for those classes only: of the others it may show objects without a label.

    `added`: where data.yaml lists several folders of training pictures, those after the first, such as synthetic ones.
    Training sees them too; sprites are cut and figures measured in the first alone.
    """

    root: str
    names: tuple[str, ...]
    train: str | None
    val: str | None
    labelled: tuple[tuple[str, frozenset[int]], ...] = ()
    added: tuple[str, ...] = ()


def parse_yolo(text: str, class_count: int, source: str) -> Labels:
    """The labels of YOLO text; blank lines are skipped, either kind of line end is read.

    Raises UserError, which names `source`, the line, the value and what is allowed, for anything but five finite
    numbers per line: a class id below `class_count`, a centre in 0…1, and a size in 0…1 that is more than 0.
    """
    class_ids: list[int] = []
    boxes: list[list[float]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        where = f"{source}, line {number}"
        if len(fields) != 5:
            raise UserError(f"{where}: must be five numbers (class, cx, cy, w, h), but got {line.strip()[:80]!r}")
        class_id = read_number(fields[0])
        if class_id not in range(class_count):
            raise UserError(f"{where}: the class id must be a whole number 0…{class_count - 1}, but got {fields[0]!r}")
        box = [read_number(field) for field in fields[1:]]
        for name, field, value in zip(("centre x", "centre y", "width", "height"), fields[1:], box, strict=True):
            if not 0 <= value <= 1 + _EDGE:
                raise UserError(f"{where}: the {name} must be a number in 0…1, but got {field!r}")
        if min(box[2:]) == 0:
            raise UserError(f"{where}: width and height must be more than 0, but got {fields[3]} and {fields[4]}")
        class_ids.append(int(class_id))
        boxes.append(box)
    return Labels.of(class_ids, boxes)


def read_number(field: str) -> float:
    """A number as YOLO text writes it; NaN for all else, such as `1_0`, `0,5`, and infinity."""
    try:
        value = math.nan if "_" in field else float(field)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def format_yolo(labels: Labels, confidences: NDArray[Any] | None = None) -> str:
    """YOLO text, a line per box with six decimals; with `confidences` (N,), those in four decimals as sixth field.

    A width or height is at least a millionth, since a box without area could not be read again.
    """
    boxes = labels.boxes_xywh.copy()
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 1e-6)
    lines = [
        f"{class_id} " + " ".join(f"{value:.6f}" for value in box)
        for class_id, box in zip(labels.class_ids.tolist(), boxes.tolist(), strict=True)
    ]
    if confidences is not None:
        lines = [f"{line} {value:.4f}" for line, value in zip(lines, confidences.tolist(), strict=True)]
    return "".join(f"{line}\n" for line in lines)


def label_path(image: str) -> str:
    """Where the labels of a picture are: the last folder named `images` above it is named `labels` instead.

    Raises UserError where no folder of that name is above it.
    """
    above, found, below = f"/{image}".rpartition("/images/")
    if not found:
        raise UserError(f"{image}: a dataset's pictures must be in a folder named images, or below one")
    return f"{above}/labels/{os.path.splitext(below)[0]}.txt"[1:]  # noqa: PTH122 (Path would garble s3://)


def pairs(folder: str) -> list[tuple[str, str]]:
    """The pictures of a split's folder, also in folders below it, in order, each with its label file.

    The label file may be missing: then the picture has no boxes. Raises UserError where the folder is missing.
    """
    names = [entry.path for entry in storage.list_files(folder)]
    pictures = [storage.join(folder, name) for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    return [(picture, label_path(picture)) for picture in pictures]


def labelled_classes(dataset: Dataset, path: str) -> frozenset[int]:
    """The ids of the classes for which a picture is labelled; `path` is that in its split's folder.

    Only of those does a missing box say that there is no object. The longest prefix counts; without any, all classes.
    """
    for prefix, class_ids in dataset.labelled:
        if path.startswith(prefix):
            return class_ids
    return frozenset(range(len(dataset.names)))


def read_labels(uri: str, class_count: int) -> Labels:
    """The labels in a file, none where there is no file. Raises UserError as `parse_yolo` does."""
    try:
        text = storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError:
        return Labels.of([], [])
    except UnicodeDecodeError:
        raise UserError(f"{uri}: must be YOLO text, but holds other bytes than UTF-8") from None
    except OSError as error:
        raise UserError(f"{uri}: not readable ({error.strerror or error})") from None
    return parse_yolo(text, class_count, uri)


def read_dataset(dataset: str | Path) -> Dataset:
    """The dataset in a folder with a data.yaml, or of a YAML file in YOLOv5's format.

    A split that the file does not name, or whose value is empty, is None. Raises UserError naming what is wrong.
    """
    uri = storage.check(str(dataset), "DATASET")
    is_folder = storage.is_dir(uri)
    file = storage.join(uri, "data.yaml") if is_folder else uri
    try:
        content = yaml.safe_load(storage.read_bytes(file).decode("utf-8"))
    except FileNotFoundError:
        wanted = "a dataset folder, but it has no data.yaml" if is_folder else "a dataset folder or its data.yaml"
        raise UserError(f"{uri}: must be {wanted}" + ("" if is_folder else ", but nothing is there")) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: must be YAML, but {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping with names, train and val, but is {type(content).__name__}")
    given = content.get("path")
    if given is not None and not isinstance(given, str):
        raise UserError(f"{file}: path must be the path of a folder, but is {given!r}")
    root = _seen_from(file.rpartition("/")[0] if "/" in file else ".", given or "")
    given, added = content.get("train"), []
    if isinstance(given, list) and given:
        given, *added = given
    train, *others = (_read_split(file, root, value, "train") for value in (given, *added))
    val, names = _read_split(file, root, content.get("val"), "val"), class_names(file, content)
    labelled = _read_labelled(file, content.get("labelled"), names)
    return Dataset(root, names, train, val, labelled, tuple(folder for folder in others if folder))


def _seen_from(folder: str, path: str) -> str:
    """`path`, which may be absolute or an `s3://` URI, seen from `folder`."""
    if storage.is_s3(path):
        return path
    if storage.is_s3(folder):
        return "s3://" + posixpath.normpath(posixpath.join(folder[5:], path.lstrip("/")))
    return str(Path(folder, path))


def class_names(file: str, content: dict[str, Any]) -> tuple[str, ...]:
    """The `names` of a data.yaml with this content, a list or numbered. Raises UserError, which names `file`."""
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
        wanted = "the path of a folder or a list of them" if split == "train" else "the path of one folder"
        raise UserError(f"{file}: {split} must be {wanted}, but is {value!r}")
    folder = _seen_from(root, value)
    if not storage.is_dir(folder):
        raise UserError(f"{file}: {split} must be a folder of pictures, but {folder} is none")
    return folder


def _read_labelled(file: str, value: object, names: Sequence[str]) -> tuple[tuple[str, frozenset[int]], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict) or not all(isinstance(prefix, str) for prefix in value):
        raise UserError(f"{file}: labelled must map prefixes of pictures' paths to class names, but is {value!r}")
    found = []
    for prefix, classes in value.items():
        if not isinstance(classes, list) or not all(name in names for name in classes):
            allowed = ", ".join(names)
            raise UserError(f"{file}: labelled {prefix!r} must be a list of classes ({allowed}), but is {classes!r}")
        found.append((prefix, frozenset(names.index(name) for name in classes)))
    return tuple(sorted(found, key=lambda entry: (-len(entry[0]), entry[0])))


def write_data_yaml(
    root: str | Path,
    names: Sequence[str],
    splits: Sequence[str] = SPLITS,
    labelled: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Writes ROOT/data.yaml (ROOT may be an `s3://` URI), which names the folders of those `splits` that exist.

    `labelled` maps a prefix of pictures' paths in their split's folder, such as `heads/`, to the names of the classes
    that are labelled there; YOLOv5 ignores the key.
    """
    folders = {split: f"images/{split}" if split in splits else "" for split in SPLITS}
    content: dict[str, Any] = {**folders, "nc": len(names), "names": list(names)}
    if labelled:
        content["labelled"] = {prefix: list(classes) for prefix, classes in labelled.items()}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    storage.write_bytes(storage.join(str(root), "data.yaml"), text.encode())


def write_joined_yaml(
    root: str, names: Sequence[str], real: Dataset | None, prefix: str, shards: str | None = None
) -> None:
    """Writes ROOT/data.yaml, which adds the pictures in ROOT/images/train, below `prefix`, to those of a dataset.

    Training pictures are the dataset's and these, validation pictures the dataset's alone. Folders are absolute, as
    YOLOv5 needs them where they are not below one. Where the dataset is labelled for some classes only, pictures made
    of it are labelled for no more than all of it is. Where the pictures are in tars (`shards`), the file names those,
    and no folder to train on, since it could not name both.
    """
    content: dict[str, Any] = {"train": "images/train", "val": "", "nc": len(names), "names": list(names)}
    if real:
        content["train"] = [*(_absolute(f) for f in (real.train, *real.added) if f), _absolute(f"{root}/images/train")]
        content["val"] = _absolute(real.val) if real.val else ""
        if real.labelled:
            common = frozenset.intersection(*(class_ids for _, class_ids in real.labelled))
            everywhere = {**dict(real.labelled), f"{prefix}/": common}
            content["labelled"] = {p: [real.names[i] for i in sorted(ids)] for p, ids in everywhere.items()}
    if shards:
        content |= {"train": "", "shards": shards}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(root, "data.yaml"), text.encode())


def write_subset_yaml(root: str, dataset: Dataset) -> None:
    """Writes ROOT/data.yaml for a part of a dataset: training pictures in ROOT/images/train, its own for validation."""
    content: dict[str, Any] = {"train": "images/train", "val": _absolute(dataset.val) if dataset.val else ""}
    content |= {"nc": len(dataset.names), "names": list(dataset.names)}
    if dataset.labelled:
        content["labelled"] = {p: [dataset.names[i] for i in sorted(ids)] for p, ids in dataset.labelled}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(root, "data.yaml"), text.encode())


def _absolute(folder: str) -> str:
    return folder if storage.is_s3(folder) else str(Path(folder).absolute())
