"""What extraction leaves and synthesis reads: backgrounds and sprites, as files and tables in one folder.

EXTRACTED/backgrounds/…                JPEGs, the labelled boxes removed (or kept in place, with their labels)
EXTRACTED/backgrounds.parquet          a row per image of the training split, `BACKGROUNDS`
EXTRACTED/sprites/PART.parquet         a row per sprite, the image in it, `SPRITES`
EXTRACTED/extract.json                 names of the classes, options, counts; written last: it says that all is there

Boxes are pixels, the origin at the top left, in the frame that the column's comment names.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.errors import UserError
from depers.storage import tables as storage_tables

VERSION = 2
"""Of this layout; a folder of another version is refused, not guessed at."""

LABEL = pa.struct([("class_id", pa.int32())] + [(n, pa.float32()) for n in ("x_min", "y_min", "x_max", "y_max")])
SEEN = pa.struct([*LABEL, ("outer", pa.bool_()), ("truncated", pa.bool_())])
"""A label of a source: whether it belongs to no other, and whether the frame cuts it."""

BACKGROUNDS = pa.schema(
    [
        ("source", pa.string()),  # the image's path in the dataset's folder of training images
        ("group", pa.string()),  # images of one group (camera, day) are alike
        ("status", pa.string()),  # `used`, or with a reason `left out` or (not to be read) `failed`
        ("reason", pa.string()),
        ("path", pa.string()),  # of the background, below EXTRACTED; null where it was left out
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("coverage", pa.float32()),  # share of the image that labelled boxes cover, 0…1
        ("objects", pa.int32()),  # outer boxes in the source: what a scene of this kind holds
        ("scene", pa.list_(SEEN)),  # all labels of the source, also of what was too small to be cut, in its pixels
        ("labels", pa.list_(LABEL)),  # objects that are still there, in pixels of the background; else empty
    ]
)

SPRITES = pa.schema(
    [
        ("id", pa.string()),  # a hash of the source and its box, the same in every run
        ("class_id", pa.int32()),  # of the outer box
        ("labels", pa.list_(LABEL)),  # the outer box first, then those inside it; in pixels of the sprite's image
        ("image", pa.binary()),  # JPEG, quality 95, 4:4:4: the outer box with its context margin
        ("width", pa.int32()),  # of the image, so with the margin
        ("height", pa.int32()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),  # always `train`; a reader refuses anything else
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_x", pa.int32()),  # where the image's top left corner lies in the source
        ("source_y", pa.int32()),
        ("center_x", pa.float32()),  # middle of the outer box, as a share of the source's width
        ("foot_y", pa.float32()),  # lower edge of the outer box, as a share of the source's height
        ("scene_height", pa.float32()),  # height of the outer box, as a share of the source's height
        ("truncated", pa.bool_()),  # the frame cuts it
        ("hidden", pa.float32()),  # share of the outer box that other outer boxes cover, 0…1
    ]
)
"""One table per part. A reader refuses a part with another split than `train`."""

METADATA = tuple(name for name in SPRITES.names if name != "image")
"""The columns of `SPRITES` that are small: what a plan needs of every sprite."""

USED, LEFT_OUT, FAILED = "used", "left out", "failed"
_MARKER = "extract.json"


class Extracted(NamedTuple):
    """A finished extraction: where it is, and what its extract.json says."""

    root: str
    class_names: tuple[str, ...]
    """In the order of the ids."""
    dataset: str
    """What it was taken from: the dataset's folder or YAML file, absolute."""
    options: dict[str, Any]
    """Those that decided what was written, by their names."""
    counts: dict[str, int]
    """`images` = `backgrounds` + `left_out` + `failed`; `sprites`, and of these `truncated` and `mostly_hidden`."""
    parts: tuple[str, ...]
    """The tables of sprites, below the root, in order."""


def write_extracted(extracted: Extracted) -> None:
    """Writes extract.json, which says that all the rest is there."""
    content = {"version": VERSION} | extracted._asdict()
    del content["root"]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    storage.write_bytes(storage.join(extracted.root, _MARKER), text.encode())


def withdraw(root: str) -> None:
    """Removes extract.json, before anything that it vouches for is changed."""
    storage.delete(storage.join(root, _MARKER))


def open_extracted(uri: str) -> Extracted:
    """The extraction in a folder. Raises UserError where there is none, or it is unfinished or of another version."""
    root = storage.check(uri, "EXTRACTED")
    marker = storage.join(root, _MARKER)
    try:
        content = json.loads(storage.read_bytes(marker))
    except (FileNotFoundError, NotADirectoryError):
        if storage.is_dir(storage.join(root, "_depers")):
            hint = "run `depers extract` again to complete it"
            raise UserError(f"{root}: the extraction is not finished: {hint}") from None
        wanted = "a folder that `depers extract` has written"
        found = f"it has no {_MARKER}" if storage.exists(root) else "nothing is there"
        raise UserError(f"{root}: must be {wanted}, but {found}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{marker}: cannot be read ({' '.join(str(error).split())})") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{marker}: version must be {VERSION}, but is {version}: extract again with this depers")
    try:
        return Extracted(
            root=root,
            class_names=tuple(content["class_names"]),
            dataset=content["dataset"],
            options=content["options"],
            counts=content["counts"],
            parts=tuple(content["parts"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{marker}: must hold what `depers extract` writes, but lacks {error}") from None


def read_backgrounds(extracted: Extracted) -> pa.Table:
    """All rows of `BACKGROUNDS`, sorted by source, also those left out. Raises UserError where it is damaged."""
    return _read(storage.join(extracted.root, "backgrounds.parquet"), BACKGROUNDS, None)


def read_sprites(extracted: Extracted, columns: Sequence[str] = METADATA) -> pa.Table:
    """All sprites, sorted by source and id, in the given columns; their images would fill the memory.

    Raises UserError where a part is missing or damaged, or holds a sprite of another split than `train`.
    """
    wanted = list(dict.fromkeys([*columns, "source", "id"]))
    tables = list(iterate_sprites(extracted, wanted))
    table = pa.concat_tables(tables) if tables else SPRITES.empty_table().select(wanted)
    return table.sort_by([("source", "ascending"), ("id", "ascending")]).select(list(columns))


def iterate_sprites(extracted: Extracted, columns: Sequence[str] = tuple(SPRITES.names)) -> Iterator[pa.Table]:
    """The sprites part by part, with their images unless `columns` says otherwise. Raises as `read_sprites`."""
    for part in extracted.parts:
        yield read_part(extracted, part, columns)


def read_part(extracted: Extracted, part: str, columns: Sequence[str] = tuple(SPRITES.names)) -> pa.Table:
    """The sprites of one of `extracted.parts`. Raises as `read_sprites`."""
    uri = storage.join(extracted.root, part)
    table = _read(uri, SPRITES, list(dict.fromkeys([*columns, "split"])))
    others = pc.unique(table["split"]).to_pylist()
    if set(others) - {"train"}:
        raise UserError(f"{uri}: sprites must be of the split train, but some are of {', '.join(map(str, others))}")
    return table.select(list(columns))


def _read(uri: str, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    """A table with the columns of `schema`; columns that a later depers has added are left aside."""
    try:
        return storage_tables.read_table(uri, columns or schema.names).cast(
            pa.schema([schema.field(name) for name in columns or schema.names])
        )
    except FileNotFoundError:
        raise UserError(f"{uri}: is missing, though the extraction was finished: extract again") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{uri}: must be a table of an extraction, but {' '.join(str(error).split())}") from None


def sprite_id(source: str, class_id: int, box_xyxy: Sequence[float]) -> str:
    """The name of a sprite: 24 hexadecimal digits of a hash of its source, class and outer box in tenths of a pixel."""
    text = "\n".join([source, str(class_id), *(f"{edge:.1f}" for edge in box_xyxy)])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
