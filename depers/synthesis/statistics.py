"""Statistics of labels and scenes as counts that add up: the same for real images and for a million synthetic ones."""

from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from depers.boxes import EDGES
from depers.reports import page, plots

SIZES = np.geomspace(0.002, 1.0, 28)
SHARES = np.linspace(0, 1, 25)
SCENES = np.concatenate([np.arange(-0.5, 40.5), [np.inf]])
_SHOWN_CLASSES = 40


@dataclass(frozen=True)
class DatasetStatistics:
    """Counts of labels by class id, by side, by middle and foot, and of images by their objects; int64 all.

    Sides are the root of a box's share of the image; a foot is its lower edge.
    """

    classes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    centers_x: NDArray[np.int64]
    feet_y: NDArray[np.int64]
    scenes: NDArray[np.int64]
    images: int = 0
    objects: int = 0
    requested: int = 0
    distractors: int = 0

    @classmethod
    def empty(cls, class_count: int) -> "DatasetStatistics":
        """Return the statistics of no image."""
        bins = class_count, len(SIZES) - 1, len(SHARES) - 1, len(SHARES) - 1, len(SCENES) - 1
        classes, sizes, centers_x, feet_y, scenes = (np.zeros(count, np.int64) for count in bins)
        return cls(classes, sizes, centers_x, feet_y, scenes)

    def add(self, addend: "DatasetStatistics") -> "DatasetStatistics":
        """Return the statistics of both together."""
        return DatasetStatistics(
            **{field.name: getattr(self, field.name) + getattr(addend, field.name) for field in fields(self)}
        )


def _count(class_ids: NDArray[np.int64], shares_xyxy: NDArray[np.float64], class_count: int) -> DatasetStatistics:
    """Count boxes, whose corners (N, 4) are shares of their images' sides."""
    x0, y0, x1, y1 = shares_xyxy.T
    return replace(
        DatasetStatistics.empty(class_count),
        classes=np.bincount(class_ids, minlength=class_count).astype(np.int64),
        sizes=np.histogram(np.sqrt((x1 - x0) * (y1 - y0)).clip(SIZES[0], SIZES[-1]), SIZES)[0].astype(np.int64),
        centers_x=np.histogram(((x0 + x1) / 2).clip(0, 1), SHARES)[0].astype(np.int64),
        feet_y=np.histogram(y1.clip(0, 1), SHARES)[0].astype(np.int64),
    )


def _boxes(labels: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return class ids (N,), corners (N, 4) and the row of each label of a column."""
    flat = labels.flatten()
    corners = [flat.field(name).to_numpy(zero_copy_only=False) for name in EDGES]
    rows = labels.value_parent_indices().to_numpy()
    ids = flat.field("class_id").to_numpy(zero_copy_only=False).astype(np.int64)
    return ids, np.column_stack(corners).astype(np.float64), rows.astype(np.int64)


def _normalize(corners_xyxy: NDArray[np.float64], images: pa.Table, rows: NDArray[np.int64]) -> None:
    """Turn pixels into shares of the sides of the images in those rows, in place."""
    for axis, name in enumerate(("width", "height")):
        corners_xyxy[:, axis::2] /= images[name].to_numpy()[rows][:, None]


def count_images(images: pa.Table, class_count: int) -> DatasetStatistics:
    """Count the real images, as the bank's table of backgrounds has them, and all their labels."""
    ids, corners, rows = _boxes(images["scene"].combine_chunks())
    _normalize(corners, images, rows)
    scenes = images["objects"].drop_null().to_numpy()
    counts = _count(ids, corners, class_count)
    return replace(counts, scenes=np.histogram(scenes, SCENES)[0], images=len(scenes), objects=int(scenes.sum()))


def count_plan(rows: pa.Table, class_count: int) -> DatasetStatistics:
    """Count the images of a plan, each variant for itself."""
    ids, corners, parents = _boxes(rows["labels"].combine_chunks())
    _normalize(corners, rows, parents)
    objects = rows["objects"].combine_chunks()
    sprites = objects.flatten().field("sprite")
    is_sprite = ~np.asarray(sprites.is_null())
    per_image = np.bincount(objects.value_parent_indices().to_numpy()[is_sprite], minlength=len(rows))
    return replace(
        _count(ids, corners, class_count),
        scenes=np.histogram(per_image, SCENES)[0].astype(np.int64),
        images=len(rows),
        objects=int(is_sprite.sum()),
        requested=int(rows["wanted"].to_numpy().sum()),
        distractors=int((~is_sprite).sum()),
    )


def compare(names: tuple[str, ...], real: DatasetStatistics, synthetic: DatasetStatistics) -> Markup:
    """Return a table and histograms of real against synthetic, as HTML for a report."""
    class_ids = [number for number in range(len(names)) if real.classes[number] or synthetic.classes[number]]
    class_ids = sorted(class_ids, key=lambda number: -int(real.classes[number]))[:_SHOWN_CLASSES]

    def shares(counts: DatasetStatistics) -> list[float]:
        return [100 * float(counts.classes[number]) / max(1, int(counts.classes.sum())) for number in class_ids]

    rows = [(names[number], int(real.classes[number]), int(synthetic.classes[number])) for number in class_ids]
    series = {"real": real, "synthetic": synthetic}
    scenes = np.append(SCENES[:-1], SCENES[-2] + 1)
    figures = [
        plots.bars(
            "Labels by class, %", [names[number] for number in class_ids], {k: shares(t) for k, t in series.items()}
        ),
        plots.histogram_of_counts(
            "Size of labels", SIZES, {k: t.sizes for k, t in series.items()}, "side, share of the image", log=True,
            share=True,
        ),
        plots.histogram_of_counts(
            "Middle of labels", SHARES, {k: t.centers_x for k, t in series.items()}, "x, share of the width", share=True
        ),
        plots.histogram_of_counts(
            "Foot of labels", SHARES, {k: t.feet_y for k, t in series.items()}, "y, share of the height", share=True
        ),
        plots.histogram_of_counts(
            "Objects in an image", scenes, {k: t.scenes for k, t in series.items()}, "objects; the last bin: and more",
            share=True,
        ),
    ]  # fmt: skip
    return page.table(("class", "real labels", "synthetic labels"), rows) + page.gallery(figures)
