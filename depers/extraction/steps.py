"""The steps of extraction, read → take apart → verify → write → record, as plain functions on bytes and rows.

`depers extract` composes them on Ray.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import pyarrow as pa

from depers import storage
from depers.datasets import sprite_bank
from depers.datasets.ignore_regions import ignore_path
from depers.datasets.labels import label_path
from depers.errors import short_reason
from depers.extraction.take_apart import RECORD, DecomposedImage, ExtractionJob, TableRow, background_path, take_apart
from depers.extraction.verification import load_detector, verify_backgrounds
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import tables
from depers.storage.tables import parquet_text

_THREADS = 4  # per task, for what waits for storage
_BATCH = 8  # images per inference


def part_path(unit: Unit) -> str:
    """Return where the sprites of a unit go below OUT, by its images' paths alone: the same for folders and S3."""
    text = "\n".join(parquet_text(entry.path) for entry in unit.entries)
    return f"sprites/{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def extract_unit(job: ExtractionJob, unit: Unit, checkpoints: Sequence[bytes] = ()) -> list[str]:
    """Extract a unit's images and record it; return the status of each. `checkpoints`: those of `job.verification`."""
    cv2.setNumThreads(1)  # one task per core
    detector = load_detector(job.verification, tuple(checkpoints)) if job.verification else None
    rows: list[TableRow] = []
    sprites: list[TableRow] = []
    retry = False
    with ThreadPoolExecutor(_THREADS) as pool:
        reads = [pool.submit(_read, job, entry.path) for entry in unit.entries]
        writes = []
        while reads:
            batch = [take_apart(job, *reads.pop(0).result()) for _ in range(min(_BATCH, len(reads)))]
            for image in verify_backgrounds(batch, detector) if detector else batch:
                writes.append(pool.submit(_write_background, job, image))
                rows.append(image.row | {"content_sha256": _digest(image)})
                sprites += image.sprites
                retry |= image.retry
        for write in writes:
            write.result()
    part = storage.join(job.out, part_path(unit))
    if sprites:
        tables.write_table(part, pa.Table.from_pylist(sprites, sprite_bank.SPRITES))
    else:
        storage.delete(part)  # an earlier version of these images may have had some
    records = units.locate_inside(job.out)
    tables.write_table(units.record_uri(records, unit.name, retry), pa.Table.from_pylist(rows, RECORD))
    if not retry:
        storage.delete(units.record_uri(records, unit.name, retry=True))
    return [row["status"] for row in rows]


def _digest(image: DecomposedImage) -> str:
    digest = hashlib.sha256(image.background)
    for sprite in image.sprites:
        digest.update(repr(sorted(sprite.items())).encode())
    return digest.hexdigest()


def _read(job: ExtractionJob, path: str) -> tuple[str, bytes | str, bytes, bytes]:
    """Return an image's path, its bytes or why they cannot be had, its label text, and that of its ignore regions.

    A text is empty where there is none.
    """
    image = storage.join(job.images, path)
    try:
        data = storage.read_bytes(image)
    except Exception as error:  # storage raises OSErrors and the client's own kinds alike
        return path, f"cannot be read ({short_reason(error)})", b"", b""
    texts = []
    for uri in (label_path(image), ignore_path(image))[: 1 + job.has_regions]:
        try:
            texts.append(storage.read_bytes(uri))
        except FileNotFoundError:
            texts.append(b"")
        except Exception as error:
            return path, f"its labels cannot be read ({short_reason(error)})", b"", b""
    return path, data, texts[0], texts[1] if job.has_regions else b""


def _write_background(job: ExtractionJob, image: DecomposedImage) -> None:
    """Write the background, or make sure that none is there: an earlier version of the image may have had one."""
    if image.background:
        storage.write_bytes(storage.join(job.out, str(image.row["background"])), image.background)
    else:
        storage.delete(storage.join(job.out, background_path(str(image.row["path"]))))
