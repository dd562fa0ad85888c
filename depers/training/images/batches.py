"""What a training sees, batch by batch: the order of the images, the partners of their mosaics, and the pixels.

Everything random is a function of (seed, what, number), so a resumed run, a run with more threads and a run with more
workers see the same images.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.seeds import Branch, random_for
from depers.training.images.augmentation import RGB, LabelledImage, augment, finish, make_mosaic
from depers.training.images.data import Splits, find_unlabelled, group_by_labels
from depers.training.images.examples import Example, SizeWH, map_sizes
from depers.training.images.image_cache import fit_size

_PARTNER_COUNT = 7  # three for a mosaic, four for one to mix in
_MOST_PASSES_IN_ONE = 1000
_MOST_IMAGES_IN_ONE = 4_000_000  # some 300 MB of a plan


class Batch(NamedTuple):
    """`images` uint8 RGB (B, H, W, 3); `targets` float32 (N, 6): image in the batch, class, cx, cy, w, h in 0…1.

    `unlabelled` bool (B, C): the classes that an image has no labels for. `ignored` float32 (R, 6), as `targets`: the
    regions in which there may be objects of a class without a label. `tables` and `mirrored`: what is still to be done
    to the images, as `augmentation.PixelFinish` for each; without `mirrored` nothing is.
    """

    images: RGB
    targets: NDArray[np.float32]
    unlabelled: NDArray[np.bool_]
    ignored: NDArray[np.float32]
    tables: NDArray[np.uint8] | None = None
    mirrored: NDArray[np.bool_] | None = None


class SampleSpec(NamedTuple):
    """What one image of a batch is made of: it is in `row` of pass `pass_number`, of the images `indices` (8,)."""

    pass_number: int
    row: int
    indices: list[int]
    canvas_wh: SizeWH


def count_images(size: int, weight: float) -> int:
    """Return how many images of a dataset of `size` a pass shows: weight × size, rounded, at least 1."""
    return max(1, round(size * weight))


def share_exactly(parts: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return (size, weight) of each dataset, the weights all times the least whole number that makes shares exact.

    A pass is then so many passes in one, and no dataset's count is off by more than a thousandth for being rounded;
    where that would take more images than a plan may hold, as nearly so as they allow.
    """
    most = int(_MOST_IMAGES_IN_ONE / sum(size * weight for size, weight in parts))
    for factor in range(1, max(1, min(most, _MOST_PASSES_IN_ONE)) + 1):
        counts = [size * weight * factor for size, weight in parts]
        if all(abs(count_images(1, count) - count) <= count / 1000 for count in counts):
            break
    return [(size, weight * factor) for size, weight in parts]


def order_pass(
    parts: Sequence[tuple[int, float]],
    seed: int,
    pass_number: int,
    image_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Return the indices of the images of a pass, shuffled: of every dataset exactly weight × its size.

    A dataset goes through its images in random order, one round after the other, whatever falls into a pass. With
    `image_weights` (N,), images are drawn by them instead, with replacement, each dataset's share still exact.
    """
    choices, first = [], 0
    for part, (size, weight) in enumerate(parts):
        count = count_images(size, weight)
        if image_weights is not None:
            weights = image_weights[first : first + size]
            shares = weights / weights.sum() if weights.sum() else np.full(size, 1 / size)
            indices = random_for(seed, Branch.IMAGE_ORDER, part, 1, pass_number).choice(size, count, p=shares)
        else:
            rounds = range(pass_number * count // size, ((pass_number + 1) * count - 1) // size + 1)
            stream = np.concatenate(
                [random_for(seed, Branch.IMAGE_ORDER, part, 0, n).permutation(size) for n in rounds]
            )
            start = pass_number * count - rounds[0] * size
            indices = stream[start : start + count]
        choices.append(indices + first)
        first += size
    rng = random_for(seed, Branch.IMAGE_ORDER, len(parts), pass_number)
    return np.asarray(rng.permutation(np.concatenate(choices)), np.int64)


def choose_partners(
    order: NDArray[np.int64], groups: NDArray[np.int32], count: int, seed: int, pass_number: int
) -> NDArray[np.int64]:
    """Return for each image of a pass the `count` images that share its mosaics, int64 (N, count).

    They are permutations of the pass itself, so every image comes up equally often; and of images of the same group
    only, by the numbers `groups`: a mosaic's labels are complete for the same classes everywhere.
    """
    partners = np.empty((len(order), count), np.int64)
    _, first_rows, group_of = np.unique(groups[order], return_index=True, return_inverse=True)
    for group, place in enumerate(np.argsort(first_rows).tolist()):  # by the row that each begins with
        members = np.flatnonzero(group_of == place)
        for column in range(count):
            rng = random_for(seed, Branch.MOSAIC_PARTNERS, pass_number, group, column)
            partners[members, column] = order[rng.permutation(members)]
    return partners


def plan_batches(
    order: NDArray[np.int64],
    canvases_wh: NDArray[np.int64],
    batch_size: int,
    rng: np.random.Generator | None = None,
) -> list[tuple[SizeWH, NDArray[np.int64]]]:
    """Return batches of images of like shape: the canvas that fits all of them, and their rows in `order`.

    `canvases_wh` int64 (images, 2). There are as many batches as the number of images needs, whatever their shapes; all
    are full but one. Images of equal shape stay in their order; batches are shuffled if there is an `rng`.
    """
    widths, heights = canvases_wh[order].T
    rows = np.lexsort((heights, widths, widths / heights))
    starts = np.arange(0, len(rows), batch_size)
    sizes = np.column_stack([np.maximum.reduceat(sides[rows], starts) for sides in (widths, heights)])
    sequence = rng.permutation(len(starts)) if rng else np.arange(len(starts))
    shapes: dict[SizeWH, SizeWH] = {}  # so that equal ones are one object
    batches = []
    for start, (width, height) in zip(starts[sequence].tolist(), sizes[sequence].tolist(), strict=True):
        canvas = shapes.setdefault((width, height), (width, height))
        batches.append((canvas, rows[start : start + batch_size]))
    return batches


def round_up(size_wh: SizeWH, stride: int) -> SizeWH:
    """Return the size with both sides rounded up to multiples of the stride."""
    width, height = (-(-side // stride) * stride for side in size_wh)
    return width, height


def attach_labels(image: RGB, example: Example) -> LabelledImage:
    """Return a scaled image with its example's labels in its pixels."""
    return LabelledImage(image, *scale_boxes(example, (image.shape[1], image.shape[0])))


def scale_boxes(example: Example, size_wh: SizeWH) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return an example's labels and ignore regions in pixels of an image of a size, as in `LabelledImage`."""
    width, height = size_wh

    def to_pixels(class_ids: NDArray[np.int64], boxes_xywh: NDArray[np.float64]) -> NDArray[np.float64]:
        boxes = boxes_xywh * [width, height, width, height]
        half = boxes[:, 2:] / 2
        return np.column_stack([class_ids, boxes[:, :2] - half, boxes[:, :2] + half])

    labels = to_pixels(example.class_ids, example.boxes_xywh)
    return labels, to_pixels(example.ignored_ids, example.ignored_xywh)


def normalize_labels(labels: NDArray[np.float64], image: RGB) -> NDArray[np.float32]:
    """Return the labels of an image as a loss wants them, float32 (N, 5): class, cx, cy, w, h in 0…1."""
    height, width = image.shape[:2]
    low, high = labels[:, 1:3], labels[:, 3:]
    return np.column_stack([labels[:, 0], (low + high) / 2 / [width, height], (high - low) / [width, height]]).astype(
        np.float32
    )


def collate(samples: Sequence[LabelledImage], unlabelled: Sequence[NDArray[np.bool_]]) -> Batch:
    """Join images of one shape and their labels into one batch; all are finished, or none is."""

    def number_rows(labels: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
        rows = [normalize_labels(boxes, sample.image) for boxes, sample in zip(labels, samples, strict=True)]
        return np.concatenate([np.insert(boxes, 0, number, axis=1) for number, boxes in enumerate(rows)])

    finishes = [sample.finish for sample in samples if sample.finish]
    tables = [entry.tables for entry in finishes if entry.tables is not None]
    return Batch(
        np.stack([sample.image for sample in samples]),
        number_rows([sample.labels for sample in samples]),
        np.stack(unlabelled),
        number_rows([sample.ignored for sample in samples]),
        np.stack(tables) if tables else None,
        np.stack([entry.mirrored for entry in finishes]) if finishes else None,
    )


class Batches:
    """The batches of a training, by their number; those of one pass are planned together."""

    def __init__(
        self,
        splits: Splits,
        images: Callable[[int], RGB],
        hyp: Mapping[str, float],
        *,
        imgsz: int,
        stride: int,
        batch_size: int,
        seed: int,
        rectangular: bool,
        continuous: bool = False,
        is_finished: bool = True,
    ) -> None:
        """Take `images` by the index of their example, and YOLOv5's hyperparameters, which say how to augment them.

        `rectangular`: batches of like-shaped images instead of mosaics. `continuous`: passes follow one another
        within batches, all of which are full, however few images a pass has; else a pass ends with what is left.
        `is_finished`: whether images are, or their batch says what is still to be done, for a GPU.
        """
        self._splits, self._images, self._hyp = splits, images, hyp
        self._batch_size, self._seed, self._rectangular = batch_size, seed, rectangular
        self._is_finished = is_finished
        canvases = [(imgsz, imgsz)] * len(splits.train)
        if rectangular:
            canvases = map_sizes(splits.train, lambda size_wh: round_up(fit_size(size_wh, imgsz), stride))
        self._canvases_wh = np.array(canvases, np.int64)
        self._unlabelled = find_unlabelled(splits.train, len(splits.names))
        self._groups = group_by_labels(splits.train)
        self._parts = share_exactly(splits.parts) if continuous else splits.parts
        self.images_per_pass = sum(count_images(size, weight) for size, weight in self._parts)
        self.per_pass = -(-self.images_per_pass // batch_size)
        self._continuous = continuous
        # Images of whole passes that are planned together, in which at least one batch begins.
        self._window = self.images_per_pass * (-(-batch_size // self.images_per_pass) if continuous else 1)
        self._planned_window = -1
        self._plan: list[tuple[SizeWH, NDArray[np.int64]]] = []
        self._passes: dict[int, NDArray[np.int64]] = {}

    def plan(self, number: int, image_weights: NDArray[np.float64] | None = None) -> list[SampleSpec]:
        """Return what batch `number` of the training is made of. `image_weights` count from where a pass begins."""
        canvas, images = self._find(number, image_weights)
        passes, rows = np.divmod(images, self.images_per_pass)
        return [
            SampleSpec(pass_number, row, self._draw(pass_number, image_weights)[row].tolist(), canvas)
            for pass_number, row in zip(passes.tolist(), rows.tolist(), strict=True)
        ]

    def count(self, number: int, image_weights: NDArray[np.float64] | None = None) -> int:
        """Return how many images batch `number` has; weights as for `plan`."""
        return self._batch_size if self._continuous else len(self._find(number, image_weights)[1])

    def _find(self, number: int, image_weights: NDArray[np.float64] | None) -> tuple[SizeWH, NDArray[np.int64]]:
        """Return the canvas of batch `number`, and its images by number, over all passes."""
        if self._continuous:
            window = number * self._batch_size // self._window
            first = -(-window * self._window // self._batch_size)
        else:
            window = number // self.per_pass
            first = window * self.per_pass
        if window != self._planned_window:
            self._plan = self._plan_window(window, image_weights)
            self._planned_window = window
        return self._plan[number - first]

    def _plan_window(
        self, window: int, image_weights: NDArray[np.float64] | None
    ) -> list[tuple[SizeWH, NDArray[np.int64]]]:
        """Return the batches that begin in a window: their canvases, and their images by number, over all passes."""
        first, end = window * self._window, (window + 1) * self._window
        if self._continuous:
            first, end = (-(-edge // self._batch_size) * self._batch_size for edge in (first, end))
        numbers = np.arange(first, end)
        passes, rows = np.divmod(numbers, self.images_per_pass)
        self._passes = {number: images for number, images in self._passes.items() if number >= passes[0]}
        order = np.concatenate(
            [self._draw(number, image_weights)[rows[passes == number], 0] for number in np.unique(passes).tolist()]
        )
        rng = random_for(self._seed, Branch.BATCH_ORDER, window)
        batches = plan_batches(order, self._canvases_wh, self._batch_size, rng)
        return [(canvas, first + members) for canvas, members in batches]

    def _draw(self, pass_number: int, image_weights: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """Return the images of a pass and their partners, a row each, int64 (N, 8); drawn once."""
        if pass_number not in self._passes:
            order = order_pass(self._parts, self._seed, pass_number, image_weights)
            partners = choose_partners(order, self._groups, _PARTNER_COUNT, self._seed, pass_number)
            self._passes[pass_number] = np.column_stack([order, partners])
        return self._passes[pass_number]

    def make_sample(self, spec: SampleSpec) -> LabelledImage:
        """Make one image: the first of the spec's, perhaps in a mosaic with the rest.

        Safe to call from several threads and processes.
        """
        sample = self._make_unfinished(spec)
        return finish(sample) if self._is_finished else sample

    def _make_unfinished(self, spec: SampleSpec) -> LabelledImage:
        rng = random_for(self._seed, Branch.AUGMENTATION, spec.pass_number, spec.row)
        if self._rectangular or rng.random() >= self._hyp["mosaic"]:
            return augment(self._load(spec.indices[0]), spec.canvas_wh, rng, self._hyp)
        mixed = [self._load(index) for index in spec.indices[4:]] if rng.random() < self._hyp["mixup"] else []
        tiles = [self._load(index) for index in spec.indices[:4]]
        return make_mosaic(tiles, spec.canvas_wh[0], rng, self._hyp, mixed)

    def _load(self, index: int) -> LabelledImage:
        return attach_labels(self._images(index), self._splits.train[index])

    def collate(self, specs: Sequence[SampleSpec], samples: Sequence[LabelledImage]) -> Batch:
        """Join the images that `make_sample` has made of `specs` into a batch."""
        return collate(samples, [self._unlabelled[spec.indices[0]] for spec in specs])

    def make_batch(self, specs: Sequence[SampleSpec]) -> Batch:
        """Make a batch in this thread."""
        return self.collate(specs, [self.make_sample(spec) for spec in specs])

    def make_example(self, specs: Sequence[SampleSpec]) -> Batch:
        """Make a batch of finished images, for people to look at."""
        return self.collate(specs, [finish(self._make_unfinished(spec)) for spec in specs])
