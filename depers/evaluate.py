"""`depers evaluate`: how well detectors do on a labelled dataset, with the figures of `yolov5 val` and what they miss.

Classes are matched by name, so that detectors trained elsewhere can be measured. A picture that could not be read
counts as one in which nothing was found.
"""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from depers import detect, pipeline, report, storage
from depers.boxes import from_normalized_xywh, intersection_over_union
from depers.detections import SCHEMA, parquet_text
from depers.images import decode
from depers.labels import Dataset, Labels, label_path, read_dataset, read_labels
from depers.metrics import IOU_THRESHOLDS, Metrics, Picture, match, measure
from depers.options import REQUIRED, UserError, argument, option
from depers.prediction import PRECISIONS

_PICTURES_IN_REPORT = 24
_READERS = 16  # threads that mostly wait for storage
_FOUND, _MISSED, _FALSE = (44, 160, 44), (214, 39, 40), (255, 160, 0)


@dataclass(frozen=True)
class Options:
    """Write OUT/metrics.json, metrics.csv and report.html, and the detections below OUT/detect."""

    dataset: str = argument("dataset folder or its data.yaml, a path or s3:// URI")
    out: str = argument("folder for the results, a path or s3:// URI; an earlier run there is resumed")
    weights: tuple[str, ...] = option(
        REQUIRED, "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…]; repeat to combine detectors", metavar="W"
    )
    split: str = option("val", "which pictures", choices=("val", "train"))
    confidence: float = option(0.001, "least confidence of a box; low, for the whole curve of precision over recall")
    iou_threshold: float = option(0.6, "boxes of one class that overlap more than this are one, 0…1")
    max_detections: int = option(300, "most boxes of one picture")
    imgsz: int = option(640, "longer side for the detector in pixels, a multiple of 32")
    batch_size: int = option(8, "pictures per inference")
    device: str = option("auto", "where to detect", choices=("auto", "cpu", "cuda"))
    precision: str = option("auto", "arithmetic on CPUs; auto: bfloat16 where it is native", choices=PRECISIONS)
    workers: int | None = option(None, "actors, or with a GPU none (default: one per core of the cluster)")

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        self.detection(self.dataset)

    def detection(self, folder: str, classes: tuple[str, ...] = ()) -> detect.Options:
        """The options of the detection in `folder` that is measured, as `yolov5 val` detects."""
        return detect.Options(
            input=folder,
            out=storage.join(self.out, "detect"),
            weights=self.weights,
            classes=classes,
            confidence=self.confidence,
            iou_threshold=self.iou_threshold,
            max_detections=self.max_detections,
            imgsz=self.imgsz,
            batch_size=self.batch_size,
            device=self.device,
            precision=self.precision,
            workers=self.workers,
            multi_label=True,
            half_stride_pad=True,
        )


class Sample(NamedTuple):
    """One picture: its path in the split's folder, what was found, highest confidence first, and what is labelled.

    Boxes float32 (N, 4) and (M, 4) in pixels of the upright picture, class ids int64 as the dataset names them.
    """

    path: str
    boxes_xyxy: NDArray[np.float32]
    confidences: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    label_boxes_xyxy: NDArray[np.float32]
    label_ids: NDArray[np.int64]

    def picture(self) -> Picture:
        """The detections matched with the labels."""
        correct = match(self.boxes_xyxy, self.class_ids, self.label_boxes_xyxy, self.label_ids)
        return Picture(correct, self.confidences, self.class_ids, self.label_ids)


class Verdict(NamedTuple):
    """One picture at one confidence: masks of the labels that were missed and of the detections that are shown."""

    sample: Sample
    missed: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    correct: NDArray[np.bool_]


def samples(table: pa.Table, folder: str, names: Sequence[str]) -> list[Sample]:
    """The rows of a detections table over `folder` with their labels; other classes than `names` are left out.

    Raises UserError for a label file that is not YOLO's.
    """
    column = table["boxes"].combine_chunks()
    values = column.flatten()
    offsets = column.offsets.to_numpy() - column.offsets[0].as_py() if len(column) else np.zeros(1, np.int64)
    ids = pc.fill_null(pc.index_in(values.field("class"), value_set=pa.array(names, pa.string())), -1).to_numpy()
    boxes = np.stack([values.field(name).to_numpy() for name in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    confidences = values.field("confidence").to_numpy()
    result = []
    # A name that is not UTF-8 is escaped in the table.
    paths = {parquet_text(entry.path): entry.path for entry in storage.list_files(folder)}
    rows = table.select(["path", "width", "height"]).to_pylist()
    with ThreadPoolExecutor(_READERS) as pool:
        uris = [storage.join(folder, paths[row["path"]]) for row in rows]
        labelled = list(pool.map(lambda uri: _read_labels(uri, len(names)), uris))
    for index, (row, labels) in enumerate(zip(rows, labelled, strict=True)):
        found = np.arange(offsets[index], offsets[index + 1])
        found = found[ids[found] >= 0]
        size_wh = row["width"] or 1, row["height"] or 1  # a failed picture has no size, and no boxes to compare
        result.append(
            Sample(
                path=paths[row["path"]],
                boxes_xyxy=boxes[found],
                confidences=confidences[found],
                class_ids=ids[found].astype(np.int64),
                label_boxes_xyxy=from_normalized_xywh(labels.boxes_xywh, size_wh),
                label_ids=labels.class_ids,
            )
        )
    return result


def _read_labels(image: str, class_count: int) -> Labels:
    """The labels of one picture, doubles counted once (as YOLOv5 does); none where it has no label file."""
    labels = read_labels(label_path(image), class_count)
    both = np.column_stack([labels.class_ids, labels.boxes_xywh])
    _, first = np.unique(both, axis=0, return_index=True)
    first = np.sort(first)
    return Labels(labels.class_ids[first], labels.boxes_xywh[first])


def judge(sample: Sample, confidence: float) -> Verdict:
    """What of one picture is missed and falsely found, at IoU 0.5, where boxes below `confidence` do not count."""
    shown = sample.confidences >= confidence
    boxes, ids = sample.boxes_xyxy[shown], sample.class_ids[shown]
    labels, label_ids = sample.label_boxes_xyxy, sample.label_ids
    correct = np.zeros(len(shown), np.bool_)
    correct[shown] = match(boxes, ids, labels, label_ids, IOU_THRESHOLDS[:1])[:, 0]
    covered = (intersection_over_union(boxes, labels) >= IOU_THRESHOLDS[0]) & (ids[:, None] == label_ids[None])
    missed = ~covered.any(axis=0)
    return Verdict(sample, missed, shown, correct)


def worst(verdicts: Sequence[Verdict], count: int) -> list[Verdict]:
    """The pictures with the most missed labels, then the most false alarms; only those with a miss."""
    with_misses = [verdict for verdict in verdicts if verdict.missed.any()]

    def key(verdict: Verdict) -> tuple[int, int, str]:
        return (-int(verdict.missed.sum()), -int((verdict.shown & ~verdict.correct).sum()), verdict.sample.path)

    return sorted(with_misses, key=key)[:count]


def draw(image: NDArray[np.uint8], verdict: Verdict, names: Sequence[str]) -> NDArray[np.uint8]:
    """`image` (uint8 RGB, upright) with what was found in green, missed in red, falsely found in orange."""
    sample, missed = verdict.sample, verdict.missed
    found, false = verdict.correct, verdict.shown & ~verdict.correct
    boxes = [sample.boxes_xyxy[found], sample.boxes_xyxy[false], sample.label_boxes_xyxy[missed]]
    colours = [_FOUND] * int(found.sum()) + [_FALSE] * int(false.sum()) + [_MISSED] * int(missed.sum())
    texts = [
        f"{names[class_id]} {confidence:.2f}"
        for mask in (found, false)
        for class_id, confidence in zip(sample.class_ids[mask].tolist(), sample.confidences[mask].tolist(), strict=True)
    ]
    texts += [names[class_id] for class_id in sample.label_ids[missed].tolist()]
    return report.draw_boxes(image, np.concatenate(boxes), texts, colours)


def make_report(
    metrics: Metrics, verdicts: Sequence[Verdict], failed: Sequence[tuple[str, str]], folder: str, names: Sequence[str]
) -> str:
    """The HTML page: figures, what could not be measured, and the pictures with the most misses."""
    header = ("Class", "Images", "Labels", "Precision", "Recall", "mAP@.5", "mAP@.5:.95")
    rows: list[tuple[object, ...]] = [metrics.mean, *metrics.classes]
    rows += [(name, metrics.mean.images, labels, *["not detectable"] * 4) for name, labels in metrics.undetectable]
    mean, confidence = metrics.mean, metrics.confidence
    lead = f"{mean.images} pictures, {mean.labels} labels: mAP@.5 {mean.map50:.3f}, mAP@.5:.95 {mean.map50_95:.3f}."
    about = f"Precision and recall at confidence {confidence:.3f}, where F1 is best."
    if metrics.undetectable:
        about += " Classes that these weights do not know are left out of the mean."
    sections = [("Figures", report.table(header, rows) + report.paragraph(about))]
    if failed:
        note = report.paragraph("They count as pictures in which nothing was found.")
        sections.append((f"{len(failed)} pictures failed", note + report.table(("Picture", "Reason"), failed[:100])))
    broken = {path for path, _ in failed}
    readable = [verdict for verdict in verdicts if parquet_text(verdict.sample.path) not in broken]
    shown = worst(readable, _PICTURES_IN_REPORT)
    if shown:
        legend = report.paragraph("Red: missed. Orange: found but not labelled. Green: found. IoU at least 0.5.")
        figures = [_figure(verdict, folder, names) for verdict in shown]
        sections.append(("Pictures with the most misses", legend + report.gallery(figures)))
    return report.page("Evaluation", lead, sections)


def _figure(verdict: Verdict, folder: str, names: Sequence[str]) -> str:
    sample = verdict.sample
    image = decode(storage.read_bytes(storage.join(folder, sample.path)), float("inf")).rgb()
    counts = Counter(names[class_id] for class_id in sample.label_ids[verdict.missed].tolist())
    missed = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    caption = f"{sample.path}: {int(verdict.missed.sum())} of {len(verdict.missed)} missed ({missed})"
    return report.picture(draw(image, verdict, names), caption, max_side=800)


def split_folder(dataset: Dataset, split: str, source: str) -> str:
    """The folder of pictures of a split. Raises UserError where the dataset has no such split."""
    folder = dataset.val if split == "val" else dataset.train
    if folder is None:
        raise UserError(f"{source}: the dataset must name a {split} split, but does not")
    return folder


def run(options: Options) -> int:
    """Evaluates; 3 where some pictures failed. Raises UserError for a wrong dataset, options or weights."""
    import ray

    dataset = read_dataset(options.dataset)
    folder = split_folder(dataset, options.split, options.dataset)
    job = pipeline.make_job(options.detection(folder), SCHEMA, lambda out: detect.write_boxes)
    checkpoints = ray.put(pipeline.read_checkpoints(job.weights))
    known, _ = ray.get(ray.remote(pipeline.inspect).remote(job, checkpoints))
    detectable = [name in known for name in dataset.names]
    classes = tuple(name for name in dataset.names if name in known)
    if not classes:
        theirs, ours = ", ".join(known), ", ".join(dataset.names)
        raise UserError(
            f"--weights must know a class of the dataset ({ours}), but know {theirs}; map them: W:{known[0]}=…"
        )
    detection = options.detection(folder, classes)
    code = detect.run(detection)
    table = storage.read_table(storage.join(detection.out, "detections.parquet"))
    measured = samples(table, folder, dataset.names)
    metrics = measure([sample.picture() for sample in measured], dataset.names, detectable)
    failures = table.filter(pc.equal(table["status"], "failed")).select(["path", "reason"]).to_pylist()
    failed = [(row["path"], row["reason"]) for row in failures]
    about: dict[str, Any] = {"dataset": options.dataset, "split": options.split, "weights": list(options.weights)}
    about |= {"imgsz": options.imgsz, "failed": len(failed)}
    verdicts = [judge(sample, metrics.confidence) for sample in measured]
    html = make_report(metrics, verdicts, failed, folder, dataset.names)
    figures = json.dumps(about | metrics.as_dict(), indent=2, ensure_ascii=False) + "\n"
    for name, text in (("metrics.json", figures), ("metrics.csv", metrics.csv()), ("report.html", html)):
        storage.write_bytes(storage.join(options.out, name), text.encode())
    print(metrics.text())
    print(f"report {storage.join(options.out, 'report.html')}")
    return code
