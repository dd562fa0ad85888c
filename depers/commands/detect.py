"""`depers detect`: the boxes that one or more detectors find in a folder of images, for all that reads boxes."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.boxes import to_normalized_xywh
from depers.datasets.labels import Labels, format_yolo
from depers.detection.detections import SCHEMA, DetectionRow, to_array
from depers.errors import UserError
from depers.options import DETECTION, option
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.box_sources import label_name
from depers.pipeline.box_tables import Row
from depers.pipeline.steps import Item, Outcome
from depers.runtime.progress import Speed
from depers.runtime.results import FailureCounter, VerbResult
from depers.statuses import FileStatus
from depers.storage import tables
from depers.storage.tables import parquet_text


@dataclass(frozen=True)
class Options(pipeline_options.PassOptions):
    """Write OUT/detections.parquet, and with --format yolo also one text per image."""

    format: str = option("parquet", "yolo: also OUT/labels/NAME.txt", choices=("parquet", "yolo"))
    multi_label: bool = option(
        False, "a box counts for every class above the threshold, not only for its best", group=DETECTION
    )
    half_stride_pad: bool = option(
        False, "see images as `yolov5 val` does: decoded whole, half a stride of border", group=DETECTION
    )


def text_path(place: str) -> str:
    """Return where the YOLO text of an image goes below OUT."""
    return f"labels/{label_name(place)}"


def write_boxes(item: Item, boxes: Sequence[Row], labels_root: str | None = None, names: Sequence[str] = ()) -> Outcome:
    """Return the row of an image, and write its YOLO text below `labels_root` where one is given: the last step.

    The text's class ids count `names`; it can speak of one frame, so that an image with several gets none.
    """
    width, height = item.size_wh
    status = FileStatus.FAILED if item.reason and not item.status else item.status or FileStatus.DETECTED
    reason = item.reason
    if labels_root and status == FileStatus.DETECTED and item.frames > 1:
        reason = f"holds {item.frames} frames: no YOLO text, which can speak of one only"
    elif labels_root and status == FileStatus.DETECTED:
        labels = to_normalized_xywh(to_array(boxes), item.size_wh).astype(np.float64)
        ids = np.array([names.index(box["class"]) for box in boxes], np.int64)
        text = format_yolo(Labels(ids, labels), np.array([box["confidence"] for box in boxes], np.float32))
        storage.write_below(labels_root, text_path(item.place), text.encode())
    digest = hashlib.sha256(item.data).hexdigest() if item.data else None
    row = DetectionRow(item.path, item.member, item.number, status, reason, width, height, list(boxes), digest)
    return Outcome(row._asdict())


@dataclass(frozen=True, kw_only=True)
class DetectResult(VerbResult):
    """What was found: the number of files and of boxes, and the table that has them."""

    out: str
    detections: str
    inputs: int
    boxes: int
    class_names: Sequence[str]
    speed: Speed

    def summary(self) -> list[str]:
        """Return the line that says what was found."""
        counts = f"{self.inputs} inputs: {self.boxes} boxes, {self.failures.count} failed"
        return [f"{counts}; {self.speed}; {self.detections}"]


def run(options: Options, *, withholds: bool = True) -> DetectResult:
    """Detect in INPUT and write to OUT. Raises UserError for wrong options, weights or folders.

    Without `withholds`, an image with more than `--max-detections` has the most certain of them, as figures have it.
    """
    is_yolo = options.format == "yolo"
    names: list[str] = []
    if is_yolo:
        entries = storage.list_files(options.input, options.follow_links)
        label_counts = Counter(text_path(entry.path) for entry in entries if entry.path and not entry.status)
        if duplicates := [name for name, count in label_counts.items() if count > 1]:
            raise UserError(f"{options.input}: --format yolo needs distinct names, but images share {duplicates[0]}")
        names = pipeline.read_class_names(options)
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: partial(write_boxes, labels_root=out if is_yolo else None, names=tuple(names)),
        multi_label=options.multi_label,
        half_stride_pad=options.half_stride_pad,
        withholds=withholds,
    )
    pipeline.refuse_overlap({"OUT": job.out, "INPUT": job.input})
    with pipeline.run(job, options) as summary:
        return _gather(job.out, summary, is_yolo)


def _remove_labels(out: str, detections: str, summary: pipeline.Summary) -> None:
    """Remove texts that an earlier run wrote about what is not detected in any more."""
    folder = storage.join(out, "labels")
    if not storage.is_dir(folder):
        return
    table = tables.read_table(detections, ["path", "member", "status"])
    table = table.filter(pc.equal(table["status"], FileStatus.DETECTED))
    places = zip(table["path"].to_pylist(), table["member"].to_pylist(), strict=True)
    names = {text_path(path if member is None else f"{path}/{member}") for path, member in places}
    paths = [f"labels/{entry.path}" for entry in storage.list_files(folder)]
    stale_paths = [path for path in paths if parquet_text(path) not in names]
    if stale_paths:
        summary.lease.confirm()
        storage.delete_files(out, stale_paths)


def _list_texts(table: pa.Table) -> list[str]:
    """Return the YOLO texts of members of archives; how these are called is known only once they are read."""
    columns = (table[name].to_pylist() for name in ("path", "member", "status"))
    rows = zip(*columns, strict=True)
    return [text_path(f"{path}/{member}") for path, member, status in rows if member and status == FileStatus.DETECTED]


def _gather(out: str, summary: pipeline.Summary, is_yolo: bool) -> DetectResult:
    """Write the table of all detections, for YOLO also the names of the classes; return what there is."""
    detections = storage.join(out, "detections.parquet")
    counter = FailureCounter(detections)
    inputs = boxes = 0
    texts: Counter[str] = Counter()
    with tables.TableWriter(detections, SCHEMA) as writer:
        for table in summary.tables():
            writer.write(table)
            counter.add(table)
            inputs += len(table)
            if is_yolo:
                texts.update(_list_texts(table))
            boxes += len(table["boxes"].combine_chunks().flatten())
    if doubles := [name for name, count in texts.items() if count > 1]:
        for name in doubles:  # it would be taken for that of each
            storage.delete_below(out, name)
        raise UserError(f"{out}: --format yolo needs distinct names, but members of an archive share {doubles[0]}")
    if is_yolo:
        _remove_labels(out, detections, summary)
        text = "".join(f"{name}\n" for name in summary.class_names)
        storage.write_bytes(storage.join(out, "classes.txt"), text.encode())
    summary.settle()
    return DetectResult(
        failures=counter.failures(),
        out=out,
        detections=detections,
        inputs=inputs,
        boxes=boxes,
        class_names=tuple(summary.class_names),
        speed=summary.speed,
    )
