"""What a training sees, batch by batch: the order of the images, the partners of their mosaics, and what
makes them.

Everything random is a function of (seed, what, number), so a resumed run, a run with more threads and a run with more
workers see the same images.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.seeds import Branch, random_for
from depers.training import data as training_data
from depers.training.augmentation import RGB, LabelledImage, augmented, mosaic
from depers.training.data import Example, Splits
from depers.training.image_cache import scaled_size

_PARTNER_COUNT = 7  # three for a mosaic, four for one to mix in


class Batch(NamedTuple):
    """`images` uint8 RGB (B, H, W, 3); `targets` float32 (N, 6): image in the batch, class, cx, cy, w, h in 0…1.

    `unlabelled` bool (B, C): the classes that an image has no labels for.
    """

    images: RGB
    targets: NDArray[np.float32]
    unlabelled: NDArray[np.bool_]


def order_of_pass(
    parts: Sequence[tuple[int, float]], seed: int, number: int, chances: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Indices of the images of pass `number`, shuffled: of every dataset exactly weight × its size.

    A dataset goes through its images in random order, one round after the other, whatever falls into a pass. With
    `chances` (N,), images are drawn by them instead, with replacement, each dataset's share still exact.
    """
    chosen, first = [], 0
    for part, (size, weight) in enumerate(parts):
        count = max(1, round(size * weight))
        if chances is not None:
            own = chances[first : first + size]
            share = own / own.sum() if own.sum() else np.full(size, 1 / size)
            picked = random_for(seed, Branch.IMAGE_ORDER, part, 1, number).choice(size, count, p=share)
        else:
            rounds = range(number * count // size, ((number + 1) * count - 1) // size + 1)
            stream = np.concatenate(
                [random_for(seed, Branch.IMAGE_ORDER, part, 0, one).permutation(size) for one in rounds]
            )
            skipped = number * count - rounds[0] * size
            picked = stream[skipped : skipped + count]
        chosen.append(picked + first)
        first += size
    return np.asarray(
        random_for(seed, Branch.IMAGE_ORDER, len(parts), number).permutation(np.concatenate(chosen)), np.int64
    )


def partners_of_pass(
    order: NDArray[np.int64], groups: Sequence[object], count: int, seed: int, number: int
) -> NDArray[np.int64]:
    """For each image of a pass the `count` others that share its mosaics, int64 (N, count).

    They are permutations of the pass itself, so every image comes up equally often; and of images of the same
    group only: a mosaic's labels are complete for the same classes everywhere.
    """
    partners = np.empty((len(order), count), np.int64)
    rows: dict[object, list[int]] = defaultdict(list)
    for row, index in enumerate(order.tolist()):
        rows[groups[index]].append(row)
    for group, (_, members) in enumerate(sorted(rows.items(), key=lambda item: item[1][0])):
        for column in range(count):
            rng = random_for(seed, Branch.MOSAIC_PARTNERS, number, group, column)
            partners[members, column] = order[rng.permutation(members)]
    return partners


def plan_batches(
    order: Sequence[int],
    canvases_wh: Sequence[tuple[int, int]],
    batch_size: int,
    rng: np.random.Generator | None = None,
) -> list[tuple[tuple[int, int], list[int]]]:
    """Batches of images of like shape: the canvas that fits all of them, and their rows in `order`.

    There are as many batches as the number of images needs, whatever their shapes; all are full but one. In the
    order given among equals; batches shuffled if `rng`.
    """
    shapes = [canvases_wh[index] for index in order]
    rows = sorted(range(len(order)), key=lambda row: (shapes[row][0] / shapes[row][1], shapes[row]))
    batches = []
    for start in range(0, len(rows), batch_size):
        members = rows[start : start + batch_size]
        width, height = (max(shapes[row][axis] for row in members) for axis in range(2))
        batches.append(((width, height), members))
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


def smallest_canvas(size_wh: tuple[int, int], stride: int) -> tuple[int, int]:
    """The sides rounded up to multiples of the stride."""
    width, height = (-(-side // stride) * stride for side in size_wh)
    return width, height


def labelled_image(image: RGB, example: Example) -> LabelledImage:
    """A scaled image with its example's labels in its pixels."""
    height, width = image.shape[:2]
    boxes = example.boxes_xywh * [width, height, width, height]
    half = boxes[:, 2:] / 2
    return LabelledImage(image, np.column_stack([example.class_ids, boxes[:, :2] - half, boxes[:, :2] + half]))


def normalized(image: LabelledImage) -> NDArray[np.float32]:
    """The labels as a loss wants them, float32 (N, 5): class, cx, cy, w, h in 0…1."""
    height, width = image.image.shape[:2]
    low, high = image.labels[:, 1:3], image.labels[:, 3:]
    return np.column_stack(
        [image.labels[:, 0], (low + high) / 2 / [width, height], (high - low) / [width, height]]
    ).astype(np.float32)


class Planned(NamedTuple):
    """An image of a batch, not yet made: it is in `row` of pass `number`, of the images `indices` (8,)."""

    number: int
    row: int
    indices: list[int]
    canvas_wh: tuple[int, int]


class Maker:
    """Makes images for training out of `images` and their `examples`, augmented by `strength`."""

    def __init__(
        self,
        images: Callable[[int], RGB],
        examples: Sequence[Example],
        strength: Mapping[str, float],
        seed: int,
        rectangular: bool,
    ) -> None:
        self._images, self._examples = images, examples
        self._strength, self._seed, self._rectangular = strength, seed, rectangular

    def __call__(self, planned: Planned) -> LabelledImage:
        """The image: the first of the planned ones, perhaps in a mosaic with the others."""
        _, _, indices, canvas_wh = planned
        rng = random_for(self._seed, Branch.AUGMENTATION, planned.number, planned.row)
        if self._rectangular or rng.random() >= self._strength["mosaic"]:
            return augmented(self._load(indices[0]), canvas_wh, rng, self._strength)
        others = [self._load(index) for index in indices[4:]] if rng.random() < self._strength["mixup"] else []
        return mosaic([self._load(index) for index in indices[:4]], canvas_wh[0], rng, self._strength, others)

    def _load(self, index: int) -> LabelledImage:
        return labelled_image(self._images(index), self._examples[index])


def collate(made: Sequence[LabelledImage], unlabelled: Sequence[NDArray[np.bool_]]) -> Batch:
    """Images of one shape and their labels as one batch."""
    numbered = [np.insert(normalized(image), 0, number, axis=1) for number, image in enumerate(made)]
    return Batch(
        np.stack([image.image for image in made]),
        np.concatenate(numbered).astype(np.float32),
        np.stack(unlabelled),
    )


class Batches:
    """What makes the batches of a training, by their number; those of one pass are planned together."""

    def __init__(
        self,
        data: Splits,
        images: Callable[[int], RGB],
        strength: Mapping[str, float],
        *,
        imgsz: int,
        stride: int,
        batch_size: int,
        seed: int,
        rectangular: bool,
    ) -> None:
        """`rectangular`: batches of like-shaped images instead of mosaics."""
        self._data, self._batch_size, self._seed = data, batch_size, seed
        self._maker = Maker(images, data.train, strength, seed, rectangular)
        self._canvases = [
            smallest_canvas(scaled_size(example.size_wh, imgsz), stride) if rectangular else (imgsz, imgsz)
            for example in data.train
        ]
        self._unlabelled = training_data.unlabelled_mask(data.train, len(data.names))
        self._groups = [example.labelled for example in data.train]
        self.images_per_pass = len(order_of_pass(data.parts, seed, 0))
        self.per_pass = -(-self.images_per_pass // batch_size)
        self._pass = -1
        self._planned: list[tuple[tuple[int, int], list[int]]] = []
        self._indices: NDArray[np.int64] = np.zeros((0, 1 + _PARTNER_COUNT), np.int64)

    def plan(self, number: int, chances: NDArray[np.float64] | None = None) -> list[Planned]:
        """Batch `number` of the training. `chances`: of the images, from where a pass begins."""
        one, number = divmod(number, self.per_pass)
        if one != self._pass:
            order = order_of_pass(self._data.parts, self._seed, one, chances)
            partners = partners_of_pass(order, self._groups, _PARTNER_COUNT, self._seed, one)
            self._indices = np.column_stack([order, partners])
            rng = random_for(self._seed, Branch.BATCH_ORDER, one)
            self._planned = plan_batches(order.tolist(), self._canvases, self._batch_size, rng)
            self._pass = one
        canvas, rows = self._planned[number]
        return [Planned(one, row, own, canvas) for row, own in zip(rows, self._indices[rows].tolist(), strict=True)]

    def make(self, planned: Planned) -> LabelledImage:
        """One image; safe to call from several threads and processes."""
        return self._maker(planned)

    def collate(self, planned: Sequence[Planned], made: Sequence[LabelledImage]) -> Batch:
        """A batch of images that `make` has made."""
        return collate(made, [self._unlabelled[one.indices[0]] for one in planned])

    def batch(self, planned: Sequence[Planned]) -> Batch:
        """All of it in this thread."""
        return self.collate(planned, [self.make(one) for one in planned])
