"""Every image, label file and class of the raw sets by number, and what the classes mean in the dataset."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from depers.errors import UserError
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.layouts import LabelFile, SetImage
from depers.normalization.rules import Problem, RawBox
from depers.normalization.sources import ANY, LabelSet, labelled_classes, target

_NOTED = 6  # classes in one line


class FileTask(NamedTuple):
    """A label file to read: the numbers of its image and of itself."""

    image: int
    number: int
    file: LabelFile


class Catalogue:
    """The images of all sets, their label files, and the classes that occur, all by number."""

    def __init__(self, sets: Sequence[LabelSet]) -> None:
        self.sets = sets
        self.images: list[tuple[LabelSet, SetImage]] = [(one, p) for one in sets for p in one.images]
        self.files: list[str] = []  # with the set's prefix, as problems name them
        self.classes: dict[tuple[str, str], int] = {}  # of (set's prefix, name)
        self.tasks: dict[str, list[FileTask]] = {}  # by the set's prefix
        for number, (one, image) in enumerate(self.images):
            tasks = self.tasks.setdefault(one.prefix, [])
            for file in image.label_files:
                tasks.append(FileTask(number, self.add_file(one, file.path), file))

    def add_file(self, one: LabelSet, path: str) -> int:
        """The number of a label file of a set."""
        self.files.append(one.prefix + path)
        return len(self.files) - 1

    def class_number(self, prefix: str, name: str) -> int:
        """The number of a set's class."""
        return self.classes.setdefault((prefix, name), len(self.classes))

    def found_names(self, prefix: str) -> list[str]:
        """The classes of a set that occur."""
        return [name for where, name in self.classes if where == prefix]

    def labelled(self, classes: Sequence[str]) -> dict[str, list[str]]:
        """The classes that each set labels, by the prefix of its images; only sets that do not label all."""
        found = {one.prefix: labelled_classes(one, self.found_names(one.prefix), classes) for one in self.sets}
        return {prefix: names for prefix, names in found.items() if len(names) < len(classes)}

    def indexed(self, prefix: str, image: int, file: int, boxes: Iterable[RawBox]) -> Iterator[IndexedBox]:
        """Boxes of one file with numbers instead of names."""
        for line, name, *numbers in boxes:
            yield IndexedBox(image, file, line, self.class_number(prefix, name), *numbers)


class Meanings(NamedTuple):
    """The dataset's class ids by the catalogue's class numbers; `notes` are lines about the class maps."""

    class_ids: dict[int, int]
    notes: list[str]


def class_meanings(index: LabelIndex, catalogue: Catalogue, classes: Sequence[str]) -> Meanings:
    """What the classes that occur mean. One that nobody asked for is a problem.

    Raises UserError where that goes for every box: then nobody wants such a dataset.
    """
    maps = {one.prefix: one.class_map for one in catalogue.sets}
    totals = {number: (boxes, images) for number, boxes, images in index.class_totals()}
    class_ids: dict[int, int] = {}
    purpose: list[tuple[int, str]] = []
    strange: list[tuple[int, str]] = []
    for (prefix, name), number in sorted(catalogue.classes.items()):
        boxes, images = totals.get(number, (0, 0))
        meant = target(name, maps[prefix], classes)
        if meant:
            class_ids[number] = classes.index(meant)
        elif meant is None and boxes:
            strange.append((boxes, name))
            found = f"{name}: {boxes} boxes in {images} images"
            index.add_problems([Problem(prefix or ".", 0, "class that is not asked for", "left out", found)])
        elif boxes:
            purpose.append((boxes, prefix + name))
    if strange and not purpose and not class_ids.keys() & totals.keys():
        example = max(strange)[1]
        raise UserError(
            f"{catalogue.sets[0].uri}: a box must be of {', '.join(classes)}, but all are of {_listed(strange)}:"
            f" say what is what with --class-map {example}=CLASS, or name other --classes"
        )
    notes = []
    if purpose:
        notes.append(f"left out on purpose: {sum(boxes for boxes, _ in purpose)} boxes: {_listed(purpose)}")
    for one in catalogue.sets:
        absent = [name for name in one.class_map if name != ANY and (one.prefix, name) not in catalogue.classes]
        if absent:
            notes.append(f"{one.prefix or 'RAW'}: no box is of {', '.join(absent)}, which the class map names")
    return Meanings(class_ids, notes)


def _listed(amounts: list[tuple[int, str]]) -> str:
    """The largest of (number, name)."""
    shown = ", ".join(f"{name} {number}" for number, name in sorted(amounts, reverse=True)[:_NOTED])
    return shown + (f" and {len(amounts) - _NOTED} more classes" if len(amounts) > _NOTED else "")
