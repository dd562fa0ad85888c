"""`depers detect`: the boxes that one or more detectors find in a folder of images, for all that reads boxes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.archives import registry
from depers.boxes import to_normalized_xywh
from depers.datasets.labels import Labels, format_yolo
from depers.detection.detections import SCHEMA, DetectionRow, to_array
from depers.errors import UserError
from depers.imaging import sniffing
from depers.options import option
from depers.options.shared import DETECTION
from depers.pipeline import local
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.box_sources import find_ambiguous_texts, label_name
from depers.pipeline.box_tables import Row
from depers.pipeline.forecast import Forecast
from depers.pipeline.forecast import forecast as make_forecast
from depers.pipeline.steps import Item, Outcome
from depers.runtime import outputs
from depers.runtime.local_pool import PoolPlan
from depers.runtime.progress import Speed
from depers.runtime.results import FailureCounter, VerbResult
from depers.statuses import FileStatus
from depers.storage import Entry, tables
from depers.storage.selection import list_selected
from depers.storage.tables import parquet_text

_SHARED = "shares its YOLO text, {}, with another image: which of them it is about, nothing would say"


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


def check_texts(out: str, entries: Sequence[Entry]) -> frozenset[str]:
    """Return the places of files that fail if they turn out to be images, since others may have their text.

    Raise UserError where names alone show that two have one text, or that a member of an archive could have one's.
    """
    listed_entries = [entry for entry in entries if not entry.status]
    archives = {f"labels/{PurePosixPath(entry.path)}" for entry in listed_entries if registry.kind_of(entry.path)}
    loose_entries = [entry for entry in listed_entries if not registry.kind_of(entry.path)]
    images = [entry for entry in loose_entries if sniffing.has_image_suffix(entry.path)]
    outputs.refuse_shared(out, images, text_path)
    for entry in listed_entries if archives else ():
        for folder in PurePosixPath(text_path(entry.path)).parents:
            if str(folder) in archives:
                archive = str(folder).partition("/")[2]
                problem = f"but {entry.path!r} lies below the archive {archive!r}, whose members may have its text"
                raise UserError(f"{out}: --format yolo needs a text for every image, {problem}")
    return find_ambiguous_texts(entry.path for entry in loose_entries)


def write_boxes(
    item: Item,
    boxes: Sequence[Row],
    labels_root: str | None = None,
    names: Sequence[str] = (),
    ambiguous: frozenset[str] = frozenset(),
) -> Outcome:
    """Return the row of an image, and write its YOLO text below `labels_root` where one is given: the last step.

    The text's class ids count `names`; it can speak of one frame, so that an image with several gets none. `ambiguous`
    are the places of those that share theirs.
    """
    width, height = item.size_wh
    status = FileStatus.FAILED if item.reason and not item.status else item.status or FileStatus.DETECTED
    reason = item.reason
    if labels_root and status == FileStatus.DETECTED and item.member is None and item.path in ambiguous:
        status, reason = FileStatus.FAILED, _SHARED.format(text_path(item.place))
    elif labels_root and status == FileStatus.DETECTED and item.frames > 1:
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
    notes: Sequence[str] = ()
    """What has to be seen about this run, such as thresholds of another detector."""

    def summary(self) -> list[str]:
        """Return the line that says what was found, and the notes."""
        counts = f"{self.inputs} inputs: {self.boxes} boxes, {self.failures.count} failed"
        return [f"{counts}; {self.speed}; {self.detections}", *self.notes]


def plan_processes(options: Options) -> PoolPlan | None:
    """Return the processes of this machine that do the work; None where Ray shall do it."""
    return local.plan_processes(options)


def run(options: Options, *, withholds: bool = True) -> DetectResult:
    """Detect in INPUT and write to OUT. Raises UserError for wrong options, weights or folders.

    Without `withholds`, an image with more than `--max-detections` has the most certain of them, as figures have it.
    """
    is_yolo = options.format == "yolo"
    names, ambiguous = list[str](), frozenset[str]()
    if is_yolo:
        ambiguous = check_texts(
            storage.absolute(options.out),
            list(
                list_selected(
                    storage.absolute(options.input),
                    options.follow_links,
                    [storage.absolute(options.out)],
                    options.selection,
                )
            ),
        )
        names = pipeline.read_class_names(options)
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: partial(write_boxes, labels_root=out if is_yolo else None, names=tuple(names), ambiguous=ambiguous),
        multi_label=options.multi_label,
        half_stride_pad=options.half_stride_pad,
        withholds=withholds,
    )
    pipeline.refuse_overlap({"OUT": job.out, "INPUT": job.input})
    with pipeline.run(job, options, marks=ambiguous) as summary:
        return _gather(job.out, summary, is_yolo)


def forecast(options: Options) -> Forecast:
    """Say what `run` would be about, and how long it would take: nothing is written. Raises UserError as it does."""
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: write_boxes,
        multi_label=options.multi_label,
        half_stride_pad=options.half_stride_pad,
    )
    pipeline.refuse_overlap({"OUT": job.out, "INPUT": job.input})
    return make_forecast(job, options)


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


def fail_shared_texts(table: pa.Table, fold: Callable[[str], str] = str) -> pa.Table:
    """Return the rows of a unit, those of an archive's members that have one text as failed.

    How members are called is known only once they are read. `fold` is as for `outputs.check_outputs`.
    """
    columns = (table[name].to_pylist() for name in ("path", "member", "status", "reason"))
    texts, statuses, reasons = list[str](), list[str](), list[str]()
    for path, member, status, reason in zip(*columns, strict=True):
        is_written = member is not None and status == FileStatus.DETECTED and not reason
        texts.append(text_path(f"{path}/{member}") if is_written else "")
        statuses.append(status)
        reasons.append(reason)
    counts = Counter(fold(text) for text in texts if text)
    if max(counts.values(), default=0) < 2:
        return table
    for index, text in enumerate(texts):
        if text and counts[fold(text)] > 1:
            statuses[index], reasons[index] = FileStatus.FAILED.value, _SHARED.format(text)
    for name, values in (("status", statuses), ("reason", reasons)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, table.schema.field(index).type))
    return table


def _gather(out: str, summary: pipeline.Summary, is_yolo: bool) -> DetectResult:
    """Write the table of all detections, for YOLO also the names of the classes; return what there is."""
    detections = storage.join(out, "detections.parquet")
    counter = FailureCounter(detections)
    inputs = boxes = 0
    fold = outputs.find_fold(out) if is_yolo else None
    with tables.TableWriter(detections, summary.note_moment(SCHEMA)) as writer:
        for unit_table in summary.tables():
            table = fail_shared_texts(unit_table, fold or str) if is_yolo else unit_table
            writer.write(table)
            counter.add(table)
            inputs += len(table)
            boxes += len(table["boxes"].combine_chunks().flatten())
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
        notes=summary.notes,
    )
