"""`depers detect`: the boxes that one or more detectors find in a folder of images, for all that reads boxes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from depers import storage
from depers.boxes import to_normalized_xywh
from depers.datasets.labels import Labels, format_yolo
from depers.detection.detections import SCHEMA, DetectionRow, to_array
from depers.errors import UserError
from depers.options import DETECTION, option
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.steps import Item, Outcome, Row
from depers.runtime import progress
from depers.statuses import FileStatus
from depers.storage import tables


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


def label_name(path: str) -> str:
    """Where the YOLO text of an image goes below OUT."""
    return str(PurePosixPath("labels", path).with_suffix(".txt"))


def write_boxes(item: Item, boxes: Sequence[Row], labels_root: str | None = None, names: Sequence[str] = ()) -> Outcome:
    """The last step of detection: the row of an image, and its YOLO text below `labels_root` where one is given.

    The text's class ids count `names`; of several frames it holds the boxes of the first.
    """
    width, height = item.size_wh
    if labels_root and not item.reason:
        first = [box for box in boxes if box["frame"] == 0]
        labels = to_normalized_xywh(to_array(first), item.size_wh).astype(np.float64)
        ids = np.array([names.index(box["class"]) for box in first], np.int64)
        text = format_yolo(Labels(ids, labels), np.array([box["confidence"] for box in first], np.float32))
        storage.write_bytes(storage.join(labels_root, label_name(item.place)), text.encode())
    status = FileStatus.FAILED if item.reason and not item.status else item.status or FileStatus.DETECTED
    row = DetectionRow(item.path, item.member, item.number, status, item.reason, width, height, list(boxes))
    return Outcome(row._asdict())


def run(options: Options) -> int:
    """Detects; 3 where some images failed. Raises UserError for wrong options, weights or folders."""
    yolo = options.format == "yolo"
    names: list[str] = []
    if yolo:
        stems = Counter(label_name(entry.path) for entry in storage.list_files(options.input))
        if doubles := [name for name, count in stems.items() if count > 1]:
            raise UserError(f"{options.input}: --format yolo needs distinct names, but images share {doubles[0]}")
        names = pipeline.class_names(options)
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: partial(write_boxes, labels_root=out if yolo else None, names=tuple(names)),
        multi_label=options.multi_label,
        half_stride_pad=options.half_stride_pad,
    )
    pipeline.refuse_overlap(job)
    summary = pipeline.run(job, options)
    target = storage.join(job.out, "detections.parquet")
    failures = progress.Failures(target)
    inputs = boxes = 0
    with tables.TableWriter(target, SCHEMA) as writer:
        for table in summary.tables():
            writer.write(table)
            failures.add(table)
            inputs += len(table)
            boxes += len(table["boxes"].combine_chunks().flatten())
    for line in failures.lines():
        progress.report(line)
    if yolo:
        text = "".join(f"{name}\n" for name in summary.class_names)
        storage.write_bytes(storage.join(job.out, "classes.txt"), text.encode())
    print(f"{inputs} inputs: {boxes} boxes, {failures.count} failed; {summary.speed}; {target}")
    return 3 if failures.count else 0
