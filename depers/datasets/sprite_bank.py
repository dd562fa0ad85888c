"""What extraction leaves and synthesis reads: backgrounds and sprites, as files and tables in one folder.

EXTRACTED/backgrounds/…                JPEGs, the labelled boxes removed (or kept in place, with their labels)
EXTRACTED/backgrounds.parquet          a row per image of the training split, `BACKGROUNDS`
EXTRACTED/sprites/PART.parquet         a row per sprite, the image in it, `SPRITES`
EXTRACTED/extract.json                 names of the classes, options, counts; written last: it says that all is there

Boxes are pixels, the origin at the top left, in the frame that the column's description names.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.errors import UserError, one_line
from depers.storage.tables import column, read_table, schema

VERSION = 4
"""Of this layout; a folder of another version is refused, not guessed at."""

LABEL = pa.struct(
    [
        column("class_id", pa.int32(), "number of the class in the `class_names` of extract.json"),
        column("x_min", pa.float32(), "left edge, pixels"),
        column("y_min", pa.float32(), "upper edge, pixels"),
        column("x_max", pa.float32(), "right edge, pixels"),
        column("y_max", pa.float32(), "lower edge, pixels"),
    ]
)
"""A labelled box."""
SOURCE_LABEL = pa.struct(
    [
        *LABEL,
        column("outer", pa.bool_(), "whether it belongs to no other label's sprite"),
        column("truncated", pa.bool_(), "whether the image's frame cuts it"),
    ]
)
"""A label of a source image."""

BACKGROUNDS = schema(
    column("source", pa.string(), "path of the image in the dataset's folder of training images"),
    column("group", pa.string(), "images of one group (camera, day) are alike"),
    column("status", pa.string(), "`used`, or with a reason `skipped` or (not to be read) `failed`"),
    column("reason", pa.string(), "why there is no background; null where there is one"),
    column("path", pa.string(), "path of the background below EXTRACTED; null where there is none"),
    column("width", pa.int32(), "of the image and its background, pixels"),
    column("height", pa.int32(), "of the image and its background, pixels"),
    column("coverage", pa.float32(), "share of the image that labelled boxes and ignore regions cover, 0…1"),
    column("objects", pa.int32(), "number of outer boxes: how many objects a scene of this kind holds"),
    column("scene", pa.list_(SOURCE_LABEL), "all labels of the image, also of objects too small for a sprite"),
    column("labels", pa.list_(LABEL), "objects that are still in the background; else empty"),
    column(
        "unlabelled",
        pa.list_(pa.int32()),
        "classes of which it may show objects without a label: no background for these",
    ),
)
"""The table of backgrounds: a row per image of the training split; boxes in pixels of the image."""

SPRITES = schema(
    column("id", pa.string(), "hash of source, class and outer box, the same in every run"),
    column("class_id", pa.int32(), "class of the outer box"),
    column("labels", pa.list_(LABEL), "the outer box first, then those inside it; in pixels of the sprite's image"),
    column("image", pa.binary(), "JPEG, quality 95, 4:4:4: the outer box with its context margin"),
    column("width", pa.int32(), "of the sprite's image, so with the margin, pixels"),
    column("height", pa.int32(), "of the sprite's image, so with the margin, pixels"),
    column("source", pa.string(), "path of the image it was cut from, in the dataset's folder of training images"),
    column("group", pa.string(), "group of the source"),
    column("split", pa.string(), "always `train`; a reader refuses anything else"),
    column("source_width", pa.int32(), "of the source, pixels"),
    column("source_height", pa.int32(), "of the source, pixels"),
    column("source_x", pa.int32(), "where the left edge of the sprite's image lies in the source"),
    column("source_y", pa.int32(), "where the upper edge of the sprite's image lies in the source"),
    column("center_x", pa.float32(), "middle of the outer box, as a share of the source's width"),
    column("foot_y", pa.float32(), "lower edge of the outer box, as a share of the source's height"),
    column("scene_height", pa.float32(), "height of the outer box, as a share of the source's height"),
    column("truncated", pa.bool_(), "whether the source's frame cuts it"),
    column("hidden", pa.float32(), "share of the outer box that other outer boxes cover, 0…1"),
    column("unlabelled", pa.list_(pa.int32()), "classes of which its image may show objects without a label"),
)
"""The table of a part: a row per sprite. A reader refuses a part with another split than `train`."""

METADATA = tuple(name for name in SPRITES.names if name != "image")
"""The columns of `SPRITES` that are small: what a plan needs of every sprite."""

_MARKER = "extract.json"


class SpriteBank(NamedTuple):
    """A finished extraction: where it is, and what its extract.json says."""

    root: str
    class_names: tuple[str, ...]
    """In the order of the ids."""
    dataset: str
    """What it was taken from: the dataset's folder or YAML file, absolute."""
    options: dict[str, Any]
    """Those that decided what was written, by their names."""
    counts: dict[str, int]
    """`images` = `backgrounds` + `skipped` + `failed`; `sprites`, and of these `truncated` and `mostly_hidden`."""
    parts: tuple[str, ...]
    """The tables of sprites, below the root, in order."""
    content_sha256: str = ""
    """A digest of all backgrounds, labels and sprites."""


def write_marker(bank: SpriteBank) -> None:
    """Write extract.json, which says that all the rest is there."""
    content = {"version": VERSION} | bank._asdict()
    del content["root"]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(bank.root, _MARKER), text.encode())


def withdraw(root: str) -> None:
    """Remove extract.json, before anything that it vouches for is changed."""
    storage.delete(storage.join(root, _MARKER))


def open_bank(uri: str) -> SpriteBank:
    """Return the extraction in a folder; raise UserError where there is none, or an unfinished or an older one."""
    root = storage.check(uri, "EXTRACTED")
    marker = storage.join(root, _MARKER)
    try:
        content = json.loads(storage.read_bytes(marker))
    except (FileNotFoundError, NotADirectoryError):
        if storage.is_dir(storage.join(root, "_depers")):
            hint = "run `depers extract` again to complete it"
            raise UserError(f"{root}: the extraction is not finished: {hint}") from None
        requirement = "must be a folder that `depers extract` has written"
        problem = f"it has no {_MARKER}" if storage.exists(root) else "nothing is there"
        raise UserError(f"{root}: {requirement}, but {problem}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{marker}: cannot be read ({one_line(error)})") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{marker}: version must be {VERSION}, but is {version}: extract again with this depers")
    try:
        return SpriteBank(
            root=root,
            class_names=tuple(content["class_names"]),
            dataset=content["dataset"],
            options=content["options"],
            counts=content["counts"],
            parts=tuple(content["parts"]),
            content_sha256=content["content_sha256"],
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{marker}: must hold what `depers extract` writes, but lacks {error}") from None


def read_backgrounds(bank: SpriteBank) -> pa.Table:
    """Return all rows of `BACKGROUNDS`, sorted by source, also those skipped; raise UserError where it is damaged."""
    return _read(storage.join(bank.root, "backgrounds.parquet"), BACKGROUNDS, BACKGROUNDS.names)


def read_sprites(bank: SpriteBank, columns: Sequence[str] = METADATA) -> pa.Table:
    """Return all sprites, sorted by source and id, in these columns; their images would fill the memory.

    Raise UserError where a part is missing or damaged, or holds a sprite of another split than `train`.
    """
    names = list(dict.fromkeys([*columns, "source", "id"]))
    tables = list(iterate_sprites(bank, names))
    table = pa.concat_tables(tables) if tables else SPRITES.empty_table().select(names)
    return table.sort_by([("source", "ascending"), ("id", "ascending")]).select(list(columns))


def iterate_sprites(bank: SpriteBank, columns: Sequence[str] = tuple(SPRITES.names)) -> Iterator[pa.Table]:
    """Yield the sprites part by part, with their images unless `columns` says otherwise; raise as `read_sprites`."""
    for part in bank.parts:
        yield read_part(bank, part, columns)


def read_part(bank: SpriteBank, part: str, columns: Sequence[str] = tuple(SPRITES.names)) -> pa.Table:
    """Return the sprites of one of `bank.parts`; raise as `read_sprites`."""
    uri = storage.join(bank.root, part)
    table = _read(uri, SPRITES, list(dict.fromkeys([*columns, "split"])))
    splits = pc.unique(table["split"]).to_pylist()
    if set(splits) - {"train"}:
        raise UserError(f"{uri}: sprites must be of the split train, but some are of {', '.join(map(str, splits))}")
    return table.select(list(columns))


def _read(uri: str, table_schema: pa.Schema, names: Sequence[str]) -> pa.Table:
    """Return columns of a table, by their names; columns that a later depers has added are left aside."""
    try:
        return read_table(uri, list(names)).cast(pa.schema([table_schema.field(name) for name in names]))
    except FileNotFoundError:
        raise UserError(f"{uri}: is missing, though the extraction was finished: extract again") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri}: must be a table of an extraction, but {one_line(error)}") from None


def sprite_id(source: str, class_id: int, box_xyxy: Sequence[float]) -> str:
    """Return the name of a sprite: 24 hex digits of a hash of its source, class and outer box in tenths of a pixel."""
    text = "\n".join([source, str(class_id), *(f"{edge:.1f}" for edge in box_xyxy)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
