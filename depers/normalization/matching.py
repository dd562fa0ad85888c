"""Which image a label file, or an entry of a JSON file, belongs to: by its place, and only where that is certain.

An image and its labels lie at the same place but for folders whose names only say what kind of files lie in them
(images, labels, Annotations, …). Where no image lies there, these count, in this order, and only for an image that has
no labels yet and is the only one that fits, for a single label file:

- a name that is the same text: in another Unicode form (macOS writes é as two characters), or percent-encoded, as web
  tools write it;
- a place that is the end of the other's place, with a folder: `train/a.txt` for `set/train/a.jpg`;
- the only image of that name, for a label file that lies in no folder of its own.

All else belongs to an image that is not there: a name alone is no evidence, since cameras and sequences count from 1.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from posixpath import splitext  # Path objects are slow for millions of files
from urllib.parse import unquote

_LAYOUT = frozenset(("images", "labels", "annotations", "jpegimages", "xmls", "label", "obj_train_data"))
_KINDS = frozenset(  # further folders that say what kind of files lie in them, and are part of an image's name
    ("annotation", "annots", "ann", "anns", "frames", "image", "image_2", "img", "imgs", "jpegs", "jpg", "label_2")
    + ("photo", "photos", "pics", "png", "text", "texts", "txt", "txts", "xml", "json", "bboxes", "boxes")
)
_DECORATION = re.compile(r"^[0-9a-f]{8}-|(?:[._](?:jpe?g|png))?\.rf\.[0-9a-f]{32}")  # Label Studio's, Roboflow's
_FROM_A_MACHINE = re.compile(r"/|[A-Za-z]:/|[a-z0-9]+://|(?:data/)?upload/|data/local-files/", re.IGNORECASE)


def name_in_dataset(path: str) -> str:
    """Return the path without the folders that only say what kind of files lie in them."""
    folders, _, name = path.rpartition("/")
    return "/".join([*(part for part in folders.split("/") if part and part.lower() not in _LAYOUT), name])


def find_stem(path: str) -> str:
    """Return the name in the dataset without its suffix: an image and its labels have it in common."""
    return splitext(name_in_dataset(path))[0]


def unify(name: str) -> str:
    """Return a name in one Unicode form and without percent-encoding; two names with the same are the same text."""
    if name.isascii() and "%" not in name:
        return name
    return unicodedata.normalize("NFC", unquote(name, errors="surrogateescape"))


def simplify(name: str) -> str:
    """Return what is left of a name without case, punctuation, suffixes and what tools add, to compare it loosely."""
    text = _DECORATION.sub("", unify(name).casefold())
    text = re.sub(r"\.(?:bmp|jpe?g|png|tiff?|webp)$", "", text)
    return "".join(character for character in text if character.isalnum())


def strip_kinds(name: str) -> str:
    """Return a name in the dataset without any folder that says what kind of files lie in it."""
    folders, _, last = name.rpartition("/")
    return "/".join([*(part for part in folders.split("/") if part and part.lower() not in _KINDS), last])


class ImageFinder:
    """Finds images by names that need not be written as theirs are; `names` are theirs, by what is returned."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._exact = {name: image for image, name in names.items()}

    @cached_property
    def _by_text(self) -> Mapping[str, list[str]]:
        return _group((unify(name), image) for image, name in self._names.items())

    @cached_property
    def _places(self) -> Mapping[str, str]:
        return {image: strip_kinds(unify(name)) for image, name in self._names.items()}

    @cached_property
    def _by_last_part(self) -> Mapping[str, list[str]]:
        return _group((place.rpartition("/")[2], image) for image, place in self._places.items())

    def find_exactly(self, name: str) -> str | None:
        """Return the image of that very name."""
        return self._exact.get(name)

    def find_as_text(self, name: str) -> list[str]:
        """Return the images whose name is the same text, in another form."""
        return self._by_text.get(unify(name), [])

    def find_by_place(self, name: str) -> list[str]:
        """Return the images whose place is the end of the name's, or the reverse; a name alone counts as a place."""
        place = strip_kinds(unify(name))
        namesakes = self._by_last_part.get(place.rpartition("/")[2], [])
        if equal := [image for image in namesakes if self._places[image] == place]:
            return equal
        if "/" not in place:
            return namesakes
        places = [(image, self._places[image]) for image in namesakes]
        return [image for image, its_place in places if "/" in its_place and _end_alike(its_place, place)]


def _group(pairs: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups


def _end_alike(first: str, second: str) -> bool:
    return first.endswith(f"/{second}") or second.endswith(f"/{first}")


def match_names(finder: ImageFinder, files: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str | None]]:
    """Yield the image of every label file of (path, name): exact names first, then by the rules of this module."""
    rest: list[tuple[str, str]] = []
    labelled: set[str] = set()
    for path, name in files:
        image = finder.find_exactly(name)
        if image is None:
            rest.append((path, name))
        else:
            labelled.add(image)
            yield path, image
    for find in (finder.find_as_text, finder.find_by_place):
        matches = _match_alone(rest, labelled, find)
        yield from matches.items()
        labelled.update(matches.values())
        rest = [(path, name) for path, name in rest if path not in matches]
    yield from ((path, None) for path, _ in rest)


def _match_alone(
    files: Iterable[tuple[str, str]], labelled: set[str], find: Callable[[str], list[str]]
) -> dict[str, str]:
    """Return the images of files, where a file fits one image that has no labels yet, and the image this file alone."""
    claims: dict[str, list[str]] = defaultdict(list)
    for path, name in files:
        candidates = find(name)
        if len(candidates) == 1 and candidates[0] not in labelled:
            claims[candidates[0]].append(path)
    return {paths[0]: image for image, paths in claims.items() if len(paths) == 1}


class ListedImageFinder:
    """Finds the images that a JSON file names: tools write a path from here or there, or only a name."""

    def __init__(self, paths: Sequence[str], json_paths: Sequence[str] = ()) -> None:
        self._finder = ImageFinder({path: path for path in paths})
        self._by_place = ImageFinder({path: name_in_dataset(path) for path in paths})
        self._json_paths = json_paths
        self._folders = {path.rpartition("/")[0] for path in paths} - {""}

    def find(self, file_name: str, json_path: str) -> list[str]:
        """Return every image that `file_name` in the file at `json_path` may mean: one, if all is well."""
        name = file_name.replace("\\", "/").removeprefix("./")
        beside = f"{json_path.rpartition('/')[0]}/{name}".lstrip("/")
        for candidate in (beside, name, unify(beside), unify(name)):
            path = self._finder.find_exactly(candidate)
            if path is not None:
                return [path]
        candidates = self._finder.find_as_text(beside) or self._finder.find_as_text(name)
        if candidates:
            return candidates
        if "/" not in name and json_path.rpartition("/")[0] in self._folders:  # which has images of its own
            return []
        candidates = self._by_place.find_by_place(name_in_dataset(name))
        if not candidates and _FROM_A_MACHINE.match(name):  # its folders are those of a machine, not of the set
            candidates = self._by_place.find_by_place(name.rpartition("/")[2])
        if "/" in name:
            return candidates
        if in_its_folder := [path for path in candidates if _names_folder(json_path, path)]:
            return in_its_folder  # COCO's instances_val2017.json is about val2017/
        return [path for path in candidates if not any(_names_folder(its_path, path) for its_path in self._json_paths)]


def _names_folder(json_path: str, path: str) -> bool:
    """Say whether a JSON file is named after the folder that an image lies in."""
    folder = path.rpartition("/")[0].rpartition("/")[2].lower()
    return bool(folder) and folder not in _LAYOUT and folder not in _KINDS and folder in json_path.lower()
