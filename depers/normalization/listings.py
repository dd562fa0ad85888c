"""Label files that list many images, each with its boxes: from such a file into the index, as a stream."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import storage
from depers.errors import UserError, short_reason
from depers.normalization.catalog import Catalog
from depers.normalization.formats.coco import CocoBox, CocoFile
from depers.normalization.formats.coco_tables import AnnotationTable, read_parts, read_tables
from depers.normalization.formats.json_lists import Piece
from depers.normalization.formats.lists import CrowdHumanFile, ListingFile, WiderFile
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.matching import ListedImageFinder
from depers.normalization.rules import Problem, RawBox
from depers.normalization.sources import LabelSet
from depers.runtime.file_guard import FileGuard
from depers.statuses import ProblemAction
from depers.storage import Entry

READERS: Mapping[str, Callable[..., Any]] = {"coco": CocoFile, "wider": WiderFile, "crowdhuman": CrowdHumanFile}
_BATCH = 10_000  # boxes that are added to the index at once
_PIECES = 4  # of a file per task
Runner = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]
"""Calls a function with the arguments of each call, and gives the results in any order."""
REPEATED = "image that is listed several times"
BARE = "image without a box beside labels of no image"


class ListingResult(NamedTuple):
    """What such a file is about: its number, images, those with a box not understood, and its categories."""

    file: int
    images: set[int]
    not_understood: set[int]
    names: frozenset[str]


class ListedImages(NamedTuple):
    """The images of a file by its own ids; the entries that mean none; images that cannot be told, and listed twice."""

    numbers: dict[object, int]
    problems: dict[object, Problem]
    uncertain: set[int]
    repeated: set[int]


def read_coco_pieces(
    path: str,
    uri: str,
    entry: Entry,
    number: int,
    pieces: Sequence[Piece],
    categories: Mapping[object, str],
    guard: FileGuard | None = None,
) -> tuple[int, list[AnnotationTable | None]]:
    """Return `number`, and the annotations in some pieces of a COCO file: a task of many.

    Raise UserError where they cannot be read, or end the process.
    """
    guard = guard or FileGuard()
    if reason := guard.find_reason(0):
        raise UserError(f"{path}: not readable ({reason})")
    try:
        with guard.watch(0):
            return number, read_tables(lambda: storage.open_entry(uri, entry), pieces, categories)
    except OSError as error:
        raise UserError(f"{path}: not readable ({short_reason(error)})") from None


def _read_parts(listing: ListingFile, uri: str, entry: Entry, run: Runner) -> Iterator[AnnotationTable | list[CocoBox]]:
    """Yield what a file lists, in its order: the pieces of a COCO file are read by `run`."""

    def read(pieces: Sequence[Piece]) -> Iterator[AnnotationTable | None]:
        groups = (pieces[start : start + _PIECES] for start in range(0, len(pieces), _PIECES))
        calls = ((listing.path, uri, entry, number, group, listing.categories) for number, group in enumerate(groups))
        results: dict[int, list[AnnotationTable | None]] = {}
        following = 0
        for number, tables in run(read_coco_pieces, calls):
            results[number] = tables
            while following in results:
                yield from results.pop(following)
                following += 1

    if isinstance(listing, CocoFile):
        yield from read_parts(listing, read)
        return
    annotations = iter(listing.annotations())
    while batch := list(itertools.islice(annotations, _BATCH)):
        yield batch


class _Strays:
    """The annotations whose image_id is that of no image in their file: how many, and the ids that are farthest out."""

    def __init__(self) -> None:
        self.count = 0
        self.first: object = None
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, image_id: object, is_listed: bool) -> None:
        """Count one, unless its image `is_listed` and not there."""
        if is_listed:
            return
        self.first = image_id if not self.count else self.first
        self.count += 1
        if isinstance(image_id, (int, float)):
            self.lowest, self.highest = min(self.lowest, image_id), max(self.highest, image_id)


class _AnnotationAdder:
    """Puts the annotations of one file into the index, and what is wrong with them."""

    def __init__(
        self, index: LabelIndex, catalog: Catalog, prefix: str, path: str, file: int, images: ListedImages
    ) -> None:
        self._index, self._catalog, self._prefix, self._file = index, catalog, prefix, file
        self._path, self._images = path, images
        self._numbers = {key: number for key, number in images.numbers.items() if key not in images.problems}
        self._repeated = np.array(sorted(images.repeated), np.int64)
        self.box_counts: Counter[object] = Counter()  # by the ids of entries that mean no image
        self.not_understood = images.uncertain | images.repeated
        self.has_box = np.zeros(len(catalog.images), np.bool_)
        self.classes: set[int] = set()
        self.strays = _Strays()

    def add_table(self, table: AnnotationTable, first_number: int, class_numbers: NDArray[np.int64]) -> None:
        """Add annotations, the first of which has this number in the file, and their classes these in the catalog."""
        images = np.array([self._numbers.get(key, -1) for key in table.image_ids], np.int64)
        is_odd = (images < 0) | np.isin(images, self._repeated)
        rows = np.flatnonzero(~is_odd)
        lines = np.arange(len(images)) + first_number
        classes, boxes, ignored = class_numbers[table.classes][rows], table.boxes[rows], table.ignored[rows]
        self._index.add_columns(images[rows], self._file, lines[rows], classes, boxes, ignored)
        self.has_box[images[rows]] = True
        self.classes.update(np.unique(classes).tolist())
        for row in np.flatnonzero(is_odd).tolist():
            self._note(table.image_ids[row], first_number + row)

    def add_boxes(self, annotations: Iterable[CocoBox]) -> None:
        """Add annotations as they are read one by one."""
        boxes: list[IndexedBox] = []
        for image_id, box, problem, _ in annotations:
            if problem is not None:
                if image_id in self._images.numbers:
                    self.not_understood.add(self._images.numbers[image_id])
                else:
                    self.strays.add(image_id, image_id in self._images.problems)
                    problem = problem._replace(action=ProblemAction.SKIPPED)
                self._index.add_problems([problem._replace(path=self._path)])
            elif box is not None:
                number = self._numbers.get(image_id, -1)
                if number < 0 or number in self._images.repeated:
                    self._note(image_id, box.line)
                else:
                    class_number = self._catalog.add_class(self._prefix, box.class_name)
                    boxes.append(IndexedBox(number, self._file, box.line, class_number, *box[2:]))
                    self.has_box[number] = True
                    self.classes.add(class_number)
        self._index.add_boxes(boxes)

    def _note(self, image_id: object, line: int) -> None:
        """Note a box of no image, or of one that is listed several times."""
        if image_id in self._images.problems:
            self.box_counts[image_id] += 1
        elif (number := self._images.numbers.get(image_id)) is None:
            self.strays.add(image_id, is_listed=False)
            detail = f"image_id {image_id!r} is that of no image"
            self._index.add_problems([Problem(self._path, line, "label without image", ProblemAction.SKIPPED, detail)])
        else:
            detail = self._catalog.images[number][1].path
            self._index.add_problems([Problem(self._path, line, REPEATED, ProblemAction.SKIPPED_WITH_IMAGE, detail)])


def add_listing(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, tick: Callable[[int], object], run: Runner
) -> ListingResult:
    """Put a file into the index, call `tick` with the boxes of every part, and return what it is about.

    `run` reads parts of it. Raise UserError where the file is none of the format, or cannot be read.
    """
    listing: ListingFile = READERS[label_set.format](
        storage.join(label_set.uri, path), lambda: storage.open_entry(label_set.uri, label_set.entries[path])
    )
    file, problem_path = catalog.add_file(label_set, path), label_set.prefix + path
    names = dict.fromkeys(listing.categories.values())
    class_numbers = np.array([catalog.add_class(label_set.prefix, name) for name in names], np.int64)
    images = _find_images(index, catalog, label_set, path, listing)
    adder = _AnnotationAdder(index, catalog, label_set.prefix, problem_path, file, images)
    total = crowd_masks = 0
    for part in _read_parts(listing, label_set.uri, label_set.entries[path], run):
        if isinstance(part, AnnotationTable):
            count = len(part.boxes)
            crowd_masks += part.crowd_masks
            adder.add_table(part, total + 1, class_numbers)
        else:
            count = len(part)
            crowd_masks += sum(annotation.is_crowd_mask for annotation in part)
            adder.add_boxes(part)
        total += count
        tick(count)
    if isinstance(listing, CocoFile) and listing.corner_areas > listing.box_areas:
        raise UserError(
            f"{listing.path}: bbox must be x, y, w, h, but by their areas {listing.corner_areas} are two corners, x1,"
            " y1, x2, y2: convert them"
        )
    _refuse_shifted_categories(listing, catalog, label_set.prefix, adder.classes)
    bare_images = _find_bare(listing.path, images, adder, total)
    adder.not_understood |= bare_images
    index.add_problems(
        Problem(label_set.prefix + catalog.images[number][1].path, 0, BARE, ProblemAction.SKIPPED, problem_path)
        for number in sorted(bare_images)
    )
    if total and crowd_masks == total:  # as CVAT writes the mask of one object; COCO has a crowd in a hundred objects
        index.count_as_objects(file)
        detail = f"all of {total} annotations have iscrowd and a mask"
        index.add_problems([Problem(problem_path, 0, "crowds taken as objects", ProblemAction.ACCEPTED, detail)])
    index.add_problems(
        problem._replace(detail=f"{problem.detail}, {adder.box_counts[image_id]} boxes")
        for image_id, problem in images.problems.items()
    )
    paths = (catalog.images[number][1].path for number in sorted(images.repeated))
    index.add_problems(Problem(problem_path, 0, REPEATED, ProblemAction.SKIPPED_WITH_IMAGE, path) for path in paths)
    return ListingResult(file, set(images.numbers.values()), adder.not_understood, frozenset(names))


def _refuse_shifted_categories(listing: ListingFile, catalog: Catalog, prefix: str, used: Collection[int]) -> None:
    """Raise UserError where category ids may count from another number than the list does: then all are wrong."""
    unknown = listing.unknown_categories if isinstance(listing, CocoFile) else set()
    numbers = sorted(key for key in listing.categories if isinstance(key, int))
    if not unknown or not numbers:
        return
    ends = ((numbers[0] - 1, numbers[-1]), (numbers[-1] + 1, numbers[0]))
    for missing, last in ends:
        if missing in unknown and catalog.classes.get((prefix, listing.categories[last])) not in used:
            raise UserError(
                f"{listing.path}: category ids must be those of the categories, but {missing} is none, and no"
                f" annotation is of {listing.categories[last]}, {last}: all may be shifted, so put them right"
            )


def _find_bare(path: str, images: ListedImages, adder: "_AnnotationAdder", total: int) -> set[int]:
    """Return the images of a file without a box, where it has annotations of no image: these may be theirs.

    Raise UserError where all annotations are so, or where ids may count from another number than those of images.
    """
    strays, numbers = adder.strays, {key: n for key, n in images.numbers.items() if isinstance(key, int)}
    if not strays.count:
        return set()
    if strays.count == total:
        example = next(iter(images.numbers), next(iter(images.problems), None))
        raise UserError(
            f"{path}: an annotation's image_id must be the id of an image, but none is, such as {strays.first!r}, where"
            f" images have ids such as {example!r}"
        )
    if numbers:
        low, high = min(numbers), max(numbers)
        is_bare = [not adder.has_box[numbers[key]] for key in (low, high)]
        if (strays.highest == high + 1 and is_bare[0]) or (strays.lowest == low - 1 and is_bare[1]):
            stray = high + 1 if strays.highest == high + 1 and is_bare[0] else low - 1
            raise UserError(
                f"{path}: an annotation's image_id must be the id of an image, but {stray} is none, and image"
                f" {low if stray > high else high} has no annotation: all may count from another number, so put them"
                " right, or remove the annotations of images that are not there"
            )
    return {number for number in images.numbers.values() if not adder.has_box[number]}


def settle_versions(index: LabelIndex, catalog: Catalog, label_set: LabelSet, results: Sequence[ListingResult]) -> None:
    """Count the boxes of an image once where several files of a set have them, each of which labels their class.

    Raise UserError where those differ: nobody can tell which are right, and all together would be doubles.
    """
    counts = Counter(itertools.chain.from_iterable(result.images for result in results))
    shared_images = {image for image, count in counts.items() if count > 1}
    if not shared_images:
        return
    meanings = {
        number: label_set.class_map.get(name, name)
        for (prefix, name), number in catalog.classes.items()
        if prefix == label_set.prefix and label_set.class_map.get(name, name)
    }
    labelled = {(file, meanings.get(class_number)) for file, class_number in index.classes_by_file()}
    doubles: Counter[tuple[int, int]] = Counter()
    for block, table in index.blocks():
        is_double = np.zeros(len(table), np.bool_)
        for image in sorted(shared_images.intersection(table["image"].tolist())):
            groups: dict[tuple[str, int], list[tuple[float, ...]]] = defaultdict(list)
            rows: dict[tuple[str, int], list[int]] = defaultdict(list)
            for row in np.flatnonzero(table["image"] == image).tolist():
                if meaning := meanings.get(int(table["class_number"][row])):
                    file, box = int(table["file"][row]), table["box"][row].round(2).tolist()
                    groups[meaning, file].append((*box, bool(table["ignored"][row])))
                    rows[meaning, file].append(row)
            for meaning in sorted({meaning for meaning, _ in groups}):
                first, *others = (
                    result.file for result in results if image in result.images and (result.file, meaning) in labelled
                )
                for other in others:
                    if sorted(groups[meaning, first]) != sorted(groups[meaning, other]):
                        raise UserError(
                            f"{label_set.uri}: boxes of {meaning} must stand in one file, but {catalog.files[first]}"
                            f" and {catalog.files[other]} are both about {catalog.images[image][1].path}, and differ:"
                            " leave one of them out, or name the other with --label-files"
                        )
                    is_double[rows[meaning, other]] = True
                    doubles[first, other] += len(rows[meaning, other])
        if is_double.any():
            index.replace_block(block, table[~is_double])
    for (first, other), count in doubles.items():
        detail = f"{count} boxes are those of {catalog.files[first]}"
        index.add_problems([Problem(catalog.files[other], 0, "boxes of another file", ProblemAction.DROPPED, detail)])


def ignore_unlisted_classes(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, results: Sequence[ListingResult]
) -> set[int]:
    """Make an image that is in some files of a set one region to ignore for the classes of its other files.

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
        if absent and wide < 1:
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
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, listing: ListingFile
) -> ListedImages:
    """Return the images that a file means, and what is wrong with its other entries."""
    numbers = {image.path: n for n, (owner, image) in enumerate(catalog.images) if owner is label_set}
    finder = ListedImageFinder(list(numbers), label_set.listings)
    numbers_by_id: dict[object, int] = {}
    problems_by_id: dict[object, Problem] = {}
    names_by_id: dict[object, str] = {}
    uncertain: set[int] = set()
    for entry in listing.images():
        paths = finder.find(entry.file_name, path)
        if names_by_id.setdefault(entry.id, entry.file_name) != entry.file_name:
            uncertain.update(numbers[path] for path in paths)
            uncertain.update([numbers_by_id.pop(entry.id)] if entry.id in numbers_by_id else [])
            kind, detail = "image id that several images have", f"{entry.id!r}: {names_by_id[entry.id]}"
        elif len(paths) == 1:
            numbers_by_id[entry.id] = numbers[paths[0]]
            index.add_sizes([(numbers[paths[0]], *entry.declared_wh)])
            continue
        else:
            uncertain.update(numbers[path] for path in paths)
            kind, detail = "image name that several images have" if paths else "label without image", entry.file_name
        problems_by_id[entry.id] = Problem(label_set.prefix + path, 0, kind, ProblemAction.SKIPPED, detail)
    counts = Counter(numbers_by_id.values())
    repeated = {number for number, count in counts.items() if count > 1}
    return ListedImages(numbers_by_id, problems_by_id, uncertain - counts.keys(), repeated)
