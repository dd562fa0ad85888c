"""The steps of extraction, read → take apart → look again → write → record, as plain functions on bytes and rows.

`depers.extract` composes them on Ray.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import pyarrow as pa

from depers import storage
from depers.datasets import sprite_bank
from depers.datasets.labels import label_path
from depers.errors import short_reason
from depers.extraction.take_apart import RECORD, DecomposedImage, ExtractionJob, Row, background_path, take_apart
from depers.extraction.verification import load_detector, verify_backgrounds
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import tables
from depers.storage.tables import parquet_text

if TYPE_CHECKING:
    pass

_THREADS = 4  # per task, for what waits for storage
_BATCH = 8  # images per inference


def part_path(unit: Unit) -> str:
    """Where the sprites of a unit go below OUT, by its images' paths alone: the same for folders and S3."""
    text = "\n".join(parquet_text(entry.path) for entry in unit.entries)
    return f"sprites/{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def process(job: ExtractionJob, unit: Unit, checkpoints: Sequence[bytes] = ()) -> list[str]:
    """Extracts a unit's images and records it; gives the status of each. The checkpoints are those of `job.look`."""
    cv2.setNumThreads(1)  # one task per core
    look = job.look
    detector = load_detector(look.weights, look.wanted, look.how, tuple(checkpoints)) if look else None
    rows: list[Row] = []
    sprites: list[Row] = []
    again = False
    with ThreadPoolExecutor(_THREADS) as pool:
        reads = [pool.submit(_read, job, entry.path) for entry in unit.entries]
        writes = []
        while reads:
            batch = [take_apart(job, *reads.pop(0).result()) for _ in range(min(_BATCH, len(reads)))]
            for parts in verify_backgrounds(batch, detector) if detector else batch:
                writes.append(pool.submit(_write_background, job, parts))
                rows.append(parts.row)
                sprites += parts.sprites
                again |= parts.again
        for write in writes:
            write.result()
    part = storage.join(job.out, part_path(unit))
    if sprites:
        tables.write_table(part, pa.Table.from_pylist(sprites, sprite_bank.SPRITES))
    else:
        storage.delete(part)  # an earlier version of these images may have had some
    tables.write_table(units.record_uri(job.out, unit.name, again), pa.Table.from_pylist(rows, RECORD))
    if not again:
        storage.delete(units.record_uri(job.out, unit.name, retry=True))
    return [row["status"] for row in rows]


def _read(job: ExtractionJob, path: str) -> tuple[str, bytes | str, bytes]:
    """An image's path, its bytes or why they cannot be had, and its label text, empty where there is none."""
    image = storage.join(job.images, path)
    try:
        data = storage.read_bytes(image)
    except Exception as error:  # storage raises OSErrors and the client's own kinds alike
        return path, f"cannot be read ({short_reason(error)})", b""
    try:
        return path, data, storage.read_bytes(label_path(image))
    except FileNotFoundError:
        return path, data, b""
    except Exception as error:
        return path, f"its labels cannot be read ({short_reason(error)})", b""


def _write_background(job: ExtractionJob, parts: DecomposedImage) -> None:
    """Writes the background, or makes sure that none is there: an earlier version of the image may have had one."""
    if parts.background:
        storage.write_bytes(storage.join(job.out, str(parts.row["background"])), parts.background)
    else:
        storage.delete(storage.join(job.out, background_path(str(parts.row["path"]))))
