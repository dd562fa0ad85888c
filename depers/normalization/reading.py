"""From the label files of all sets into one index: files in parallel, JSON as a stream."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from posixpath import splitext
from typing import Any, NamedTuple

from depers import storage
from depers.datasets.labels import IMAGE_SUFFIXES
from depers.errors import UserError, typed_reason
from depers.normalization.catalog import Catalog, FileTask
from depers.normalization.formats.coco import CocoFile
from depers.normalization.formats.edge_texts import read_edge_text
from depers.normalization.formats.foreign import advise
from depers.normalization.formats.voc import read_voc
from depers.normalization.formats.yolo import Shape, YoloLabels, decide_columns, read_yolo
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.layouts import UNREAD_COCO, FileRole, parse_label_name
from depers.normalization.matching import ListedImageFinder, find_stem, name_in_dataset, strip_kinds, unify
from depers.normalization.rules import FileLabels, LabelError, Problem, RawBox
from depers.normalization.sources import LabelSet
from depers.runtime.progress import open_bar
from depers.runtime.tasks import FileGuard, run_file_tasks
from depers.statuses import ProblemAction
from depers.storage.failures import explain

_FILES = 256  # label files per task
_THREADS = 8  # for what waits for storage
_NEARLY_ALL, _MANY = 0.95, 0.25  # shares of a set's boxes
_LEAST = len("0 1 1 1 1")  # bytes of a text that holds a box
_BATCH = 10_000  # boxes that are added to the index at once
UNREADABLE = "unreadable label file"
AUTO, BACKGROUND, SKIP = "auto", "background", "skip"
UNLABELLED = (AUTO, BACKGROUND, SKIP)
"""What an image without labels may be."""
_LISTING = ("kitti", "oidv4", "voc", "coco")  # formats that also list what shows nothing


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


def judge_unlisted(label_set: LabelSet, unlabelled: str) -> tuple[str, str, ProblemAction]:
    """Return what an image is that none of a set's label files is about: kind of problem, detail, and what is done.

    Most formats have every image that somebody has looked at, also one that shows nothing: any other was not annotated.
    A missing text says in YOLO that an image shows nothing, as does an empty one; where the set has empty ones, a
    missing one says that the image was not annotated. `unlabelled` may say otherwise.
    """
    if label_set.format in _LISTING:
        kind, detail, is_background = "image that no label file lists", "it was not annotated", False
    else:
        entries = label_set.entries
        has_empty = any(entries[file.path].size < _LEAST for image in label_set.images for file in image.label_files)
        unread = next((problem.path for problem in label_set.problems if problem.detail == UNREAD_COCO), "")
        is_background = not (has_empty and label_set.format == "yolo") and not unread
        kind = "image without label"
        detail = "" if is_background else "not annotated: images that show nothing have an empty text here"
        detail = f"its labels may be in {unread}, which is not read" if unread else detail
    if unlabelled != AUTO:
        is_background = unlabelled == BACKGROUND
    return kind, detail, ProblemAction.AS_BACKGROUND if is_background else ProblemAction.SKIPPED


def find_foreign_stems(label_set: LabelSet) -> set[str]:
    """Return the names of images that have a label file which is not read: they are not without labels."""
    useless = (path for path, role in label_set.roles.items() if role == FileRole.PROBLEM)
    texts = (path for path in itertools.chain(useless, label_set.left_out, label_set.unusable) if _is_label_name(path))
    if label_set.format != "competition":
        return {_find_place(path) for path in texts}
    parts = (find_stem(path).split("_") for path in texts)  # NAME_CLASS. or NAME_CLASS, and both may hold more of "_"
    return {"_".join(words[:count]) for words in parts for count in range(1, len(words))}


def _find_place(path: str) -> str:
    """Return where an image or its labels lie, whatever folders say what kind of files they are; `a.jpg.txt` is a's."""
    stem = find_stem(path)
    return strip_kinds(unify(splitext(stem)[0] if stem.lower().endswith(IMAGE_SUFFIXES) else stem))


def find_partly_read(label_set: LabelSet) -> set[str]:
    """Return the names of images of which one of several label files is left out, of a class that others have."""
    paths = [path for path in (*label_set.left_out, *label_set.unusable) if _is_label_name(path)]
    if label_set.format != "competition" or not paths:
        return set()
    stems = {find_stem(image.path) for image in label_set.images}
    targets = (parse_label_name(name_in_dataset(path), stems, label_set.names or ()) for path in paths)
    return {target[0] for target in targets if target and target[0]}


def _is_label_name(path: str) -> bool:
    return path.lower().endswith((".txt", ".xml", ".json"))


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

    Raise UserError for a set of which more than half of the labels are not understood, or more than half of the label
    files have no image while there are images without labels; and where nobody can tell what stands in its lines.
    """
    skipped = SkippedImages(set(), set())
    for label_set in catalog.sets:
        index.add_problems(problem._replace(path=label_set.prefix + problem.path) for problem in label_set.problems)
        labelled_images, not_understood = _read_set(index, catalog, label_set, run)
        skipped.not_understood.update(not_understood)
        bare = [n for n, (owner, _) in enumerate(catalog.images) if owner is label_set and n not in labelled_images]
        kind, detail, action = judge_unlisted(label_set, unlabelled)
        if bare and action == ProblemAction.AS_BACKGROUND:
            _refuse_strangers(label_set, len(catalog.tasks.get(label_set.prefix, [])))
        foreign_stems, partly_read = find_foreign_stems(label_set), find_partly_read(label_set)
        for number, (owner, image) in enumerate(catalog.images):
            is_whole = number in labelled_images and not (partly_read and find_stem(image.path) in partly_read)
            if owner is not label_set or is_whole:
                continue
            path, fate = image.path, (kind, action, detail)
            if number in labelled_images or not foreign_stems.isdisjoint((find_stem(path), _find_place(path))):
                fate = "image whose label file is not read", ProblemAction.SKIPPED, "it is of no use, or left out"
            index.add_problems([Problem(label_set.prefix + path, 0, *fate)])
            if fate[1] != ProblemAction.AS_BACKGROUND:
                skipped.unlabelled.add(number)
    index.sort()
    refuse_mostly_dropped(index, catalog)
    _refuse_ids_from_one(index, catalog)
    _refuse_corners(index, catalog)
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


def _refuse_strangers(label_set: LabelSet, label_files: int) -> None:
    """Raise UserError where most label files have no image: then images without a label are no backgrounds."""
    orphans = [problem.path for problem in label_set.problems if problem.kind == "label without image"]
    if len(orphans) > label_files:
        raise UserError(
            f"{label_set.uri}: label files must be named as their images are, but {len(orphans)} of"
            f" {label_files + len(orphans)} have no image, such as {orphans[0]}, while images have no labels; with"
            " --unlabelled skip these are left out"
        )


def _refuse_corners(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set whose boxes look like two corners, where its format has a center or corner and a size.

    So it is where nearly all of them could be corners, and many would reach over the edge as what they should be.
    """
    numbers = itertools.groupby(enumerate(catalog.images), key=lambda item: item[1][0])
    for label_set, group in numbers:
        images = [number for number, _ in group]
        if label_set.format not in ("yolo", "competition", "coco"):
            continue
        total, corners, over = index.count_like_corners(images[0], images[-1], label_set.format != "coco")
        if corners >= _NEARLY_ALL * total and over > _MANY * total:
            shape = "x y w h, from the upper left corner" if label_set.format == "coco" else "cx cy w h"
            raise UserError(
                f"{label_set.uri}: boxes must be {shape}, but {over} of {total} reach over the edge of their image, and"
                f" {corners} could be two corners, x0 y0 x1 y1: convert them"
            )


def _refuse_ids_from_one(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set with an id beyond its list of names, and none of the first name: all may be shifted."""
    totals = {number for number, _, _ in index.class_totals()}
    for label_set in catalog.sets:
        if not label_set.lists or not label_set.names:
            continue
        first = index.first_problem(label_set.prefix, "class id without a name")
        if first and catalog.classes.get((label_set.prefix, label_set.names[0])) not in totals:
            raise UserError(
                f"{label_set.uri}: class ids must count the list of names from 0, but {first.path}, line {first.line}"
                f" ({first.detail}) has none, and no box is of {label_set.names[0]}: where ids count from 1, begin"
                " classes.txt with a blank line, else add the names that are missing"
            )


def refuse_mostly_dropped(index: LabelIndex, catalog: Catalog) -> None:
    """Raise UserError for a set of which more than half of the labels cost their image: it is not what it seems."""
    totals: Counter[str] = Counter()
    prefixes = {number: prefix for (prefix, _), number in catalog.classes.items()}
    for number, boxes, _ in index.class_totals():
        totals[prefixes[number]] += boxes
    for label_set in catalog.sets:
        dropped, outside, first = index.count_dropped(label_set.prefix)
        total = totals[label_set.prefix] + dropped - outside
        if first is not None and (2 * dropped > total or not total):
            share = f"{dropped} of {total} are not" if dropped else "none is"
            place = f"{first.path}, line {first.line}" if first.line else first.path
            raise UserError(
                f"{label_set.uri}: labels must be understood, but {share}, such as {place}:"
                f" {first.kind} ({first.detail}){advise(label_set.format, first)}"
            )
