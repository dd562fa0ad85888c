"""From the label files of all sets into one index: files in parallel, JSON as a stream."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from depers import storage
from depers.coco_labels import CocoFile
from depers.label_formats import LabelFile, PictureFinder, SetPicture
from depers.label_index import IndexedBox, LabelIndex
from depers.label_sets import LabelSet, labelled_classes, target
from depers.raw_labels import FileLabels, LabelError, Problem, RawBox
from depers.voc_labels import read_voc
from depers.yolo_labels import read_yolo

_FILES = 256  # label files per task
_THREADS = 8  # for what waits for storage
_BATCH = 10_000  # boxes that are added to the index at once
UNREADABLE = "unreadable label file"


BACKGROUND = "background"
UNLABELLED = (BACKGROUND, "leave-out")
"""What an image without labels may be."""


class Spread(Protocol):
    """Runs a function on many tuples of arguments, somewhere else; gives the results as they come."""

    def __call__(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], /) -> Iterator[Any]:
        """As above."""


class FileTask(NamedTuple):
    """A label file to read: the numbers of its picture and of itself."""

    picture: int
    number: int
    file: LabelFile


class FileResult(NamedTuple):
    """What a label file says, or why it says nothing."""

    task: FileTask
    labels: FileLabels
    failure: Problem | None


class Catalogue:
    """The pictures of all sets, their label files, and the classes that occur, all by number."""

    def __init__(self, sets: Sequence[LabelSet]) -> None:
        self.sets = sets
        self.pictures: list[tuple[LabelSet, SetPicture]] = [(one, p) for one in sets for p in one.pictures]
        self.files: list[str] = []  # with the set's prefix, as problems name them
        self.classes: dict[tuple[str, str], int] = {}  # of (set's prefix, name)
        self.tasks: dict[str, list[FileTask]] = {}  # by the set's prefix
        for number, (one, picture) in enumerate(self.pictures):
            tasks = self.tasks.setdefault(one.prefix, [])
            for file in picture.label_files:
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
        """The classes that each set labels, by the prefix of its pictures; only sets that do not label all."""
        found = {one.prefix: labelled_classes(one, self.found_names(one.prefix), classes) for one in self.sets}
        return {prefix: names for prefix, names in found.items() if len(names) < len(classes)}

    def indexed(self, prefix: str, picture: int, file: int, boxes: Iterable[RawBox]) -> Iterator[IndexedBox]:
        """Boxes of one file with numbers instead of names."""
        for line, name, *numbers in boxes:
            yield IndexedBox(picture, file, line, self.class_number(prefix, name), *numbers)


def read_files(uri: str, kind: str, names: Sequence[str] | None, tasks: Sequence[FileTask]) -> list[FileResult]:
    """Reads label files of one set, each a picture's own."""

    def read(task: FileTask) -> FileResult:
        path = task.file.path
        try:
            data = storage.read_bytes(storage.join(uri, path))
            labels = read_voc(path, data) if kind == "voc" else read_yolo(path, data, names, task.file.class_name)
        except LabelError as error:
            return FileResult(
                task, FileLabels([], []), Problem(path, 0, error.kind, "left out with its image", error.found)
            )
        except OSError as error:
            found = error.strerror or str(error)
            return FileResult(task, FileLabels([], []), Problem(path, 0, UNREADABLE, "left out with its image", found))
        return FileResult(task, labels, None)

    if not storage.is_s3(uri):
        return [read(task) for task in tasks]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, tasks))


def add_files(index: LabelIndex, catalogue: Catalogue, prefix: str, results: Iterable[FileResult]) -> set[int]:
    """Puts what files say into the index; gives the pictures that must be left out with their unreadable labels."""
    unread = set()
    for (picture, number, _), labels, failure in results:
        index.add_boxes(catalogue.indexed(prefix, picture, number, labels.boxes))
        if labels.declared_wh is not None:
            index.add_sizes([(picture, *labels.declared_wh)])
        problems = labels.problems if failure is None else [failure]
        index.add_problems(problem._replace(path=prefix + problem.path) for problem in problems)
        if failure is not None:
            unread.add(picture)
    return unread


def add_json(index: LabelIndex, catalogue: Catalogue, one: LabelSet, path: str, tick: Callable[[], object]) -> set[int]:
    """Puts a COCO file into the index, calls `tick` for every box, and gives the pictures that the file lists.

    Raises UserError where the file is no COCO.
    """
    coco = CocoFile(storage.join(one.uri, path), lambda: storage.open_stream(storage.join(one.uri, path)))
    file, where = catalogue.add_file(one, path), one.prefix + path
    for name in coco.categories.values():
        catalogue.class_number(one.prefix, name)
    images, missing = _find_images(index, catalogue, one, path, coco)
    lost: Counter[object] = Counter()
    batch: list[IndexedBox] = []
    for image_id, box, problem in coco.annotations():
        tick()
        if problem is not None:
            index.add_problems([problem._replace(path=where)])
        elif image_id in missing:
            lost[image_id] += 1
        elif box is not None and image_id not in images:
            found = f"image_id {image_id!r} is that of no image"
            index.add_problems([Problem(where, box.line, "label without image", "left out", found)])
        elif box is not None:
            batch.extend(catalogue.indexed(one.prefix, images[image_id], file, [box]))
        if len(batch) >= _BATCH:
            index.add_boxes(batch)
            batch.clear()
    index.add_boxes(batch)
    index.add_problems(
        problem._replace(found=f"{problem.found}, {lost[image_id]} boxes") for image_id, problem in missing.items()
    )
    return set(images.values())


def _find_images(
    index: LabelIndex, catalogue: Catalogue, one: LabelSet, path: str, coco: CocoFile
) -> tuple[dict[object, int], dict[object, Problem]]:
    """By the file's own ids: the pictures that it means, and what is wrong with its other images."""
    numbers = {picture.path: n for n, (owner, picture) in enumerate(catalogue.pictures) if owner is one}
    finder = PictureFinder(list(numbers))
    images: dict[object, int] = {}
    missing: dict[object, Problem] = {}
    for image in coco.images():
        found = finder.find(image.file_name, path)
        if len(found) == 1:
            images[image.id] = numbers[found[0]]
            index.add_sizes([(numbers[found[0]], *image.declared_wh)])
        else:
            kind = "image name that several images have" if found else "label without image"
            missing[image.id] = Problem(one.prefix + path, 0, kind, "left out", image.file_name)
    return images, missing


class Read(NamedTuple):
    """Pictures by number: those with an `unread` label file, and those that --unlabelled leaves out."""

    unread: set[int]
    left_out: set[int]


def read_labels(index: LabelIndex, catalogue: Catalogue, spread: Spread, unlabelled: str) -> Read:
    """Puts the labels of all sets into the index."""
    read = Read(set(), set())
    for one in catalogue.sets:
        index.add_problems(problem._replace(path=one.prefix + problem.path) for problem in one.problems)
        tasks = catalogue.tasks.get(one.prefix, [])
        listed = {task.picture for task in tasks}
        parts = [tasks[start : start + _FILES] for start in range(0, len(tasks), _FILES)]
        calls = ((one.uri, one.format, one.names, part) for part in parts)
        with tqdm(total=len(tasks) or None, desc="labels", file=sys.stderr, mininterval=0.5) as bar:
            for path in one.json_files:
                listed |= add_json(index, catalogue, one, path, bar.update)
            for results in spread(read_files, calls) if parts else ():
                read.unread.update(add_files(index, catalogue, one.prefix, results))
                bar.update(len(results))
        bare = [n for n, (owner, _) in enumerate(catalogue.pictures) if owner is one and n not in listed]
        action = "kept as background" if unlabelled == BACKGROUND else "left out"
        paths = (one.prefix + catalogue.pictures[number][1].path for number in bare)
        index.add_problems(Problem(path, 0, "image without label", action) for path in paths)
        read.left_out.update(() if unlabelled == BACKGROUND else bare)
    index.sort()
    return read


class Meanings(NamedTuple):
    """The dataset's class ids by the catalogue's class numbers; `notes` say what was left out on purpose."""

    class_ids: dict[int, int]
    notes: list[str]


def class_meanings(index: LabelIndex, catalogue: Catalogue, classes: Sequence[str]) -> Meanings:
    """What the classes that occur mean. One that nobody asked for is a problem."""
    maps = {one.prefix: one.class_map for one in catalogue.sets}
    totals = {number: (boxes, pictures) for number, boxes, pictures in index.class_totals()}
    class_ids: dict[int, int] = {}
    purpose: list[str] = []
    for (prefix, name), number in sorted(catalogue.classes.items()):
        boxes, pictures = totals.get(number, (0, 0))
        meant = target(name, maps[prefix], classes)
        if meant:
            class_ids[number] = classes.index(meant)
        elif meant is None and boxes:
            found = f"{name}: {boxes} boxes in {pictures} images"
            index.add_problems([Problem(prefix or ".", 0, "class that is not asked for", "left out", found)])
        elif boxes:
            purpose.append(f"{prefix}{name} {boxes}")
    return Meanings(class_ids, [f"left out on purpose: {', '.join(purpose)}"] if purpose else [])
