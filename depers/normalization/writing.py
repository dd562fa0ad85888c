"""One unit of a dataset: images copied, their labels mended and written, and a row of record for each."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import simplejpeg

from depers import storage
from depers.datasets import image_index
from depers.datasets.ignore_regions import FOLDER, ignore_path
from depers.datasets.image_index import WrittenFile
from depers.datasets.labels import Labels, format_yolo
from depers.errors import UserError, typed_reason
from depers.imaging import decoding
from depers.imaging.headers import ImageError, read_header
from depers.normalization.rules import LabelBoxes, LabelError, Problem, find_frame, mend
from depers.observation.rows import count_rows
from depers.runtime import takeover, units
from depers.runtime.file_guard import FileGuard
from depers.runtime.takeover import Source
from depers.runtime.units import RecordNotes
from depers.statuses import ProblemAction, SourceStatus
from depers.storage import Entry, tables
from depers.storage.failures import explain, is_of_name
from depers.storage.overlapped import count_threads
from depers.storage.tables import column, parquet_text

_VERSION = "7"  # of what is written for the same labels
UNUSABLE, UNREADABLE = "unusable image", "unreadable image"
_NO_LABELS = Labels.of([], [])
_KEY = "key"  # the column of `ImageTask.key`
_ROWS = 65_536  # problems that are written at once

PROBLEMS = tables.schema(
    column("path", pa.string(), "the label file or the image, below RAW, with the folder of its set"),
    column(
        "line", pa.int32(), "line of a text, object of an XML file, annotation of a JSON file, from 1; 0: all of it"
    ),
    column("kind", pa.string(), "what is wrong"),
    column("action", pa.string(), "what was done about it: a `ProblemAction`"),
    column("detail", pa.string(), "the text that is wrong, or the reason"),
)
"""OUT/problems.parquet: a row for everything that was wrong with a label or an image."""

_BOX = pa.struct(
    [
        column("class_id", pa.int32(), "the dataset's id of its class"),
        column("w", pa.float32(), "width in pixels of the upright image"),
        column("h", pa.float32(), "height in pixels of the upright image"),
    ]
)
RECORD = tables.schema(
    column("name", pa.string(), "the image's path in its split's folder"),
    column("split", pa.string(), "`train`, `val` or `calibration`"),
    column("status", pa.string(), "`used` or `skipped`: a `SourceStatus`"),
    column("width", pa.int32(), "width of the upright image in pixels; 0 where it is skipped"),
    column("height", pa.int32(), "height of the upright image in pixels; 0 where it is skipped"),
    column("boxes", pa.list_(_BOX), "the labels that were written"),
    column("ignored", pa.int32(), "number of ignore regions that were written"),
    column("problems", pa.list_(pa.struct(list(PROBLEMS))), "what was wrong, as rows of problems.parquet"),
    image_index.RECORD_COLUMN,
)
"""OUT/_depers/units/*.parquet: a row for every image of a unit, from which a resumed run counts."""


class ImageTask(NamedTuple):
    """One image: where it is, how problems call it, its name and split in the dataset, and its raw boxes.

    `stamp` changes with the image; `declared_wh` is as in `FileLabels`. `shape` is what `examine` gives, where the
    image was decoded before.
    """

    source: str
    path: str
    name: str
    split: str
    stamp: str
    declared_wh: tuple[int, int] | None
    shape: tuple[tuple[int, int], int] | None
    boxes: LabelBoxes

    def read(self) -> bytes:
        """Return the image as it was listed: its record would stand for that. Raise OSError."""
        folder, _, name = self.source.rpartition("/")
        size, _, tag = self.stamp.partition(" ")
        return storage.read_entry(folder, Entry(name, int(size), tag))

    @property
    def image_uri(self) -> str:
        """The image's path below the dataset."""
        return f"images/{self.split}/{self.name}"

    @property
    def labels_uri(self) -> str:
        """The path of its labels below the dataset."""
        return f"labels/{self.split}/{PurePosixPath(self.name).with_suffix('.txt')}"

    @property
    def ignore_uri(self) -> str:
        """The path of its ignore regions below the dataset, where it has any."""
        return ignore_path(self.image_uri)

    @property
    def key(self) -> str:
        """What it is called among those of all splits, as tables hold it."""
        return f"{self.split}/{parquet_text(self.name)}"


class TakenOver(NamedTuple):
    """What is known already of the other images of a unit: where their rows are, and the keys of all, in order."""

    sources: tuple[Source, ...] = ()
    order: tuple[str, ...] = ()


_NOTHING = TakenOver()


def identify(tasks: Sequence[ImageTask], exif_frame: str) -> dict[str, str]:
    """Return a hash of all that decides what is written of each image, by its key."""
    return {task.key: make_unit_name([task], exif_frame)[:16] for task in tasks}


def make_unit_name(tasks: Sequence[ImageTask], exif_frame: str) -> str:
    """Return a hash of all that decides what is written."""
    text = repr((_VERSION, exif_frame, [(*task[:-2], task.boxes.paths, len(task.boxes.rows)) for task in tasks]))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for task in tasks:
        digest.update(task.boxes.rows.tobytes())
    return digest.hexdigest()[:32]


def write_unit(
    out: str,
    name: str,
    exif_frame: str,
    tasks: Sequence[ImageTask],
    remainder: TakenOver = _NOTHING,
    guard: FileGuard | None = None,
) -> pa.Table:
    """Write images, labels and last the record of a unit, and return the record.

    The rows of its other images are taken over as the `remainder` from earlier records.

    An image that cannot be decoded whole is skipped, as is one whose labels are about another image, or not all
    understood, or that ends its process. Where one could not be read, the unit is not recorded: the next run tries
    again. Raise UserError where the output cannot be written.
    """
    guard = guard or FileGuard()

    def write(offset: int, task: ImageTask) -> dict[str, Any]:
        if reason := guard.find_reason(offset):
            return _skip(out, task, [Problem(task.path, 0, UNUSABLE, ProblemAction.SKIPPED, reason)])
        with guard.watch(offset):
            return _write_image(out, exif_frame, task, has_regions)

    threads = count_threads(1, out, *(task.source for task in tasks))
    has_regions = storage.is_dir(storage.join(out, FOLDER))  # of an earlier run, perhaps, when an image still had some
    # Where a file ends its process, only one may be at work: it would be taken for its neighbor.
    with ThreadPoolExecutor(1 if guard.note else threads) as pool:
        rows = list(pool.map(write, itertools.count(), tasks))
    table = _make_record(rows) if rows else RECORD.empty_table()
    count_rows(table)
    notes, records = RecordNotes(identities=identify(tasks, exif_frame)), units.locate_inside(out)
    with storage.translated_write_errors(out):
        if remainder.sources:
            table, notes = _complete(records, table, notes, remainder)
        if not any(problem["kind"] == UNREADABLE for row in rows for problem in row["problems"]):
            units.write_record(records, name, table, notes, out=out)
    return table


def _complete(records: str, table: pa.Table, notes: RecordNotes, remainder: TakenOver) -> tuple[pa.Table, RecordNotes]:
    """Return the record of a unit with the rows that are taken over, in the order of its images. Raise OSError."""
    parts = [(_add_keys(table), notes)]
    for source in remainder.sources:
        record = _add_keys(units.read_record(units.former_uri(records, source.name)))
        parts.append(takeover.select(record, source, _KEY))
    whole = pa.concat_tables([part.replace_schema_metadata() for part, _ in parts])
    places = pc.index_in(pa.array(remainder.order, pa.string()), whole[_KEY].combine_chunks())
    return whole.take(places).drop_columns([_KEY]), takeover.merge_notes([notes for _, notes in parts])


def _add_keys(record: pa.Table) -> pa.Table:
    return record.append_column(_KEY, pc.binary_join_element_wise(record["split"], record["name"], "/"))


def _make_record(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Return the table of rows as `_row` makes them."""
    columns = {name: [row[name] for row in rows] for name in RECORD.names}
    all_labels: list[Labels] = columns["boxes"]
    sizes_wh = np.concatenate([labels.boxes_xywh for labels in all_labels]).astype(np.float32)
    class_ids = np.concatenate([labels.class_ids for labels in all_labels]).astype(np.int32)
    boxes = pa.StructArray.from_arrays([class_ids, sizes_wh[:, 0], sizes_wh[:, 1]], fields=list(_BOX))
    offsets = np.cumsum([0, *(len(labels.class_ids) for labels in all_labels)], dtype=np.int32)
    columns["boxes"] = pa.ListArray.from_arrays(offsets, boxes, type=RECORD.field("boxes").type)
    return pa.Table.from_pydict(columns, schema=RECORD)


def _write_image(out: str, exif_frame: str, task: ImageTask, has_regions: bool) -> dict[str, Any]:
    """Write an image and its labels, or skip them; return its row of the record."""
    try:
        data = task.read()
        size_wh, orientation = task.shape or examine(data)  # training would stop at an image that is not whole
        frame = find_frame(task.path, task.declared_wh, size_wh, orientation, exif_frame)
    except LabelError as error:
        return _skip(out, task, [Problem(task.path, 0, error.kind, ProblemAction.SKIPPED, error.detail)])
    except ImageError as error:
        return _skip(out, task, [Problem(task.path, 0, UNUSABLE, ProblemAction.SKIPPED, str(error))])
    except OSError as error:
        problem = Problem(task.path, 0, UNREADABLE, ProblemAction.SKIPPED, explain(error))
        return _row(task, SourceStatus.SKIPPED, (0, 0), _NO_LABELS, [problem])  # a read failure never deletes
    except Exception as error:
        return _skip(out, task, [Problem(task.path, 0, UNUSABLE, ProblemAction.SKIPPED, typed_reason(error))])
    labels, ignored, problems = mend(task.boxes, frame.size_wh, frame.orientation)
    if any(problem.action == ProblemAction.SKIPPED_WITH_IMAGE for problem in problems):
        return _skip(out, task, [*frame.problems, *problems])
    try:
        regions_file = None
        if len(ignored.class_ids):
            regions_file = _write_file(out, task.ignore_uri, format_yolo(ignored).encode())
        elif has_regions:
            storage.delete_below(out, task.ignore_uri)
        labels_file = _write_file(out, task.labels_uri, format_yolo(labels).encode())
        image_file = _write_file(out, task.image_uri, data)
    except Exception as error:
        reason = f"cannot be written ({explain(error)})"
        if not is_of_name(error):
            raise UserError(f"{out}: {reason}") from None
        return _skip(out, task, [Problem(task.path, 0, UNUSABLE, ProblemAction.SKIPPED, reason)])
    row = _row(task, SourceStatus.USED, size_wh, labels, frame.problems + problems, len(ignored.class_ids))
    files = image_file, labels_file, regions_file
    indexed = image_index.describe(task.split, task.name, size_wh, *files, contents=(labels, ignored))
    return row | {"indexed": indexed}


def _write_file(out: str, path: str, data: bytes) -> WrittenFile:
    return WrittenFile(path, data, storage.write_below(out, path, data))


def _skip(out: str, task: ImageTask, problems: list[Problem]) -> dict[str, Any]:
    for path in (task.image_uri, task.labels_uri, task.ignore_uri):  # of an earlier run, when it was still usable
        with suppress(OSError):  # a name that storage refuses is not there
            storage.delete_below(out, path)
    return _row(task, SourceStatus.SKIPPED, (0, 0), _NO_LABELS, problems)


def examine(data: bytes) -> tuple[tuple[int, int], int]:
    """Return upright size and EXIF orientation of an image that can be decoded whole. Raise ImageError."""
    header = read_header(data)
    if header.format == "JPEG" and header.mode in ("L", "RGB"):
        try:  # at an eighth of its size: every bit is read, little is computed
            simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, strict=True)
        except ValueError:
            pass  # what `decode` accepts counts
        else:
            return header.upright_wh, header.orientation
    return decoding.decode(data, header=header).size_wh, header.orientation


def write_problems(uri: str, problems: Iterator[Problem]) -> int:
    """Write them as Parquet, a row each, a part of them at a time; return their number."""
    count = 0
    with tables.TableWriter(uri, PROBLEMS) as writer:
        while part := list(itertools.islice(problems, _ROWS)):
            count += len(part)
            writer.write(pa.Table.from_pylist([problem._asdict() for problem in part], schema=PROBLEMS))
    return count


def _row(
    task: ImageTask,
    status: SourceStatus,
    size_wh: tuple[int, int],
    labels: Labels,
    problems: list[Problem],
    ignored: int = 0,
) -> dict[str, Any]:
    return {
        "name": parquet_text(task.name),
        "split": task.split,
        "status": status,
        "width": size_wh[0],
        "height": size_wh[1],
        "boxes": Labels(labels.class_ids, labels.boxes_xywh[:, 2:] * size_wh),
        "ignored": ignored,
        "problems": [
            problem._replace(path=parquet_text(problem.path), detail=parquet_text(problem.detail))._asdict()
            for problem in problems
        ],
        "indexed": None,
    }
