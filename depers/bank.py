"""What extraction leaves and synthesis reads: backgrounds and sprites, as files and tables in one folder.

EXTRACTED/backgrounds/NNN/…            pictures, the labelled boxes removed (or kept in place, with their labels)
EXTRACTED/backgrounds.parquet          a row per picture of the training split, `BACKGROUNDS`
EXTRACTED/sprites/PART.parquet         a row per sprite, the picture in it, `SPRITES`
EXTRACTED/extract.json                 names of the classes, options, counts; written last: it says that all is there

Boxes are pixels, the origin at the top left, in the frame that the column's comment names.
"""

import pyarrow as pa

VERSION = 1
"""Of this layout; a folder of another version is refused, not guessed at."""

LABEL = pa.struct([("class_id", pa.int32())] + [(n, pa.float32()) for n in ("x_min", "y_min", "x_max", "y_max")])

BACKGROUNDS = pa.schema(
    [
        ("source", pa.string()),  # the picture's path in the dataset's folder of training pictures
        ("group", pa.string()),  # pictures of one group (camera, day) are alike
        ("status", pa.string()),  # `used`, or `left out` with a reason
        ("reason", pa.string()),
        ("path", pa.string()),  # of the background, below EXTRACTED; null where it was left out
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("coverage", pa.float32()),  # share of the picture that labelled boxes cover, 0…1
        ("objects", pa.int32()),  # outer boxes in the source: what a scene of this kind holds
        ("labels", pa.list_(LABEL)),  # objects that are still there, in pixels of the background; else empty
    ]
)

SPRITES = pa.schema(
    [
        ("id", pa.string()),  # a hash of the source and its box, the same in every run
        ("class_id", pa.int32()),  # of the outer box
        ("labels", pa.list_(LABEL)),  # the outer box first, then those inside it; in pixels of the sprite's picture
        ("picture", pa.binary()),  # JPEG, quality 95, 4:4:4: the outer box with its context margin
        ("width", pa.int32()),  # of the picture, so with the margin
        ("height", pa.int32()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),  # always `train`; a reader refuses anything else
        ("source_width", pa.int32()),
        ("source_height", pa.int32()),
        ("source_x", pa.int32()),  # where the picture's top left corner lies in the source
        ("source_y", pa.int32()),
        ("centre_x", pa.float32()),  # middle of the outer box, as a share of the source's width
        ("foot_y", pa.float32()),  # lower edge of the outer box, as a share of the source's height
        ("scene_height", pa.float32()),  # height of the outer box, as a share of the source's height
        ("truncated", pa.bool_()),  # the frame cuts it
        ("hidden", pa.float32()),  # share of the outer box that other outer boxes cover, 0…1
    ]
)
