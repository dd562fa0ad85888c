"""The tasks of synthesis: plan and render blocks of synthetic images, from the bank to files in OUT.

OUT/images/train/synthetic/NNNNNN/…jpg, OUT/labels/train/synthetic/NNNNNN/…txt, and OUT/ignore/… like labels where an
image has ignore regions; or OUT/shards/NNNNNN.tar
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import storage
from depers.boxes import EDGES, to_normalized_xywh
from depers.datasets import image_index, sprite_bank
from depers.datasets.ignore_regions import FOLDER
from depers.datasets.image_index import WrittenFile
from depers.datasets.labels import Labels, format_yolo
from depers.datasets.shards import IGNORE_SUFFIX
from depers.errors import UserError, short_reason
from depers.imaging import decoding, ycbcr
from depers.imaging.headers import ImageError, read_header
from depers.imaging.ycbcr import Planes
from depers.observation.meter import count
from depers.observation.metrics import FILES
from depers.reports import drawing
from depers.resources import MIB
from depers.runtime import units
from depers.storage import tables
from depers.storage.overlapped import OverlappedWriter
from depers.synthesis import compositing, plan_table, planner, statistics
from depers.synthesis.assets import Assets
from depers.synthesis.statistics import DatasetStatistics

RECORD = tables.schema(
    tables.column("path", pa.string(), "path of the image below `images/train`, also where the images are in tars"),
    tables.column("objects", pa.int32(), "number of sprites in it"),
    tables.column("labels", pa.int32(), "number of its labels"),
    tables.column("bytes", pa.int64(), "size of the JPEG"),
    image_index.RECORD_COLUMN,
)
"""A unit's record: a row per image."""
SHARD_BLOCKS = 16
"""Blocks in a tar: about a thousand images."""
_SPLIT = "train"
_SHEET_IMAGES = 24
_DECODED_BYTES = 128 * MIB  # of sprites, however large those are
_READ_PARTS = 8  # what a block chooses from
_DECODED_BACKGROUNDS = 3  # images come in the order of their backgrounds
_READ_BACKGROUNDS = 32  # as files, which wait to be decoded
_ROWS_AHEAD = 8  # whose files are read before their turn
_READERS = 16  # threads that mostly wait for storage


class RenderJob(NamedTuple):
    """Where a job's images go, and how many: `scenes`, each in `variants`. Travels to the workers."""

    out: str
    scenes: int
    variants: int
    shards: bool
    class_count: int

    def parts(self) -> list[tuple[int, int]]:
        """Return the parts of the plan, each as its first block and the one after its last."""
        return self._cut(plan_table.BLOCKS_PER_PART)

    def units(self) -> list[tuple[int, int]]:
        """Return the units of rendering, likewise: each is what one task does and records."""
        return self._cut(SHARD_BLOCKS if self.shards else 1)

    def _cut(self, size: int) -> list[tuple[int, int]]:
        blocks = -(-self.scenes // plan_table.BLOCK)
        return [(first, min(first + size, blocks)) for first in range(0, blocks, size)]

    def images(self, first: int, last: int) -> int:
        """Return how many images are in blocks `first` to `last` (not included)."""
        return (min(last * plan_table.BLOCK, self.scenes) - first * plan_table.BLOCK) * self.variants


def plan_part(assets: Assets, recipe: planner.Recipe, job: RenderJob, part: int) -> DatasetStatistics:
    """Write a part of the plan, unless it is there, and return its statistics; raise UserError as `open_part`."""
    uri, total = plan_table.part_uri(job.out, part), DatasetStatistics.empty(job.class_count)
    if storage.exists(uri):
        columns = ["width", "height", "objects", "labels", "wanted"]
        with plan_table.open_part(uri) as file:
            for group in range(file.num_row_groups):
                total = total.add(statistics.count_plan(file.read_row_group(group, columns), job.class_count))
        return total
    blocks = [planner.plan_block(assets, recipe, block, job.scenes) for block in range(*job.parts()[part])]
    with storage.translated_write_errors(job.out):
        plan_table.write_part(uri, blocks)
    for block in blocks:
        total = total.add(statistics.count_plan(block, job.class_count))
    return total


def read_block(out: str, block: int) -> list[dict[str, Any]]:
    """Return the plan's rows of a block."""
    with plan_table.open_part(plan_table.part_uri(out, block // plan_table.BLOCKS_PER_PART)) as file:
        rows: list[dict[str, Any]] = file.read_row_group(block % plan_table.BLOCKS_PER_PART).to_pylist()
    return rows


class Renderer:
    """Renders rows of a plan, and keeps decoded images for the rows that follow: all sprites of a small bank."""

    def __init__(self, bank: sprite_bank.SpriteBank) -> None:
        self._bank = bank
        self._pool = ThreadPoolExecutor(_READERS)
        self._background = lru_cache(_DECODED_BACKGROUNDS)(self._decode_background)
        self._file = lru_cache(_READ_BACKGROUNDS)(self._begin_file)
        self._part = lru_cache(_READ_PARTS)(self._begin_part)
        self._sprites: dict[tuple[str, int], Planes] = {}
        self._cached_bytes = 0

    def announce(self, row: dict[str, Any]) -> None:
        """Begin to read what a row will need, so that nobody waits for it when its turn comes."""
        self._file(row["background"])
        for entry in row["objects"]:
            (self._part if entry["sprite"] else self._file)(entry["image"])

    def _begin_file(self, path: str) -> Future[bytes]:
        return self._pool.submit(storage.read_bytes, storage.join(self._bank.root, path))

    def _begin_part(self, part: str) -> Future[dict[str, Any]]:
        return self._pool.submit(self._read_part, part)

    def __call__(self, row: dict[str, Any]) -> bytes:
        """Return the JPEG of a row; raise UserError where an image of the extraction is missing or damaged."""
        images = [
            self._sprite(entry) if entry["sprite"] else self._background(entry["image"]) for entry in row["objects"]
        ]
        return compositing.render(row, self._background(row["background"]), images)

    def _decode_background(self, path: str) -> Planes:
        uri = storage.join(self._bank.root, path)
        try:
            data = self._file(path).result()
            header = read_header(data, float("inf"))
            if header.orientation == 1 and (image := ycbcr.decode(data)):
                return image
            return ycbcr.from_rgb(decoding.decode(data, header=header).rgb())
        except (FileNotFoundError, ImageError) as error:
            raise UserError(f"{uri}: the background cannot be read ({error}): extract again") from None
        except OSError as error:
            self._file.cache_clear()  # another attempt reads again
            raise UserError(f"{uri}: not readable ({short_reason(error)})") from None

    def _sprite(self, entry: dict[str, Any]) -> Planes:
        """Return a sprite's image; those decoded first make room for it where there are too many bytes of them."""
        sprite, by = key = entry["sprite"], compositing.reduction(entry)
        if key not in self._sprites:
            if (sprite, 1) not in self._sprites:
                self._cache((sprite, 1), self._decode_sprite(entry["image"], sprite))
            if by > 1:
                self._cache(key, compositing.reduce(self._sprites[sprite, 1], by))
        return self._sprites[key]

    def _cache(self, key: tuple[str, int], image: Planes) -> None:
        self._cached_bytes += image.nbytes
        while self._sprites and self._cached_bytes > _DECODED_BYTES:
            self._cached_bytes -= self._sprites.pop(next(iter(self._sprites))).nbytes
        self._sprites[key] = image

    def _decode_sprite(self, part: str, sprite: str) -> Planes:
        try:
            data = self._part(part).result()[sprite].as_py()
            return ycbcr.decode(data) or ycbcr.from_rgb(simplejpeg.decode_jpeg(data, "RGB"))
        except UserError:
            self._part.cache_clear()  # another attempt reads again
            raise
        except (KeyError, ValueError) as error:
            uri = storage.join(self._bank.root, part)
            raise UserError(f"{uri}: sprite {sprite} cannot be read ({error}): extract again") from None

    def _read_part(self, part: str) -> dict[str, Any]:
        """Return the JPEGs of the sprites in a part, by their ids."""
        table = sprite_bank.read_part(self._bank, part, ("id", "image"))
        return dict(zip(table["id"].to_pylist(), table["image"], strict=True))


def format_labels(row: dict[str, Any], column: str = "labels") -> bytes:
    """Return the labels of a row, or its ignore regions (`column` ignored), as YOLO text."""
    ids = [label["class_id"] for label in row[column]]
    boxes = [[label[name] for name in EDGES] for label in row[column]]
    size_wh = row["width"], row["height"]
    normalized = to_normalized_xywh(np.array(boxes, np.float32).reshape(-1, 4), size_wh)
    return format_yolo(Labels(np.array(ids, np.int64), normalized)).encode()


_renderers: list[tuple[sprite_bank.SpriteBank, RenderJob, Renderer]] = []


def _renderer_of(bank: sprite_bank.SpriteBank, job: RenderJob) -> Renderer:
    """Return this worker's renderer, which lives as long as it works for that job."""
    if not _renderers or _renderers[0][:2] != (bank, job):
        _renderers[:] = [(bank, job, Renderer(bank))]
    return _renderers[0][2]


class RenderedImage(NamedTuple):
    """An image and its texts, as they are written: `name` is its path in its split's folder, without suffix."""

    name: str
    size_wh: tuple[int, int]
    data: bytes
    labels: bytes
    ignored: bytes
    counts: dict[str, Any]


def render_blocks(bank: sprite_bank.SpriteBank, job: RenderJob, first: int, last: int) -> int:
    """Write the images of blocks `first` to `last` (not included) and, last, their record; return their number.

    Raise UserError where storage fails.
    """
    cv2.setNumThreads(1)  # one task per core
    write = _write_shard if job.shards else _write_files
    with storage.translated_write_errors(job.out):
        rows = write(job, first, _render_images(bank, job, first, last))
        record = pa.Table.from_pylist(rows, schema=RECORD)
        units.write_record(units.locate_inside(job.out), unit_name(first), record, out=job.out)
    count(FILES, "rendered", len(rows))
    return len(rows)


def unit_name(first: int) -> str:
    """Return the name of the unit whose first block is `first`."""
    return f"{first:08d}"


def _render_images(bank: sprite_bank.SpriteBank, job: RenderJob, first: int, last: int) -> Iterator[RenderedImage]:
    render = _renderer_of(bank, job)
    for block in range(first, last):
        block_rows = read_block(job.out, block)
        for index, row in enumerate(block_rows):
            for later_row in block_rows[index : index + _ROWS_AHEAD]:
                render.announce(later_row)
            name, data = plan_table.file_name(row["index"], row["variant"], job.variants), render(row)
            sprite_count = sum(entry["sprite"] is not None for entry in row["objects"])
            counts = {"objects": sprite_count, "labels": len(row["labels"]), "bytes": len(data)}
            texts = format_labels(row), format_labels(row, "ignored")
            yield RenderedImage(name, (row["width"], row["height"]), data, *texts, counts)


def _write_files(job: RenderJob, _: int, images: Iterator[RenderedImage]) -> list[dict[str, Any]]:
    """Write images and texts; return the rows of their record."""
    rows, stamps = list[dict[str, Any]](), list[dict[str, Future[str]]]()
    with OverlappedWriter(job.out) as writer:
        for name, size_wh, data, text, ignored, counts in images:
            contents = {"ignore": ignored} if ignored else {}
            contents |= {"labels": text, "file": data}
            paths = {"ignore": f"{FOLDER}/{_SPLIT}/{name}.txt", "labels": f"labels/{_SPLIT}/{name}.txt"}
            paths |= {"file": f"images/{_SPLIT}/{name}.jpg"}
            stamps.append({kind: writer.write(paths[kind], content) for kind, content in contents.items()})
            files = {kind: WrittenFile(paths[kind], content, "") for kind, content in contents.items()}
            indexed = image_index.describe(
                _SPLIT, f"{name}.jpg", size_wh, files["file"], files["labels"], files.get("ignore")
            )
            rows.append({"path": f"{name}.jpg", **counts, "indexed": indexed})
    for row, futures in zip(rows, stamps, strict=True):  # on S3 they are known when all is there
        row["indexed"] |= {f"{kind}_stamp": future.result() for kind, future in futures.items()}
    return rows


def _write_shard(job: RenderJob, first: int, images: Iterator[RenderedImage]) -> list[dict[str, Any]]:
    """Write one tar, whole, as `datasets.shards` has it; return the rows of the record of its images."""
    buffer, rows = io.BytesIO(), list[dict[str, Any]]()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, size_wh, data, text, ignored, counts in images:
            offset = _add_member(tar, f"{name}.jpg", data)
            _add_member(tar, f"{name}.txt", text)
            if ignored:
                _add_member(tar, f"{name}{IGNORE_SUFFIX}", ignored)
            indexed = image_index.describe_member(_SPLIT, f"{name}.jpg", size_wh, data, text, ignored, offset)
            rows.append({"path": f"{name}.jpg", **counts, "indexed": indexed})
    path, content = f"shards/{first // SHARD_BLOCKS:06d}.tar", buffer.getvalue()
    written = WrittenFile(path, content, storage.write_below(job.out, path, content))
    image_index.add_tar([row["indexed"] for row in rows], written)
    return rows


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file to a tar; return where its content begins."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    blocks = -(-len(content) // tarfile.BLOCKSIZE)
    return tar.offset - blocks * tarfile.BLOCKSIZE


def shard_names(job: RenderJob) -> str | None:
    """Return the tars' names as WebDataset takes them; None where the images are files."""
    last = len(job.units()) - 1
    return f"shards/{{000000..{last:06d}}}.tar" if job.shards else None


def draw_sheet(bank: sprite_bank.SpriteBank, job: RenderJob, names: Sequence[str]) -> NDArray[np.uint8]:
    """Draw two dozen images from all of the run, with their boxes, side by side; uint8 RGB."""
    indices = sorted({round(i) for i in np.linspace(0, job.scenes - 1, min(_SHEET_IMAGES, job.scenes))})
    images, captions = [], []
    for index in indices:
        row = next(row for row in read_block(job.out, index // plan_table.BLOCK) if row["index"] == index)
        image = decoding.decode(Renderer(bank)(row), float("inf")).rgb()
        classes = [names[label["class_id"]] for label in row["labels"]]
        boxes = [[label[name] for name in EDGES] for label in row["labels"]]
        narrowest = row["width"] / 16  # the names of small objects would hide them; colors tell
        texts = [name if box[2] - box[0] > narrowest else "" for name, box in zip(classes, boxes, strict=True)]
        images.append(drawing.draw_boxes(image, boxes, texts, [drawing.color(name) for name in classes]))
        captions.append(f"{plan_table.file_name(index, 0, job.variants)}.jpg")
    return drawing.contact_sheet(images, captions, columns=4, cell_wh=(480, 360))
