"""The names of YOLO's class ids: a data.yaml, obj.names or classes.txt, each for label files in its folder and below.

labelImg writes a `classes.txt` into every folder of labels, in the order in which that session met the classes, so the
same id may mean another class in the next folder. Where two lists speak of one file, they must agree.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from depers import storage
from depers.datasets.class_lists import parse_class_list
from depers.datasets.data_yaml import class_names
from depers.errors import UserError, one_line, short_reason
from depers.normalization.rules import clean_name
from depers.yaml_files import parse_yaml

NAME_LISTS = ("classes.txt", "obj.names", "predefined_classes.txt")
"""Names of texts that hold class names."""
_TEMPLATE = "predefined_classes.txt"  # labelImg's own examples, unless there is no other list


class ClassList(NamedTuple):
    """A list of names: its path below RAW, and the names by their ids, "" where a line is blank.

    `has_points`: its YAML file has a `kpt_shape`, by which Ultralytics says that points follow the boxes.
    `is_partial`: it has `labelled`, by which a dataset says that some images are labelled for some classes only.
    """

    path: str
    names: tuple[str, ...]
    has_points: bool = False
    is_partial: bool = False

    def is_above(self, folder: str) -> bool:
        """Say whether the list lies in a folder of label files, or above it."""
        own_folder = self.path.rpartition("/")[0]
        return not own_folder or f"{folder}/".startswith(f"{own_folder}/")


class ClassLists:
    """The lists of a set."""

    def __init__(self, uri: str, lists: Sequence[ClassList]) -> None:
        self._uri, self._lists = uri, lists
        self._by_folder: dict[str, ClassList] = {}

    def find(self, label_path: str) -> ClassList:
        """Return the list for a label file. Raise UserError where several speak of it that do not agree."""
        folder = label_path.rpartition("/")[0]
        if folder not in self._by_folder:
            self._by_folder[folder] = self._find(folder)
        return self._by_folder[folder]

    def _find(self, folder: str) -> ClassList:
        above = [entry for entry in self._lists if entry.is_above(folder)]
        candidates = above or list(self._lists)
        best = max(candidates, key=lambda entry: (len(entry.names), entry.path))
        for entry in candidates:
            if entry.names != best.names[: len(entry.names)]:
                raise UserError(
                    f"{self._uri}: class ids in {folder or 'it'} must have one list of names, but {entry.path} says"
                    f" {_show(entry.names)} and {best.path} {_show(best.names)}: keep the one that is right"
                )
        return best


def _show(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def read_class_lists(uri: str, paths: Iterable[str]) -> ClassLists | None:
    """Read the lists of names among `paths` below a folder; None where there is none.

    Raise UserError for a list that is none.
    """
    lists = [entry for path in sorted(paths) if (entry := _read_list(uri, path)) is not None]
    if any(not entry.path.lower().endswith(_TEMPLATE) for entry in lists):
        lists = [entry for entry in lists if not entry.path.lower().endswith(_TEMPLATE)]
    return ClassLists(uri, lists) if lists else None


def _read_list(uri: str, path: str) -> ClassList | None:
    name, file = path.rpartition("/")[2].lower(), storage.join(uri, path)
    if name.endswith((".yaml", ".yml")):
        content = _read_yaml(file)
        if not isinstance(content, dict) or "names" not in content:
            return None
        names = tuple(clean_name(name) for name in class_names(file, content))
        return ClassList(path, names, "kpt_shape" in content, bool(content.get("labelled")))
    if name not in NAME_LISTS and not name.endswith((".names", ".labels")):
        return None
    try:
        data = storage.read_bytes(file)
    except OSError as error:
        raise UserError(f"{file}: not readable ({short_reason(error)})") from None
    names = tuple(clean_name(name) for name in parse_class_list(data, file))
    texts = [name for name in names if name]
    if not texts or len(set(texts)) < len(texts):
        raise UserError(f"{file}: names must be a list of different class names, but are {_show(names)!r}")
    if comment := next((name for name in names if name.startswith(("#", "//"))), ""):
        raise UserError(f"{file}: each line must be the name of a class, since ids count lines, but one is {comment!r}")
    return ClassList(path, names)


def _read_yaml(file: str) -> Any:
    """Return what a YAML file holds. Raise UserError where it is none."""
    try:
        return parse_yaml(file, storage.read_bytes(file))
    except OSError as error:
        raise UserError(f"{file}: must be YAML, but {one_line(error)}") from None
