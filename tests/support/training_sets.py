"""Datasets of small street scenes for the tests of training."""

from collections.abc import Sequence
from pathlib import Path

import cv2

from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.labels import CLASSES
from depers.street_scenes.scenes import draw_scene


def write_dataset(
    root: Path,
    count: int = 6,
    val_count: int = 3,
    names: Sequence[str] = CLASSES,
    size_wh: tuple[int, int] | None = None,
    first: int = 0,
) -> Path:
    """A dataset of drawn scenes, half of them wide, half square, or all `size_wh`; only `names` are labelled."""
    for split, numbers in (("train", range(first, first + count)), ("val", range(100_000, 100_000 + val_count))):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in numbers:
            scene = draw_scene(number, seed=5, size_wh=size_wh or ((256, 160) if number % 2 else (192, 192)))
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(root / "images" / split / f"{number}.jpg"), scene.image[..., ::-1])
            boxes = scene.boxes_xyxy / [width, height, width, height]
            lines = []
            for class_id, box in zip(scene.class_ids.tolist(), boxes.tolist(), strict=True):
                if CLASSES[class_id] in names:
                    x, y, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
                    lines.append(f"{names.index(CLASSES[class_id])} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
            (root / "labels" / split / f"{number}.txt").write_text("".join(lines))
    write_data_yaml(root, names)
    return root
