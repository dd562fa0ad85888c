"""From the label files of all sets into one index: files in parallel, JSON as a stream."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from depers import storage
from depers.errors import typed_reason
from depers.normalization.catalog import Catalog, FileTask
from depers.normalization.formats.coco import CocoFile
from depers.normalization.formats.edge_texts import read_edge_text
from depers.normalization.formats.voc import read_voc
from depers.normalization.formats.yolo import Shape, YoloLabels, decide_columns, read_yolo
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.matching import ListedImageFinder
from depers.normalization.rules import FileLabels, LabelError, Problem, RawBox
from depers.normalization.sources import LabelSet
from depers.normalization.suspicions import refuse_corners, refuse_ids_from_one, refuse_mostly_dropped
from depers.normalization.unlisted import judge_images
from depers.runtime.progress import open_bar
from depers.runtime.tasks import FileGuard, run_file_tasks
from depers.statuses import ProblemAction
from depers.storage.failures import explain

_FILES = 256  # label files per task
_THREADS = 8  # for what waits for storage
_BATCH = 10_000  # boxes that are added to the index at once
UNREADABLE = "unreadable label file"


class FileResult(NamedTuple):
    """What a label file says, or why it says nothing."""

    task: FileTask
    content: YoloLabels
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

    def parse(offset: int, task: FileTask) -> YoloLabels:
        path = task.file.path
        if reason := guard.find_reason(offset):
            raise LabelError(UNREADABLE, reason)
        with guard.watch(offset):
            data = storage.read_bytes(storage.join(uri, path))
            if kind in ("yolo", "competition"):
                return read_yolo(path, data, names, task.file.class_name, columns)
            labels = read_voc(path, data) if kind == "voc" else read_edge_text(kind, path, data)
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

    if not storage.is_s3(uri):
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
    for (image, number, _), (labels, undecided, shapes_there), failure in results:
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


class JsonResult(NamedTuple):
    """What a COCO file is about: its number, images, those with an annotation not understood, and its categories."""

    file: int
    images: set[int]
    not_understood: set[int]
    names: frozenset[str]


def add_json(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, tick: Callable[[], object]
) -> JsonResult:
    """Put a COCO file into the index, call `tick` for every box, and return what it is about.

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
    total = crowd_masks = 0
    for image_id, box, problem, is_crowd_mask in coco.annotations():
        tick()
        total, crowd_masks = total + 1, crowd_masks + is_crowd_mask
        if problem is not None:
            if image_id in images:
                not_understood.add(images[image_id])
            else:
                problem = problem._replace(action=ProblemAction.SKIPPED)
            index.add_problems([problem._replace(path=problem_path)])
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
    if total and crowd_masks == total:  # as CVAT writes the mask of one object; COCO has a crowd in a hundred objects
        index.count_as_objects(file)
        detail = f"all of {total} annotations have iscrowd and a mask"
        index.add_problems([Problem(problem_path, 0, "crowds taken as objects", ProblemAction.ACCEPTED, detail)])
    index.add_problems(
        problem._replace(detail=f"{problem.detail}, {box_counts[image_id]} boxes")
        for image_id, problem in problems_by_id.items()
    )
    return JsonResult(file, set(images.values()), not_understood, frozenset(coco.categories.values()))


def _ignore_unlisted_classes(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, results: Sequence[JsonResult]
) -> set[int]:
    """Make an image that is in some COCO files of a set one region to ignore for the classes of its other files.

    For them nobody has looked at it. Return the images whose size no file says, for which that cannot be done.
    """
    meanings = [{label_set.class_map.get(name, name): name for name in sorted(result.names)} for result in results]
    every = {meaning: name for of_file in meanings for meaning, name in of_file.items() if meaning}
    if all(every.keys() <= of_file.keys() for of_file in meanings):
        return set()
    sizes = {number: (width, height) for number, width, height in index.sizes()}
    without_size = set()
    for image in set().union(*(result.images for result in results)):
        files = [n for n, result in enumerate(results) if image in result.images]
        absent = every.keys() - set().union(*(meanings[n].keys() for n in files))
        wide, high = sizes.get(image, (0, 0))
        if absent and not wide:
            without_size.add(image)
            detail = f"{', '.join(sorted(absent))}: they are categories of other files"
            problem = Problem(
                label_set.prefix + catalog.images[image][1].path,
                0,
                "not labelled for all classes",
                ProblemAction.SKIPPED,
            )
            index.add_problems([problem._replace(detail=detail)])
            continue
        regions = [RawBox(0, every[meaning], wide / 2, high / 2, wide, high, True) for meaning in sorted(absent)]
        index.add_boxes(catalog.index_boxes(label_set.prefix, image, results[files[0]].file, regions))
    return without_size


def _find_images(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, coco: CocoFile
) -> tuple[dict[object, int], dict[object, Problem]]:
    """Return, by the file's own ids, the images that it means, and what is wrong with its other images."""
    numbers = {image.path: n for n, (owner, image) in enumerate(catalog.images) if owner is label_set}
    finder = ListedImageFinder(list(numbers), label_set.json_files)
    numbers_by_id: dict[object, int] = {}
    problems_by_id: dict[object, Problem] = {}
    names_by_id: dict[object, str] = {}
    for entry in coco.images():
        paths = finder.find(entry.file_name, path)
        if names_by_id.setdefault(entry.id, entry.file_name) != entry.file_name:
            numbers_by_id.pop(entry.id, None)
            kind, detail = "image id that several images have", f"{entry.id!r}: {names_by_id[entry.id]}"
        elif len(paths) == 1:
            numbers_by_id[entry.id] = numbers[paths[0]]
            index.add_sizes([(numbers[paths[0]], *entry.declared_wh)])
            continue
        else:
            kind, detail = "image name that several images have" if paths else "label without image", entry.file_name
        problems_by_id[entry.id] = Problem(label_set.prefix + path, 0, kind, ProblemAction.SKIPPED, detail)
    return numbers_by_id, problems_by_id


class SkippedImages(NamedTuple):
    """Images by number: those with a label or a label file that is `not_understood`, and those without labels.

    What is in neither is labelled completely, for the classes of its set, but for the regions that are ignored.
    """

    not_understood: set[int]
    unlabelled: set[int]


Runner = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]
"""Calls a function with the arguments of each call, and gives the results in order."""


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
    index.sort()
    refuse_mostly_dropped(index, catalog)
    refuse_ids_from_one(index, catalog)
    refuse_corners(index, catalog)
    return skipped


def _read_set(index: LabelIndex, catalog: Catalog, label_set: LabelSet, run: Runner) -> tuple[set[int], set[int]]:
    """Put the labels of a set into the index; return the images that its files speak of, and those not understood."""
    prefix, tasks = label_set.prefix, catalog.tasks.get(label_set.prefix, [])
    image_numbers, not_understood = {task.image for task in tasks}, set()
    shapes: dict[Shape, str] = {}
    json_results: list[JsonResult] = []

    def calls() -> Iterator[tuple[str, str, Sequence[str] | None, str, list[FileTask]]]:
        for names, group in itertools.groupby(tasks, lambda task: label_set.find_names(task.file.path)):
            while part := list(itertools.islice(group, _FILES)):
                yield label_set.uri, label_set.format, names, label_set.columns, part

    with open_bar(len(tasks) or None, "labels", unit="file") as bar:
        for path in label_set.json_files:
            json_results.append(add_json(index, catalog, label_set, path, bar.update))
            image_numbers |= json_results[-1].images
            not_understood |= json_results[-1].not_understood
        not_understood |= _ignore_unlisted_classes(index, catalog, label_set, json_results)
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
