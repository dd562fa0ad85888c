"""Draw labelled street scenes: the data of the demo, the benchmarks and the tests.

A scene is a pure function of (seed, index). Labels follow the pixels that can be seen: every thing is numbered in
the canvas while it is drawn, and what later things hide is gone from its box, or the box from the labels.
"""

import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depers.datasets.labels import CLASSES
from depers.seeds import Branch, random_for
from depers.street_scenes.backdrop import (
    PAVEMENT,
    ROAD_HALF_WIDTH,
    draw_avenue,
    draw_crossroad,
    draw_light,
    draw_post,
    draw_sky,
    draw_tree,
)
from depers.street_scenes.canvas import Camera, Canvas
from depers.street_scenes.cars import BODY, PLATE, Car, draw_car
from depers.street_scenes.people import FACE, HEAD, Person, draw_person

SIZES_WH = ((720, 405), (640, 480), (512, 512), (640, 360), (480, 640), (576, 432), (800, 450))
"""The sizes of images to choose from, in pixels."""

_PARTS = 4  # numbers that one thing takes in the owner map: body, head, face, plate
_MIN_SIDE = {"car": 14, "head": 12, "face": 12, "human": 20, "carplate": 7}  # px; of what is seen
_MIN_VISIBLE = {"car": 0.3, "head": 0.4, "face": 0.5, "human": 0.3, "carplate": 0.6}  # of what would be seen alone


class Scene(NamedTuple):
    """A drawing: `image` uint8 RGB (H, W, 3), `class_ids` int64 (N,) into CLASSES, `boxes_xyxy` float32 (N, 4)."""

    image: NDArray[np.uint8]
    class_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float32]


def draw_scene(index: int, seed: int, size_wh: tuple[int, int] | None = None) -> Scene:
    """Draw scene number `index` of the series `seed`, in a size of its own unless `size_wh` says one."""
    rng = random_for(seed, Branch.STREET_SCENE, index)
    drawn_size = SIZES_WH[rng.integers(len(SIZES_WH))]
    width, height = size_wh or drawn_size
    portrait = height > width
    camera = Camera(
        (width, height),
        focal=max(width, height) * rng.uniform(0.8, 1.6),
        horizon=height * (rng.uniform(0.22, 0.42) if portrait else rng.uniform(0.2, 0.48)),
        height=rng.uniform(1.5, 2.2) if rng.random() < 0.5 else rng.uniform(2.2, 4.5),
    )
    canvas = Canvas(camera, draw_light(rng))
    draw_sky(canvas, rng)
    depth = None
    if rng.random() < 0.55:
        draw_avenue(canvas, rng)
    else:
        depth = draw_crossroad(canvas, rng)
    things = _furnish(camera, depth, rng)
    for x, z, thing in things:
        if isinstance(thing, Car):
            canvas.cast(x, z, *(1.2, 2.3) if abs(np.cos(thing.heading)) > 0.7 else (2.3, 1.2))
        else:
            canvas.cast(x, z, 0.35, 0.2)
    canvas.lay_shadows()
    labels = _SceneLabels(canvas)
    for x, z, thing in sorted(things, key=lambda item: -item[1]):
        if isinstance(thing, Car):
            canvas.thing = labels.new_thing()
            draw_car(canvas, thing, rng)
            labels.complete_thing({"car": (BODY, PLATE), "carplate": (PLATE,)})
        elif isinstance(thing, Person):
            canvas.thing = labels.new_thing()
            draw_person(canvas, thing, rng)
            labels.complete_thing({"human": (BODY, HEAD, FACE), "head": (HEAD, FACE), "face": (FACE,)})
        elif thing == "tree":
            canvas.thing = 0
            draw_tree(canvas, x, z, rng)
        else:
            canvas.thing = 0
            draw_post(canvas, x, z, rng)
    class_ids, boxes = labels.visible()
    return Scene(canvas.develop(rng), class_ids, boxes)


def write_raw(out: Path, count: int, seed: int, first: int = 0) -> None:
    """Write `count` scenes, from number `first` on, in the competition's raw layout.

    `out/images/NAME.jpg` and, per image and class, `out/labels/NAME_CLASS..txt` in YOLO text with the class id 0.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    (out / "labels").mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        scene = draw_scene(index, seed)
        write_scene(out, f"street-{seed}-{index:05d}", scene)


def write_scene(out: Path, name: str, scene: Scene) -> None:
    """Write one scene into the raw layout, see `write_raw`; its JPEG quality is 80 to 95 by its name's hash."""
    height, width = scene.image.shape[:2]
    quality = 80 + sum(name.encode()) % 16
    success, data = cv2.imencode(".jpg", scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert success
    (out / "images" / f"{name}.jpg").write_bytes(data.tobytes())
    for class_id, class_name in enumerate(CLASSES):
        boxes = scene.boxes_xyxy[scene.class_ids == class_id].astype(np.float64) / [width, height, width, height]
        lines = [f"0 {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n" for x0, y0, x1, y1 in boxes]
        if lines:
            (out / "labels" / f"{name}_{class_name}..txt").write_text("".join(lines), encoding="utf-8")


def _furnish(
    camera: Camera, depth: float | None, rng: np.random.Generator
) -> list[tuple[float, float, Car | Person | str]]:
    """Return who and what stands where, as (x, z, thing) in metres; `depth` is that of the houses of a crossroad."""
    things: list[tuple[float, float, Car | Person | str]] = []
    circles: list[tuple[float, float, float]] = []
    wide = camera.size_wh[0] / 2 / camera.focal  # half the image's width at 1 m
    farthest = min(depth - 0.8 if depth else 45.0, 45.0)
    nearest = max(camera.focal * camera.height / (camera.size_wh[1] * 1.35 - camera.horizon), 2.4)

    def free(x: float, z: float, radius: float) -> bool:
        if any((x - x1) ** 2 + (z - z1) ** 2 < (radius + r1) ** 2 for x1, z1, r1 in circles):
            return False
        circles.append((x, z, radius))
        return True

    for _ in range(int(rng.integers(1, 8))):
        heading = rng.normal(0, 0.06) + (np.pi if rng.random() < 0.6 else 0)
        z = max(nearest, 4.5) + 2 + rng.gamma(1.5, 4.0)
        if depth is None:
            lane = float(rng.choice([-2.0, 2.0, -3.2, 3.2]))
            x = lane + rng.normal(0, 0.2)
            if rng.random() < 0.12:
                heading += rng.uniform(-1.2, 1.2)
        else:
            z = min(z, depth - 5.2)
            x = rng.uniform(-wide, wide) * z
            if rng.random() < 0.45:
                heading += np.pi / 2
            else:
                heading += rng.uniform(-0.7, 0.7)
        if z > 4 and abs(x) < wide * z + 2 and free(x, z, 1.6):
            things.append((x, z, Car(x, z, heading)))
    people = int(rng.integers(1, 8)) if rng.random() < 0.65 else int(rng.integers(8, 20))
    group: tuple[float, float] | None = None
    for _ in range(people):
        z = nearest + rng.gamma(1.4, 1.9)
        if z > farthest:
            continue
        x = rng.uniform(-wide, wide) * z
        if depth is None and rng.random() < 0.75 and z > 5:  # on the pavement, if that is in sight
            x = math.copysign(1, x) * rng.uniform(ROAD_HALF_WIDTH + 0.2, ROAD_HALF_WIDTH + PAVEMENT - 0.4)
        if depth is None and abs(x) > ROAD_HALF_WIDTH + PAVEMENT - 0.3:
            continue
        if group and rng.random() < 0.35:  # beside the last one
            x, z = group[0] + rng.normal(0, 0.6), max(group[1] + rng.normal(0, 0.8), nearest)
        group = (x, z)
        turns = [rng.normal(0, 0.5), rng.normal(np.pi, 0.5), rng.uniform(-np.pi, np.pi)]
        turn = float(rng.choice(turns, p=[0.5, 0.25, 0.25]))
        if free(x, z, 0.28):
            turn = (turn + np.pi) % (2 * np.pi) - np.pi
            things.append(
                (x, z, Person(x, z, rng.uniform(1.5, 1.92) if rng.random() < 0.85 else rng.uniform(1.0, 1.4), turn))
            )
    for _ in range(int(rng.integers(0, 5))):
        z = nearest + rng.uniform(0.5, 18)
        x = rng.uniform(-wide, wide) * z
        if depth is None:
            x = math.copysign(1, x) * (ROAD_HALF_WIDTH + rng.uniform(0.3, 0.8))
        if z < farthest and free(x, z, 0.3):
            things.append((x, z, "tree" if rng.random() < 0.3 else "post"))
    return things


class _SceneLabels:
    """The labels of what is drawn on a canvas, and which of them can be seen in the end."""

    def __init__(self, canvas: Canvas) -> None:
        self._canvas = canvas
        self._candidates: list[tuple[str, tuple[int, ...], int, tuple[int, int, int, int]]] = []
        self._things = 0

    def new_thing(self) -> int:
        self._things += 1
        return self._things * _PARTS

    def complete_thing(self, parts_of: dict[str, tuple[int, ...]]) -> None:
        """Note each label of the last thing, now that it is drawn, with the pixels it shows and their box."""
        owner, thing = self._canvas.owner, self._things * _PARTS
        whole = _extent((owner >= thing) & (owner < thing + _PARTS))
        if whole is None:
            return
        x0, y0, x1, y1 = whole
        for name, parts in parts_of.items():
            numbers = tuple(thing + part for part in parts)
            mask = np.isin(owner[y0:y1, x0:x1], numbers)
            if mask.any():
                self._candidates.append((name, numbers, int(mask.sum()), whole))

    def visible(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return class ids (N,) and boxes (N, 4) of the labels of which enough can be seen."""
        class_ids, boxes = [], []
        for name, numbers, pixel_count, (x0, y0, x1, y1) in self._candidates:
            mask = np.isin(self._canvas.owner[y0:y1, x0:x1], numbers)
            box = _extent(mask)
            if box is None or mask.sum() < _MIN_VISIBLE[name] * pixel_count:
                continue
            if min(box[2] - box[0], box[3] - box[1]) < _MIN_SIDE[name]:
                continue
            class_ids.append(CLASSES.index(name))
            boxes.append([box[0] + x0, box[1] + y0, box[2] + x0, box[3] + y0])
        return np.array(class_ids, np.int64), np.array(boxes, np.float32).reshape(-1, 4)


def _extent(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the box (x0, y0, x1, y1) around the true pixels of a mask (H, W)."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
