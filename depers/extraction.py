"""The steps of extraction, read → take apart → look again → write → record, as plain functions on bytes and rows.

`depers.extract` composes them on Ray.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import pyarrow as pa

from depers import bank, storage, units
from depers.bank import LEFT_OUT
from depers.boxes import Boxes
from depers.detections import Detections, parquet_text
from depers.labels import label_path
from depers.parts import RECORD, Job, Parts, Row, background_path, one_line, take_apart
from depers.prediction import Prediction, parse_weights
from depers.sprites import shares_inside
from depers.steps import answers
from depers.units import Unit

if TYPE_CHECKING:
    from depers.detector import Detector

_THREADS = 4  # per task, for what waits for storage
_BATCH = 8  # pictures per inference
_SAME = 0.5  # a finding of which that much lies in an object that was kept is that object


def part_path(unit: Unit) -> str:
    """Where the sprites of a unit go below OUT, by its pictures' paths alone: the same for folders and S3."""
    text = "\n".join(parquet_text(entry.path) for entry in unit.entries)
    return f"sprites/{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def process(job: Job, unit: Unit, checkpoints: Sequence[bytes] = ()) -> list[str]:
    """Extracts a unit's pictures and records it; gives the status of each. The checkpoints are those of `weights`."""
    cv2.setNumThreads(1)  # one task per core
    detector = load_detector(job.weights, job.wanted, job.how, tuple(checkpoints)) if job.weights else None
    rows: list[Row] = []
    sprites: list[Row] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        reads = [pool.submit(_read, job, entry.path) for entry in unit.entries]
        writes = []
        while reads:
            batch = [take_apart(job, *reads.pop(0).result()) for _ in range(min(_BATCH, len(reads)))]
            for parts in look_again(batch, detector) if detector else batch:
                writes.append(pool.submit(_write_background, job, parts))
                rows.append(parts.row)
                sprites += parts.sprites
        for write in writes:
            write.result()
    part = storage.join(job.out, part_path(unit))
    if sprites:
        storage.write_table(part, pa.Table.from_pylist(sprites, bank.SPRITES))
    else:
        storage.delete(part)  # an earlier version of these pictures may have had some
    storage.write_table(units.record_uri(job.out, unit.name), pa.Table.from_pylist(rows, RECORD))
    return [row["status"] for row in rows]


@lru_cache(maxsize=1)
def load_detector(
    weights: tuple[str, ...], wanted: tuple[str, ...], how: Prediction, checkpoints: tuple[bytes, ...]
) -> "Detector":
    """The detector of these `--weights`, loaded once in a process. Raises UserError as `Detector` does."""
    import torch

    from depers.detector import Detector

    torch.set_num_threads(1)
    return Detector([parse_weights(text) for text in weights], checkpoints, wanted, how)


def _read(job: Job, path: str) -> tuple[str, bytes | str, bytes]:
    """A picture's path, its bytes or why they cannot be had, and its label text, empty where there is none."""
    picture = storage.join(job.pictures, path)
    try:
        data = storage.read_bytes(picture)
    except Exception as error:  # storage raises OSErrors and the client's own kinds alike
        return path, f"cannot be read ({one_line(error)})", b""
    try:
        return path, data, storage.read_bytes(label_path(picture))
    except FileNotFoundError:
        return path, data, b""
    except Exception as error:
        return path, f"its labels cannot be read ({one_line(error)})", b""


def look_again(batch: Sequence[Parts], detector: "Detector") -> list[Parts]:
    """Leaves out the backgrounds in which the detector still finds something."""
    result = list(batch)
    shown = [(index, parts.view) for index, parts in enumerate(batch) if parts.view is not None]
    found = answers([view.canvas for _, view in shown], detector)
    for (index, view), answer in zip(shown, found, strict=True):
        kept, names = batch[index].kept, detector.class_names
        reason = answer if isinstance(answer, str) else _still_there(view.locate(answer), kept, names)
        if reason:
            row = batch[index].row | {"status": LEFT_OUT, "reason": reason, "background": None, "labels": []}
            result[index] = replace(batch[index], row=row, background=b"")
    return result


def _still_there(found: Detections, kept: Boxes, names: Sequence[str]) -> str:
    """What is found beside the objects that were kept; empty if nothing is."""
    known = (shares_inside(found.boxes_xyxy, kept) >= _SAME).any(axis=1)
    classes = sorted({names[class_id] for class_id in found.class_ids[~known].tolist()})
    return f"the detector still finds {', '.join(classes)}" if classes else ""


def _write_background(job: Job, parts: Parts) -> None:
    """Writes the background, or makes sure that none is there: an earlier version of the picture may have had one."""
    if parts.background:
        storage.write_bytes(storage.join(job.out, str(parts.row["background"])), parts.background)
    else:
        storage.delete(storage.join(job.out, background_path(str(parts.row["path"]))))
