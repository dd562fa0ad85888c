"""From the label files of all sets into one index: those of an image each in parallel, listings as streams."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from depers import storage
from depers.errors import typed_reason
from depers.normalization.catalog import Catalog, FileTask
from depers.normalization.formats.edge_texts import EDGE_FORMATS, read_edge_text
from depers.normalization.formats.labelme import read_labelme
from depers.normalization.formats.voc import read_voc
from depers.normalization.formats.yolo import PlainBoxes, Shape, YoloLabels, decide_columns, read_plain_yolo, read_yolo
from depers.normalization.index import LabelIndex
from depers.normalization.listings import ListingResult, Runner, add_listing, ignore_unlisted_classes, settle_versions
from depers.normalization.rules import FileLabels, LabelError, Problem
from depers.normalization.sources import LabelSet
from depers.normalization.suspicions import refuse_corners, refuse_ids_from_one, refuse_mostly_dropped
from depers.normalization.unlisted import judge_images
from depers.runtime.file_guard import FileGuard
from depers.runtime.progress import open_bar
from depers.runtime.tasks import run_file_tasks
from depers.statuses import ProblemAction
from depers.storage.failures import explain

_FILES = 256  # label files per task
_THREADS = 8  # for what waits for storage
UNREADABLE = "unreadable label file"


class FileResult(NamedTuple):
    """What a label file says, or why it says nothing."""

    task: FileTask
    content: YoloLabels | PlainBoxes
    failure: Problem | None


def read_files(
    uri: str,
    kind: str,
    names: Sequence[str] | None,
    columns: str,
    tasks: Sequence[FileTask],
    guard: FileGuard | None = None,
) -> list[FileResult]:
    """Read label files of one set, each an image's own. Whatever goes wrong with one skips its image."""
    guard = guard or FileGuard()

    def parse(offset: int, task: FileTask) -> YoloLabels | PlainBoxes:
        path = task.file.path
        if reason := guard.find_reason(offset):
            raise LabelError(UNREADABLE, reason)
        with guard.watch(offset):
            data = storage.read_bytes(storage.join(uri, path))
            if kind in ("yolo", "competition"):
                plain = read_plain_yolo(data, names, task.file.class_name, columns)
                return plain or read_yolo(path, data, names, task.file.class_name, columns)
            if kind in EDGE_FORMATS:
                return YoloLabels(read_edge_text(kind, path, data), [], {})
            labels = read_voc(path, data) if kind == "voc" else read_labelme(path, data)
            return YoloLabels(labels, [], {})

    def read(offset: int, task: FileTask) -> FileResult:
        path = task.file.path
        try:
            content = parse(offset, task)
        except LabelError as error:
            kind_of_problem, detail = error.kind, error.detail
        except OSError as error:
            kind_of_problem, detail = UNREADABLE, explain(error)
        except Exception as error:
            kind_of_problem, detail = UNREADABLE, typed_reason(error)
        else:
            return FileResult(task, content, None)
        failure = Problem(path, 0, kind_of_problem, ProblemAction.SKIPPED_WITH_IMAGE, detail)
        return FileResult(task, YoloLabels(FileLabels([], []), [], {}), failure)

    if not storage.is_remote(uri):
        return [read(offset, task) for offset, task in enumerate(tasks)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(read, itertools.count(), tasks))


def add_files(
    index: LabelIndex, catalog: Catalog, prefix: str, results: Iterable[FileResult], shapes: dict[Shape, str]
) -> set[int]:
    """Put what files say into the index, and the shapes of their lines into `shapes`.

    Return the images that are skipped, as their labels are not understood.
    """
    not_understood = set()
    for (image, number, _), content, failure in results:
        if isinstance(content, PlainBoxes):
            classes = np.array([catalog.add_class(prefix, name) for name in content.names], np.int64)[content.classes]
            index.add_lines(image, number, classes, content.boxes)
            continue
        labels, undecided, shapes_there = content
        index.add_boxes(catalog.index_boxes(prefix, image, number, labels.boxes))
        for shape, boxes in (
            (Shape.POINTS, [pair.points for pair in undecided]),
            (Shape.POLYGON, [pair.polygon for pair in undecided]),
        ):
            index.add_undecided(shape, catalog.index_boxes(prefix, image, number, boxes))
        for shape, example in shapes_there.items():
            shapes.setdefault(shape, example)
        if labels.declared_wh is not None:
            index.add_sizes([(image, *labels.declared_wh)])
        problems = labels.problems if failure is None else [failure]
        index.add_problems(problem._replace(path=prefix + problem.path) for problem in problems)
        if any(problem.action == ProblemAction.SKIPPED_WITH_IMAGE for problem in problems):
            not_understood.add(image)
    return not_understood


class SkippedImages(NamedTuple):
    """Images by number: those with a label or a label file that is `not_understood`, and those without labels.

    What is in neither is labelled completely, for the classes of its set, but for the regions that are ignored.
    """

    not_understood: set[int]
    unlabelled: set[int]


def read_labels(index: LabelIndex, catalog: Catalog, unlabelled: str, run: Runner = run_file_tasks) -> SkippedImages:
    """Put the labels of all sets into the index, `run` on many files at once; return the images that are not used.

    Raise UserError for a set of which more than half of the labels are not understood, whose images without labels
    nobody has said to show nothing, or of whose lines nobody can tell what stands in them.
    """
    skipped = SkippedImages(set(), set())
    for label_set in catalog.sets:
        index.add_problems(problem._replace(path=label_set.prefix + problem.path) for problem in label_set.problems)
        labelled_images, not_understood = _read_set(index, catalog, label_set, run)
        skipped.not_understood.update(not_understood)
        images = [(number, image) for number, (owner, image) in enumerate(catalog.images) if owner is label_set]
        fates = judge_images(label_set, images, labelled_images, unlabelled)
        index.add_problems(problem._replace(path=label_set.prefix + problem.path) for _, problem in fates)
        skipped.unlabelled.update(n for n, problem in fates if problem.action != ProblemAction.AS_BACKGROUND)
    refuse_mostly_dropped(index, catalog)
    refuse_ids_from_one(index, catalog)
    refuse_corners(index, catalog)
    return skipped


def _read_set(index: LabelIndex, catalog: Catalog, label_set: LabelSet, run: Runner) -> tuple[set[int], set[int]]:
    """Put the labels of a set into the index; return the images that its files speak of, and those not understood."""
    prefix, tasks = label_set.prefix, catalog.tasks.get(label_set.prefix, [])
    image_numbers, not_understood = {task.image for task in tasks}, set()
    shapes: dict[Shape, str] = {}
    listing_results: list[ListingResult] = []

    def calls() -> Iterator[tuple[str, str, Sequence[str] | None, str, list[FileTask]]]:
        for names, group in itertools.groupby(tasks, lambda task: label_set.find_names(task.file.path)):
            while part := list(itertools.islice(group, _FILES)):
                yield label_set.uri, label_set.format, names, label_set.columns, part

    with open_bar(len(tasks) or None, "labels", unit="file") as bar:
        for path in label_set.listings:
            listing_results.append(add_listing(index, catalog, label_set, path, bar.update, run))
            image_numbers |= listing_results[-1].images
            not_understood |= listing_results[-1].not_understood
        settle_versions(index, catalog, label_set, listing_results)
        not_understood |= ignore_unlisted_classes(index, catalog, label_set, listing_results)
        for results in run(read_files, calls()) if tasks else ():
            not_understood |= add_files(index, catalog, prefix, results, shapes)
            bar.update(len(results))
    if shapes:
        reading = decide_columns(label_set.uri, shapes)
        decided = index.decide(reading)
        action = ProblemAction.BOUNDING_BOX if reading == Shape.POLYGON else ProblemAction.ACCEPTED
        details = {shape: example for shape, example in shapes.items() if shape != Shape.POLYGON}
        if Shape.UNDECIDED in details:
            details[Shape.UNDECIDED] = f"{decided} lines, all read as {reading}, such as {details[Shape.UNDECIDED]}"
        index.add_problems(
            Problem(prefix or ".", 0, f"lines with {shape}", action, detail) for shape, detail in details.items()
        )
    return image_numbers, not_understood
