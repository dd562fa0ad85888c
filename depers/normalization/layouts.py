"""Which files of a raw folder are images, which hold their labels, and in which format.

- `competition`: `labels/NAME_CLASS..txt` (one dot is accepted too) for `images/NAME.jpg`;
- `yolo`, `kitti`, `oidv4`: `a.txt` for `a.jpg`; `voc`: `a.xml`, `labelme`: `a.json` for `a.jpg`;
- `coco`: JSON files for all images; so the texts of `wider` (WIDER FACE) and `crowdhuman` (odgt).

What a file is, its type and its content say before its name: `license_plate_1.jpg` is an image, and `train.txt` holds
the labels of `train.jpg` if that is what stands in it. `matching` says which labels belong to which image.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from posixpath import splitext  # Path objects are slow for millions of files
from typing import NamedTuple

from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError
from depers.normalization.formats.coco import looks_like_coco
from depers.normalization.formats.edge_texts import recognise_text
from depers.normalization.formats.foreign import identify
from depers.normalization.formats.labelme import looks_like_labelme
from depers.normalization.formats.lists import looks_like_wider
from depers.normalization.matching import ImageFinder, find_stem, match_names, name_in_dataset, simplify
from depers.normalization.rules import Problem
from depers.statuses import ProblemAction

FORMATS = ("competition", "yolo", "kitti", "oidv4", "voc", "coco", "labelme", "wider", "crowdhuman")
_SUFFIXES = {"voc": ".xml", "coco": ".json", "labelme": ".json", "crowdhuman": ".odgt"}
_LISTINGS = ("coco", "wider", "crowdhuman")  # formats whose files list many images each
LABEL_SUFFIXES = (".txt", ".xml", ".json", ".odgt")
"""What the names of label files end with, in lower case."""
_LISTS = re.compile(  # lists of classes or of images, which sets hold beside images and labels
    r"(?:^|/)(?:(?:predefined_)?classes|labelmap|train|val|valid|validation|test|trainval)\.txt\Z|(?:^|/)imagesets/.*\.txt\Z"
    r"|\.(?:ya?ml|names|labels|data)\Z",
    re.IGNORECASE,
)
_BESIDE = re.compile(  # what sets hold beside images and labels, and is of no use
    r"(?:^|/)(?:\.[^/]*|(?:readme|licen[cs]e|changelog)(?:[.-][^/]*)?|requirements\.txt|notes\.json)\Z"
    r"|\.(?:md|cache|html?|csv)\Z",
    re.IGNORECASE,
)
_HIDDEN = re.compile(r"(?:^|/)(?:\.|__MACOSX/)")  # also what lies in a hidden folder, such as .ipynb_checkpoints
IMAGE_LISTS = re.compile(
    r"(?:^|/)(?:train|val|valid|validation|test|trainval)\.txt\Z|(?:^|/)imagesets/.*\.txt\Z", re.IGNORECASE
)
"""The names of lists of images."""
_VOC = re.compile(rb"<annotation[\s>/]")
_LOOKED_INTO = 32  # texts, or XML files, whose beginning says what all of them are


UNREAD_COCO = "COCO, which lists images"
"""What a problem says of a COCO file in a set of another format: images without labels may be in it."""


class FileRole(StrEnum):
    """What a file of a raw folder is to `normalize`; every file has one role."""

    IMAGE = "image"
    LABELS = "label file"
    LIST = "list of classes or images"
    BESIDE = "skipped by rule"
    """A hidden file, a readme, a licence: it holds neither images nor labels."""
    PROBLEM = "problem"
    """It is of no use, and a row of problems.parquet says why."""


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
    """The images of a raw folder, sorted; its files that list images; those of no use; and the role of every file."""

    images: list[SetImage]
    listings: list[str]
    problems: list[Problem]
    roles: dict[str, FileRole]


HeadReader = Callable[[str], bytes]
"""Gives the beginning of a file by its path below RAW."""


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


def recognise(raw: str, paths: Sequence[str], classes: Sequence[str], head_of: HeadReader) -> str:
    """Return the format of the labels among `paths` below RAW.

    `classes` are the names that file names may end in. Raise UserError where there are none, or of several formats.
    """
    stems = _image_stems(paths)
    by_suffix: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if not _HIDDEN.search(path):
            by_suffix[splitext(path)[1].lower()].append(path)
    texts = [path for path in by_suffix[".txt"] if _is_label_text(path, stems, head_of)]
    counts: Counter[str] = Counter()
    jsons = by_suffix[".json"]
    if len(jsons) > _LOOKED_INTO:  # those of an image each are none of COCO's
        jsons = [path for path in jsons if find_stem(path) not in stems]
    counts["coco"] = sum(looks_like_coco(head_of(path)) for path in jsons)
    counts["labelme"] = _count_alike(by_suffix[".json"], lambda path: looks_like_labelme(head_of(path)))
    counts["voc"] = _count_alike(by_suffix[".xml"], lambda path: bool(_VOC.search(head_of(path))))
    counts["crowdhuman"] = len(by_suffix[".odgt"])
    targets = [path for path, stem in match_names(_finder(stems), _named(texts)) if stem]
    counts["yolo"] = len(targets)
    counts["competition"] = sum(bool(stem) for _, (stem, _) in _competition_targets(texts, stems, classes))
    if not counts["yolo"] and not counts["competition"]:
        counts["wider"] = sum(looks_like_wider(head_of(path)) for path in _spread(by_suffix[".txt"]))
    # `a_car.txt` may be that of `a_car.jpg`, or of `a.jpg`: what explains more of the files is right.
    del counts["competition" if counts["yolo"] >= counts["competition"] else "yolo"]
    if counts["yolo"]:
        some = _spread(targets)
        with ThreadPoolExecutor(_LOOKED_INTO) as pool:
            heads = dict(zip(some, pool.map(head_of, some), strict=True))
        kind = recognise_text(heads.items())
        if kind == "yolo" and not any(map(holds_rows, heads.values())) and (advice := identify(list(heads), head_of)):
            raise UserError(f"{raw}: {advice}")
        counts[kind] = counts.pop("yolo")
    if not (kinds := [kind for kind in FORMATS if counts[kind]]):
        if advice := identify(paths, head_of):
            raise UserError(f"{raw}: {advice}")
        files = [path for path in paths if path.lower().endswith(LABEL_SUFFIXES)]
        listing = f"of {len(files)} text files none does, such as {files[0]!r}" if files else "there is none"
        raise UserError(
            f"{raw}: must hold labels that belong to its images (NAME_CLASS..txt, YOLO's NAME.txt, VOC's NAME.xml, or"
            f" COCO's JSON), but {listing}"
        )
    if len(kinds) > 1:
        listing = ", ".join(f"{counts[kind]} {kind}" for kind in kinds)
        raise UserError(f"{raw}: must hold labels of one format, but holds several ({listing}): name one with --format")
    return kinds[0]


def _count_alike(paths: Sequence[str], looks_right: Callable[[str], bool]) -> int:
    """Return how many of files of one type are of a format that has a file per image, as far as some of them say."""
    return len(paths) if any(map(looks_right, _spread(paths))) else 0


def _spread(paths: Sequence[str]) -> list[str]:
    """Return some of many paths, from everywhere among them."""
    return list(paths[:: max(1, len(paths) // _LOOKED_INTO)])


def _is_label_text(path: str, stems: Collection[str], head_of: HeadReader) -> bool:
    """Say whether a text is a label file: by its name, or by its content: no list begins with numbers."""
    if not (_LISTS.search(path) or _BESIDE.search(path)):
        return True
    head = head_of(path)
    return holds_rows(head) and (bool(head.strip()) or find_stem(path) in stems)


def holds_rows(head: bytes) -> bool:
    """Say whether a text begins as YOLO's do, with five numbers or more, or is empty, as a background's is."""
    lines = [line for line in head.decode("utf-8", "replace").removeprefix("\ufeff").splitlines() if line.strip()]
    fields = lines[0].split() if lines else ["0"] * 5
    return len(fields) >= 5 and all(re.fullmatch(r"[-+.\deE]+", field) for field in fields)


def match_files(kind: str, paths: Sequence[str], classes: Sequence[str], head_of: HeadReader) -> MatchedFiles:
    """Return the images and labels of one format among `paths` below RAW; competition files name one of `classes`."""
    suffix = _SUFFIXES.get(kind, ".txt")
    roles = _find_roles(kind, suffix, sorted(paths), head_of)
    image_stems = _image_stems(paths)

    def may_be_coco(path: str) -> bool:
        is_json = path.lower().endswith(".json") and kind != "coco" and find_stem(path) not in image_stems
        return is_json and looks_like_coco(head_of(path))

    problems = [
        Problem(path, 0, *_describe_useless(kind, path), UNREAD_COCO if may_be_coco(path) else splitext(path)[1])
        for path, role in roles.items()
        if role == FileRole.PROBLEM
    ]
    groups: dict[str, list[str]] = defaultdict(list)
    for path, role in roles.items():
        if role == FileRole.IMAGE:
            groups[find_stem(path)].append(path)
    stems: dict[str, str] = {}
    for stem, group in groups.items():
        if len(group) == 1:
            stems[stem] = group[0]
            continue
        for path in group:  # whose labels those of that name are, nobody can tell
            namesakes = ", ".join(namesake for namesake in group if namesake != path)
            problems.append(Problem(path, 0, "same name as another image", ProblemAction.SKIPPED, namesakes))
            roles[path] = FileRole.PROBLEM
    labels = [path for path, role in roles.items() if role == FileRole.LABELS]
    if kind in _LISTINGS:
        images = [SetImage(path, name_in_dataset(path), ()) for path in stems.values()]
        return MatchedFiles(images, labels, problems, roles)
    files: dict[str, list[LabelFile]] = {stem: [] for stem in stems}
    orphans: list[tuple[str, str]] = []
    targets = _competition_targets(labels, stems, classes) if kind == "competition" else _name_targets(labels, stems)
    for path, (target, class_name) in targets:
        if target:
            files[target].append(LabelFile(path, class_name))
            continue
        roles[path] = FileRole.PROBLEM
        if target is None:
            rule = "must end in _CLASS..txt with CLASS one of " + ", ".join(classes)
            problems.append(Problem(path, 0, "not a label name", ProblemAction.SKIPPED, rule))
        else:
            problems.append(Problem(path, 0, "label without image", ProblemAction.SKIPPED, class_name))
            orphans.append((path, class_name))
    for stem, path in _find_alike(orphans, (stem for stem, of_image in files.items() if not of_image)).items():
        detail = f"{path} may hold its labels, but is named otherwise"
        problems.append(Problem(stems[stem], 0, "image without label", ProblemAction.SKIPPED, detail))
        roles[stems[stem]] = FileRole.PROBLEM
        del files[stem]
    if kind != "competition":
        for stem in [stem for stem, of_image in files.items() if len(of_image) > 1]:
            texts = [file.path for file in files.pop(stem)]
            for path in (stems[stem], *texts):  # which of them counts, nobody can tell
                detail = ", ".join(text for text in texts if text != path)
                problems.append(Problem(path, 0, "several label files for one image", ProblemAction.SKIPPED, detail))
                roles[path] = FileRole.PROBLEM
    order = {name: index for index, name in enumerate(classes)}
    for image_files in files.values():
        image_files.sort(key=lambda file: (order.get(file.class_name, 0), file.path))
    images = [
        SetImage(stems[stem], name_in_dataset(stems[stem]), tuple(image_files)) for stem, image_files in files.items()
    ]
    return MatchedFiles(images, [], problems, roles)


def _find_roles(kind: str, suffix: str, paths: Sequence[str], head_of: HeadReader) -> dict[str, FileRole]:
    stems = _image_stems(paths)
    return {path: _find_role(kind, suffix, path, stems, head_of) for path in paths}


def _find_role(kind: str, suffix: str, path: str, stems: Collection[str], head_of: HeadReader) -> FileRole:
    """Return what a file is: by its type first, then by its name."""
    lower = path.lower()
    if _HIDDEN.search(path):
        return FileRole.BESIDE
    if lower.endswith(IMAGE_SUFFIXES):
        return FileRole.IMAGE
    if lower.endswith(suffix) and _is_label_file(kind, path, stems, head_of):
        return FileRole.LABELS
    if _LISTS.search(path):
        return FileRole.LIST
    return FileRole.BESIDE if _BESIDE.search(path) else FileRole.PROBLEM


def _is_label_file(kind: str, path: str, stems: Collection[str], head_of: HeadReader) -> bool:
    """Say whether a file with the format's suffix holds labels."""
    if kind in ("coco", "wider"):
        return (looks_like_coco if kind == "coco" else looks_like_wider)(head_of(path))
    return kind in ("voc", "labelme", "crowdhuman") or _is_label_text(path, stems, head_of)


def _describe_useless(kind: str, path: str) -> tuple[str, ProblemAction]:
    """Return the kind of problem that a file is which is neither an image nor a label file of the format."""
    if path.lower().endswith(".json") and kind == "coco":
        return "JSON that is no COCO", ProblemAction.SKIPPED
    if path.lower().endswith(LABEL_SUFFIXES):
        return "label file of another format", ProblemAction.SKIPPED
    return "not an image name", ProblemAction.SKIPPED


_Target = tuple[str, tuple[str | None, str]]


def _competition_targets(
    labels: Sequence[str], stems: Mapping[str, str] | Collection[str], classes: Sequence[str]
) -> Iterator[_Target]:
    """Yield the image's stem and the class of every label file; an image of the same text takes all of its files."""
    rest: dict[str, list[tuple[str, str]]] = defaultdict(list)
    labelled = set()
    for path in labels:
        target = parse_label_name(name_in_dataset(path), stems, classes)
        if target is None or target[0]:
            labelled.add(target[0] if target else "")
            yield path, target or (None, "")
        else:
            base = re.sub(r"\.{1,2}txt$", "", name_in_dataset(path), flags=re.IGNORECASE)
            rest[base[: -len(target[1]) - 1]].append((path, target[1]))
    for stem, image in match_names(_finder(stems), [(stem, stem) for stem in rest]):
        for path, class_name in rest[stem]:
            yield path, (image if image and image not in labelled else "", class_name)


def _name_targets(labels: Sequence[str], stems: Collection[str]) -> Iterator[_Target]:
    for path, stem in match_names(_finder(stems), _named(labels)):
        yield path, (stem or "", "")


def _named(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return label files with the stems of their images; `a.jpg.txt` names `a.jpg` in full."""
    return [
        (path, splitext(stem)[0] if stem.lower().endswith(IMAGE_SUFFIXES) else stem)
        for path, stem in ((path, find_stem(path)) for path in paths)
    ]


def _finder(stems: Iterable[str]) -> ImageFinder:
    return ImageFinder({stem: stem for stem in stems})


def _find_alike(orphans: Sequence[tuple[str, str]], bare_stems: Iterable[str]) -> dict[str, str]:
    """Return the images without labels that a label file without image may be about: their names are much the same."""
    if not orphans:
        return {}
    paths = {}
    for path, class_name in orphans:
        stem = find_stem(path).removesuffix(".")
        paths[simplify(stem.rpartition("/")[2].removesuffix(f"_{class_name}" if class_name else ""))] = path
    pairs = ((stem, paths.get(simplify(stem.rpartition("/")[2]))) for stem in bare_stems)
    return {stem: path for stem, path in pairs if path}


def _image_stems(paths: Sequence[str]) -> frozenset[str]:
    """Return the stems of the images among `paths`."""
    return frozenset(
        find_stem(path) for path in paths if path.lower().endswith(IMAGE_SUFFIXES) and not _HIDDEN.search(path)
    )
