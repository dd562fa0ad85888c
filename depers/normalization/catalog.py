"""Every image, label file and class of the raw sets by number, and what the classes mean in the dataset."""

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, NoReturn

from depers.errors import UserError
from depers.normalization.formats.remarks import means_background, means_region
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.layouts import LabelFile, SetImage
from depers.normalization.rules import EVERY_CLASS, Problem, RawBox
from depers.normalization.sources import ANY, LabelSet, find_labelled_classes, map_class
from depers.statuses import ProblemAction

_NOTED = 6  # classes in one line


class FileTask(NamedTuple):
    """A label file to read: the numbers of its image and of itself."""

    image: int
    number: int
    file: LabelFile


class Catalog:
    """The images of all sets, their label files, and the classes that occur, all by number."""

    def __init__(self, sets: Sequence[LabelSet]) -> None:
        self.sets = sets
        self.images: list[tuple[LabelSet, SetImage]] = [(owner, image) for owner in sets for image in owner.images]
        self.files: list[str] = []  # with the set's prefix, as problems name them
        self.classes: dict[tuple[str, str], int] = {}  # of (set's prefix, name)
        self.tasks: dict[str, list[FileTask]] = {}  # by the set's prefix
        for number, (label_set, image) in enumerate(self.images):
            tasks = self.tasks.setdefault(label_set.prefix, [])
            for file in image.label_files:
                tasks.append(FileTask(number, self.add_file(label_set, file.path), file))

    def add_file(self, label_set: LabelSet, path: str) -> int:
        """Add a label file of a set; return its number."""
        self.files.append(label_set.prefix + path)
        return len(self.files) - 1

    def add_class(self, prefix: str, name: str) -> int:
        """Return the number of a set's class, a new one for a class that is not there yet."""
        return self.classes.setdefault((prefix, name), len(self.classes))

    def index_boxes(self, prefix: str, image: int, file: int, boxes: Iterable[RawBox]) -> Iterator[IndexedBox]:
        """Yield boxes of one file with numbers instead of names."""
        for box in boxes:
            yield IndexedBox(image, file, box.line, self.add_class(prefix, box.class_name), *box[2:])


class ClassMeanings(NamedTuple):
    """The dataset's class ids by the catalog's class numbers; `notes` are lines about the class maps.

    `regions`: the numbers of classes that are none, but regions in which an object of any class may be.
    `labelled`: the classes that a set labels, by the prefix of its images; only of sets that do not label all.
    """

    class_ids: dict[int, int]
    regions: frozenset[int]
    notes: list[str]
    labelled: dict[str, list[str]]


def find_class_meanings(index: LabelIndex, catalog: Catalog, classes: Sequence[str]) -> ClassMeanings:
    """Find what the classes mean, and which each set labels. One that nobody asked for is a problem.

    Raise UserError for a set of which that goes for every box, or that has none: then nobody wants such a dataset.
    """
    maps = {label_set.prefix: label_set.class_map for label_set in catalog.sets}
    totals = {number: (boxes, images) for number, boxes, images in index.class_totals()}
    regions = index.region_totals()
    class_ids: dict[int, int] = {}
    purpose: list[tuple[int, str]] = []
    strange: list[tuple[int, str, str]] = []
    skipped_sets: set[str] = set()
    every: set[int] = set()
    for (prefix, name), number in sorted(catalog.classes.items()):
        (boxes, images), ignored = totals.get(number, (0, 0)), regions.get(number, 0)
        is_mapped = name in maps[prefix] or name in classes
        if name == EVERY_CLASS or (means_region(name) and not is_mapped):
            every.add(number)
            if name != EVERY_CLASS and (boxes or ignored):
                detail = f"{name}: {boxes + ignored} boxes, in which nothing is taught"
                index.add_problems([Problem(prefix or ".", 0, "class of regions", ProblemAction.ACCEPTED, detail)])
            continue
        if means_background(name) and boxes and not is_mapped:
            raise UserError(
                f"{prefix + name}: a box must be of an object, but {boxes} are of this class: the list of names may not"
                f" be that of the ids; put it right, or add {shlex.quote(_escape(name) + '=CLASS')} to --class-map"
            )
        dataset_class = map_class(name, maps[prefix], classes)
        if dataset_class:
            class_ids[number] = classes.index(dataset_class)
            if ignored and not boxes:
                detail = f"{name}: all {ignored} are difficult, or crowds"
                problem = Problem(
                    prefix or ".", 0, "class whose every object is ignored", ProblemAction.ACCEPTED, detail
                )
                index.add_problems([problem])
        elif dataset_class is None and (boxes or ignored):
            strange.append((boxes + ignored, name, prefix))
            _refuse_other_case(prefix + name, name, {*classes, *maps[prefix]})
            detail = f"{name}: {boxes} boxes in {images} images" + (f", {ignored} ignored" if ignored else "")
            problem = Problem(prefix or ".", 0, "class that is not asked for", ProblemAction.DROPPED, detail)
            index.add_problems([problem])
        elif boxes or ignored:
            purpose.append((boxes + ignored, prefix + name))
            skipped_sets.add(prefix)
    occurring = (totals.keys() | regions.keys()) - every
    notes = []
    if purpose:
        notes.append(f"skipped on purpose: {sum(boxes for boxes, _ in purpose)} boxes: {_list_largest(purpose)}")
    for label_set in catalog.sets:
        prefix, names = label_set.prefix, [name for name in label_set.class_map if name != ANY]
        absent = [name for name in names if (prefix, name) not in catalog.classes]
        if absent:
            notes.append(f"{prefix or 'RAW'}: no box is of {', '.join(absent)}, which the class map names")
    labelled = {
        label_set.prefix: _find_labelled(index, catalog, label_set, occurring, classes) for label_set in catalog.sets
    }
    for label_set in catalog.sets:
        if not labelled[label_set.prefix] and label_set.prefix not in skipped_sets:
            _refuse_unlabelled(index, label_set, [box for box in strange if box[2] == label_set.prefix], classes)
    partial = {prefix: names for prefix, names in labelled.items() if len(names) < len(classes)}
    return ClassMeanings(class_ids, frozenset(every), notes, partial)


def _find_labelled(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, occurring: Collection[int], classes: Sequence[str]
) -> list[str]:
    """Return the classes that a set labels; those that it lists and does not label are problems."""
    prefix = label_set.prefix
    known_names = {name: number for (owner, name), number in catalog.classes.items() if owner == prefix}
    occurring_names = {name for name, number in known_names.items() if number in occurring and name != EVERY_CLASS}
    listed_names = {*known_names, *(label_set.names or ())} - {EVERY_CLASS}
    labelled = find_labelled_classes(label_set, listed_names, occurring_names, classes)
    for name in sorted(listed_names - occurring_names):
        meaning = map_class(name, label_set.class_map, classes)
        if meaning and meaning not in labelled:
            advice = f"--class-map {shlex.quote(f'{_escape(name)}={meaning}')} where they were looked for"
            detail = f"{name}: taken as not labelled; {advice}"
            index.add_problems([Problem(prefix or ".", 0, "class without a box", ProblemAction.ACCEPTED, detail)])
    return labelled


def _refuse_unlabelled(
    index: LabelIndex, label_set: LabelSet, strange: Sequence[tuple[int, str, str]], classes: Sequence[str]
) -> NoReturn:
    """Raise UserError for a set that labels none of the classes: all of its images would be backgrounds, or useless.

    `strange` are the numbers of its boxes by the names of their classes, which nobody asked for.
    """
    if not strange and (orphan := index.first_problem(label_set.prefix, "label without image")):
        raise UserError(
            f"{label_set.uri}: labels must be those of its images, but none is, such as {orphan.path}: {orphan.detail}"
        )
    if not strange:
        example = shlex.quote(f"{_escape((label_set.names or classes)[0])}=CLASS")
        raise UserError(
            f"{label_set.uri}: labels must have boxes, but none of {len(label_set.images)} images has one: say what"
            f" they were looked through for with --class-map {example}, or leave the set out"
        )
    example = shlex.quote(_escape(max(strange)[1]) + "=CLASS")
    separator = "=" if example.lstrip("'").startswith("-") else " "  # else it would be an option
    raise UserError(
        f"{label_set.uri}: a box must be of {', '.join(classes)}, but all are of"
        f" {_list_largest([box[:2] for box in strange])}: say what is what with --class-map{separator}{example}, or"
        " name other --classes"
    )


def _refuse_other_case(place: str, name: str, known_names: Collection[str]) -> None:
    """Raise UserError for a class that differs in case alone from one that is asked for: it may be the same."""
    is_one, is_none = (shlex.quote(f"{_escape(name)}={meaning}") for meaning in ("CLASS", ""))
    for known in sorted(known_names):
        if known.casefold() == name.casefold():
            raise UserError(
                f"{place}: a class must be written as {known} is, or be in --class-map: add {is_one} where it is one,"
                f" {is_none} where not"
            )


def _escape(name: str) -> str:
    return re.sub(r"([,=])", r"\\\1", name)


def _list_largest(amounts: list[tuple[int, str]]) -> str:
    """Return the largest of (number, name) as text."""
    text = ", ".join(f"{name} {number}" for number, name in sorted(amounts, reverse=True)[:_NOTED])
    return text + (f" and {len(amounts) - _NOTED} more classes" if len(amounts) > _NOTED else "")
