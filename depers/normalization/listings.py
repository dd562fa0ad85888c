"""Label files that list many images, each with its boxes: from such a file into the index, as a stream."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from depers import storage
from depers.errors import UserError
from depers.normalization.catalog import Catalog
from depers.normalization.formats.coco import CocoFile
from depers.normalization.formats.lists import CrowdHumanFile, ListingFile, WiderFile
from depers.normalization.index import IndexedBox, LabelIndex
from depers.normalization.matching import ListedImageFinder
from depers.normalization.rules import Problem, RawBox
from depers.normalization.sources import LabelSet
from depers.statuses import ProblemAction

READERS: Mapping[str, Callable[..., Any]] = {"coco": CocoFile, "wider": WiderFile, "crowdhuman": CrowdHumanFile}
_BATCH = 10_000  # boxes that are added to the index at once
REPEATED = "image that is listed several times"


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


def add_listing(
    index: LabelIndex, catalog: Catalog, label_set: LabelSet, path: str, tick: Callable[[int], object]
) -> ListingResult:
    """Put a file into the index, call `tick` with the boxes of every part, and return what it is about.

    Raise UserError where the file is none of the format, or cannot be read.
    """
    listing: ListingFile = READERS[label_set.format](
        storage.join(label_set.uri, path), lambda: storage.open_entry(label_set.uri, label_set.entries[path])
    )
    file, problem_path = catalog.add_file(label_set, path), label_set.prefix + path
    for name in listing.categories.values():
        catalog.add_class(label_set.prefix, name)
    images, problems_by_id, uncertain, repeated = _find_images(index, catalog, label_set, path, listing)
    box_counts: Counter[object] = Counter()
    batch: list[IndexedBox] = []
    not_understood = uncertain | repeated
    total = crowd_masks = 0
    for image_id, box, problem, is_crowd_mask in listing.annotations():
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
        elif box is not None and images[image_id] in repeated:
            detail = catalog.images[images[image_id]][1].path
            index.add_problems([Problem(problem_path, box.line, REPEATED, ProblemAction.SKIPPED_WITH_IMAGE, detail)])
        elif box is not None:
            class_number = catalog.add_class(label_set.prefix, box.class_name)
            batch.append(IndexedBox(images[image_id], file, box.line, class_number, *box[2:]))
        if total % _BATCH == 0:
            tick(_BATCH)
            index.add_boxes(batch)
            batch.clear()
    tick(total % _BATCH)
    index.add_boxes(batch)
    if isinstance(listing, CocoFile) and listing.corner_areas > listing.box_areas:
        raise UserError(
            f"{listing.path}: bbox must be x, y, w, h, but by their areas {listing.corner_areas} are two corners, x1,"
            " y1, x2, y2: convert them"
        )
    if total and crowd_masks == total:  # as CVAT writes the mask of one object; COCO has a crowd in a hundred objects
        index.count_as_objects(file)
        detail = f"all of {total} annotations have iscrowd and a mask"
        index.add_problems([Problem(problem_path, 0, "crowds taken as objects", ProblemAction.ACCEPTED, detail)])
    index.add_problems(
        problem._replace(detail=f"{problem.detail}, {box_counts[image_id]} boxes")
        for image_id, problem in problems_by_id.items()
    )
    paths = (catalog.images[number][1].path for number in sorted(repeated))
    index.add_problems(Problem(problem_path, 0, REPEATED, ProblemAction.SKIPPED_WITH_IMAGE, path) for path in paths)
    return ListingResult(file, set(images.values()), not_understood, frozenset(listing.categories.values()))


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
    numbers = [result.file for result in results]
    labelled = {(file, meanings.get(class_number)) for file, class_number in index.classes_by_file(numbers)}
    doubles: dict[tuple[int, int], list[int]] = {}
    for image, boxes in index.boxes_of_files(numbers):
        if image not in shared_images:
            continue
        groups: dict[tuple[str, int], list[tuple[float, ...]]] = defaultdict(list)
        rows: dict[tuple[str, int], list[int]] = defaultdict(list)
        for row, box in boxes:
            if meaning := meanings.get(box.class_number):
                groups[meaning, box.file].append((*(round(number, 2) for number in box[4:8]), box.ignored))
                rows[meaning, box.file].append(row)
        for meaning in {meaning for meaning, _ in groups}:
            first, *others = (
                result.file for result in results if image in result.images and (result.file, meaning) in labelled
            )
            for other in others:
                if sorted(groups[meaning, first]) != sorted(groups[meaning, other]):
                    raise UserError(
                        f"{label_set.uri}: boxes of {meaning} must stand in one file, but {catalog.files[first]} and"
                        f" {catalog.files[other]} are both about {catalog.images[image][1].path}, and differ: leave one"
                        " of them out, or name the other with --label-files"
                    )
                doubles.setdefault((first, other), []).extend(rows[meaning, other])
    for (first, other), row_numbers in doubles.items():
        index.remove_boxes(row_numbers)
        detail = f"{len(row_numbers)} boxes are those of {catalog.files[first]}"
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
