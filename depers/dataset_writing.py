"""One unit of a dataset: pictures copied, their labels mended and written, and a row of record for each."""

import hashlib
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from depers import images, storage, units
from depers.detections import parquet_text
from depers.labels import format_yolo
from depers.options import UserError
from depers.raw_labels import Box, LabelError, Problem, frame, mend

_VERSION = "1"  # of what is written for the same labels
USED, LEFT_OUT = "used", "left out"
_ROWS = 65_536  # problems that are written at once

PROBLEMS = pa.schema(
    [
        ("path", pa.string()),
        ("line", pa.int32()),
        ("kind", pa.string()),
        ("action", pa.string()),
        ("found", pa.string()),
    ]
)
RECORD = pa.schema(
    [
        ("name", pa.string()),  # in the split's folder
        ("split", pa.string()),
        ("status", pa.string()),  # USED, or LEFT_OUT
        ("width", pa.int32()),  # upright
        ("height", pa.int32()),
        # size in pixels of the upright picture
        ("boxes", pa.list_(pa.struct([("class_id", pa.int32()), ("w", pa.float32()), ("h", pa.float32())]))),
        ("problems", pa.list_(pa.struct(list(PROBLEMS)))),
    ]
)


class Task(NamedTuple):
    """One picture: where it is, how problems call it, its name and split in the dataset, and its raw boxes.

    `stamp` changes with the picture; `declared_wh` is as in `FileLabels`.
    """

    source: str
    path: str
    name: str
    split: str
    stamp: str
    declared_wh: tuple[int, int] | None
    boxes: tuple[Box, ...]

    @property
    def picture_uri(self) -> str:
        """The picture's path below the dataset."""
        return storage.join("images", self.split, self.name)

    @property
    def labels_uri(self) -> str:
        """The path of its labels below the dataset."""
        return storage.join("labels", self.split, str(PurePosixPath(self.name).with_suffix(".txt")))


def unit_name(tasks: Sequence[Task], exif_frame: str) -> str:
    """A hash of all that decides what is written."""
    text = repr((_VERSION, exif_frame, [tuple(task) for task in tasks]))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def write_unit(out: str, name: str, exif_frame: str, tasks: Sequence[Task]) -> pa.Table:
    """Writes pictures, labels and last the record of a unit, which it gives, too.

    A picture that cannot be decoded whole is left out, as is one whose labels are about another picture. Raises
    UserError where the output cannot be written.
    """
    rows = []
    for task in tasks:
        problems: list[Problem] = []
        try:
            data = storage.read_bytes(task.source)
            size_wh = images.decode(data).size_wh  # training would stop at an image that is not whole
            orientation = images.orientation_of(images.open_header(data))
            where = frame(task.path, task.declared_wh, size_wh, orientation, exif_frame)
        except (images.ImageError, LabelError, OSError) as error:
            kind = error.kind if isinstance(error, LabelError) else "unusable image"
            found = error.found if isinstance(error, LabelError) else str(error)
            found = (error.strerror or found) if isinstance(error, OSError) else found
            for path in (task.picture_uri, task.labels_uri):  # of an earlier run, when it was still usable
                storage.delete(storage.join(out, path))
            rows.append(_row(task, LEFT_OUT, (0, 0), [], [Problem(task.path, 0, kind, "left out", found)]))
            continue
        labels, problems = mend(task.boxes, where.size_wh, where.orientation)
        _write(out, task.labels_uri, format_yolo(labels).encode())
        _write(out, task.picture_uri, data)
        boxes = [
            {"class_id": class_id, "w": w * size_wh[0], "h": h * size_wh[1]}
            for class_id, (_, _, w, h) in zip(labels.class_ids.tolist(), labels.boxes_xywh.tolist(), strict=True)
        ]
        rows.append(_row(task, USED, size_wh, boxes, where.problems + problems))
    table = pa.Table.from_pylist(rows, schema=RECORD)
    storage.write_table(units.record_uri(out, name), table)
    return table


def write_problems(uri: str, problems: Iterator[Problem]) -> int:
    """Writes them as Parquet, a row each, a part of them at a time; gives their number."""
    buffer, count = io.BytesIO(), 0
    with pq.ParquetWriter(buffer, PROBLEMS, compression="zstd") as writer:
        while part := list(itertools.islice(problems, _ROWS)):
            count += len(part)
            writer.write_table(pa.Table.from_pylist([problem._asdict() for problem in part], schema=PROBLEMS))
    storage.write_bytes(uri, buffer.getvalue())
    return count


def _row(
    task: Task, status: str, size_wh: tuple[int, int], boxes: list[dict[str, float]], problems: list[Problem]
) -> dict[str, object]:
    return {
        "name": parquet_text(task.name),
        "split": task.split,
        "status": status,
        "width": size_wh[0],
        "height": size_wh[1],
        "boxes": boxes,
        "problems": [
            problem._replace(path=parquet_text(problem.path), found=parquet_text(problem.found))._asdict()
            for problem in problems
        ],
    }


def _write(out: str, path: str, data: bytes) -> None:
    try:
        storage.write_bytes(storage.join(out, path), data)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({path}: {error.strerror or error})") from None
