"""The plan of a synthesis: every decision, a row per image, and so the provenance of every pasted pixel.

OUT/plan/NNNNNN.parquet holds the images of 64 blocks, a row group for each. Image `index` is the same in every plan
with the same bank, options and seed, however many images that has.
"""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depers import storage
from depers.datasets.sprite_bank import LABEL
from depers.errors import UserError
from depers.storage.tables import column, open_table, plain_schema, schema

VERSION = 5
"""Of what a row means; the plan of another version is refused, since other pixels would come of it."""
BLOCK = 64
"""Images that share a pool of sprites and a few backgrounds, and are rendered together."""
BLOCKS_PER_PART = 64
FOLDER = "synthetic"
"""Where the images are, below the folder of their split."""
BLENDINGS = ("hard", "feathered", "gaussian", "poisson")
SHAPES = ("box", "rounded", "oval")

OBJECT = pa.struct(
    [
        column("sprite", pa.string(), "id of the sprite; null: a distractor, a patch of another background"),
        column("image", pa.string(), "path below EXTRACTED: of the sprite's part, or of the distractor's background"),
        column("source_x", pa.int32(), "left edge of a distractor's patch in its background; of a sprite 0"),
        column("source_y", pa.int32(), "upper edge of a distractor's patch in its background; of a sprite 0"),
        column("source_width", pa.int32(), "of the sprite's whole image or the distractor's patch, pixels"),
        column("source_height", pa.int32(), "of the sprite's whole image or the distractor's patch, pixels"),
        column("x", pa.int32(), "where the left edge of the scaled image goes"),
        column("y", pa.int32(), "where the upper edge of the scaled image goes"),
        column("width", pa.int32(), "of the scaled image, pixels"),
        column("height", pa.int32(), "of the scaled image, pixels"),
        column("x_min", pa.float32(), "left side of the box of the edge: inside it the object gives most of a pixel"),
        column("y_min", pa.float32(), "upper side of the box of the edge"),
        column("x_max", pa.float32(), "right side of the box of the edge"),
        column("y_max", pa.float32(), "lower side of the box of the edge"),
        column("shape", pa.string(), "of the edge in that box: `box`, `rounded` or `oval`"),
        column("reach", pa.float32(), "width of the seam across the edge, pixels"),
        column("blending", pa.string(), "`hard`, `feathered`, `gaussian` or `poisson`"),
        column("match", pa.float32(), "share of the difference to the surroundings' color that is taken over, 0…1"),
        column("red", pa.float32(), "added to that, levels"),
        column("green", pa.float32(), "added to that, levels"),
        column("blue", pa.float32(), "added to that, levels"),
    ]
)
"""An object that is pasted: a sprite or a distractor, in pixels of the synthetic image."""
PLAN_LABEL = pa.struct(
    [*LABEL, column("object", pa.int32(), "number of its object; -1: it is in the background, real")]
)
"""A label of a synthetic image."""
SCHEMA = schema(
    column("index", pa.int64(), "number of the image"),
    column("variant", pa.int32(), "images of one index differ in their blendings only"),
    column("background", pa.string(), "path of the background below EXTRACTED"),
    column("width", pa.int32(), "of the image, pixels"),
    column("height", pa.int32(), "of the image, pixels"),
    column("objects", pa.list_(OBJECT), "in the order in which they are painted"),
    column("labels", pa.list_(PLAN_LABEL), "all labels of the image, shrunk to what can be seen"),
    column(
        "ignored",
        pa.list_(LABEL),
        "regions where objects of a class may be without a label: all of the image, or what was pasted",
    ),
    column("wanted", pa.int32(), "objects to paste; those that found no place are missing from `objects`"),
    column("blur", pa.float32(), "standard deviation over the whole image, pixels; 0: none"),
    column("noise", pa.int32(), "standard deviation, gray levels; 0: none"),
    column("noise_x", pa.int32(), "where the image begins in the tile of noise"),
    column("noise_y", pa.int32(), "where the image begins in the tile of noise"),
    column("quality", pa.int32(), "of the JPEG"),
)
"""The plan: a row per image and variant."""


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of `SCHEMA`; column by column, which is much faster than row by row."""
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        columns.append(_lists(values, field.type) if pa.types.is_list(field.type) else pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _lists(values: Sequence[Sequence[Mapping[str, Any]]], kind: pa.ListType) -> pa.ListArray:
    """Return lists of structs as an array."""
    offsets = pa.array(list(itertools.accumulate(map(len, values), initial=0)), pa.int32())
    flat = list(itertools.chain.from_iterable(values))
    fields = list(kind.value_type)
    arrays = [pa.array([value[field.name] for value in flat], field.type) for field in fields]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


def part_uri(out: str, part: int) -> str:
    """Return the URI of part number `part`."""
    return storage.join(out, "plan", f"{part:06d}.parquet")


def write_part(uri: str, blocks: Iterable[pa.Table]) -> None:
    """Write the tables of a part, whole, each as a row group."""
    buffer = io.BytesIO()
    written_schema = plain_schema(SCHEMA).with_metadata({"depers.plan": str(VERSION)})
    with pq.ParquetWriter(buffer, written_schema, compression="zstd") as writer:
        for table in blocks:
            writer.write_table(table.cast(written_schema), row_group_size=max(1, len(table)))
    storage.write_bytes(uri, buffer.getvalue())


@contextmanager
def open_part(uri: str) -> Iterator[pq.ParquetFile]:
    """Open a part to be read group by group; raise UserError for one of another version, or none at all."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_table(uri))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{uri}: must be a part of a plan, but cannot be read ({error})") from None
        version = (file.schema_arrow.metadata or {}).get(b"depers.plan", b"none").decode()
        if version != str(VERSION):
            problem = f"must be a plan of version {VERSION}, but its version is {version}: choose another OUT"
            raise UserError(f"{uri}: {problem}")
        yield file


def file_name(index: int, variant: int, variants: int) -> str:
    """Return an image's path below its split, without suffix; no folder holds more than 1000 indices."""
    return f"{FOLDER}/{index // 1000:06d}/{index:09d}" + (f"-{variant}" if variants > 1 else "")
