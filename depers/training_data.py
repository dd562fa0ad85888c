"""From labelled datasets to training batches: checked examples, the order of an epoch, batches made ahead.

Everything random is a function of (seed, what, number), so a resumed run, a run with more threads and a run with more
workers see the same pictures.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers import images, labels, storage
from depers.augmentation import RGB, Labelled, augmented, mosaic
from depers.options import UserError

_STAGE = 2  # this module's branch of the seed tree
_READERS = 16  # threads that mostly wait for storage
_NOISE, _PASS, _PARTNERS, _PICTURE = range(4)

Place = Callable[[Sequence[str]], Mapping[str, str]]
"""Where folders are on this node: those on S3 are brought here."""


class Example(NamedTuple):
    """A picture, and its labels: `class_ids` int64 (N,); `boxes_xywh` float64 (N, 4), centre and size in 0…1.

    `labelled` are the classes that the picture has labels for: objects of others may be there without.
    """

    path: str
    size_wh: tuple[int, int]
    class_ids: NDArray[np.int64]
    boxes_xywh: NDArray[np.float64]
    labelled: frozenset[int]


class Splits(NamedTuple):
    """Class names, and the examples for training and validation.

    `parts`: for every dataset, how many of the training examples are its own, in their order, and its weight.
    """

    names: tuple[str, ...]
    train: list[Example]
    val: list[Example]
    parts: tuple[tuple[int, float], ...]


class Batch(NamedTuple):
    """`images` uint8 RGB (B, H, W, 3); `targets` float32 (N, 6): image in the batch, class, cx, cy, w, h in 0…1.

    `unlabelled` bool (B, C): the classes that a picture has no labels for.
    """

    images: RGB
    targets: NDArray[np.float32]
    unlabelled: NDArray[np.bool_]


def random_for(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one thing, whoever asks for them and in whatever order."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(_STAGE, *key))))


def read_splits(
    dataset: str, more: Sequence[tuple[str, float]] = (), weight: float = 1.0, place: Place | None = None
) -> Splits:
    """The class names and the examples of `train` and `val`, all labels read and all pictures' headers seen.

    `more` are further datasets with their weights: they add their training pictures, for those of the classes that
    they name. Raises UserError for what cannot be trained on: a missing or empty split, one that validates on its own
    training pictures, no labels at all, a faulty label file, a file that is no picture, an unknown class.
    """
    first = labels.read_dataset(dataset)
    others = [(labels.read_dataset(uri), uri, share) for uri, share in more]
    if first.train is None or first.val is None:
        missing = "train" if first.train is None else "val"
        raise UserError(f"{dataset}: data.yaml must name a folder for {missing!r}, but has none")
    train: list[Example] = []
    parts = []
    for found, uri, share in ((first, dataset, weight), *others):
        for name in found.names:
            if name not in first.names:
                raise UserError(f"{uri}: its classes must be among {', '.join(first.names)}, but it has {name!r}")
        folders = [folder for folder in (found.train, *found.more_train) if folder]
        for folder in folders:
            if storage.overlap(folder, first.val):
                raise UserError(f"{uri}: train and val must be different pictures, but are {folder} and {first.val}")
        examples = [example for folder in folders for example in _read_folder(found, folder, first.names, place)]
        _check(uri, "train", folders, examples)
        train += examples
        parts.append((len(examples), share))
    val = _read_folder(first, first.val, first.names, place)
    _check(dataset, "val", [first.val], val)
    return Splits(first.names, train, val, tuple(parts))


def _check(uri: str, split: str, folders: Sequence[str], examples: Sequence[Example]) -> None:
    if not examples:
        raise UserError(f"{uri}: {split} must hold pictures, but {', '.join(folders) or 'data.yaml'} has none")
    if not any(len(example.class_ids) for example in examples):
        raise UserError(f"{uri}: {split} must hold labels, but none of its {len(examples)} pictures has one")


def _read_folder(found: labels.Dataset, folder: str, names: Sequence[str], place: Place | None) -> list[Example]:
    """The examples of one folder, with class ids that index `names`; a picture without a label file has no objects."""
    here = folder
    if place is not None:
        beside = labels.label_path(storage.join(folder, "x.jpg")).removesuffix("/x.txt")
        here = place([folder, beside])[folder]
    ids = np.array([names.index(name) for name in found.names], np.int64)
    known = {all_ids: frozenset(ids[sorted(all_ids)].tolist()) for _, all_ids in found.labelled}
    everything = frozenset(ids.tolist())

    def read(pair: tuple[str, str]) -> Example:
        picture, label_file = pair
        own = labels.read_labels(label_file, len(found.names))
        inside = picture.removeprefix(here.rstrip("/") + "/")
        labelled = known.get(labels.labelled_classes(found, inside), everything)
        for class_id in ids[own.class_ids].tolist():
            if class_id not in labelled:
                allowed = ", ".join(names[i] for i in sorted(labelled))
                raise UserError(
                    f"{label_file}: data.yaml says that it holds only {allowed}, but it holds {names[class_id]}"
                )
        return _example(picture, ids[own.class_ids], own.boxes_xywh, labelled)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, labels.pairs(here)))


def _example(
    path: str, class_ids: NDArray[np.int64], boxes_xywh: NDArray[np.float64], labelled: frozenset[int]
) -> Example:
    """Looks at a picture's header only. Raises UserError where it is none."""
    try:
        header = images.open_header(storage.read_bytes(path))
    except (images.ImageError, OSError) as error:
        raise UserError(f"{path}: must be a readable picture, but {error}") from None
    width, height = header.size
    if images.orientation_of(header) >= 5:  # lies on its side
        width, height = height, width
    both = np.unique(np.column_stack([class_ids, boxes_xywh]), axis=0)  # doubles count once, as in YOLOv5
    return Example(path, (width, height), both[:, 0].astype(np.int64), both[:, 1:], labelled)


def unlabelled_mask(examples: Sequence[Example], class_count: int) -> NDArray[np.bool_]:
    """Bool (N, C): the classes that each picture has no labels for."""
    mask = np.ones((len(examples), class_count), np.bool_)
    for row, example in enumerate(examples):
        mask[row, sorted(example.labelled)] = False
    return mask


def fit_anchors(sizes: NDArray[np.float64], levels: int, seed: int, per_level: int = 3) -> list[list[float]]:
    """Anchors for box sizes (N, 2) in pixels, flat per level: w, h, w, h, w, h, small to large.

    k-means on the logarithms of width and height, since the loss compares ratios, from quantiles of the area.
    """
    count = per_level * levels
    points = np.log(np.maximum(sizes, 2.0))
    order = np.argsort(points.sum(1), kind="stable")
    centres = points[order[np.linspace(0, len(order) - 1, count).astype(int)]]
    centres = centres + random_for(seed, _NOISE).normal(0, 1e-3, centres.shape)  # equal boxes do not share a centre
    for _ in range(30):
        nearest = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centres[k] = points[nearest == k].mean(0)
    anchors = np.exp(centres[np.argsort(centres.sum(1))]).round(2)
    return [level.ravel().tolist() for level in anchors.reshape(levels, per_level, 2)]


def anchor_recall(sizes: NDArray[np.float64], anchors: NDArray[np.float64], most: float) -> float:
    """The share of box sizes (N, 2) whose sides are within a factor `most` of an anchor's (A, 2)."""
    ratio = sizes[:, None] / anchors[None]
    return float((np.maximum(ratio, 1 / ratio).max(2).min(1) < most).mean())


def order_of_pass(
    parts: Sequence[tuple[int, float]], seed: int, number: int, chances: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Indices of the pictures of pass `number`, shuffled: of every dataset exactly weight × its size.

    A dataset goes through its pictures in random order, one round after the other, whatever falls into a pass. With
    `chances` (N,), pictures are drawn by them instead, with replacement, each dataset's share still exact.
    """
    chosen, first = [], 0
    for part, (size, weight) in enumerate(parts):
        count = max(1, round(size * weight))
        if chances is not None:
            own = chances[first : first + size]
            share = own / own.sum() if own.sum() else np.full(size, 1 / size)
            picked = random_for(seed, _PASS, part, 1, number).choice(size, count, p=share)
        else:
            rounds = range(number * count // size, ((number + 1) * count - 1) // size + 1)
            stream = np.concatenate([random_for(seed, _PASS, part, 0, one).permutation(size) for one in rounds])
            skipped = number * count - rounds[0] * size
            picked = stream[skipped : skipped + count]
        chosen.append(picked + first)
        first += size
    return np.asarray(random_for(seed, _PASS, len(parts), number).permutation(np.concatenate(chosen)), np.int64)


def partners_of_pass(
    order: NDArray[np.int64], groups: Sequence[object], count: int, seed: int, number: int
) -> NDArray[np.int64]:
    """For each picture of a pass the `count` others that share its mosaics, int64 (N, count).

    They are permutations of the pass itself, so every picture comes up equally often; and of pictures of the same
    group only: a mosaic's labels are complete for the same classes everywhere.
    """
    partners = np.empty((len(order), count), np.int64)
    rows: dict[object, list[int]] = defaultdict(list)
    for row, index in enumerate(order.tolist()):
        rows[groups[index]].append(row)
    for group, (_, members) in enumerate(sorted(rows.items(), key=lambda item: item[1][0])):
        for column in range(count):
            rng = random_for(seed, _PARTNERS, number, group, column)
            partners[members, column] = order[rng.permutation(members)]
    return partners


def plan_batches(
    order: Sequence[int],
    canvases_wh: Sequence[tuple[int, int]],
    batch_size: int,
    rng: np.random.Generator | None = None,
) -> list[tuple[tuple[int, int], list[int]]]:
    """Batches of pictures of like shape: the canvas that fits all of them, and their rows in `order`.

    There are as many batches as the number of pictures needs, whatever their shapes; all are full but one. In the
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


def labelled_picture(image: RGB, example: Example) -> Labelled:
    """A scaled picture with its example's labels in its pixels."""
    height, width = image.shape[:2]
    boxes = example.boxes_xywh * [width, height, width, height]
    half = boxes[:, 2:] / 2
    return Labelled(image, np.column_stack([example.class_ids, boxes[:, :2] - half, boxes[:, :2] + half]))


def normalized(picture: Labelled) -> NDArray[np.float32]:
    """The labels as a loss wants them, float32 (N, 5): class, cx, cy, w, h in 0…1."""
    height, width = picture.image.shape[:2]
    low, high = picture.labels[:, 1:3], picture.labels[:, 3:]
    return np.column_stack(
        [picture.labels[:, 0], (low + high) / 2 / [width, height], (high - low) / [width, height]]
    ).astype(np.float32)


class Maker:
    """Makes pictures for training out of `pictures` and their `examples`, augmented by `strength`."""

    def __init__(
        self,
        pictures: Callable[[int], RGB],
        examples: Sequence[Example],
        strength: Mapping[str, float],
        seed: int,
        rectangular: bool,
    ) -> None:
        self._pictures, self._examples = pictures, examples
        self._strength, self._seed, self._rectangular = strength, seed, rectangular

    def __call__(self, number: int, row: int, indices: Sequence[int], canvas_wh: tuple[int, int]) -> Labelled:
        """The picture in `row` of pass `number`: the first of `indices` (8,), perhaps in a mosaic with the others."""
        rng = random_for(self._seed, _PICTURE, number, row)
        if self._rectangular or rng.random() >= self._strength["mosaic"]:
            return augmented(self._load(indices[0]), canvas_wh, rng, self._strength)
        others = [self._load(index) for index in indices[4:]] if rng.random() < self._strength["mixup"] else []
        return mosaic([self._load(index) for index in indices[:4]], canvas_wh[0], rng, self._strength, others)

    def _load(self, index: int) -> Labelled:
        return labelled_picture(self._pictures(index), self._examples[index])


Making = Sequence[tuple[Callable[[], Labelled], NDArray[np.bool_]]]
"""What makes each picture of a batch, and the mask of its unlabelled classes."""


def batches(plan: Sequence[Making], threads: int) -> Iterator[Batch]:
    """The batches of a plan, made `threads` pictures at a time, two batches ahead of the one in use."""
    with ThreadPoolExecutor(threads) as pool:
        pending: list[tuple[Making, list[Any]]] = []
        for members in [*plan, (), ()]:
            pending.append((members, [pool.submit(make) for make, _ in members]))
            if len(pending) > 2:
                ready, futures = pending.pop(0)
                if ready:
                    yield collate([future.result() for future in futures], [mask for _, mask in ready])


def collate(made: Sequence[Labelled], unlabelled: Sequence[NDArray[np.bool_]]) -> Batch:
    """Pictures of one shape and their labels as one batch."""
    numbered = [np.insert(normalized(picture), 0, number, axis=1) for number, picture in enumerate(made)]
    return Batch(
        np.stack([picture.image for picture in made]),
        np.concatenate(numbered).astype(np.float32),
        np.stack(unlabelled),
    )
