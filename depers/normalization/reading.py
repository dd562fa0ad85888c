"""From the label files of all sets into one index: files in parallel, JSON as a stream."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from depers import storage
from depers.errors import short_reason
from depers.normalization.catalog import Catalog, FileTask
from depers.normalization.coco import CocoFile
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.layouts import ImageFinder
from depers.normalization.rules import FileLabels, LabelError, Problem
from depers.normalization.sources import LabelSet
from depers.normalization.voc import read_voc
from depers.normalization.yolo import read_yolo
from depers.runtime.progress import open_bar
from depers.runtime.tasks import run_tasks
from depers.statuses import ProblemAction

_FILES = 256  # label files per task
_THREADS = 8  # for what waits for storage
_BATCH = 10_000  # boxes that are added to the index at once
UNREADABLE = "unreadable label file"
BACKGROUND = "background"
UNLABELLED = (BACKGROUND, "skip")
"""What an image without labels may be."""


class FileResult(NamedTuple):
    """What a label file says, or why it says nothing."""

    task: FileTask
    labels: FileLabels
    failure: Problem | None


def read_files(uri: str, kind: str, names: Sequence[str] | None, tasks: Sequence[FileTask]) -> list[FileResult]:
    """Read label files of one set, each an image's own."""

    def read(task: FileTask) -> FileResult:
        path = task.file.path
        try:
            data = storage.read_bytes(storage.join(uri, path))
            labels = read_voc(path, data) if kind == "voc" else read_yolo(path, data, names, task.file.class_name)
        except LabelError as error:
            kind_of_problem, detail = error.kind, error.detail
        except OSError as error:
            kind_of_problem, detail = UNREADABLE, short_reason(error)
        else:
            return FileResult(task, labels, None)
        failure = Problem(path, 0, kind_of_problem, ProblemAction.SKIPPED_WITH_IMAGE, detail)
        return FileResult(task, FileLabels([], []), failure)

    if not storage.is_s3(uri):
        return [read(task) for task in tasks]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, tasks))


def add_files(index: LabelIndex, catalog: Catalog, prefix: str, results: Iterable[FileResult]) -> set[int]:
    """Put what files say into the index; return the images that are skipped, as their labels are not understood."""
    not_understood = set()
    for (image, number, _), labels, failure in results:
        index.add_boxes(catalog.index_boxes(prefix, image, number, labels.boxes))
        if labels.declared_wh is not None:
            index.add_sizes([(image, *labels.declared_wh)])
        problems = labels.problems if failure is None else [failure]
        index.add_problems(problem._replace(path=prefix + problem.path) for problem in problems)
        if any(problem.action == ProblemAction.SKIPPED_WITH_IMAGE for problem in problems):
            not_understood.add(image)
    return not_understood


def add_json(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, tick: Callable[[], object]
) -> tuple[set[int], set[int]]:
    """Put a COCO file into the index, call `tick` for every box; return the images that it lists, and
    those of them with an annotation that is not understood.

    Raise UserError where the file is no COCO, or cannot be read.
    """
    coco = CocoFile(
        storage.join(label_set.uri, path), lambda: storage.open_entry(label_set.uri, label_set.entries[path])
    )
    file, problem_path = catalog.add_file(label_set, path), label_set.prefix + path
    for name in coco.categories.values():
        catalog.add_class(label_set.prefix, name)
    images, problems_by_id = _find_images(index, catalog, label_set, path, coco)
    box_counts: Counter[object] = Counter()
    batch: list[IndexedBox] = []
    not_understood: set[int] = set()
    for image_id, box, problem in coco.annotations():
        tick()
        if problem is not None:
            index.add_problems([problem._replace(path=problem_path)])
            if image_id in images:
                not_understood.add(images[image_id])
        elif image_id in problems_by_id:
            box_counts[image_id] += 1
        elif box is not None and image_id not in images:
            detail = f"image_id {image_id!r} is that of no image"
            index.add_problems([Problem(problem_path, box.line, "label without image", ProblemAction.SKIPPED, detail)])
        elif box is not None:
            batch.extend(catalog.index_boxes(label_set.prefix, images[image_id], file, [box]))
        if len(batch) >= _BATCH:
            index.add_boxes(batch)
            batch.clear()
    index.add_boxes(batch)
    index.add_problems(
        problem._replace(detail=f"{problem.detail}, {box_counts[image_id]} boxes")
        for image_id, problem in problems_by_id.items()
    )
    return set(images.values()), not_understood


def _find_images(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, coco: CocoFile
) -> tuple[dict[object, int], dict[object, Problem]]:
    """Return, by the file's own ids, the images that it means, and what is wrong with its other images."""
    numbers = {image.path: n for n, (owner, image) in enumerate(catalog.images) if owner is label_set}
    finder = ImageFinder(list(numbers))
    numbers_by_id: dict[object, int] = {}
    problems_by_id: dict[object, Problem] = {}
    for listed in coco.images():
        paths = finder.find(listed.file_name, path)
        if len(paths) == 1:
            numbers_by_id[listed.id] = numbers[paths[0]]
            index.add_sizes([(numbers[paths[0]], *listed.declared_wh)])
        else:
            kind = "image name that several images have" if paths else "label without image"
            problems_by_id[listed.id] = Problem(
                label_set.prefix + path, 0, kind, ProblemAction.SKIPPED, listed.file_name
            )
    return numbers_by_id, problems_by_id


class SkippedImages(NamedTuple):
    """Images by number: those with a label or a label file that is `not_understood`, and those without labels.

    What is in neither is labelled completely, for the classes of its set, but for the regions that are ignored.
    """

    not_understood: set[int]
    unlabelled: set[int]


def read_labels(index: LabelIndex, catalog: Catalog, unlabelled: str) -> SkippedImages:
    """Put the labels of all sets into the index; return the images that are not used."""
    skipped = SkippedImages(set(), set())
    for label_set in catalog.sets:
        index.add_problems(problem._replace(path=label_set.prefix + problem.path) for problem in label_set.problems)
        tasks = catalog.tasks.get(label_set.prefix, [])
        listed = {task.image for task in tasks}
        parts = [tasks[start : start + _FILES] for start in range(0, len(tasks), _FILES)]
        calls = ((label_set.uri, label_set.format, label_set.names, part) for part in parts)
        with open_bar(len(tasks) or None, "labels", unit="file") as bar:
            for path in label_set.json_files:
                listed_there, not_understood = add_json(index, catalog, label_set, path, bar.update)
                listed |= listed_there
                skipped.not_understood.update(not_understood)
            for results in run_tasks(read_files, calls) if parts else ():
                skipped.not_understood.update(add_files(index, catalog, label_set.prefix, results))
                bar.update(len(results))
        bare = [n for n, (owner, _) in enumerate(catalog.images) if owner is label_set and n not in listed]
        action = ProblemAction.AS_BACKGROUND if unlabelled == BACKGROUND else ProblemAction.SKIPPED
        paths = (label_set.prefix + catalog.images[number][1].path for number in bare)
        index.add_problems(Problem(path, 0, "image without label", action) for path in paths)
        skipped.unlabelled.update(() if unlabelled == BACKGROUND else bare)
    index.sort()
    return skipped
