"""Small banks of drawn images, as an extraction would leave them: what the tests of synthesis paste."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray

from depers import storage
from depers.datasets import sprite_bank
from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.labels import CLASSES, Labels, format_yolo
from depers.storage import tables

Box = tuple[float, float, float, float]
SCENE_WH = (320, 240)
# The parts of a drawn thing, as shares of its outer box.
PARTS: Mapping[int, Sequence[tuple[int, Box]]] = {
    0: [(4, (0.3, 0.6, 0.7, 0.8))],  # a car and its plate
    3: [(1, (0.25, 0.0, 0.75, 0.3)), (2, (0.35, 0.08, 0.65, 0.28))],  # a human, the head, the face
    1: [],
}


def label(class_id: int, box: Box) -> dict[str, Any]:
    return {"class_id": class_id, **dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))}


def sprite(
    number: int,
    class_id: int,
    size_wh: tuple[int, int],
    *,
    margin: int = 8,
    parts: Sequence[tuple[int, Box]] | None = None,
    source_wh: tuple[int, int] = SCENE_WH,
    corner: tuple[int, int] = (40, 60),
    source: str = "",
    **changes: Any,
) -> dict[str, Any]:
    """A row of the bank without its image: an outer box of `size_wh` with its `parts` inside."""
    wide, high = size_wh
    labels = [label(class_id, (margin, margin, margin + wide, margin + high))]
    for part, (x0, y0, x1, y1) in PARTS.get(class_id, []) if parts is None else parts:
        box = margin + round(x0 * wide), margin + round(y0 * high), margin + round(x1 * wide), margin + round(y1 * high)
        labels.append(label(part, box))
    row = {
        "id": f"{number:032x}",
        "class_id": class_id,
        "labels": labels,
        "split": "train",
        "hidden": 0.0,
        "unlabelled": [],
    }
    row |= {"width": wide + 2 * margin, "height": high + 2 * margin, "source": source or f"{number % 5}.jpg"}
    row |= {"source_width": source_wh[0], "source_height": source_wh[1], "truncated": False}
    row |= {"source_x": corner[0] - margin, "source_y": corner[1] - margin}
    row |= {"center_x": (corner[0] + wide / 2) / source_wh[0], "foot_y": (corner[1] + high) / source_wh[1]}
    row |= {"scene_height": high / source_wh[1], "group": row["source"], "unlabelled": []}
    return row | changes


def draw(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The image of a sprite: gray around it, stripes of a color of its own in it, its parts in others."""
    rng = np.random.default_rng(int(row["id"], 16))
    image = np.full((row["height"], row["width"], 3), 120, np.uint8)
    for entry in row["labels"]:
        x0, y0, x1, y1 = (round(entry[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
        image[y0:y1, x0:x1] = rng.integers(30, 226, 3)
        image[y0:y1:4, x0:x1] = rng.integers(0, 256, 3)
    return image


def some_sprites(count: int = 24) -> list[dict[str, Any]]:
    """Cars, humans and single heads in several sizes and places."""
    rows = []
    for number in range(count):
        class_id = (0, 3, 3, 1)[number % 4]
        wide, high = {0: (64, 36), 3: (26, 64), 1: (16, 18)}[class_id]
        grown = 0.7 + 0.08 * (number % 9)
        size = round(wide * grown), round(high * grown)
        rows.append(sprite(number, class_id, size, corner=(20 + 9 * number % 200, 50 + 5 * number % 90)))
    return rows


def background(number: int, size_wh: tuple[int, int] = SCENE_WH, **changes: Any) -> dict[str, Any]:
    """A row of the table of backgrounds."""
    row = {"source": f"{number}.jpg", "group": f"{number}.jpg", "status": "used", "reason": None, "coverage": 0.1}
    row |= {"path": f"backgrounds/{number:03d}.jpg", "width": size_wh[0], "height": size_wh[1]}
    return row | {"objects": 2 + number % 3, "labels": [], "unlabelled": []} | changes


def seen(class_id: int, box: Box, truncated: bool = False, outer: bool = True) -> dict[str, Any]:
    """A label of a source, as `sprite_bank.SOURCE_LABEL`."""
    return {**label(class_id, box), "outer": outer, "truncated": truncated}


def with_scenes(sprites: Sequence[Mapping[str, Any]], backgrounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of all images: the backgrounds, and the sprites' sources as skipped ones, with their labels."""
    rows = {row["source"]: {**row, "scene": list(row.get("scene", []))} for row in backgrounds}
    for entry in sprites:
        if entry["source"] not in rows:
            skipped = {
                "source": entry["source"],
                "group": entry["group"],
                "status": "skipped",
                "scene": [],
                "unlabelled": [],
            }
            rows[entry["source"]] = skipped | {"width": entry["source_width"], "height": entry["source_height"]}
        corner = entry["source_x"], entry["source_y"]
        for number, part in enumerate(entry["labels"]):
            box = [part[n] + corner[i % 2] for i, n in enumerate(("x_min", "y_min", "x_max", "y_max"))]
            xyxy = box[0], box[1], box[2], box[3]
            rows[entry["source"]]["scene"].append(seen(part["class_id"], xyxy, entry["truncated"], not number))
    return [rows[source] for source in sorted(rows)]


def scenery(number: int, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """An image without things: a slope from one color to another."""
    rng = np.random.default_rng(number)
    low, high = rng.integers(40, 120, 3), rng.integers(120, 200, 3)
    rows = np.linspace(low, high, size_wh[1])[:, None]
    return np.repeat(rows, size_wh[0], axis=1).astype(np.uint8)


def write_bank(
    root: str,
    sprites: Sequence[Mapping[str, Any]],
    backgrounds: Sequence[Mapping[str, Any]],
    dataset: str,
    parts: int = 2,
    names: Sequence[str] = CLASSES,
) -> str:
    """Writes an extraction below `root`, with images, and gives its URI."""
    for number, row in enumerate(backgrounds):
        if row["path"]:
            jpeg = simplejpeg.encode_jpeg(scenery(number, (row["width"], row["height"])), 95, "RGB", "444")
            storage.write_bytes(storage.join(root, row["path"]), jpeg)
    table = pa.Table.from_pylist(with_scenes(sprites, backgrounds), schema=sprite_bank.BACKGROUNDS)
    tables.write_table(storage.join(root, "backgrounds.parquet"), table)
    rows_with_images = [{**row, "image": simplejpeg.encode_jpeg(draw(row), 95, "RGB", "444")} for row in sprites]
    paths = []
    for part in range(parts):
        rows = rows_with_images[part::parts]
        paths.append(f"sprites/{part:03d}.parquet")
        tables.write_table(storage.join(root, paths[-1]), pa.Table.from_pylist(rows, schema=sprite_bank.SPRITES))
    counts = {"backgrounds": len(backgrounds), "sprites": len(sprites)}
    sprite_bank.write_marker(sprite_bank.SpriteBank(root, tuple(names), dataset, {}, counts, tuple(paths)))
    return root


def write_dataset(root: str, images: int = 3) -> str:
    """A small real dataset with both splits, and gives its URI."""
    for split in ("train", "val"):
        for number in range(images):
            jpeg = simplejpeg.encode_jpeg(scenery(number, (64, 48)), 90, "RGB", "420")
            storage.write_bytes(storage.join(root, "images", split, f"{split}{number}.jpg"), jpeg)
            text = format_yolo(Labels.of([number % 5], [[0.5, 0.5, 0.4, 0.4]]))
            storage.write_bytes(storage.join(root, "labels", split, f"{split}{number}.txt"), text.encode())
    write_data_yaml(root, CLASSES)
    return root
