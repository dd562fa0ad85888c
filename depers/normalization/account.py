"""What became of every file of the raw sets: a row for each, in files.parquet, and their sum, which must be right."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from depers.datasets.labels import IMAGE_SUFFIXES
from depers.normalization.assignment import Assignment
from depers.normalization.catalog import Catalog
from depers.normalization.layouts import IMAGE_LISTS, LABEL_SUFFIXES, FileRole
from depers.normalization.reading import SkippedImages
from depers.normalization.sources import LabelSet
from depers.statuses import SourceStatus
from depers.storage import tables
from depers.storage.tables import column, parquet_text

IMAGE, LABELS, LIST, BESIDE = "image", "labels", "list", "beside"
_ROWS = 65_536  # that are written at once

FILES = tables.schema(
    column("path", pa.string(), "the file, below RAW, with the folder of its set"),
    column("kind", pa.string(), "`image`, `labels`, `list` (of classes or images), or `beside`: neither"),
    column("status", pa.string(), "`used` or `skipped`: a `SourceStatus`"),
    column("detail", pa.string(), "the split of an image, or why the file is skipped"),
)
"""OUT/files.parquet: a row for every file of the raw sets."""


class FileFate(NamedTuple):
    """What became of a file, as `FILES`."""

    path: str
    kind: str
    status: SourceStatus
    detail: str


Sums = Counter[tuple[str, str, str]]
"""Numbers of files by kind, status and detail."""


def write_account(
    uri: str, catalog: Catalog, assignment: Assignment, skipped: SkippedImages, unusable: set[tuple[str, str]]
) -> Sums:
    """Write files.parquet, and return its sums.

    `unusable`: split and name in the dataset of the images that could not be used. Raise RuntimeError where a file is
    in no part of the account.
    """
    sums: Sums = Counter()
    fates = itertools.chain.from_iterable(
        list_fates(label_set, image_fates) for label_set, image_fates in _by_set(catalog, assignment, skipped, unusable)
    )
    with tables.TableWriter(uri, FILES) as writer:
        while part := list(itertools.islice(fates, _ROWS)):
            sums.update(fate[1:] for fate in part)
            writer.write(pa.Table.from_pylist([fate._asdict() for fate in part], schema=FILES))
    return sums


def _by_set(
    catalog: Catalog, assignment: Assignment, skipped: SkippedImages, unusable: set[tuple[str, str]]
) -> Iterator[tuple[LabelSet, dict[str, tuple[SourceStatus, str]]]]:
    """Yield every set with status and detail of its images, by their paths."""
    numbered = enumerate(zip(catalog.images, assignment.names, assignment.splits, strict=True))
    for label_set, group in itertools.groupby(numbered, key=lambda item: item[1][0][0]):
        fates = {}
        for number, ((_, image), name, split) in group:
            status, detail = SourceStatus.SKIPPED, "its labels are not understood"
            if number in skipped.unlabelled:
                detail = "no label file is about it"
            elif number not in skipped.not_understood:
                if not split:
                    detail = "in test, which --keep-splits leaves out"
                elif (split, parquet_text(name)) in unusable:
                    detail = "the image or its labels cannot be used"
                else:
                    status, detail = SourceStatus.USED, split
            fates[image.path] = status, detail
        yield label_set, fates


def list_fates(label_set: LabelSet, image_fates: Mapping[str, tuple[SourceStatus, str]]) -> Iterator[FileFate]:
    """Yield what became of every file of a set, by path; raise RuntimeError as `write_account`."""
    label_files = {file.path for image in label_set.images for file in image.label_files} | set(label_set.listings)
    problems = {problem.path: problem.kind for problem in label_set.problems}
    left_out = dict.fromkeys(label_set.left_out, "--label-files leaves it out") | dict(label_set.unusable)
    counted = {FileRole.IMAGE: image_fates, FileRole.LABELS: label_files, FileRole.PROBLEM: problems}
    for path in sorted([*label_set.entries, *left_out]):
        role = label_set.roles.get(path)
        if (role is None and path not in left_out) or (role and path not in counted.get(role, (path,))):
            raise RuntimeError(f"{label_set.uri}: {path!r} is neither used nor skipped for a reason")
        kind, status, detail = BESIDE, SourceStatus.SKIPPED, "neither an image nor labels, by its name"
        if role == FileRole.IMAGE:
            kind, (status, detail) = IMAGE, image_fates[path]
        elif role == FileRole.LABELS:
            kind, status, detail = LABELS, SourceStatus.USED, ""
        elif role == FileRole.LIST:
            kind, status, detail = LIST, *_judge_list(path)
        elif role != FileRole.BESIDE:
            kind, detail = _kind_of(path), left_out.get(path) or problems[path]
        yield FileFate(parquet_text(label_set.prefix + path), kind, status, detail)
    if lost := (image_fates.keys() | label_files) - label_set.entries.keys():
        raise RuntimeError(f"{label_set.uri}: {min(lost)!r} is in the dataset, but not among the files listed")


def _judge_list(path: str) -> tuple[SourceStatus, str]:
    if IMAGE_LISTS.search(path):
        return SourceStatus.SKIPPED, "a list of images: --keep-splits and --group-by split"
    return SourceStatus.USED, "class names, where ids need them"


def _kind_of(path: str) -> str:
    """Return what a file is by its name."""
    if path.lower().endswith(IMAGE_SUFFIXES):
        return IMAGE
    return LABELS if path.lower().endswith(LABEL_SUFFIXES) else BESIDE


def make_rows(sums: Sums) -> list[list[object]]:
    """Return the account as a table: number, kind, status, detail."""
    order = {kind: number for number, kind in enumerate((IMAGE, LABELS, LIST, BESIDE))}
    return [[count, *key] for key, count in sorted(sums.items(), key=lambda item: (order[item[0][0]], item[0]))]


def format_account(sums: Sums) -> str:
    """Return the account in one line."""
    parts = []
    for kind, name in ((IMAGE, "images"), (LABELS, "label files"), (LIST, "lists"), (BESIDE, "others")):
        counts = {
            status: sum(count for key, count in sums.items() if key[:2] == (kind, status)) for status in SourceStatus
        }
        used, skipped = counts[SourceStatus.USED], counts[SourceStatus.SKIPPED]
        parts.append(
            f"{used + skipped} {name}" + (f" ({skipped} skipped)" if skipped and kind in (IMAGE, LABELS) else "")
        )
    return f"{sums.total()} files: {', '.join(parts)}"


def check_sum(sums: Sums, listed: Sequence[LabelSet], used_images: int) -> None:
    """Raise RuntimeError unless every file that was listed is counted, and every image of the dataset as used."""
    files = sum(len(label_set.entries) + len(label_set.left_out) + len(label_set.unusable) for label_set in listed)
    counted_images = sum(count for key, count in sums.items() if key[:2] == (IMAGE, SourceStatus.USED))
    if (sums.total(), counted_images) != (files, used_images):
        raise RuntimeError(
            f"the account must hold {files} files with {used_images} images in the dataset, but holds {sums.total()}"
            f" with {counted_images}"
        )
