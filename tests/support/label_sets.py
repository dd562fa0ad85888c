"""Small labelled sets on disk, and what `normalize` makes of them, without writing a dataset."""

import contextlib
import io
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from depers.datasets.labels import CLASSES
from depers.normalization.assignment import Assignment, make_tasks
from depers.normalization.catalog import Catalog, find_class_meanings
from depers.normalization.index import LabelIndex
from depers.normalization.reading import read_labels
from depers.normalization.rules import Problem, find_frame, mend
from depers.normalization.sources import AUTO, open_set, parse_class_map
from depers.normalization.suspicions import refuse_mostly_dropped
from depers.normalization.twins import SHAPE
from depers.statuses import ProblemAction

Boxes = list[tuple[str, float, float, float, float]]

# Random datasets: a class and a box in pixels, by the names of images

NAMES = ("car", "licence plate", "façade & co", "a=b, c", "3")
WIDE, HIGH = 200, 250  # so that five decimals hold every share

box = st.tuples(
    st.sampled_from(NAMES), st.integers(0, 150), st.integers(0, 120), st.integers(2, 50), st.integers(2, 40)
)
image_name = st.text("ab é1_-(", min_size=1, max_size=6).filter(lambda text: text == text.strip())
dataset = st.dictionaries(image_name, st.lists(box, max_size=5, unique=True), min_size=1, max_size=4).filter(
    lambda images: any(images.values())
)
Dataset = dict[str, list[tuple[str, int, int, int, int]]]


def make_image(size_wh: tuple[int, int] = (200, 160), kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size_wh[1], size_wh[0], 3), 90, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write_files(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write texts and bytes; an image without content becomes one of 200 × 160 pixels."""
    image = make_image()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(image if not data and path.suffix == ".jpg" else data)
    return root


def read_set(
    root: Path,
    *class_map: str,
    classes: tuple[str, ...] = CLASSES,
    kind: str = AUTO,
    columns: str = "auto",
    unlabelled: str = "auto",
    size_wh: tuple[int, int] = (200, 160),
) -> tuple[dict[str, Boxes], list[Problem]]:
    """Return the boxes of every image that would be used, as fractions, those ignored with a ~; and what was wrong."""
    label_set = open_set(str(root), "", kind, classes, parse_class_map(class_map, classes, "--class-map"), (), columns)
    catalog = Catalog([label_set])
    database = root.parent / f"{root.name}.sqlite"
    database.unlink(missing_ok=True)
    with contextlib.closing(LabelIndex(database)) as index:
        skipped = read_labels(index, catalog, unlabelled, run=itertools.starmap)
        meanings = find_class_meanings(index, catalog, classes)
        unused = skipped.not_understood | skipped.unlabelled
        names = [image.name for _, image in catalog.images]
        assignment = Assignment(names, ["" if number in unused else "train" for number in range(len(names))])
        found: dict[str, Boxes] = {}
        shapes = np.zeros(len(names), SHAPE)
        for task in make_tasks(catalog, assignment, meanings, len(classes), index, shapes):
            frame = find_frame(task.path, task.declared_wh, size_wh, 1)
            index.add_problems(frame.problems)
            mended = mend(task.boxes, frame.size_wh)
            index.add_problems(mended.problems)
            if all(problem.action != ProblemAction.SKIPPED_WITH_IMAGE for problem in mended.problems):
                found[task.name] = [
                    (mark + classes[number], *box)
                    for mark, labels in (("", mended.labels), ("~", mended.ignored))
                    for number, box in zip(labels.class_ids.tolist(), labels.boxes_xywh.tolist(), strict=True)
                ]
        refuse_mostly_dropped(index, catalog)
        return found, list(index.problems())


def rounded(boxes: Boxes) -> list[tuple[str, ...]]:
    """Return boxes as texts with six decimals, sorted."""
    return sorted((name, *(f"{number:.6f}" for number in numbers)) for name, *numbers in boxes)


def expect(images: Dataset) -> dict[str, list[tuple[str, ...]]]:
    """Return what `read_set` must find in a random dataset, rounded."""
    return {
        f"{name}.jpg": rounded(
            [(c, (x + w / 2) / WIDE, (y + h / 2) / HIGH, w / WIDE, h / HIGH) for c, x, y, w, h in boxes]
        )
        for name, boxes in images.items()
    }
