"""The steps of labelling, read → decide → write → record, as plain functions on bytes and rows.

`depers label` composes them on Ray.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from depers import storage
from depers.boxes import EDGES, clip, from_normalized_xywh, to_normalized_xywh
from depers.datasets.data_yaml import Dataset, labelled_classes
from depers.datasets.ignore_regions import ignore_path, split_off_unlabelled
from depers.datasets.labels import Labels, drop_doubles, format_yolo, label_path, parse_yolo
from depers.detection.detections import Detections
from depers.errors import UserError, typed_reason
from depers.labelling.decisions import Objects, Rules, decide
from depers.observation.rows import count_rows
from depers.runtime import takeover, units
from depers.runtime.file_guard import FileGuard
from depers.runtime.takeover import Source
from depers.runtime.units import RecordNotes, Unit
from depers.statuses import SourceStatus
from depers.storage.failures import as_outage, explain, is_of_name, raise_outage
from depers.storage.overlapped import count_threads
from depers.storage.tables import column, parquet_text, schema

_THREADS = 4  # per task, for what waits for storage
_WHOLE_IMAGE = [0.5, 0.5, 1.0, 1.0]

MACHINE_BOX = pa.struct(
    [
        column("class", pa.string(), "what the box holds"),
        column("confidence", pa.float32(), "of the most certain of the weights"),
        column("votes", pa.int32(), "how many of the weights found it"),
        column("use", pa.string(), "label (taught) or ignore (an ignore region)"),
        *(column(name, pa.float32(), "edge in pixels of the upright image") for name in EDGES),
    ]
)
RECORD = schema(
    column("path", pa.string(), "of the image, below DATASET's images"),
    column("split", pa.string(), "train or val"),
    column("status", pa.string(), "used, skipped (nothing was to be labelled), or failed"),
    column("reason", pa.string(), "why it was not labelled"),
    column("classes", pa.list_(pa.string()), "what a detector labelled in it"),
    column("boxes", pa.list_(MACHINE_BOX), "what was found there"),
)
"""A row per image of the dataset."""


@dataclass(frozen=True)
class LabellingJob:
    """What decides what is written: the dataset, the folders of its splits, OUT, and when a box is a label."""

    dataset: Dataset
    folders: Mapping[str, str]
    """Of the images, by split."""
    out: str
    rules: Rules


class Texts(NamedTuple):
    """What is written about an image: label text, text of its ignore regions, and what a detector added."""

    labels: str
    ignored: str
    class_ids: frozenset[int]
    objects: Objects | None


def find_targets(job: LabellingJob, path: str, ignored: Labels) -> frozenset[int]:
    """Return the classes that are to be labelled and that nobody has labelled in an image."""
    _, labelled = split_off_unlabelled(ignored, labelled_classes(job.dataset, path))
    return frozenset(job.rules.confidences) - labelled


def make_texts(
    job: LabellingJob,
    path: str,
    label_text: str,
    ignored: Labels,
    detections: Detections | None,
    size_wh: tuple[int, int],
) -> Texts:
    """Return what is to be written about an image, of `size_wh` pixels, in which detectors found `detections`.

    What people wrote stays as it is, byte for byte. Where nothing was looked for (`detections` is None), regions as
    large as the image say that the classes are not labelled in it.
    """
    target_ids = find_targets(job, path, ignored)
    if not target_ids:
        return Texts(label_text, format_yolo(ignored), target_ids, None)
    is_target_whole = np.isin(ignored.class_ids, list(target_ids)) & (ignored.boxes_xywh[:, 2:] >= 0.999).all(axis=1)
    regions_before = Labels(ignored.class_ids[~is_target_whole], ignored.boxes_xywh[~is_target_whole])
    if detections is None:
        ids = sorted(target_ids)
        whole = Labels.of(
            [*regions_before.class_ids.tolist(), *ids],
            [*regions_before.boxes_xywh.tolist(), *[_WHOLE_IMAGE] * len(ids)],
        )
        return Texts(label_text, format_yolo(whole), frozenset(), None)
    own_labels = parse_yolo(label_text, len(job.dataset.names), path)
    rules = job.rules._replace(confidences={id: job.rules.confidences[id] for id in sorted(target_ids)})
    detections = detections._replace(boxes_xyxy=clip(detections.boxes_xyxy, size_wh))
    objects = decide(detections, from_normalized_xywh(own_labels.boxes_xywh, size_wh), own_labels.class_ids, rules)
    boxes = to_normalized_xywh(objects.boxes_xyxy, size_wh)
    new_labels = Labels(objects.class_ids[objects.is_label], boxes[objects.is_label])
    regions = Labels(
        np.concatenate([regions_before.class_ids, objects.class_ids[~objects.is_label]]),
        np.concatenate([regions_before.boxes_xywh, boxes[~objects.is_label]]),
    )
    base_text = label_text if not label_text or label_text.endswith("\n") else f"{label_text}\n"
    return Texts(base_text + format_yolo(new_labels), format_yolo(regions), target_ids, objects)


def label_unit(
    job: LabellingJob,
    unit: Unit,
    rows: Mapping[str, Mapping[str, Any]],
    sources: Sequence[Source] = (),
    guard: FileGuard | None = None,
) -> list[str]:
    """Write a unit's images with their labels and record it; return the status of each.

    `rows` has what detectors found, by the path of an entry: `reason` why an image could not be looked at, else
    `size_wh` and `detections`. `sources` are records that were set aside, and have the rows of its other images.
    Whatever goes wrong with an image is its failure. Raise OutageError where storage as a whole fails.
    """
    guard = guard or FileGuard()

    def write(offset: int) -> tuple[dict[str, Any], bool]:
        entry = unit.entries[offset]
        if reason := guard.find_reason(offset):
            return _fail(job, entry.path, reason), False
        with guard.watch(offset):
            try:
                row = _label(job, entry.path, rows.get(entry.path, {"reason": "was not looked at"}))
                return row, row["status"] == SourceStatus.FAILED  # the detection may find it readable the next time
            except UserError as error:
                return _fail(job, entry.path, str(error)), False
            except OSError as error:
                retry = not is_of_name(error)
                return _fail(job, entry.path, explain(error), retry), retry
            except Exception as error:
                raise_outage(error)
                return _fail(job, entry.path, typed_reason(error)), False

    # Where a file ends its process, only one may be at work: it would be taken for its neighbor.
    with ThreadPoolExecutor(1 if guard.note else count_threads(_THREADS, job.out, *job.folders.values())) as pool:
        results = list(pool.map(write, range(len(unit.entries))))
    pairs = zip(unit.entries, results, strict=True)
    retries = {parquet_text(entry.path): 0.0 for entry, (_, retry) in pairs if retry}
    identities = {path: identity for path, identity in unit.identify().items() if path not in retries}
    table, records = pa.Table.from_pylist([row for row, _ in results], schema=RECORD), units.locate_inside(job.out)
    count_rows(table)
    try:
        table, notes = takeover.complete(records, table, RecordNotes(retries, identities=identities), sources)
        units.write_record(records, unit.name, table, notes, was_retry=True, out=job.out)
    except OSError as error:
        raise as_outage(error, job.out) from error
    return [row["status"] for row, _ in results]


def _label(job: LabellingJob, place: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Write an image, its labels and its ignore regions; return its row of the record.

    Where it was to be labelled, and detectors could not look at it, it is not written.
    """
    split, _, path = place.partition("/")
    image = storage.join(job.folders[split], path)
    data = storage.read_bytes(image)
    text, class_count = _read_text(label_path(image)), len(job.dataset.names)
    ignored = drop_doubles(parse_yolo(_read_text(ignore_path(image)), class_count, ignore_path(image)))
    parse_yolo(text, class_count, label_path(image))
    reason, has_targets = row.get("reason", ""), bool(find_targets(job, path, ignored))
    if reason and split == "train" and has_targets:
        return _fail(job, place, reason)
    texts = make_texts(job, path, text, ignored, None if reason else row["detections"], row.get("size_wh", (1, 1)))
    target = f"images/{place}"
    storage.write_below(job.out, label_path(target), texts.labels.encode())
    if texts.ignored:
        storage.write_below(job.out, ignore_path(target), texts.ignored.encode())
    else:
        storage.delete_below(job.out, ignore_path(target))
    storage.write_below(job.out, target, data)
    names = job.dataset.names
    status = SourceStatus.USED if texts.class_ids else SourceStatus.SKIPPED
    return {
        "path": parquet_text(place),
        "split": split,
        "status": status,
        "reason": None if texts.class_ids else reason if has_targets else "nothing was to be labelled",
        "classes": [names[class_id] for class_id in sorted(texts.class_ids)],
        "boxes": _describe(texts.objects, names) if texts.objects else [],
    }


def _describe(objects: Objects, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "class": names[class_id],
            "confidence": confidence,
            "votes": votes,
            "use": "label" if is_label else "ignore",
            **dict(zip(EDGES, box, strict=True)),
        }
        for box, class_id, confidence, votes, is_label in zip(*(field.tolist() for field in objects), strict=True)
    ]


def _fail(job: LabellingJob, place: str, reason: str, retry: bool = False) -> dict[str, Any]:
    """Return the row of an image that failed; what an earlier run wrote of it goes, unless its storage failed."""
    target = f"images/{place}"
    for path in () if retry else (target, label_path(target), ignore_path(target)):
        with suppress(OSError):  # a name that storage refuses is not there
            storage.delete_below(job.out, path)
    split = place.partition("/")[0]
    row = {"path": parquet_text(place), "split": split, "status": SourceStatus.FAILED, "reason": reason}
    return row | {"classes": [], "boxes": []}


def _read_text(uri: str) -> str:
    """Return a text, empty where there is none. Raise UserError for other bytes than UTF-8, OSError otherwise."""
    try:
        return storage.read_bytes(uri).decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        raise UserError(f"{uri}: must be YOLO text, but holds other bytes than UTF-8") from None
