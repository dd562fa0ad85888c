"""The raw sets that make a dataset: where they are, what their classes are called and mean, and what is labelled."""

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from depers import storage
from depers.datasets.data_yaml import class_names
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError, one_line, short_reason
from depers.normalization.coco import HEAD
from depers.normalization.layouts import MatchedFiles, SetImage, match_files, recognise
from depers.normalization.rules import Problem
from depers.storage import Entry

AUTO = "auto"
_LABEL_SUFFIXES = (".txt", ".xml", ".json")
_NAME_LISTS = ("classes.txt", "obj.names", "predefined_classes.txt")
ANY = "*"
"""In a class map: every class that is not named otherwise."""


class LabelSet(NamedTuple):
    """One raw set. `prefix` is its images' folder in the dataset, "" or `NAME/`.

    `names`: its classes in the order of their ids; None where the files themselves say them (VOC, COCO), or where ids
    have no names: then a class is called by its id. `entries`: its files by their paths, as they were listed.
    """

    uri: str
    prefix: str
    format: str
    names: tuple[str, ...] | None
    class_map: Mapping[str, str]
    images: list[SetImage]
    json_files: list[str]
    problems: list[Problem]
    entries: Mapping[str, Entry]


def parse_class_map(texts: Iterable[str], classes: Collection[str], option: str) -> dict[str, str]:
    """Return the map that `source=class,…` texts give; `source=` skips a class on purpose, `*=` all others.

    Raise UserError for a malformed text, a class that is not one of `classes`, and a source that is named twice.
    """
    class_map: dict[str, str] = {}
    for text in texts:
        for pair in text.split(","):
            parts = re.fullmatch(r"\s*([^=]+?)\s*=\s*([^=]*?)\s*", pair)
            if not parts:
                raise UserError(f"{option} must be source_class=class,…, but got {pair!r}")
            source, target = parts[1], parts[2]
            if target and target not in classes:
                raise UserError(f"{option} {pair}: the class must be one of {', '.join(classes)}, but is {target!r}")
            if class_map.get(source, target) != target:
                raise UserError(
                    f"{option} must give one class for {source!r}, but gives {class_map[source]!r} and {target!r}"
                )
            class_map[source] = target
    return class_map


def parse_added(text: str, classes: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the URI and the class map of `PATH_OR_URI[:source_class=class,…]`. Raise UserError for a malformed map."""
    uri, separator, tail = text.rpartition(":")
    if not separator or "=" not in tail or "/" in tail:
        return text, {}
    return uri, parse_class_map([tail], classes, "--add")


def choose_prefixes(uris: Sequence[str]) -> list[str]:
    """Return a folder for the images of every set, named as the set's is, with a number where that name is in use."""
    if len(uris) == 1:
        return [""]
    prefixes: list[str] = []
    for uri in uris:
        name = re.sub(r"^s3://", "", uri.rstrip("/")).rpartition("/")[2].strip(".") or "set"
        candidates = (f"{name}{number}/" for number in ("", *(f"-{n}" for n in range(2, len(uris) + 2))))
        prefixes.append(next(prefix for prefix in candidates if prefix not in prefixes))
    return prefixes


def open_set(
    uri: str, prefix: str, kind: str, classes: Sequence[str], class_map: Mapping[str, str], patterns: Sequence[str]
) -> LabelSet:
    """Open the set in a folder: recognise its format (or take `kind`), match its files, read lists of classes alone.

    `patterns`: only label files whose path below the folder fits one of them. Raise UserError where there are no
    images, no labels, or labels that cannot be told.
    """
    if not storage.is_dir(uri):
        raise UserError(f"{uri}: no such folder")
    entries = {entry.path: entry for entry in storage.list_files(uri) if _is_selected(entry.path, patterns)}
    paths = list(entries)
    if not any(path.lower().endswith(IMAGE_SUFFIXES) for path in paths):
        raise UserError(f"{uri}: must hold images ({', '.join(IMAGE_SUFFIXES)}), but none of {len(paths)} files is one")
    in_names = [*classes, *(name for name in class_map if name not in (*classes, ANY))]
    if kind == AUTO:
        kind = recognise(uri, paths, in_names, lambda path: _head_of(uri, entries[path]))
    files = match_files(kind, paths, in_names)
    if not any(image.label_files for image in files.images) and not files.json_files:
        raise UserError(f"{uri}: {_no_labels(kind, files, paths)}")
    names: tuple[str, ...] | None = None
    if kind == "competition":
        names = tuple(in_names)
    elif kind == "yolo":
        names = read_names(uri, paths) or (None if class_map else tuple(classes))
    return LabelSet(uri, prefix, kind, names, class_map, *files, entries)


def _is_selected(path: str, patterns: Sequence[str]) -> bool:
    if not patterns or not path.lower().endswith(_LABEL_SUFFIXES):
        return True
    return path in _NAME_LISTS or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _head_of(uri: str, entry: Entry) -> bytes:
    """Return the bytes that say whether a JSON file is COCO."""
    file = storage.join(uri, entry.path)
    try:
        return storage.read_range(file, 0, min(entry.size, HEAD))
    except OSError as error:
        raise UserError(f"{file}: not readable ({short_reason(error)})") from None


def _no_labels(kind: str, files: MatchedFiles, paths: Sequence[str]) -> str:
    rule = {
        "competition": "files named IMAGE_CLASS..txt that belong to an image",
        "yolo": "YOLO text, NAME.txt for NAME.jpg",
        "voc": "VOC's XML, NAME.xml for NAME.jpg",
        "coco": "COCO's JSON",
    }[kind]
    texts = [path for path in paths if path.lower().endswith(_LABEL_SUFFIXES)]
    reason = f"none of {len(texts)} label files does, such as {texts[0]!r}" if texts else "there is no label file"
    return f"must hold {rule}, but {reason}"


def read_names(uri: str, paths: Sequence[str]) -> tuple[str, ...] | None:
    """Return the class names of a YOLO set: of its data.yaml, else of another YAML file, or classes.txt; or None.

    Files nearest to the top go first. Raise UserError for names that are none.
    """
    depth_first = sorted(paths, key=lambda path: (path.count("/"), not path.endswith("data.yaml"), path))
    for path in depth_first:
        if path.lower().endswith((".yaml", ".yml")):
            file = storage.join(uri, path)
            try:
                content: Any = yaml.safe_load(storage.read_bytes(file).decode("utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise UserError(f"{file}: must be YAML, but {one_line(error)}") from None
            if isinstance(content, dict) and "names" in content:
                return class_names(file, content)
    for path in depth_first:
        if path.rpartition("/")[2].lower() in _NAME_LISTS or path.lower().endswith(".names"):
            text = storage.read_bytes(storage.join(uri, path)).decode("utf-8-sig", "replace")
            names = [line.strip() for line in text.splitlines() if line.strip()]
            return class_names(storage.join(uri, path), {"names": names})
    return None


def map_class(name: str, class_map: Mapping[str, str], classes: Collection[str]) -> str | None:
    """Return the dataset's class that a source's class means: "": skipped on purpose; None: nobody asked for it."""
    if name in class_map:
        return class_map[name]
    return name if name in classes else class_map.get(ANY)


def find_labelled_classes(label_set: LabelSet, occurring_names: Iterable[str], classes: Sequence[str]) -> list[str]:
    """Return the classes that a set labels: those that one of its classes means.

    A set that does not list its classes labels those that its class map names, and those that occur: `occurring_names`.
    """
    names = [*label_set.class_map, *occurring_names] if label_set.names is None else label_set.names
    labelled = {map_class(name, label_set.class_map, classes) for name in names if name != ANY}
    return [name for name in classes if name in labelled]
