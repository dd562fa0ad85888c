"""Which files of a raw folder are images, which hold their labels, and in which format.

- `competition`: `labels/NAME_CLASS..txt` (one dot is accepted too) for `images/NAME.jpg`;
- `yolo`: `a.txt` for `a.jpg`; `voc`: `a.xml` for `a.jpg`; `coco`: JSON files for all images.

An image and its labels lie at the same place but for folders named images, labels, Annotations, JPEGImages or xmls, so
`images/train/a.jpg` and `labels/train/a.txt`, `train/images/a.jpg` and `train/labels/a.txt`, `a.jpg` and `a.txt`,
`JPEGImages/a.jpg` and `Annotations/a.xml` belong together; else the only image of that name counts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from posixpath import splitext  # Path objects are slow for millions of files
from typing import NamedTuple

from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError
from depers.normalization.rules import Problem
from depers.statuses import ProblemAction

FORMATS = ("competition", "yolo", "voc", "coco")
_SUFFIXES = {"competition": ".txt", "yolo": ".txt", "voc": ".xml", "coco": ".json"}
_LAYOUT = frozenset(("images", "labels", "annotations", "jpegimages", "xmls"))
_BESIDE = re.compile(  # what sets hold beside images and labels
    r"(?:^|/)(?:\.[^/]*|(?:readme|licen[cs]e|changelog)[^/]*|(?:predefined_)?classes\.txt|requirements\.txt|notes\.json"
    r"|(?:train|val|valid|validation|test|trainval)\.txt)$|(?:^|/)imagesets/|\.(?:ya?ml|names|data|md|cache|html?|csv)$",
    re.IGNORECASE,
)


class LabelFile(NamedTuple):
    """A label file below RAW, and the class that its name says, "" for none."""

    path: str
    class_name: str


class SetImage(NamedTuple):
    """An image: its path below RAW, its name in the dataset, and its label files."""

    path: str
    name: str
    label_files: tuple[LabelFile, ...]


class MatchedFiles(NamedTuple):
    """The images of a raw folder, sorted; its JSON files; and the files that are of no use."""

    images: list[SetImage]
    json_files: list[str]
    problems: list[Problem]


def name_in_dataset(path: str) -> str:
    """Return the path without the folders that only say what kind of files lie in them."""
    folders, _, name = path.rpartition("/")
    return "/".join([*(part for part in folders.split("/") if part and part.lower() not in _LAYOUT), name])


def parse_label_name(name: str, stems: Collection[str], classes: Sequence[str]) -> tuple[str, str] | None:
    """Return (image's stem, class) of a label file in the competition's layout; None: its name ends in no class.

    `stems` are those of the images; the stem is "" where no image has it. Where several classes fit, one whose
    image exists goes first, then the longest.
    """
    base = re.sub(r"\.{1,2}txt$", "", name, flags=re.IGNORECASE)
    fitting = sorted((c for c in classes if base.endswith(f"_{c}") and base != name), key=len, reverse=True)
    for class_name in fitting:
        stem = base[: -len(class_name) - 1]
        if stem in stems:
            return stem, class_name
    return ("", fitting[0]) if fitting else None


def recognise(raw: str, paths: Sequence[str], classes: Sequence[str], head_of: Callable[[str], bytes]) -> str:
    """Return the format of the labels among `paths` below RAW; `head_of` gives the beginning of a JSON file.

    `classes` are the names that file names may end in. Raise UserError where there are none, or of several formats.
    """
    from depers.normalization.coco import looks_like_coco

    stems = _image_stems(paths)
    counts: Counter[str] = Counter()
    texts: list[str] = []
    for path in paths:
        suffix = splitext(path)[1].lower()
        if suffix not in _SUFFIXES.values() or _BESIDE.search(path):
            continue
        if suffix == ".json":
            counts["coco"] += looks_like_coco(head_of(path))
        elif suffix == ".xml":
            counts["voc"] += 1
        else:
            texts.append(path)
    counts["yolo"] = sum(bool(stem) for _, (stem, _) in _name_targets(texts, stems))
    counts["competition"] = sum(bool(stem) for _, (stem, _) in _competition_targets(texts, stems, classes))
    # `a_car.txt` may be that of `a_car.jpg`, or of `a.jpg`: what explains more of the files is right.
    del counts["competition" if counts["yolo"] >= counts["competition"] else "yolo"]
    if not (kinds := [kind for kind in FORMATS if counts[kind]]):
        files = [path for path in paths if path.lower().endswith(tuple(_SUFFIXES.values()))]
        listing = f"of {len(files)} text files none does, such as {files[0]!r}" if files else "there is none"
        raise UserError(
            f"{raw}: must hold labels that belong to its images (NAME_CLASS..txt, YOLO's NAME.txt, VOC's NAME.xml, or"
            f" COCO's JSON), but {listing}; name the format with --format"
        )
    if len(kinds) > 1:
        listing = ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
        raise UserError(f"{raw}: must hold labels of one format, but holds several ({listing}): name one with --format")
    return kinds[0]


def match_files(kind: str, paths: Sequence[str], classes: Sequence[str]) -> MatchedFiles:
    """Return the images and labels of one format among `paths` below RAW; competition files name one of `classes`."""
    problems: list[Problem] = []
    stems: dict[str, str] = {}
    labels, foreign = [], defaultdict(list)
    for path in sorted(paths):
        suffix = splitext(path)[1].lower()
        stem = _stem(name_in_dataset(path))
        if _BESIDE.search(path):
            continue
        if suffix == _SUFFIXES[kind]:
            labels.append(path)
        elif suffix in _SUFFIXES.values():
            foreign[suffix].append(path)
        elif suffix not in IMAGE_SUFFIXES:
            problems.append(Problem(path, 0, "not an image name", ProblemAction.SKIPPED, suffix))
        elif stem in stems:  # their labels could not be told apart
            problems.append(Problem(path, 0, "same name as another image", ProblemAction.SKIPPED, stems[stem]))
        else:
            stems[stem] = path
    for suffix, foreign_paths in foreign.items():
        detail = f"{len(foreign_paths)} × {suffix}"
        problems.append(Problem(foreign_paths[0], 0, "label files of another format", ProblemAction.SKIPPED, detail))
    if kind == "coco":
        images = [SetImage(path, name_in_dataset(path), ()) for path in stems.values()]
        return MatchedFiles(images, labels, problems)
    files: dict[str, list[LabelFile]] = {stem: [] for stem in stems}
    targets = _competition_targets(labels, stems, classes) if kind == "competition" else _name_targets(labels, stems)
    for path, (target, class_name) in targets:
        if target is None:
            rule = "must end in _CLASS..txt with CLASS one of " + ", ".join(classes)
            problems.append(Problem(path, 0, "not a label name", ProblemAction.SKIPPED, rule))
        elif not target:
            problems.append(Problem(path, 0, "label without image", ProblemAction.SKIPPED, class_name))
        else:
            files[target].append(LabelFile(path, class_name))
    order = {name: index for index, name in enumerate(classes)}
    for image_files in files.values():
        image_files.sort(key=lambda file: (order.get(file.class_name, 0), file.path))
    images = [
        SetImage(stems[stem], name_in_dataset(stems[stem]), tuple(image_files)) for stem, image_files in files.items()
    ]
    return MatchedFiles(images, [], problems)


_Target = tuple[str, tuple[str | None, str]]


def _competition_targets(labels: Sequence[str], stems: Collection[str], classes: Sequence[str]) -> Iterator[_Target]:
    for path in labels:
        yield path, parse_label_name(name_in_dataset(path), stems, classes) or (None, "")


def _name_targets(labels: Sequence[str], stems: Collection[str]) -> Iterator[_Target]:
    by_name = defaultdict(list)
    for stem in stems:
        by_name[stem.rpartition("/")[2]].append(stem)
    for path in labels:
        stem = _stem(name_in_dataset(path))
        namesakes = by_name[stem.rpartition("/")[2]]
        yield path, (stem if stem in stems else namesakes[0] if len(namesakes) == 1 else "", "")


def _image_stems(paths: Sequence[str]) -> frozenset[str]:
    """Return the stems of the images among `paths`."""
    return frozenset(_stem(name_in_dataset(path)) for path in paths if path.lower().endswith(IMAGE_SUFFIXES))


def _stem(name: str) -> str:
    return splitext(name)[0]


class ImageFinder:
    """Finds the images that a JSON file names: tools write a path from here or there, or only a name."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = frozenset(paths)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            self._by_name[path.rpartition("/")[2]].append(path)

    def find(self, file_name: str, json_path: str) -> list[str]:
        """Return every image that `file_name` in the file at `json_path` may mean: one, if all is well."""
        name = file_name.replace("\\", "/").removeprefix("./")
        beside = f"{json_path.rpartition('/')[0]}/{name}".lstrip("/")
        for path in (beside, name):
            if path in self._paths:
                return [path]
        namesakes = self._by_name.get(name.rpartition("/")[2], [])
        candidates = [path for path in namesakes if path.endswith(f"/{name}")] or (namesakes if "/" in name else [])
        if len(candidates) > 1:  # COCO's instances_val2017.json is about val2017/
            named = [path for path in candidates if path.split("/")[-2].lower() in json_path.lower()]
            return named if len(named) == 1 else candidates
        return candidates
