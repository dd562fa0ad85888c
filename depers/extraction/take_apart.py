"""Take an image apart into its background and its sprites, as rows of the tables of `sprite_bank`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers.boxes import EDGES, Boxes, clip, covered_share, from_normalized_xywh, intersections
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import Dataset, labelled_classes
from depers.datasets.ignore_regions import split_off_unlabelled
from depers.datasets.labels import Labels, drop_doubles, parse_yolo
from depers.datasets.splits import group_names
from depers.datasets.sprite_bank import sprite_id
from depers.detection.settings import InferenceSettings
from depers.detection.tiling import View, view_whole
from depers.errors import UserError, typed_reason
from depers.extraction import inpainting
from depers.extraction.nesting import NestedSprite, Nesting, group_boxes
from depers.imaging.decoding import DecodedImage, decode
from depers.imaging.headers import ImageError
from depers.seeds import Branch, random_for
from depers.statuses import SourceStatus
from depers.storage import tables
from depers.storage.tables import parquet_text

TableRow = dict[str, Any]
QUALITY = 95
HIDDEN = 0.5
"""A sprite of which other objects cover more than this counts as mostly hidden."""

_UNCOMPRESSED = ("PNG", "BMP")  # nothing spreads beyond a pixel in these

RECORD = tables.schema(
    tables.column("path", pa.string(), "path of the image in the dataset's folder of training images"),
    tables.column("background", pa.string(), "path of its background below OUT; null where there is none"),
    *(field for field in sprite_bank.BACKGROUNDS if field.name not in ("source", "path")),
    tables.column("sprites", pa.list_(pa.int32()), "class id of each of its sprites"),
    tables.column("too_small", pa.int32(), "number of outer boxes that are too small for a sprite"),
    tables.column("unlabelled_inside", pa.int32(), "number of sprites that may hold objects of theirs without a label"),
    tables.column("truncated", pa.int32(), "number of sprites that the image's frame cuts"),
    tables.column("mostly_hidden", pa.int32(), "number of sprites of which others cover more than half"),
    tables.column("content_sha256", pa.string(), "digest of its background and sprites"),
)
"""A unit's record: one row per image, `path` in the folder of training images."""


class VerificationSettings(NamedTuple):
    """How to verify backgrounds: `--weights`, the classes that must not be seen, the detector's settings and stride."""

    weights: tuple[str, ...]
    classes: tuple[str, ...]
    inference: InferenceSettings
    stride: int


class ExtractionJob(NamedTuple):
    """All that a task needs to know; it travels by pickle. `images` is the folder of the training split."""

    images: str
    out: str
    dataset: Dataset
    group_by: str | None
    fill: str
    dilate: float
    max_coverage: float
    keep_labels: bool
    min_size: float
    margin: float
    nesting: Nesting
    seed: int
    max_megapixels: float
    has_regions: bool = False
    """Whether the dataset has ignore regions."""
    verification: VerificationSettings | None = None


@dataclass(frozen=True)
class DecomposedImage:
    """An image taken apart: its record's row, its sprites' rows, and its background as JPEG, if it is to be one.

    `view` is the background as the detector wants it, where there is one; `remaining_boxes` are still in it, nothing
    else of `labelled_names` may be. `retry` says that storage failed, not the image.
    """

    row: TableRow
    sprites: list[TableRow] = field(default_factory=list)
    background: bytes = b""
    view: View | None = None
    remaining_boxes: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    labelled_names: frozenset[str] = frozenset()
    retry: bool = False


def background_path(path: str) -> str:
    """Return where the background of an image goes below OUT: as in the dataset, with the suffix of a JPEG."""
    name = parquet_text(path)
    return f"backgrounds/{name}" if name.lower().endswith((".jpg", ".jpeg")) else f"backgrounds/{name}.jpg"


def take_apart(
    job: ExtractionJob, path: str, data: bytes | str, label_text: bytes, ignore_text: bytes
) -> DecomposedImage:
    """Return an image's background and sprites; any error is its failure, of which `data` may be the reason already.

    The texts are those of its labels and of its ignore regions.
    """
    row: TableRow = dict.fromkeys(RECORD.names) | {
        "path": parquet_text(path),
        "group": parquet_text(group_names([path], job.group_by)[0]),
        "status": SourceStatus.FAILED,
        "labels": [],
        "unlabelled": [],
        "sprites": [],
    }
    if isinstance(data, str):
        return DecomposedImage(row | {"reason": data}, retry=True)
    try:
        image, class_count = decode(data, job.max_megapixels), len(job.dataset.names)
        labels = parse_yolo(label_text.decode(), class_count, "labels")
        return _take_apart(job, path, row, image, labels, parse_yolo(ignore_text.decode(), class_count, "ignore"))
    except (ImageError, UserError) as error:
        return DecomposedImage(row | {"reason": str(error)})
    except Exception as error:
        return DecomposedImage(row | {"reason": f"cannot be taken apart ({typed_reason(error)})"})


def _take_apart(
    job: ExtractionJob, path: str, row: TableRow, image: DecodedImage, labels: Labels, ignored: Labels
) -> DecomposedImage:
    rgb, size_wh = image.rgb(), image.size_wh
    ignored, labelled = split_off_unlabelled(ignored, labelled_classes(job.dataset, path))
    class_ids, boxes = _whole_boxes(labels, size_wh)
    region_ids, regions = _whole_boxes(ignored, size_wh)
    sprites = group_boxes(class_ids, boxes, size_wh, job.nesting, job.margin)
    coverage = covered_share((0.0, 0.0, *size_wh), np.concatenate([boxes, regions]))
    shorter = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    large = [sprite for sprite in sprites if shorter[sprite.outer] >= job.min_size]
    unlabelled = frozenset(range(len(job.dataset.names))) - labelled
    frames = np.array([sprite.frame for sprite in large], np.float32).reshape(-1, 4)
    touched = intersections(frames, regions) > 0  # what lies in a region is pasted with the sprite
    in_sprites = [unlabelled.union(region_ids[touches].tolist()) for touches in touched]
    sprite_rows = [
        _sprite_row(row, rgb, class_ids, boxes, sprite, unlabelled_in)
        for sprite, unlabelled_in in zip(large, in_sprites, strict=True)
    ]
    inner = [job.nesting.get(int(class_ids[sprite.outer]), frozenset()) for sprite in large]
    if job.keep_labels:
        unlabelled |= set(region_ids.tolist())  # else the regions are filled
    row = row | {
        "width": size_wh[0],
        "height": size_wh[1],
        "coverage": coverage,
        "objects": len(sprites),
        "scene": _scene(class_ids, boxes, sprites),
        "sprites": [sprite_row["class_id"] for sprite_row in sprite_rows],
        "too_small": len(sprites) - len(large),
        "unlabelled": sorted(unlabelled),
        "unlabelled_inside": sum(bool(a & b) for a, b in zip(in_sprites, inner, strict=True)),
        "truncated": sum(sprite.truncated for sprite in large),
        "mostly_hidden": sum(sprite.hidden > HIDDEN for sprite in large),
    }
    if reason := _why_unfit(job, coverage, unlabelled):
        return DecomposedImage(row | {"status": SourceStatus.SKIPPED, "reason": reason}, sprite_rows)
    row = row | {"status": SourceStatus.USED, "background": background_path(path)}
    if job.keep_labels:
        row["labels"] = [_label(class_id, box) for class_id, box in zip(class_ids.tolist(), boxes, strict=True)]
    else:
        block = 1 if image.format in _UNCOMPRESSED else inpainting.BLOCK
        rects = inpainting.rects_to_fill(np.concatenate([boxes, regions]), size_wh, job.dilate, block)
        rgb = inpainting.fill_rects(rgb, rects, job.fill, _rng(job.seed, path))
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), QUALITY, "RGB", "420")
    remaining_boxes = boxes if job.keep_labels else boxes[:0]
    view = None
    if job.verification:
        imgsz, stride = job.verification.inference.imgsz, job.verification.stride
        view = view_whole(rgb, size_wh, imgsz, stride, half_stride_pad=False)
    labelled_names = frozenset(name for index, name in enumerate(job.dataset.names) if index not in unlabelled)
    return DecomposedImage(row, sprite_rows, jpeg, view, remaining_boxes, labelled_names)


def _why_unfit(job: ExtractionJob, coverage: float, unlabelled: frozenset[int]) -> str:
    """Return why an image cannot be a background, not even for some of the classes; empty if it can."""
    if coverage > job.max_coverage:
        return f"labelled boxes cover more than {job.max_coverage:.0%}"
    return "labelled for no class completely" if len(unlabelled) == len(job.dataset.names) else ""


def _whole_boxes(labels: Labels, size_wh: tuple[int, int]) -> tuple[NDArray[np.int64], Boxes]:
    """Return class ids (N,) and boxes (N, 4) in pixels inside the image, without doubles and boxes without area."""
    class_ids, boxes_xywh = drop_doubles(labels)
    boxes = clip(from_normalized_xywh(boxes_xywh, size_wh), size_wh)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return class_ids[has_area], boxes[has_area]


def _rng(seed: int, path: str) -> np.random.Generator:
    """Return the random numbers of one image, by its path: the same whatever else is in the dataset."""
    name = int.from_bytes(hashlib.sha256(parquet_text(path).encode()).digest()[:8])
    return random_for(seed, Branch.EXTRACTION, name)


def _label(class_id: int, box_xyxy: NDArray[np.float32]) -> TableRow:
    return dict(zip(("class_id", *EDGES), (class_id, *box_xyxy.tolist()), strict=True))


def _scene(class_ids: NDArray[np.int64], boxes: Boxes, sprites: Sequence[NestedSprite]) -> list[TableRow]:
    """Return all labels of an image as `sprite_bank.SOURCE_LABEL`."""
    outer = {sprite.outer: sprite.truncated for sprite in sprites}
    return [
        {**_label(class_id, box), "outer": index in outer, "truncated": outer.get(index, False)}
        for index, (class_id, box) in enumerate(zip(class_ids.tolist(), boxes, strict=True))
    ]


def _sprite_row(
    row: TableRow,
    rgb: NDArray[np.uint8],
    class_ids: NDArray[np.int64],
    boxes: Boxes,
    sprite: NestedSprite,
    unlabelled: frozenset[int],
) -> TableRow:
    """Return a row of `sprite_bank.SPRITES`."""
    x0, y0, x1, y1 = sprite.frame
    height, width = rgb.shape[:2]
    outer, class_id = boxes[sprite.outer].tolist(), int(class_ids[sprite.outer])
    members = list(sprite.members)
    inside = clip(boxes[members] - np.array([x0, y0, x0, y0], np.float32), (x1 - x0, y1 - y0))
    return {
        "id": sprite_id(row["path"], class_id, outer),
        "class_id": class_id,
        "labels": [_label(int(class_ids[member]), box) for member, box in zip(members, inside, strict=True)],
        "image": simplejpeg.encode_jpeg(np.ascontiguousarray(rgb[y0:y1, x0:x1]), QUALITY, "RGB", "444"),
        "width": x1 - x0,
        "height": y1 - y0,
        "source": row["path"],
        "group": row["group"],
        "split": "train",
        "source_width": width,
        "source_height": height,
        "source_x": x0,
        "source_y": y0,
        "center_x": (outer[0] + outer[2]) / 2 / width,
        "foot_y": outer[3] / height,
        "scene_height": (outer[3] - outer[1]) / height,
        "truncated": sprite.truncated,
        "hidden": sprite.hidden,
        "unlabelled": sorted(unlabelled),
    }
