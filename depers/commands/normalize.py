"""Raw labelled sets, in the layouts that people have, as one dataset: checked, mended, split for validation.

RAW is a folder in the competition's layout, or with YOLO text, Pascal VOC's XML or COCO's JSON, whichever it holds.
Every image that can be decoded is in the dataset, with its boxes or without any, and whatever was wrong is a row of
OUT/problems.parquet: nothing is dropped silently. The rules are those of `normalization.rules`; OUT/report.html shows
counts, distributions and labelled images, which are also on OUT/sheet.jpg.

    labels of all sets → index (on disk) → split → [ image → labels mended → written → record ] → problems, report
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg

from depers import storage
from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.image_index import write_index
from depers.datasets.labels import CLASSES, SPLITS
from depers.errors import UserError
from depers.normalization import account, growth, report
from depers.normalization.assignment import (
    Assignment,
    describe_copies,
    describe_shares,
    find_copies,
    make_tasks,
    split_at_random,
    split_by_folders,
)
from depers.normalization.catalog import Catalog, ClassMeanings, find_class_meanings
from depers.normalization.formats.yolo import COLUMNS
from depers.normalization.growth import FormerImage
from depers.normalization.index import LabelIndex
from depers.normalization.layouts import FORMATS
from depers.normalization.reading import SkippedImages, read_labels
from depers.normalization.rules import EXIF_FRAMES, Problem
from depers.normalization.sources import AUTO, LabelSet, choose_prefixes, open_set, parse_added, parse_class_map
from depers.normalization.suspicions import refuse_mostly_dropped
from depers.normalization.twins import KINDS, count_shared, describe_twins, find_twins
from depers.normalization.unlisted import UNLABELLED
from depers.normalization.writing import ImageTask, TakenOver, make_unit_name, write_problems, write_unit
from depers.options import CheckedOptions, argument, option
from depers.options.shared import follow_links_option, seed_option
from depers.runtime import claims, progress, units
from depers.runtime.lease import Lease
from depers.runtime.local_pool import PoolPlan
from depers.runtime.results import Failures, VerbResult
from depers.runtime.takeover import FormerRows
from depers.runtime.tasks import choose_share, run_file_tasks
from depers.statuses import ProblemAction
from depers.storage import tables

_LOCAL_MODULES = ("depers.normalization.reading", "depers.normalization.twins", "depers.normalization.writing")

_DECISIVE = (
    "classes",
    "val_fraction",
    "calibration_fraction",
    "seed",
    "group_by",
    "twins",
    "keep_splits",
    "unlabelled",
    "exif_frame",
)

_LABELS, _SPLIT = "labels", "split"


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Make one dataset of raw labelled sets: checked, mended, with real class ids, split into train and val."""

    raw: str = argument("folder or s3:// URI of images with labels (competition, YOLO, VOC, COCO)")
    out: str = argument("folder or s3:// URI of the dataset; the same command resumes")
    classes: tuple[str, ...] = option(
        CLASSES, "class names, in the order of their ids", distinct=True, group=_LABELS, metavar="NAME"
    )
    class_map: tuple[str, ...] = option(
        (),
        "which classes of RAW mean which: source=class,…; a class without a name is called by its id; source= leaves"
        " one out on purpose, *= all others",
        group=_LABELS,
        metavar="MAP",
    )
    add: tuple[str, ...] = option(
        (),
        "another RAW, with its own class map or else that of --class-map: RAW[:source=class,…]",
        group=_LABELS,
        metavar="RAW",
    )
    format: str = option(AUTO, "how RAW is labelled", choices=(AUTO, *FORMATS), group=_LABELS)
    columns: str = option(
        COLUMNS[0],
        "what the numbers after the class are in a line of YOLO text: a box (and at most one more number), a box and"
        " points, the points of a polygon, or two corners; auto: what the lines themselves say",
        choices=COLUMNS,
        group=_LABELS,
    )
    label_files: tuple[str, ...] = option(
        (),
        "only label files whose path in RAW fits, such as annotations/instances_*.json",
        group=_LABELS,
        metavar="PATTERN",
    )
    val_fraction: float = option(0.2, "share of the images in val; 0: all in train", low=0, below=1, group=_SPLIT)
    calibration_fraction: float = option(
        0.0,
        "share of the images in calibration: neither learnt from nor used to choose weights, for"
        " `evaluate --split calibration --target-recall`",
        low=0,
        below=1,
        group=_SPLIT,
    )
    seed: int = seed_option("seed of the split", group=_SPLIT)
    group_by: str | None = option(
        None,
        "images share a split where this regular expression finds the same in their names",
        pattern=True,
        group=_SPLIT,
        metavar="REGEX",
    )
    twins: str = option(
        "near",
        "images that share a split, each a row among the problems: identical ones, and near twins (compressed again,"
        " resized, cropped a little, mirrored, a moment later); or identical ones only, or none, without a look",
        choices=KINDS,
        group=_SPLIT,
    )
    keep_splits: bool = option(
        False, "split as RAW's folders train, val, valid or calibration do; test is left out", group=_SPLIT
    )
    unlabelled: str = option(
        AUTO,
        "what an image is that no label file is about; auto: skipped in VOC and COCO, and in YOLO where others have an"
        " empty text; else background, where they are few and every label file has its image",
        choices=UNLABELLED,
        group=_LABELS,
    )
    exif_frame: str = option(
        "auto",
        "boxes of an image that EXIF turns lie on it as seen, or as stored; auto: as seen, unless its declared"
        " size says otherwise",
        choices=EXIF_FRAMES,
        group=_LABELS,
    )
    follow_links: bool = follow_links_option()
    strict: bool = option(False, "no data.yaml, and exit code 3, if anything was wrong, with labels too")

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        for name in self.classes:
            if "/" in name:
                raise UserError(f"--classes must be names without '/', but got {name!r}")
        if not self.classes:
            raise UserError("--classes must name at least one class")
        if self.val_fraction + self.calibration_fraction >= 1:
            shares = f"{self.val_fraction:g} and {self.calibration_fraction:g}"
            raise UserError(f"--val-fraction and --calibration-fraction must leave images to train, but are {shares}")
        if self.keep_splits and (self.calibration_fraction or self.group_by is not None):
            name = "--calibration-fraction" if self.calibration_fraction else "--group-by"
            raise UserError(f"{name} is about a split at random, but with --keep-splits folders say the splits")
        self.sources()

    def sources(self) -> list[tuple[str, Mapping[str, str], bool]]:
        """Return every raw set's URI and class map, and whether that is its own. Raises UserError for a wrong one."""
        default = parse_class_map(self.class_map, self.classes, "--class-map")
        additions = [parse_added(text, self.classes) for text in self.add]
        return [
            (storage.check(self.raw, "RAW"), default, True),
            *((storage.check(uri, "--add"), class_map or default, bool(class_map)) for uri, class_map in additions),
        ]


def open_sets(options: Options) -> list[LabelSet]:
    """Return the raw sets, listed and recognised. Raises UserError for folders that cannot give a dataset."""
    out = storage.check(options.out, "OUT")
    sources = options.sources()
    uris = [uri for uri, *_ in sources]
    for uri in uris:
        if storage.overlap(uri, out):
            raise UserError(f"OUT must lie outside RAW, and RAW outside OUT, but got {uri} and {options.out}")
    if len(set(uris)) < len(uris):
        raise UserError(f"RAW and --add must differ, but got {', '.join(uris)}")
    return [
        open_set(
            storage.absolute(uri),
            prefix,
            options.format,
            options.classes,
            class_map,
            options.label_files,
            options.columns,
            has_own_map=has_own_map,
            out=storage.absolute(out),
            follow_links=options.follow_links,
        )
        for (uri, class_map, has_own_map), prefix in zip(sources, choose_prefixes(uris), strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class NormalizeResult(VerbResult):
    """What is in the dataset, and how much was wrong; `text` says it in tables."""

    out: str
    report: str
    problems: str
    """The table of everything that was wrong."""
    files: str
    """The table of every file of the input, and what became of it."""
    problem_count: int
    images: Mapping[str, int]
    """By split."""
    boxes: Mapping[str, int]
    """By class."""
    complete: bool
    """Whether there is a data.yaml: not where `strict` objects to a problem."""
    text: str

    @property
    def partial(self) -> bool:
        """Whether images or labels were unusable, or `strict` objects."""
        return super().partial or not self.complete

    def summary(self) -> list[str]:
        """Return the lines that say what is in the dataset and what was wrong."""
        lines = [*self.text.splitlines(), f"report: {self.report}", f"{self.problem_count} problems: {self.problems}"]
        return lines if self.complete else [*lines, "--strict: the dataset is left without data.yaml"]


def plan_processes(options: Options) -> PoolPlan:
    """Return the processes that do the work where no Ray runs."""
    waits = choose_share(options.raw, options.out) < 1
    return PoolPlan(_LOCAL_MODULES, 3 * len(os.sched_getaffinity(0)) if waits else None)


def run(options: Options) -> NormalizeResult:
    """Write the dataset, many files at a time. Raises UserError for a RAW that gives no dataset, or a wrong OUT."""
    out = storage.absolute(storage.check(options.out, "OUT"))
    catalog = Catalog(open_sets(options))
    with (
        tempfile.TemporaryDirectory(prefix="depers-labels-") as folder,
        contextlib.closing(LabelIndex(Path(folder, "labels.sqlite"))) as index,
    ):
        skipped = read_labels(index, catalog, options.unlabelled)
        meanings = find_class_meanings(index, catalog, options.classes)
        unused = skipped.not_understood | skipped.unlabelled
        copies = find_copies(catalog, unused)
        index.add_problems(describe_copies(catalog, copies))
        decisive = {name: value for name, value in asdict(options).items() if name in _DECISIVE}
        with claims.hold(out, decisive) as lease:
            image_twins = find_twins(catalog, unused, options.twins, Path(folder), lease.guard)
            pairs = [*copies.items(), *image_twins.pairs]
            former = growth.read_former(out)
            assignment = _assign(options, catalog, index, unused, meanings.class_ids, pairs, former)
            index.add_problems(describe_twins(catalog, image_twins, copies, assignment.splits))
            shared = count_shared(image_twins, copies, assignment.splits)
            departed = growth.find_departed(out, former, assignment)
            storage.delete(storage.join(out, "data.yaml"))  # it is written last, and says that the dataset is whole

            def parts() -> Iterator[list[ImageTask]]:
                class_count, shapes = len(options.classes), image_twins.shapes
                return growth.cut(make_tasks(catalog, assignment, meanings, class_count, index, shapes))

            # Records first: none may speak of an image that is gone, should it come back after a run that was killed.
            former_rows = growth.find_former_rows(out, options.exif_frame, parts)
            if departed:
                progress.report(
                    f"{out}: removes {len(departed)} files of images that RAW lacks now, or of another split"
                )
                lease.confirm()
                storage.delete_files(out, departed)
            growth.write_images(out, assignment)
            statistics = _write(out, options, parts(), assignment.total, index, former_rows, lease)
            units.remove_former(units.locate_inside(out))
            return _finish(options, catalog, assignment, skipped, meanings, index, statistics, shared)


def _finish(
    options: Options,
    catalog: Catalog,
    assignment: Assignment,
    skipped: SkippedImages,
    meanings: ClassMeanings,
    index: LabelIndex,
    statistics: report.LabelStatistics,
    shared: int,
) -> NormalizeResult:
    """Write problems, report, and last data.yaml; return what there is. Raises UserError where there is nothing.

    `shared` is how many of the problems are about twins that share a split, to which `--strict` does not object.
    """
    out, notes = storage.absolute(options.out), _note_shares(options, assignment, statistics.images, index)
    kinds = index.problem_kinds()
    with storage.translated_write_errors(out):
        problem_count = write_problems(storage.join(out, "problems.parquet"), index.problems())
    refuse_mostly_dropped(index, catalog)  # once more: only the images say whether a box lies in them
    if not statistics.images.total():
        costly = [first for action, _, _, first in kinds if action != ProblemAction.ACCEPTED]
        first = min(costly, default=None)
        example = f", such as {first.path}: {first.detail or first.kind}" if first else ""
        raise UserError(f"{options.raw}: no image can be used{example}")
    with storage.translated_write_errors(out):
        sums = account.write_account(
            storage.join(out, "files.parquet"), catalog, assignment, skipped, statistics.skipped
        )
        account.check_sum(sums, catalog.sets, statistics.images.total())
        _write_report(out, options.classes, statistics, meanings.labelled, kinds, sums, notes)
    complete = not (options.strict and problem_count > shared)
    if complete:
        write_data_yaml(out, options.classes, [name for name in SPLITS if statistics.images[name]], meanings.labelled)
    test_images = len(catalog.images) - assignment.total - len(skipped.not_understood | skipped.unlabelled)
    texts = [
        report.format_summary(statistics, options.classes, meanings.labelled),
        *notes,
        account.format_account(sums),
        *meanings.notes,
    ]
    texts += [f"skipped, as --keep-splits says: {test_images} images in test"] if test_images else []
    problems = storage.join(options.out, "problems.parquet")
    return NormalizeResult(
        failures=Failures(len(skipped.not_understood) + len(statistics.skipped), table=problems),
        out=options.out,
        report=storage.join(options.out, "report.html"),
        problems=problems,
        files=storage.join(options.out, "files.parquet"),
        problem_count=problem_count,
        images={split: statistics.images[split] for split in report.list_splits(statistics)},
        boxes={
            name: sum(statistics.boxes[split, class_id] for split in SPLITS)
            for class_id, name in enumerate(options.classes)
        },
        complete=complete,
        text="\n".join([*texts, report.format_problems(kinds)]).rstrip("\n"),
    )


def _note_shares(options: Options, assignment: Assignment, counts: Mapping[str, int], index: LabelIndex) -> list[str]:
    """Return lines about splits that have not the share of the images that was asked for; an empty one is a problem."""
    if not any(counts.values()):
        return []
    if assignment.grouping is None:
        empty_names = [name for name in SPLITS[:2] if not counts[name]]
        return [f"{name} has no images: RAW has no folder of it with any (--keep-splits)" for name in empty_names]
    fractions = {"val": options.val_fraction, "calibration": options.calibration_fraction}
    notes = dict(describe_shares(counts, fractions, assignment.grouping, options.twins))
    example = assignment.grouping.example
    index.add_problems(
        Problem(example, 0, "empty split", ProblemAction.ACCEPTED, text)
        for name, text in notes.items()
        if not counts[name]
    )
    return [f"warning: {text}" for text in notes.values()]


def _assign(
    options: Options,
    catalog: Catalog,
    index: LabelIndex,
    skipped: set[int],
    class_ids: Mapping[int, int],
    copies: Iterable[tuple[int, int]],
    former: Iterable[FormerImage],
) -> Assignment:
    if options.keep_splits:
        return split_by_folders(catalog, skipped)
    return split_at_random(
        catalog,
        skipped,
        class_ids,
        index,
        val_fraction=options.val_fraction,
        calibration_fraction=options.calibration_fraction,
        seed=options.seed,
        group_by=options.group_by,
        copies=copies,
        former_splits=dict(former),
    )


def _write(
    out: str,
    options: Options,
    parts: Iterator[list[ImageTask]],
    total: int,
    index: LabelIndex,
    former_rows: FormerRows,
    lease: Lease,
) -> report.LabelStatistics:
    """Write all units but those that an earlier run has recorded; their problems go into the index."""
    statistics, names = report.LabelStatistics(len(options.classes)), list[str]()
    records = units.locate_inside(out)
    finished_names = units.list_finished(records).names

    def calls() -> Iterator[tuple[str, str, str, list[ImageTask], TakenOver]]:
        for part in parts:
            name = make_unit_name(part, options.exif_frame)
            names.append(name)
            if name in finished_names:
                count(tables.read_table(units.record_uri(records, name)))
            else:
                yield out, name, options.exif_frame, *growth.divide(part, former_rows)

    with progress.open_bar(total, "images") as bar:

        def count(record: pa.Table) -> None:
            statistics.add(record)
            problems = record["problems"].combine_chunks().flatten().to_pylist()
            index.add_problems(Problem(**problem) for problem in problems)
            bar.update(len(record))

        for record in lease.guard(run_file_tasks(write_unit, calls(), num_cpus=choose_share(out, options.raw))):
            count(record)
    with storage.translated_write_errors(out):
        write_index(out, lease.guard(units.iterate_records(records, names)))
    return statistics


def _write_report(
    out: str,
    classes: Sequence[str],
    statistics: report.LabelStatistics,
    labelled: Mapping[str, Sequence[str]],
    kinds: report.Kinds,
    sums: account.Sums,
    notes: Sequence[str],
) -> None:
    """Write OUT/report.html and OUT/sheet.jpg; `notes` are lines about the splits."""
    samples = report.draw_samples(out, statistics, classes)
    page = report.make_report(statistics, classes, labelled, kinds, samples, account.make_rows(sums), notes)
    storage.write_bytes(storage.join(out, "report.html"), page.encode())
    sheet = np.ascontiguousarray(report.make_sheet(samples))
    storage.write_bytes(storage.join(out, "sheet.jpg"), simplejpeg.encode_jpeg(sheet, 88, "RGB"))
