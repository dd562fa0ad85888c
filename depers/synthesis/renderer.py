"""Plans and renders blocks of synthetic images: what a worker does, from the bank to files in OUT.

OUT/images/train/synthetic/NNNNNN/…jpg and OUT/labels/train/synthetic/NNNNNN/…txt, or OUT/shards/train-NNNNNN.tar
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import storage
from depers.boxes import to_normalized_xywh
from depers.datasets import sprite_bank
from depers.datasets.labels import Labels, format_yolo
from depers.errors import UserError
from depers.imaging import decoding, ycbcr
from depers.imaging.headers import read_header
from depers.imaging.ycbcr import Planes
from depers.reports import drawing
from depers.runtime import units
from depers.storage import tables
from depers.synthesis import compositing, plan_table, planner, statistics
from depers.synthesis.assets import Assets
from depers.synthesis.statistics import DatasetStatistics

RECORD = tables.schema(
    tables.column("path", pa.string(), "path of the image below `images/train`, also where the images are in tars"),
    tables.column("objects", pa.int32(), "number of sprites in it"),
    tables.column("labels", pa.int32(), "number of its labels"),
    tables.column("bytes", pa.int64(), "size of the JPEG"),
)
"""A unit's record: a row per image."""
SHARD_BLOCKS = 16
"""Blocks in a tar: about a thousand images."""
_SHOWN = 24
_DECODED_BYTES = 128 * 2**20  # of sprites, however large those are
_READ_PARTS = 8  # what a block chooses from
_DECODED_BACKGROUNDS = 3  # images come in the order of their backgrounds
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


class RenderJob(NamedTuple):
    """Where a job's images go, and how many: `scenes`, each in `variants`. Travels to the workers."""

    out: str
    scenes: int
    variants: int
    shards: bool
    class_count: int

    def parts(self) -> list[tuple[int, int]]:
        """The parts of the plan, as first block and the one after the last."""
        return self._cut(plan_table.BLOCKS_PER_PART)

    def units(self) -> list[tuple[int, int]]:
        """The units of rendering, likewise: what one task does and records."""
        return self._cut(SHARD_BLOCKS if self.shards else 1)

    def _cut(self, size: int) -> list[tuple[int, int]]:
        blocks = -(-self.scenes // plan_table.BLOCK)
        return [(first, min(first + size, blocks)) for first in range(0, blocks, size)]

    def images(self, first: int, last: int) -> int:
        """How many images are in blocks `first` to `last` (not included)."""
        return (min(last * plan_table.BLOCK, self.scenes) - first * plan_table.BLOCK) * self.variants


def plan_part(assets: Assets, recipe: planner.Recipe, job: RenderJob, part: int) -> DatasetStatistics:
    """Writes a part of the plan, unless it is there, and counts what it holds. Raises UserError as `open_part`."""
    uri, found = plan_table.part_uri(job.out, part), DatasetStatistics.none(job.class_count)
    if storage.exists(uri):
        file, columns = plan_table.open_part(uri), ["width", "height", "objects", "labels", "wanted"]
        for group in range(file.num_row_groups):
            found = found.plus(statistics.of_plan(file.read_row_group(group, columns), job.class_count))
        return found
    blocks = [planner.plan_block(assets, recipe, block, job.scenes) for block in range(*job.parts()[part])]
    plan_table.write_part(uri, blocks)
    for block in blocks:
        found = found.plus(statistics.of_plan(block, job.class_count))
    return found


def read_block(out: str, block: int) -> list[dict[str, Any]]:
    """The plan's rows of a block."""
    file = plan_table.open_part(plan_table.part_uri(out, block // plan_table.BLOCKS_PER_PART))
    rows: list[dict[str, Any]] = file.read_row_group(block % plan_table.BLOCKS_PER_PART).to_pylist()
    return rows


class Renderer:
    """Renders rows of a plan, keeping what was decoded for those that follow: all sprites of a small bank."""

    def __init__(self, extracted: sprite_bank.SpriteBank) -> None:
        self._extracted = extracted
        self._background = lru_cache(_DECODED_BACKGROUNDS)(self._decode_background)
        self._part = lru_cache(_READ_PARTS)(self._read_part)
        self._sprites: dict[tuple[str, int], Planes] = {}
        self._held = 0

    def __call__(self, row: dict[str, Any]) -> bytes:
        """The JPEG of a row. Raises UserError where an image of the extraction is missing or damaged."""
        images = [self._sprite(placed) if placed["sprite"] else self._background(placed["image"])
                    for placed in row["objects"]]  # fmt: skip
        return compositing.render(row, self._background(row["background"]), images)

    def _decode_background(self, path: str) -> Planes:
        uri = storage.join(self._extracted.root, path)
        try:
            data = storage.read_bytes(uri)
            header = read_header(data, float("inf"))
            if header.orientation == 1 and (image := ycbcr.decode(data)):
                return image
            return ycbcr.from_rgb(decoding.decode(data, header=header).rgb())
        except (OSError, decoding.ImageError) as error:
            raise UserError(f"{uri}: the background cannot be read ({error}): extract again") from None

    def _sprite(self, placed: dict[str, Any]) -> Planes:
        """A sprite's image; those decoded first make room for it where there are too many bytes of them."""
        sprite, by = key = placed["sprite"], compositing.reduction(placed)
        if key not in self._sprites:
            if (sprite, 1) not in self._sprites:
                self._keep((sprite, 1), self._decode_sprite(placed["image"], sprite))
            if by > 1:
                self._keep(key, compositing.reduced(self._sprites[sprite, 1], by))
        return self._sprites[key]

    def _keep(self, key: tuple[str, int], image: Planes) -> None:
        self._held += image.nbytes
        while self._sprites and self._held > _DECODED_BYTES:
            self._held -= self._sprites.pop(next(iter(self._sprites))).nbytes
        self._sprites[key] = image

    def _decode_sprite(self, part: str, sprite: str) -> Planes:
        try:
            data = self._part(part)[sprite].as_py()
            return ycbcr.decode(data) or ycbcr.from_rgb(simplejpeg.decode_jpeg(data, "RGB"))
        except (KeyError, ValueError) as error:
            where = storage.join(self._extracted.root, part)
            raise UserError(f"{where}: sprite {sprite} cannot be read ({error}): extract again") from None

    def _read_part(self, part: str) -> dict[str, Any]:
        """The JPEGs of the sprites in a part, by their ids."""
        table = sprite_bank.read_part(self._extracted, part, ("id", "image"))
        return dict(zip(table["id"].to_pylist(), table["image"], strict=True))


def label_text(row: dict[str, Any]) -> bytes:
    """The labels of a row as YOLO text."""
    ids = [label["class_id"] for label in row["labels"]]
    boxes = [[label[name] for name in _CORNERS] for label in row["labels"]]
    size_wh = row["width"], row["height"]
    normalized = to_normalized_xywh(np.array(boxes, np.float32).reshape(-1, 4), size_wh)
    return format_yolo(Labels(np.array(ids, np.int64), normalized)).encode()


_renderers: list[tuple[sprite_bank.SpriteBank, RenderJob, Renderer]] = []


def _renderer(extracted: sprite_bank.SpriteBank, job: RenderJob) -> Renderer:
    """This worker's renderer, which lives as long as it works for that job."""
    if not _renderers or _renderers[0][:2] != (extracted, job):
        _renderers[:] = [(extracted, job, Renderer(extracted))]
    return _renderers[0][2]


def render_blocks(extracted: sprite_bank.SpriteBank, job: RenderJob, first: int, last: int) -> int:
    """Makes the images of blocks `first` to `last` (not included) and their record, last. Gives their number."""
    cv2.setNumThreads(1)  # one task per core
    rows: list[dict[str, Any]] = []
    write = _write_shard if job.shards else _write_files
    write(job, first, _rendered(extracted, job, first, last, rows))
    tables.write_table(units.record_uri(job.out, unit_name(first)), pa.Table.from_pylist(rows, schema=RECORD))
    return len(rows)


def unit_name(first: int) -> str:
    """The name of the unit whose first block that is."""
    return f"{first:08d}"


def _rendered(
    extracted: sprite_bank.SpriteBank, job: RenderJob, first: int, last: int, rows: list[dict[str, Any]]
) -> Iterator[tuple[str, bytes, bytes]]:
    """Name, JPEG and label text of each image; adds to the record's `rows`."""
    render = _renderer(extracted, job)
    for block in range(first, last):
        for row in read_block(job.out, block):
            name, data = plan_table.file_name(row["index"], row["variant"], job.variants), render(row)
            pasted = sum(placed["sprite"] is not None for placed in row["objects"])
            rows.append({"path": f"{name}.jpg", "objects": pasted, "labels": len(row["labels"]), "bytes": len(data)})
            yield name, data, label_text(row)


def _write_files(job: RenderJob, _: int, images: Iterator[tuple[str, bytes, bytes]]) -> None:
    for name, data, text in images:
        storage.write_bytes(storage.join(job.out, "labels", "train", f"{name}.txt"), text)
        storage.write_bytes(storage.join(job.out, "images", "train", f"{name}.jpg"), data)


def _write_shard(job: RenderJob, first: int, images: Iterator[tuple[str, bytes, bytes]]) -> None:
    """One tar, whole: NAME.jpg and NAME.txt one after the other, as WebDataset groups them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data, text in images:
            for suffix, content in (("jpg", data), ("txt", text)):
                info = tarfile.TarInfo(f"{name.rpartition('/')[2]}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    storage.write_bytes(storage.join(job.out, "shards", f"{first // SHARD_BLOCKS:06d}.tar"), buffer.getvalue())


def shard_names(job: RenderJob) -> str | None:
    """The tars, as WebDataset takes them; None where the images are files."""
    last = len(job.units()) - 1
    return f"shards/{{000000..{last:06d}}}.tar" if job.shards else None


def sheet(extracted: sprite_bank.SpriteBank, job: RenderJob, names: Sequence[str]) -> NDArray[np.uint8]:
    """Two dozen images from all of the run, with their boxes, side by side; uint8 RGB."""
    indices = sorted({round(i) for i in np.linspace(0, job.scenes - 1, min(_SHOWN, job.scenes))})
    shown, captions = [], []
    for index in indices:
        row = next(row for row in read_block(job.out, index // plan_table.BLOCK) if row["index"] == index)
        image = decoding.decode(Renderer(extracted)(row), float("inf")).rgb()
        found = [names[label["class_id"]] for label in row["labels"]]
        boxes = [[label[name] for name in _CORNERS] for label in row["labels"]]
        least = row["width"] / 16  # the names of small instances would hide them; colors tell
        texts = [name if box[2] - box[0] > least else "" for name, box in zip(found, boxes, strict=True)]
        shown.append(drawing.draw_boxes(image, boxes, texts, [drawing.color(name) for name in found]))
        captions.append(f"{plan_table.file_name(index, 0, job.variants)}.jpg")
    return drawing.contact_sheet(shown, captions, columns=4, cell_wh=(480, 360))
