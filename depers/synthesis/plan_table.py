"""The plan of a synthesis: every decision, a row per image, and so the provenance of every pasted pixel.

OUT/plan/NNNNNN.parquet holds the images of 64 blocks, a row group for each. Image `index` is the same in every plan
with the same bank, options and seed, however many images that has.
"""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depers import storage
from depers.datasets.sprite_bank import LABEL
from depers.errors import UserError
from depers.storage.tables import plain_schema

VERSION = 3
"""Of what a row means; the plan of another version is refused, since other pixels would come of it."""
BLOCK = 64
"""Images that share a pool of sprites and a few backgrounds, and are rendered together."""
BLOCKS_PER_PART = 64
FOLDER = "synthetic"
"""Where the images are, below the folder of their split."""
BLENDINGS = ("hard", "feathered", "gaussian", "poisson")
SHAPES = ("box", "rounded", "oval")

_BOX = [(name, pa.float32()) for name in ("x_min", "y_min", "x_max", "y_max")]
OBJECT = pa.struct(
    [
        ("sprite", pa.string()),  # its id; null: a decoy, a patch of another background
        ("image", pa.string()),  # below EXTRACTED: the sprite's part, or the decoy's background
        *((name, pa.int32()) for name in ("source_x", "source_y", "source_width", "source_height")),  # a decoy's patch
        *((name, pa.int32()) for name in ("x", "y", "width", "height")),  # where the whole image goes, scaled
        *_BOX,  # the box of the edge: inside of it the object gives more than half of each pixel, outside less
        ("shape", pa.string()),  # of the edge in that box, one of SHAPES
        ("reach", pa.float32()),  # the seam's width across the edge, pixels
        ("blending", pa.string()),  # one of BLENDINGS
        ("match", pa.float32()),  # share of the difference to the surroundings' color that is taken over, 0…1
        *((name, pa.float32()) for name in ("red", "green", "blue")),  # added to that
    ]
)
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("variant", pa.int32()),  # images of one index differ in their blendings only
        ("background", pa.string()),  # below EXTRACTED
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("objects", pa.list_(OBJECT)),  # in the order in which they are painted
        ("labels", pa.list_(pa.struct([*LABEL, ("object", pa.int32())]))),  # object -1: in the background, real
        ("wanted", pa.int32()),  # objects; those that found no place are missing
        ("blur", pa.float32()),  # standard deviation in pixels, over the whole image; 0: none
        ("noise", pa.int32()),  # standard deviation in gray levels; 0: none
        ("noise_x", pa.int32()),  # where in the tile of noise the image begins
        ("noise_y", pa.int32()),
        ("quality", pa.int32()),  # of the JPEG
    ]
)


def to_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as `SCHEMA` says; column by column, which is much faster than row by row."""
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        columns.append(_lists(values, field.type) if pa.types.is_list(field.type) else pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _lists(values: Sequence[Sequence[Mapping[str, Any]]], kind: pa.ListType) -> pa.ListArray:
    """Lists of structs as an array."""
    offsets = pa.array(list(itertools.accumulate(map(len, values), initial=0)), pa.int32())
    flat = list(itertools.chain.from_iterable(values))
    fields = list(kind.value_type)
    arrays = [pa.array([each[field.name] for each in flat], field.type) for field in fields]
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


def part_uri(out: str, part: int) -> str:
    """Where part number `part` is."""
    return storage.join(out, "plan", f"{part:06d}.parquet")


def write_part(uri: str, blocks: Iterable[pa.Table]) -> None:
    """Writes the tables of a part, whole, each as a row group."""
    buffer = io.BytesIO()
    schema = plain_schema(SCHEMA).with_metadata({"depers.plan": str(VERSION)})
    with pq.ParquetWriter(buffer, schema, compression="zstd") as writer:
        for table in blocks:
            writer.write_table(table.cast(schema), row_group_size=max(1, len(table)))
    storage.write_bytes(uri, buffer.getvalue())


def open_part(uri: str) -> Any:
    """A part as pyarrow's ParquetFile; raises UserError for one of another version, or none at all."""
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        file = pq.ParquetFile(path, filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{uri}: must be a part of a plan, but cannot be read ({error})") from None
    found = (file.schema_arrow.metadata or {}).get(b"depers.plan", b"none").decode()
    if found != str(VERSION):
        raise UserError(f"{uri}: must be a plan of version {VERSION}, but its version is {found}: choose another OUT")
    return file


def file_name(index: int, variant: int, variants: int) -> str:
    """The image's path below its split, without suffix; no folder holds more than 1000 indices."""
    return f"{FOLDER}/{index // 1000:06d}/{index:09d}" + (f"-{variant}" if variants > 1 else "")
