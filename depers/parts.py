"""Take a picture apart: what becomes of its background, and its sprites, as rows of the tables of `depers.bank`."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import bank, filling
from depers.bank import FAILED, LEFT_OUT, USED
from depers.boxes import Boxes, clip, from_normalized_xywh
from depers.detections import parquet_text
from depers.images import ImageError, Picture, decode
from depers.labels import Labels, parse_yolo
from depers.options import UserError
from depers.prediction import Prediction
from depers.sprites import Nesting, Sprite, covered, group, sprite_id
from depers.tiling import View, whole

Row = dict[str, Any]
QUALITY = 95
HIDDEN = 0.5
"""A sprite of which other objects cover more than this counts as mostly hidden."""

_STRIDE = 32  # of the detector
_STAGE = 3  # this module's branch of the seed tree
_UNCOMPRESSED = ("PNG", "BMP")  # nothing spreads beyond a pixel in these

RECORD = pa.schema(
    [("path", pa.string()), ("background", pa.string())]
    + [field for field in bank.BACKGROUNDS if field.name not in ("source", "path")]
    + [("sprites", pa.list_(pa.int32()))]  # the class id of each
    + [(name, pa.int32()) for name in ("too_small", "truncated", "mostly_hidden")]
)
"""A unit's record: one row per picture, `path` in the folder of training pictures."""


class Job(NamedTuple):
    """All that a task needs to know; it travels by pickle. `pictures` is the folder of the training split."""

    pictures: str
    out: str
    class_names: tuple[str, ...]
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
    weights: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()  # classes that a background must not show
    how: Prediction = Prediction()


@dataclass(frozen=True)
class Parts:
    """A picture taken apart: its record's row, its sprites' rows, and its background as JPEG, if it is to be one.

    `view` is the background as the detector wants it, where there is one; `kept` are boxes that are still in it.
    """

    row: Row
    sprites: list[Row] = field(default_factory=list)
    background: bytes = b""
    view: View | None = None
    kept: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))


def background_path(path: str) -> str:
    """Where the background of a picture goes below OUT: as in the dataset, with the suffix of a JPEG."""
    name = parquet_text(path)
    return f"backgrounds/{name}" if name.lower().endswith((".jpg", ".jpeg")) else f"backgrounds/{name}.jpg"


def group_of(path: str, group_by: str | None) -> str:
    """What `group_by` finds in a path (its first bracket, if it has one); without it, the path itself.

    Raises UserError where it finds nothing.
    """
    if group_by is None:
        return path
    found = re.search(group_by, path)
    part = found and (found[1] if found.re.groups else found[0])
    if not part:
        raise UserError(
            f"--group-by must find something in every picture's path, but {group_by!r} does not in {path!r}"
        )
    return part


def take_apart(job: Job, path: str, data: bytes | str, label_text: bytes) -> Parts:
    """A picture's background and sprites; whatever goes wrong is its own failure. `data` may be the reason already."""
    row: Row = dict.fromkeys(RECORD.names) | {"path": parquet_text(path), "status": FAILED, "labels": [], "sprites": []}
    row |= {"group": parquet_text(group_of(path, job.group_by))}
    if isinstance(data, str):
        return Parts(row | {"reason": data})
    try:
        picture = decode(data, job.max_megapixels)
        return _take_apart(job, path, row, picture, parse_yolo(label_text.decode(), len(job.class_names), "labels"))
    except (ImageError, UserError) as error:
        return Parts(row | {"reason": str(error)})
    except Exception as error:
        return Parts(row | {"reason": f"cannot be taken apart ({type(error).__name__}: {one_line(error)})"})


def _take_apart(job: Job, path: str, row: Row, picture: Picture, labels: Labels) -> Parts:
    rgb, size_wh = picture.rgb(), picture.size_wh
    class_ids, boxes = _whole_boxes(labels, size_wh)
    everything = group(class_ids, boxes, size_wh, job.nesting, job.margin)
    coverage = covered((0.0, 0.0, *size_wh), boxes)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = [sprite for sprite in everything if sides[sprite.outer].min() >= job.min_size]
    sprites = [_sprite_row(job, row, path, rgb, class_ids, boxes, sprite) for sprite in large]
    row |= {"status": USED, "width": size_wh[0], "height": size_wh[1], "coverage": coverage}
    row |= {"objects": len(everything), "sprites": [sprite["class_id"] for sprite in sprites]}
    row |= {"too_small": len(everything) - len(large), "truncated": sum(sprite.truncated for sprite in large)}
    row |= {"mostly_hidden": sum(sprite.hidden > HIDDEN for sprite in large)}
    if coverage > job.max_coverage:
        reason = f"labelled boxes cover more than {job.max_coverage:.0%}"
        return Parts(row | {"status": LEFT_OUT, "reason": reason}, sprites)
    row["background"] = background_path(path)
    if job.keep_labels:
        row["labels"] = [_label(class_id, box) for class_id, box in zip(class_ids.tolist(), boxes, strict=True)]
    else:
        block = 1 if picture.format in _UNCOMPRESSED else filling.BLOCK
        rects = filling.removed(boxes, size_wh, job.dilate, block)
        rgb = filling.remove(rgb, rects, job.fill, _rng(job.seed, path))
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), QUALITY, "RGB", "420")
    kept = boxes if job.keep_labels else boxes[:0]
    return Parts(row, sprites, jpeg, _view(job, rgb) if job.weights else None, kept)


def _whole_boxes(labels: Labels, size_wh: tuple[int, int]) -> tuple[NDArray[np.int64], Boxes]:
    """Class ids (N,) and boxes (N, 4) in pixels inside the picture; doubles and what is without area left out."""
    both = np.column_stack([labels.class_ids, labels.boxes_xywh])
    _, first = np.unique(both, axis=0, return_index=True)
    first = np.sort(first)
    boxes = clip(from_normalized_xywh(labels.boxes_xywh[first], size_wh), size_wh)
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return labels.class_ids[first][real], boxes[real]


def _rng(seed: int, path: str) -> np.random.Generator:
    """The randomness of one picture, by its path: the same whatever else is in the dataset."""
    name = int.from_bytes(hashlib.sha256(parquet_text(path).encode()).digest()[:8])
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_STAGE, name))))


def _label(class_id: int, box_xyxy: NDArray[np.float32]) -> Row:
    return dict(zip(("class_id", "x_min", "y_min", "x_max", "y_max"), (class_id, *box_xyxy.tolist()), strict=True))


def _sprite_row(
    job: Job, row: Row, path: str, rgb: NDArray[np.uint8], class_ids: NDArray[np.int64], boxes: Boxes, sprite: Sprite
) -> Row:
    """A row of `bank.SPRITES`."""
    x0, y0, x1, y1 = sprite.frame
    height, width = rgb.shape[:2]
    outer, class_id = boxes[sprite.outer].tolist(), int(class_ids[sprite.outer])
    members = list(sprite.members)
    inside = clip(boxes[members] - np.array([x0, y0, x0, y0], np.float32), (x1 - x0, y1 - y0))
    return {
        "id": sprite_id(parquet_text(path), class_id, outer),
        "class_id": class_id,
        "labels": [_label(int(class_ids[member]), box) for member, box in zip(members, inside, strict=True)],
        "picture": simplejpeg.encode_jpeg(np.ascontiguousarray(rgb[y0:y1, x0:x1]), QUALITY, "RGB", "444"),
        "width": x1 - x0,
        "height": y1 - y0,
        "source": row["path"],
        "group": row["group"],
        "split": "train",
        "source_width": width,
        "source_height": height,
        "source_x": x0,
        "source_y": y0,
        "centre_x": (outer[0] + outer[2]) / 2 / width,
        "foot_y": outer[3] / height,
        "scene_height": (outer[3] - outer[1]) / height,
        "truncated": sprite.truncated,
        "hidden": sprite.hidden,
    }


def _view(job: Job, rgb: NDArray[np.uint8]) -> View:
    """The background, ready for detection."""
    return whole(rgb, (rgb.shape[1], rgb.shape[0]), job.how.imgsz, _STRIDE, half_stride_pad=False)


def one_line(error: BaseException) -> str:
    """What an error says, as a reason in a table."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
