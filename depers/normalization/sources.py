"""The raw sets that make a dataset: where they are, what their classes are called and mean, and what is labelled."""

import fnmatch
import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from posixpath import splitext
from types import MappingProxyType
from typing import NamedTuple

from depers import storage
from depers.datasets.ignore_regions import FOLDER
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError, short_reason
from depers.normalization.class_lists import NAME_LISTS, ClassList, ClassLists, read_class_lists
from depers.normalization.formats.coco import HEAD
from depers.normalization.formats.foreign import identify
from depers.normalization.formats.yolo import COLUMNS
from depers.normalization.layouts import (
    IMAGE_LISTS,
    LABEL_SUFFIXES,
    FileRole,
    MatchedFiles,
    SetImage,
    match_files,
    recognise,
)
from depers.normalization.matching import name_in_dataset
from depers.normalization.rules import Problem, clean_name
from depers.runtime import outputs
from depers.statuses import ProblemAction
from depers.storage import Entry

AUTO = "auto"
_HEADS = 1024  # beginnings of files that are held at once
ANY = "*"
"""In a class map: every class that is not named otherwise."""


class LabelSet(NamedTuple):
    """One raw set. `prefix` is its images' folder in the dataset, "" or `NAME/`.

    `names`: its classes; None where the files themselves say them (VOC, COCO), or where ids have no names: then a class
    is called by its id. `lists`: those of its ids, where files give them. `columns`: what stands in a line of YOLO's.
    `entries`: its files by their paths, as they were listed; `roles` says what each is.
    `left_out`: label files that are none of them, on purpose. `unusable`: what can be no file of a dataset, and why.
    """

    uri: str
    prefix: str
    format: str
    names: tuple[str, ...] | None
    class_map: Mapping[str, str]
    images: list[SetImage]
    listings: list[str]
    problems: list[Problem]
    roles: Mapping[str, FileRole]
    entries: Mapping[str, Entry]
    lists: ClassLists | None = None
    columns: str = COLUMNS[0]
    left_out: Sequence[str] = ()
    unusable: Mapping[str, str] = MappingProxyType({})

    def find_names(self, label_path: str) -> tuple[str, ...] | None:
        """Return the names of the ids in a label file; None as for `names`."""
        return self.lists.find(label_path).names if self.lists else self.names


def parse_class_map(texts: Iterable[str], classes: Collection[str], option: str) -> dict[str, str]:
    r"""Return the map that `source=class,…` texts give; `source=` skips a class on purpose, `*=` all others.

    In a name, `\,` and `\=` are a comma and an equals sign.

    Raise UserError for a malformed text, a class that is not one of `classes`, and a source that is named twice.
    """
    class_map: dict[str, str] = {}
    for text in texts:
        for pair in re.split(r"(?<!\\),", text):
            parts = [re.sub(r"\\([,=])", r"\1", part).strip() for part in re.split(r"(?<!\\)=", pair)]
            if len(parts) != 2 or not parts[0]:
                raise UserError(f"{option} must be source_class=class,…, but got {pair!r}")
            source, target = clean_name(parts[0]), parts[1]
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
        name = uri.rstrip("/").rpartition("://")[2].rpartition("/")[2].strip(".")
        if not name or name.lower() == "images":  # a dataset's labels are found by the last folder of that name
            name = "set"
        candidates = (f"{name}{number}/" for number in ("", *(f"-{n}" for n in range(2, len(uris) + 2))))
        prefixes.append(next(prefix for prefix in candidates if prefix not in prefixes))
    return prefixes


def open_set(
    uri: str,
    prefix: str,
    kind: str,
    classes: Sequence[str],
    class_map: Mapping[str, str],
    patterns: Sequence[str],
    columns: str = COLUMNS[0],
    *,
    has_own_map: bool = True,
    out: str | None = None,
    follow_links: bool = False,
) -> LabelSet:
    """Open the set in a folder: recognise its format (or take `kind`), match its files, read lists of classes alone.

    `patterns`: only label files whose path below the folder fits one of them. `columns`: what stands in YOLO's lines.
    `has_own_map`: the class map is about this set, not one for all sets: then it may say what ids without names mean.
    What can have no place in the dataset (`out`, if that is known) is a problem, as are links out of the folder
    unless `follow_links`. Raise UserError where there are no images, no labels, or labels that cannot be told.
    """
    if not storage.is_dir(uri):
        raise UserError(f"{uri}: no such folder")
    listing = _check_listing(uri, prefix, storage.list_files(uri, follow_links, out), out)
    unusable = {entry.path: entry.reason for entry in listing if entry.status}
    entries = {entry.path: entry for entry in listing if not entry.status and _is_selected(entry.path, patterns)}
    left_out = [entry.path for entry in listing if not entry.status and entry.path not in entries]
    paths = list(entries)
    if not any(path.lower().endswith(IMAGE_SUFFIXES) for path in paths):
        raise UserError(f"{uri}: must hold images ({', '.join(IMAGE_SUFFIXES)}), but none of {len(paths)} files is one")
    in_names = [*classes, *(name for name in class_map if name not in (*classes, ANY))]
    head_of = functools.lru_cache(_HEADS)(lambda path: _head_of(uri, entries[path]))
    if kind == AUTO:
        kind = recognise(uri, paths, in_names, head_of)
    files = match_files(kind, paths, in_names, head_of)
    for path, reason in unusable.items():
        files.problems.append(Problem(path, 0, "unusable path", ProblemAction.SKIPPED, reason))
    if not any(image.label_files for image in files.images) and not files.listings:
        raise UserError(f"{uri}: {identify(paths, head_of) or _no_labels(kind, files, paths)}")
    label_set = LabelSet(
        uri, prefix, kind, None, class_map, *files, entries, columns=columns, left_out=left_out, unusable=unusable
    )
    files.problems.extend(_check_image_lists(uri, files))
    if kind == "competition":
        occurring = {file.class_name for image in files.images for file in image.label_files}
        return label_set._replace(names=tuple(name for name in in_names if name in occurring))
    if kind == "oidv4":
        _refuse_folders_of_classes(label_set)
    return _name_ids(label_set, classes, has_own_map) if kind == "yolo" else label_set


def _check_image_lists(uri: str, files: MatchedFiles) -> Iterator[Problem]:
    """Yield lists of images that are not there: then a part of the set is missing."""
    last_parts = [path.rpartition("/")[2] for path in files.roles if path.lower().endswith(IMAGE_SUFFIXES)]
    names = {*last_parts, *(splitext(name)[0] for name in last_parts)}  # VOC's lists have names without a suffix
    for path in (path for path, role in files.roles.items() if role == FileRole.LIST and IMAGE_LISTS.search(path)):
        with suppress(OSError, UnicodeDecodeError):  # it decides nothing
            lines = [line.strip() for line in storage.read_bytes(storage.join(uri, path)).decode().splitlines()]
            entries = [(line, line.split()[0]) for line in lines if line]  # those of a class have a number after each
            absent = [
                texts[0]
                for texts in entries
                if names.isdisjoint(text.replace("\\", "/").rpartition("/")[2] for text in texts)
            ]
            if absent:
                detail = f"{len(absent)} of {len(entries)}, such as {absent[0]}"
                yield Problem(path, 0, "list of images that are not there", ProblemAction.ACCEPTED, detail)


def _refuse_folders_of_classes(label_set: LabelSet) -> None:
    """Raise UserError where an OIDv4 set has folders of several classes: each is labelled for its own alone."""
    paths = {file.path.rpartition("/")[0] for image in label_set.images for file in image.label_files}
    folders = {match[1] for path in paths if (match := re.search(r"([^/]+)/label$", path, re.IGNORECASE))}
    if len(folders) > 1:
        raise UserError(
            f"{label_set.uri}: a folder of OIDv4_ToolKit is labelled for its own class alone, but there are"
            f" {', '.join(sorted(folders)[:6])}: give each folder as a set of its own, with --add"
        )


def _name_ids(label_set: LabelSet, classes: Sequence[str], has_own_map: bool) -> LabelSet:
    """Return a YOLO set with the names of its ids. Raise UserError where nothing says them, or lists do not agree."""
    uri, class_map = label_set.uri, label_set.class_map
    lists = read_class_lists(uri, (path for path, role in label_set.roles.items() if role == FileRole.LIST))
    id_names = [name for name in class_map if name.isdecimal()]
    if lists is None:
        if not id_names and not (has_own_map and ANY in class_map):
            raise UserError(
                f"{uri}: class ids must have names, but there is neither a data.yaml nor a classes.txt (a name per"
                " line, in the order of the ids): write one, or say what is what with --class-map 0=CLASS,1=CLASS,…"
            )
        if not has_own_map:
            raise UserError(
                f"{uri}: class ids must have names, but there is no list of them, and --class-map may be about those of"
                f" another set: write a classes.txt, or say what is what with --add {uri}:0=CLASS,1=CLASS,…"
            )
        return label_set
    entries: dict[str, ClassList] = {}
    for image in label_set.images:
        for file in image.label_files:
            entry, folder = lists.find(file.path), file.path.rpartition("/")[0]
            if entry.path not in entries and not entry.is_above(folder):
                detail = f"for labels in {folder or 'the folder of the set'}"
                problem = Problem(entry.path, 0, "class list of another folder", ProblemAction.ACCEPTED, detail)
                label_set.problems.append(problem)
            entries.setdefault(entry.path, entry)
    known_names = {name for entry in entries.values() for name in entry.names}
    if has_own_map and (unknown_ids := [name for name in id_names if name not in known_names]):
        raise UserError(
            f"{uri}: a class map must use the names of classes where there is a list of them, but has"
            f" {unknown_ids[0]!r}, while {next(iter(entries))} says {', '.join(sorted(known_names - {''})[:6])}"
        )
    has_regions = any(path.startswith(f"{FOLDER}/") for path in label_set.entries)
    if has_regions or any(entry.is_partial for entry in entries.values()):
        what = "ignore regions" if has_regions else "images that are labelled for some classes only"
        raise UserError(
            f"{uri}: must be a raw set, but is a dataset with {what}: train on it, or normalize its raw sets"
        )
    meanings = {
        path: {meaning for name in entry.names if name and (meaning := map_class(name, class_map, classes))}
        for path, entry in entries.items()
    }
    first, *further_paths = meanings
    for path in further_paths:
        if meanings[path] != meanings[first]:  # what one list does not name may be there without a label
            texts = (f"{name} names {', '.join(sorted(meanings[name])) or 'none of them'}" for name in (first, path))
            raise UserError(
                f"{uri}: all lists of classes must name the same of {', '.join(classes)}, but {' and '.join(texts)}:"
                " give each folder as a set of its own, with --add"
            )
    names = dict.fromkeys(name for entry in entries.values() for name in entry.names if name)
    has_points = label_set.columns == AUTO and any(entry.has_points for entry in entries.values())
    columns = "box+points" if has_points else label_set.columns
    return label_set._replace(names=tuple(names), lists=lists, columns=columns)


def _check_listing(uri: str, prefix: str, listing: Sequence[Entry], out: str | None) -> list[Entry]:
    """Return the listing, of which fails what cannot be in the dataset.

    That is any key that is no plain path, also where the dataset lies on S3: it would lead out of the folder that
    somebody brings the dataset to.
    """
    checked = outputs.check_outputs("/", outputs.check_inputs(uri, listing), str)
    if out is None:
        return checked
    return outputs.check_outputs(out, checked, locate=lambda path: f"images/train/{prefix}{name_in_dataset(path)}")


def _is_selected(path: str, patterns: Sequence[str]) -> bool:
    if not patterns or not path.lower().endswith(LABEL_SUFFIXES):
        return True
    return path.rpartition("/")[2] in NAME_LISTS or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def _head_of(uri: str, entry: Entry) -> bytes:
    """Return the bytes that say what a file is; none of a link that leads nowhere."""
    if entry.size < 0:
        return b""
    file = storage.join(uri, entry.path)
    try:
        return storage.read_range(file, 0, min(entry.size, HEAD))
    except OSError as error:
        raise UserError(f"{file}: not readable ({short_reason(error)})") from None


def _no_labels(kind: str, files: MatchedFiles, paths: Sequence[str]) -> str:
    rule = {
        "competition": "files named IMAGE_CLASS..txt that belong to an image",
        "yolo": "YOLO text, NAME.txt for NAME.jpg",
        "kitti": "KITTI's text, NAME.txt for NAME.jpg",
        "oidv4": "OIDv4_ToolKit's text, NAME.txt for NAME.jpg",
        "voc": "VOC's XML, NAME.xml for NAME.jpg",
        "coco": "COCO's JSON",
        "labelme": "LabelMe's JSON, NAME.json for NAME.jpg",
        "wider": "WIDER FACE's lists, wider_face_…_bbx_gt.txt",
        "crowdhuman": "CrowdHuman's annotation_….odgt",
    }[kind]
    texts = [path for path in paths if path.lower().endswith(LABEL_SUFFIXES)]
    reason = f"none of {len(texts)} label files does, such as {texts[0]!r}" if texts else "there is no label file"
    return f"must hold {rule}, but {reason}"


def map_class(name: str, class_map: Mapping[str, str], classes: Collection[str]) -> str | None:
    """Return the dataset's class that a source's class means: "": skipped on purpose; None: nobody asked for it."""
    if name in class_map:
        return class_map[name]
    return name if name in classes else class_map.get(ANY)


def find_labelled_classes(
    label_set: LabelSet, listed_names: Iterable[str], occurring_names: Iterable[str], classes: Sequence[str]
) -> list[str]:
    """Return the classes that a set labels: those that one of its `occurring_names` means, or that its map names.

    A name in a list or among categories of which there is no box may be one that nobody looked for: it counts where
    the class map names it. A name of the map that the set does not list may be misspelt, or be another set's; where
    YOLO's ids have no names, the map is what lists them. In the competition's layout files say what was looked for.
    """
    if label_set.format == "competition":
        occurring_names = label_set.names or ()
    elif label_set.format == "yolo" and label_set.names is None:
        listed_names = label_set.class_map
    names = {*occurring_names, *(name for name in listed_names if name in label_set.class_map)} - {ANY}
    labelled = {map_class(name, label_set.class_map, classes) for name in names}
    return [name for name in classes if name in labelled]
