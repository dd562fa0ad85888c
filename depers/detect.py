"""`depers detect`: the boxes that one or more detectors find in a folder of pictures, for all that reads boxes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from depers import pipeline, storage
from depers.boxes import to_normalized_xywh
from depers.detections import SCHEMA, Detections, to_rows
from depers.labels import Labels, format_yolo
from depers.options import UserError, option
from depers.steps import Item, Row


@dataclass(frozen=True)
class Options(pipeline.PassOptions):
    """Write OUT/detections.parquet, and with --format yolo also one text per picture."""

    format: str = option("parquet", "yolo: also OUT/labels/NAME.txt", choices=("parquet", "yolo"))
    multi_label: bool = option(False, "a box counts for every class above the threshold, not only for its best")
    half_stride_pad: bool = option(False, "pad pictures by half a stride, as `yolov5 val` does")


def label_name(path: str) -> str:
    """Where the YOLO text of a picture goes below OUT."""
    return str(PurePosixPath("labels", path).with_suffix(".txt"))


def write_boxes(
    item: Item, found: Detections, names: Sequence[str], models: Sequence[str], labels_root: str | None = None
) -> Row:
    """The last step of detection: the row of a picture, and its YOLO text below `labels_root` where one is given."""
    if labels_root and not item.reason:
        boxes = to_normalized_xywh(found.boxes_xyxy, item.size_wh).astype(np.float64)
        text = format_yolo(Labels(found.class_ids, boxes), found.confidences)
        storage.write_bytes(storage.join(labels_root, label_name(item.path)), text.encode())
    width, height = item.size_wh
    return {
        "path": item.path,
        "status": "failed" if item.reason else "ok",
        "reason": item.reason,
        "width": width,
        "height": height,
        "boxes": to_rows(found, names, models),
    }


def run(options: Options) -> int:
    """Detects; 3 where some pictures failed. Raises UserError for wrong options, weights or folders."""
    yolo = options.format == "yolo"
    if yolo:
        stems = Counter(label_name(entry.path) for entry in storage.list_files(options.input))
        if doubles := [name for name, count in stems.items() if count > 1]:
            raise UserError(f"{options.input}: --format yolo needs distinct names, but pictures share {doubles[0]}")
    job = pipeline.make_job(
        options,
        SCHEMA,
        lambda out: partial(write_boxes, labels_root=out if yolo else None),
        multi_label=options.multi_label,
        half_stride_pad=options.half_stride_pad,
    )
    summary = pipeline.run(job, options)
    target = storage.join(job.out, "detections.parquet")
    storage.write_table(target, summary.table)
    if yolo:
        names = "".join(f"{name}\n" for name in summary.class_names)
        storage.write_bytes(storage.join(job.out, "classes.txt"), names.encode())
    failed = summary.table["status"].to_pylist().count("failed")
    pipeline.print_failures(summary.table)
    boxes = sum(len(row) for row in summary.table["boxes"].to_pylist())
    print(f"{len(summary.table)} inputs: {boxes} boxes, {failed} failed; {summary.speed}; {target}")
    return 3 if failed else 0
