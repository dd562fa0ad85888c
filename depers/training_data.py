"""From a labelled dataset to training batches: checked examples, a cache in memory, anchors, augmentation.

Pictures of like shape share a batch and a rectangular canvas, which saves 40 % of the work on 16:9. Everything random
is a function of (seed, epoch, index), so a resumed run and a run with more threads see the same pictures.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depers import images, storage
from depers.boxes import letterbox
from depers.options import UserError

_STAGE = 2  # this module's branch of the seed tree
_GREY = 114  # YOLOv5's padding

RGB = NDArray[np.uint8]


class Example(NamedTuple):
    """A picture, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), centre and size in 0…1."""

    path: str
    size_wh: tuple[int, int]
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]


class Batch(NamedTuple):
    """`images` uint8 RGB (B, H, W, 3); `targets` float32 (N, 6): image in the batch, class, cx, cy, w, h in 0…1."""

    images: RGB
    targets: NDArray[np.float32]


def random_for(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one thing, whoever asks for them and in whatever order."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_STAGE, *key))))


def read_example(path: str, class_ids: NDArray[np.int64], boxes_xywh: NDArray[np.float64]) -> Example:
    """Looks at a picture's header only. Raises UserError where it is none."""
    try:
        header = images.open_header(storage.read_bytes(path))
    except (images.ImageError, OSError) as error:
        raise UserError(f"{path}: must be a readable picture, but {error}") from None
    width, height = header.size
    if header.getexif().get(0x0112, 1) >= 5:  # lies on its side
        width, height = height, width
    return Example(path, (width, height), class_ids, boxes_xywh)


class Pictures:
    """The pictures of a list of examples, decoded and scaled so that the longer side is `imgsz`.

    They are kept in memory once decoded, if all of them fit into half of what is free; `cached` says so.
    """

    def __init__(self, examples: Sequence[Example], imgsz: int, cache: bool = True, copies: int = 1) -> None:
        """`copies` is how many processes of this machine hold such a cache each."""
        self.examples, self.imgsz = examples, imgsz
        self.sizes_wh = [letterbox(example.size_wh, imgsz).resized_wh for example in examples]
        needed = sum(3 * width * height for width, height in self.sizes_wh) * copies
        self.cached = cache and needed < 0.5 * _free_bytes()
        self._kept: dict[int, RGB] = {}

    def check(self, threads: int) -> None:
        """Decodes every picture once, into memory if they are kept. Raises UserError for the first damaged one."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self, range(len(self.examples))):
                pass

    def __call__(self, index: int) -> RGB:
        """Picture `index`, uint8 RGB. Raises UserError where it cannot be decoded."""
        if index in self._kept:
            return self._kept[index]
        path = self.examples[index].path
        try:
            picture = images.decode(storage.read_bytes(path)).rgb()
        except (images.ImageError, OSError) as error:
            raise UserError(f"{path}: must be a picture that can be decoded, but {error}") from None
        width, height = self.sizes_wh[index]
        method = cv2.INTER_AREA if width < picture.shape[1] else cv2.INTER_LINEAR
        scaled = np.asarray(cv2.resize(picture, (width, height), interpolation=method), np.uint8)
        if self.cached:
            self._kept[index] = scaled
        return scaled


def _free_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def fit_anchors(sizes: NDArray[np.float64], levels: int, seed: int) -> list[list[float]]:
    """Three anchors per level for box sizes (N, 2) in pixels, flat per level: w, h, w, h, w, h, small to large.

    k-means on the logarithms of width and height, since the loss compares ratios, from quantiles of the area.
    """
    count = 3 * levels
    points = np.log(np.maximum(sizes, 2.0))
    order = np.argsort(points.sum(1), kind="stable")
    centres = points[order[np.linspace(0, len(order) - 1, count).astype(int)]]
    centres = centres + random_for(seed, 0).normal(0, 1e-3, centres.shape)  # equal boxes do not share a centre
    for _ in range(30):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centres[k] = points[nearest == k].mean(0)
    anchors = np.exp(centres[np.argsort(centres.sum(1))]).round(2)
    return [level.ravel().tolist() for level in anchors.reshape(levels, 3, 2)]


def plan_batches(
    canvases_wh: Sequence[tuple[int, int]], batch_size: int, rng: np.random.Generator | None
) -> list[list[int]]:
    """Indices of pictures in batches of one canvas each; shuffled within a canvas and then all batches, if `rng`."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, canvas in enumerate(canvases_wh):
        groups[canvas].append(index)
    batches = []
    for _, members in sorted(groups.items()):
        ordered = rng.permutation(members).tolist() if rng else members
        batches += [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    if rng:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def place(
    picture: RGB,
    example: Example,
    canvas_wh: tuple[int, int],
    rng: np.random.Generator | None = None,
    strength: Mapping[str, float] | None = None,
) -> tuple[RGB, NDArray[np.float32]]:
    """A picture on its canvas, uint8 RGB (H, W, 3), and its labels there, float32 (N, 5): class, cx, cy, w, h in 0…1.

    Without `rng` it is letterboxed as for prediction. With it, it is also scaled, moved, mirrored and recoloured at
    random, by YOLOv5's hyperparameters in `strength` (scale, translate, fliplr, hsv_h, hsv_s, hsv_v).
    """
    height, width = picture.shape[:2]
    canvas = np.array(canvas_wh, np.float64)
    zoom, mirrored = 1.0, False
    corner = np.round((canvas - [width, height]) / 2 - 0.1)
    if rng is not None and strength is not None:
        zoom = rng.uniform(1 - strength["scale"], 1 + strength["scale"])
        slack = canvas - zoom * np.array([width, height])
        corner = slack / 2 + rng.uniform(-1, 1, 2) * (np.abs(slack) / 2 + strength["translate"] * canvas * 0.5)
        mirrored = rng.random() < strength["fliplr"]
    matrix = np.array([[zoom, 0, corner[0]], [0, zoom, corner[1]]])
    if mirrored:
        matrix[0] = [-zoom, 0, canvas[0] - 1 - corner[0]]
    if zoom == 1 and not mirrored and rng is None:
        image = np.full((canvas_wh[1], canvas_wh[0], 3), _GREY, np.uint8)
        x, y = corner.astype(int)
        image[y : y + height, x : x + width] = picture
    else:
        image = np.asarray(cv2.warpAffine(picture, matrix, canvas_wh, borderValue=(_GREY,) * 3), np.uint8)
    if rng is not None and strength is not None:
        image = _recolour(image, rng, strength)

    centre = example.boxes_xywh[:, :2] * [width, height] * zoom + corner
    half = example.boxes_xywh[:, 2:] * [width, height] * zoom / 2
    if mirrored:
        centre[:, 0] = canvas[0] - centre[:, 0]
    low, high = np.clip(centre - half, 0, canvas), np.clip(centre + half, 0, canvas)
    size = high - low
    kept = (size > 2).all(1) & (size.prod(1) > 0.3 * np.maximum((2 * half).prod(1), 1e-9)) if rng else size.min(1) > 0
    labels = np.concatenate([example.class_ids[:, None], (low + high) / 2 / canvas, size / canvas], 1)
    return image, labels[kept].astype(np.float32)


def _recolour(image: RGB, rng: np.random.Generator, strength: Mapping[str, float]) -> RGB:
    """Turns hue and scales saturation and value, through one table per channel."""
    turn, saturate, light = 1 + rng.uniform(-1, 1, 3) * [strength["hsv_h"], strength["hsv_s"], strength["hsv_v"]]
    levels = np.arange(256)
    tables = np.stack([levels * turn % 180, np.clip(levels * saturate, 0, 255), np.clip(levels * light, 0, 255)], -1)
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables.astype(np.uint8)[None])
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def batches(
    plan: Sequence[Sequence[int]], make: Callable[[int], tuple[RGB, NDArray[np.float32]]], threads: int
) -> Iterator[Batch]:
    """The batches of a plan, made `threads` pictures at a time, two batches ahead of the one in use."""
    with ThreadPoolExecutor(threads) as pool:
        pending: list[list[Any]] = []
        for members in [*plan, [], []]:
            pending.append([pool.submit(make, index) for index in members])
            if len(pending) > 2 and (ready := pending.pop(0)):
                yield collate([future.result() for future in ready])


def collate(made: Sequence[tuple[RGB, NDArray[np.float32]]]) -> Batch:
    """Pictures of one shape and their labels as one batch."""
    numbered = [np.insert(labels, 0, number, axis=1) for number, (_, labels) in enumerate(made)]
    return Batch(np.stack([image for image, _ in made]), np.concatenate(numbered).astype(np.float32))
