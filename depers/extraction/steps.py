"""The steps of extraction, read → take apart → verify → write → record, as plain functions on bytes and rows.

`depers extract` composes them on Ray.
"""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.datasets import sprite_bank
from depers.datasets.ignore_regions import ignore_path
from depers.datasets.labels import label_path
from depers.errors import typed_reason
from depers.extraction.take_apart import RECORD, DecomposedImage, ExtractionJob, background_path, take_apart
from depers.extraction.training_images import as_listed
from depers.extraction.verification import load_detector, verify_backgrounds
from depers.observation.rows import count_rows
from depers.runtime import takeover, units
from depers.runtime.file_guard import FileGuard
from depers.runtime.takeover import Source
from depers.runtime.units import RecordNotes, Unit
from depers.storage import Entry, tables
from depers.storage.failures import as_outage, explain, is_of_name, raise_outage
from depers.storage.overlapped import count_threads
from depers.storage.tables import parquet_text

_THREADS = 4  # per task, for what waits for storage
_BATCH = 8  # images per inference


def part_path(unit: Unit) -> str:
    """Return where the sprites of a unit go below OUT, by its images' paths alone: the same for folders and S3."""
    return _part_path(parquet_text(entry.path) for entry in unit.entries)


def _part_path(paths: Iterable[str]) -> str:
    text = "\n".join(sorted(paths))
    return f"sprites/{hashlib.sha256(text.encode()).hexdigest()[:16]}.parquet"


def extract_unit(
    job: ExtractionJob,
    unit: Unit,
    checkpoints: Sequence[bytes] = (),
    part: str | None = None,
    sources: Sequence[Source] = (),
    guard: FileGuard | None = None,
) -> list[str]:
    """Extract a unit's images and record it; return the status of each. `checkpoints`: those of `job.verification`.

    `part` is where the sprites go (default: `part_path`), with those of the unit's other images, of which records
    that were set aside tell, the `sources`. Whatever goes wrong with an image is its failure. Raise OutageError where
    storage as a whole fails.
    """
    cv2.setNumThreads(1)  # one task per core
    try:
        images = _extract(job, unit, checkpoints, guard or FileGuard())
    except Exception as error:
        raise_outage(error)
        reason = f"cannot be extracted ({typed_reason(error)})"
        images = [_fail(job, entry.path, reason) for entry in unit.entries]
    images = [_accountable(job, entry.path, image) for entry, image in zip(unit.entries, images, strict=True)]
    try:
        _record(job, unit, images, part or part_path(unit), sources)
    except OSError as error:
        raise as_outage(error, job.out) from error
    return [image.row["status"] for image in images]


def _extract(job: ExtractionJob, unit: Unit, checkpoints: Sequence[bytes], guard: FileGuard) -> list[DecomposedImage]:
    """Take the images apart and write their backgrounds; return what became of each."""
    detector = load_detector(job.verification, tuple(checkpoints)) if job.verification else None
    images: list[DecomposedImage] = []
    with ThreadPoolExecutor(count_threads(_THREADS, job.images, job.out)) as pool:
        reads = [pool.submit(_read, job, entry) for entry in unit.entries]
        writes = []
        for first in range(0, len(reads), _BATCH):
            batch = []
            for offset, content in enumerate(reads[first : first + _BATCH], first):
                if reason := guard.find_reason(offset):
                    batch.append(_fail(job, unit.entries[offset].path, reason))
                    continue
                with guard.watch(offset):
                    batch.append(take_apart(job, *content.result()))
            verified = verify_backgrounds(batch, detector) if detector else batch
            images += verified
            writes += [pool.submit(_write_background, job, image) for image in verified]
        for index, write in enumerate(writes):
            try:
                write.result()
            except Exception as error:
                reason = f"cannot be written ({explain(error)})"
                images[index] = _fail(job, unit.entries[index].path, reason, retry=not is_of_name(error))
    return images


def _fail(job: ExtractionJob, path: str, reason: str, retry: bool = False) -> DecomposedImage:
    """Return an image that failed."""
    return replace(take_apart(job, path, reason, b"", b""), retry=retry)


def _accountable(job: ExtractionJob, path: str, image: DecomposedImage) -> DecomposedImage:
    """Return the image, as failed where the tables cannot hold its rows."""
    try:
        pa.Table.from_pylist([image.row], RECORD)
        pa.Table.from_pylist(image.sprites, sprite_bank.SPRITES)
    except Exception as error:
        failed = _fail(job, path, f"cannot be recorded ({typed_reason(error)})")
        _write_background(job, failed)
        return failed
    return image


def _record(
    job: ExtractionJob, unit: Unit, images: Sequence[DecomposedImage], part: str, sources: Sequence[Source]
) -> None:
    """Write the sprites of a unit, then its record. Raise OSError."""
    records, uri = units.locate_inside(job.out), storage.join(job.out, part)
    sprites = pa.Table.from_pylist([sprite for image in images for sprite in image.sprites], sprite_bank.SPRITES)
    if sources:
        former_sprites = [_read_sprites(job.out, records, source) for source in sources]
        sprites = pa.concat_tables([sprites, *former_sprites]).sort_by("source")
    if len(sprites):
        tables.write_table(uri, sprites)
    else:
        storage.delete(uri)  # an earlier version of these images may have had some
    pairs = zip(unit.entries, images, strict=True)
    retries = {parquet_text(entry.path): 0.0 for entry, image in pairs if image.retry}
    rows = [image.row | {"content_sha256": _digest(image)} for image in images]
    identities = {path: identity for path, identity in unit.identify().items() if path not in retries}
    notes = RecordNotes(retries, identities=identities).as_texts()
    table = pa.Table.from_pylist(rows, RECORD)
    count_rows(table)
    table, notes = takeover.complete(records, table, notes, sources)
    units.write_record(records, unit.name, table, notes, was_retry=True, out=job.out)


def _read_sprites(out: str, records: str, source: Source) -> pa.Table:
    """Return the sprites of the images of a record that was set aside which are as they were. Raise OSError."""
    record = units.read_record(units.former_uri(records, source.name))
    rows, _ = takeover.select(record, source)
    if not pc.any(pc.greater(pc.list_value_length(rows["sprites"]), 0)).as_py():
        return sprite_bank.SPRITES.empty_table()
    sprites = tables.read_table(storage.join(out, _part_path(record["path"].to_pylist())))
    return sprites.filter(pc.is_in(sprites["source"], pa.array(source.keys, pa.string()))).cast(sprite_bank.SPRITES)


def _digest(image: DecomposedImage) -> str:
    digest = hashlib.sha256(image.background)
    for sprite in image.sprites:
        digest.update(repr(sorted(sprite.items())).encode())
    return digest.hexdigest()


def _read(job: ExtractionJob, entry: Entry) -> tuple[str, bytes | str, bytes, bytes]:
    """Return an image's path, its bytes or why they cannot be had, its label text, and that of its ignore regions.

    A text is empty where there is none.
    """
    path = entry.path
    if entry.status:
        return path, entry.reason, b"", b""
    image = storage.join(job.images, path)
    try:
        data = storage.read_entry(job.images, as_listed(entry))
    except Exception as error:
        return path, f"cannot be read ({explain(error)})", b"", b""
    texts = []
    for uri in (label_path(image), ignore_path(image))[: 1 + job.has_regions]:
        try:
            texts.append(storage.read_bytes(uri))
        except FileNotFoundError:
            texts.append(b"")
        except Exception as error:
            return path, f"its labels cannot be read ({explain(error)})", b"", b""
    return path, data, texts[0], texts[1] if job.has_regions else b""


def _write_background(job: ExtractionJob, image: DecomposedImage) -> None:
    """Write the background, or make sure that none is there: an earlier version of the image may have had one."""
    if image.background:
        storage.write_below(job.out, str(image.row["background"]), image.background)
    elif not image.retry:  # a read failure never deletes
        storage.delete_below(job.out, background_path(str(image.row["path"])))
