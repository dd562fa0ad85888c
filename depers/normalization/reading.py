"""From the label files of all sets into one index: files in parallel, JSON as a stream."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from depers import storage
from depers.normalization.catalog import Catalogue, FileTask
from depers.normalization.coco import CocoFile
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.layouts import ImageFinder
from depers.normalization.rules import FileLabels, LabelError, Problem
from depers.normalization.sources import LabelSet
from depers.normalization.voc import read_voc
from depers.normalization.yolo import read_yolo
from depers.runtime.progress import open_bar

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


class FileResult(NamedTuple):
    """What a label file says, or why it says nothing."""

    task: FileTask
    labels: FileLabels
    failure: Problem | None


def read_files(uri: str, kind: str, names: Sequence[str] | None, tasks: Sequence[FileTask]) -> list[FileResult]:
    """Reads label files of one set, each an image's own."""

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
    """Puts what files say into the index; gives the images that must be left out with their unreadable labels."""
    unread = set()
    for (image, number, _), labels, failure in results:
        index.add_boxes(catalogue.indexed(prefix, image, number, labels.boxes))
        if labels.declared_wh is not None:
            index.add_sizes([(image, *labels.declared_wh)])
        problems = labels.problems if failure is None else [failure]
        index.add_problems(problem._replace(path=prefix + problem.path) for problem in problems)
        if failure is not None:
            unread.add(image)
    return unread


def add_json(index: LabelIndex, catalogue: Catalogue, one: LabelSet, path: str, tick: Callable[[], object]) -> set[int]:
    """Puts a COCO file into the index, calls `tick` for every box, and gives the images that the file lists.

    Raises UserError where the file is no COCO, or cannot be read.
    """
    coco = CocoFile(storage.join(one.uri, path), lambda: storage.open_entry(one.uri, one.entries[path]))
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
    """By the file's own ids: the images that it means, and what is wrong with its other images."""
    numbers = {image.path: n for n, (owner, image) in enumerate(catalogue.images) if owner is one}
    finder = ImageFinder(list(numbers))
    numbers_by_id: dict[object, int] = {}
    missing: dict[object, Problem] = {}
    for listed in coco.images():
        found = finder.find(listed.file_name, path)
        if len(found) == 1:
            numbers_by_id[listed.id] = numbers[found[0]]
            index.add_sizes([(numbers[found[0]], *listed.declared_wh)])
        else:
            kind = "image name that several images have" if found else "label without image"
            missing[listed.id] = Problem(one.prefix + path, 0, kind, "left out", listed.file_name)
    return numbers_by_id, missing


class Read(NamedTuple):
    """Images by number: those with an `unread` label file, and those that --unlabelled leaves out."""

    unread: set[int]
    left_out: set[int]


def read_labels(index: LabelIndex, catalogue: Catalogue, spread: Spread, unlabelled: str) -> Read:
    """Puts the labels of all sets into the index."""
    read = Read(set(), set())
    for one in catalogue.sets:
        index.add_problems(problem._replace(path=one.prefix + problem.path) for problem in one.problems)
        tasks = catalogue.tasks.get(one.prefix, [])
        listed = {task.image for task in tasks}
        parts = [tasks[start : start + _FILES] for start in range(0, len(tasks), _FILES)]
        calls = ((one.uri, one.format, one.names, part) for part in parts)
        with open_bar(len(tasks) or None, "labels", unit="file") as bar:
            for path in one.json_files:
                listed |= add_json(index, catalogue, one, path, bar.update)
            for results in spread(read_files, calls) if parts else ():
                read.unread.update(add_files(index, catalogue, one.prefix, results))
                bar.update(len(results))
        bare = [n for n, (owner, _) in enumerate(catalogue.images) if owner is one and n not in listed]
        action = "kept as background" if unlabelled == BACKGROUND else "left out"
        paths = (one.prefix + catalogue.images[number][1].path for number in bare)
        index.add_problems(Problem(path, 0, "image without label", action) for path in paths)
        read.left_out.update(() if unlabelled == BACKGROUND else bare)
    index.sort()
    return read
