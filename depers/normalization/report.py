"""What is in a dataset: counts, plots, a sheet of labelled images, what was wrong; as text and as an HTML page."""

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from markupsafe import Markup
from numpy.typing import NDArray

from depers import storage
from depers.boxes import from_normalized_xywh
from depers.datasets.labels import SPLITS, read_labels
from depers.imaging.decoding import decode
from depers.normalization.rules import Problem
from depers.reports import drawing, page, plots
from depers.statuses import SourceStatus
from depers.storage.overlapped import count_threads

_EDGES = np.geomspace(1, 2**14, 57)  # of box sizes in pixels, four bins to a factor of 2
_SHARES = np.geomspace(2**-10, 1, 41)  # of box sizes, as a share of the image's
_SHEET, _PER_CLASS, _BACKGROUNDS = 24, 5, 2  # images on the sheet: in all, at most of a class, without boxes
_NONE, _ANY = -1, -2  # in place of a class id: no boxes, and any or none
_CELL = (640, 480)  # pixels; boxes are drawn at this size, so that lines stay visible
_SERIES = 6  # classes in one plot
_READERS = 8  # samples at a time: each may be large
_TEXTS = 12  # boxes of one image that are named

Kinds = Sequence[tuple[str, str, int, Problem]]


class LabelStatistics:
    """Counts of a dataset, gathered from the records of its units in any order; small, whatever the dataset's size."""

    def __init__(self, class_count: int) -> None:
        self.images: Counter[str] = Counter()  # by split
        self.backgrounds: Counter[str] = Counter()
        self.skipped: set[tuple[str, str]] = set()  # split and name of images that could not be used
        self.ignored = 0  # ignore regions
        self.boxes: Counter[tuple[str, int]] = Counter()  # by split and class id
        self.with_class: Counter[tuple[str, int]] = Counter()  # images, the same
        self.objects: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}  # images by number of boxes
        self.sizes = np.zeros((class_count, len(_EDGES) - 1), np.int64)
        self.shares = np.zeros((class_count, len(_SHARES) - 1), np.int64)
        self._samples: dict[int, list[tuple[int, str, str]]] = defaultdict(list)  # by class id, _NONE, _ANY

    def add(self, record: pa.Table) -> None:
        """Count a unit in (`writing.RECORD`)."""
        lists = record["boxes"].combine_chunks()
        boxes = lists.flatten()
        numbers = np.repeat(np.arange(len(record)), np.diff(lists.offsets))
        class_ids = boxes.field("class_id").to_numpy()
        counts = np.zeros((len(record), len(self.sizes)), np.int64)
        np.add.at(counts, (numbers, class_ids), 1)
        for row, class_counts in zip(record.drop_columns(["boxes", "problems"]).to_pylist(), counts, strict=True):
            split, name, total = row["split"], row["name"], int(class_counts.sum())
            if row["status"] != SourceStatus.USED:
                self.skipped.add((split, name))
                continue
            self.ignored += row["ignored"]
            self.images[split] += 1
            self.backgrounds[split] += not total
            self.objects[split][total] += 1
            present_ids = np.flatnonzero(class_counts).tolist()
            for class_id in present_ids:
                self.boxes[split, class_id] += int(class_counts[class_id])
                self.with_class[split, class_id] += 1
            self._offer_sample(name, split, [*(present_ids or [_NONE]), _ANY])
        sides = np.sqrt(_to_floats(boxes.field("w")) * _to_floats(boxes.field("h")))
        image_sides = np.sqrt(_to_floats(record["width"]) * _to_floats(record["height"]))
        _count(self.sizes, class_ids, _EDGES, sides)
        _count(self.shares, class_ids, _SHARES, sides / image_sides[numbers])

    def _offer_sample(self, name: str, split: str, class_ids: Sequence[int]) -> None:
        """Keep the image if its hash is among the lowest, so that the choice depends on nothing but the names."""
        rank = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        most = {_NONE: _BACKGROUNDS, _ANY: _SHEET}
        for class_id in class_ids:
            samples = self._samples[class_id]
            entry = (-rank, name, split)
            if len(samples) < most.get(class_id, _PER_CLASS):
                heapq.heappush(samples, entry)
            else:
                heapq.heappushpop(samples, entry)

    def select_samples(self) -> list[tuple[str, str]]:
        """Return (split, name) of images for the sheet: in turn one of every class and one without boxes, then any."""
        queues = {class_id: sorted(samples, reverse=True) for class_id, samples in self._samples.items()}
        candidates = queues.pop(_ANY, [])
        ordered_queues = [
            queues[class_id] for class_id in sorted(queues, key=lambda class_id: (class_id < 0, class_id))
        ]
        turns = [queue[turn] for turn in range(_PER_CLASS) for queue in ordered_queues if turn < len(queue)]
        return list(dict.fromkeys((split, name) for _, name, split in [*turns, *candidates]))[:_SHEET]


def _to_floats(numbers: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(numbers, np.float64)


def _count(
    counts: NDArray[np.int64], class_ids: NDArray[np.int32], edges: NDArray[np.float64], values: NDArray[np.float64]
) -> None:
    """Count values into the bins of their classes; the first and the last bin hold what lies beyond."""
    places = np.searchsorted(edges, values, side="right") - 1
    np.add.at(counts, (class_ids, np.clip(places, 0, counts.shape[1] - 1)), 1)


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table, of at least one row, for the screen; numbers are aligned to the right."""
    cells = [[str(value) for value in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [isinstance(value, int) for value in rows[0]]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if number else c.ljust(w) for c, w, number in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def make_problem_rows(kinds: Kinds) -> list[list[object]]:
    """Return the table of what was wrong: number, kind, what was done, the first place."""
    rows: list[list[object]] = []
    for action, kind, count, first in kinds:
        place = f"{first.path}, line {first.line}" if first.line else first.path
        rows.append([count, kind, action, place + (f": {first.detail}" if first.detail else "")])
    return rows


PROBLEM_HEADER = ("number", "problem", "what was done", "first")


def format_problems(kinds: Kinds) -> str:
    """Return what was wrong as a table for the screen; "" for nothing."""
    return format_table(PROBLEM_HEADER, make_problem_rows(kinds)) if kinds else ""


def format_summary(statistics: LabelStatistics, classes: Sequence[str], labelled: Mapping[str, Sequence[str]]) -> str:
    """Return images and boxes, for the screen, and which images are labelled for some classes only."""
    images = "; ".join(
        f"{statistics.images[split]} images in {split} ({statistics.backgrounds[split]} without boxes)"
        for split in list_splits(statistics)
    )
    counts = [sum(statistics.boxes[split, class_id] for split in SPLITS) for class_id in range(len(classes))]
    boxes = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    lines = [images, f"{sum(counts)} boxes: {boxes}"]
    if statistics.ignored:
        lines.append(f"{statistics.ignored} ignore regions (crowds, difficult objects): neither right nor false there")
    for prefix, names in labelled.items():
        lines.append(f"{prefix or 'all images'}: labelled for {', '.join(names) or 'no class'} only")
    return "\n".join(lines)


def list_splits(statistics: LabelStatistics) -> list[str]:
    """Return train and val, and each other split that has images."""
    return [split for split in SPLITS if split in SPLITS[:2] or statistics.images[split]]


def make_class_rows(statistics: LabelStatistics, classes: Sequence[str]) -> list[list[object]]:
    """Return boxes and images of every class in each split, and the other splits' shares of the boxes."""
    rows: list[list[object]] = []
    splits = list_splits(statistics)
    for class_id, name in enumerate(classes):
        boxes = [statistics.boxes[split, class_id] for split in splits]
        images = [statistics.with_class[split, class_id] for split in splits]
        shares: list[object] = [count / sum(boxes) if sum(boxes) else "–" for count in boxes[1:]]
        rows.append([name, *boxes, *images, *shares])
    return rows


def draw_samples(out: str, statistics: LabelStatistics, classes: Sequence[str]) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return (caption, image) of some images of the dataset at `out`, reduced, with the boxes of their label files."""

    def draw(sample: tuple[str, str]) -> tuple[str, NDArray[np.uint8]] | None:
        split, name = sample
        try:
            data = storage.read_bytes(storage.join(out, "images", split, name))
        except OSError:  # a name that is not UTF-8 cannot be found by what the record shows
            return None
        stem = name.rpartition(".")[0]
        labels = read_labels(storage.join(out, "labels", split, f"{stem}.txt"), len(classes))
        image = drawing.fit(decode(data).rgb(), _CELL)
        boxes = from_normalized_xywh(labels.boxes_xywh, (image.shape[1], image.shape[0]))
        names = [classes[class_id] for class_id in labels.class_ids.tolist()]
        texts = names if len(names) <= _TEXTS else [""] * len(names)  # else they hide what they name
        counts = ", ".join(f"{class_name} {count}" for class_name, count in Counter(names).items())
        colored = drawing.draw_boxes(image, boxes, texts, [drawing.color(class_name) for class_name in names])
        return f"{counts or 'no boxes'}: {split}/{name}", colored

    with ThreadPoolExecutor(min(count_threads(1, out), _READERS)) as pool:
        return [sample for sample in pool.map(draw, statistics.select_samples()) if sample]


def make_sheet(captioned: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Return the drawn images on one sheet."""
    return drawing.contact_sheet([image for _, image in captioned], [caption for caption, _ in captioned], 4, _CELL)


def make_report(
    statistics: LabelStatistics,
    classes: Sequence[str],
    labelled: Mapping[str, Sequence[str]],
    kinds: Kinds,
    captioned: Sequence[tuple[str, NDArray[np.uint8]]],
    account: Sequence[Sequence[object]],
    notes: Sequence[str] = (),
) -> str:
    """Return the HTML page; `account` are numbers of files of the input, each with kind, status and detail.

    `notes` are lines about the splits, which come first.
    """
    splits = list_splits(statistics)
    lead = ", ".join(f"{statistics.images[split]} images in {split}" for split in splits)
    header = ["Class", *(f"Boxes in {split}" for split in splits), *(f"Images in {split}" for split in splits)]
    header += [f"Share of boxes in {split}" for split in splits[1:]]
    numbers = page.table(header, make_class_rows(statistics, classes))
    if labelled:
        rows = [[prefix or "all", ", ".join(names) or "none"] for prefix, names in labelled.items()]
        note = "Only these classes are labelled there: of the others, images may show objects without a box."
        numbers += page.paragraph(note) + page.table(("Images", "Labelled classes"), rows)
    sections = [("Classes", numbers), ("Distributions", page.gallery(_plots(statistics, classes)))]
    images = [page.image(image, caption, max_side=640) for caption, image in captioned]
    sections.append(("Labelled images", page.gallery(images)))
    problems = page.paragraph("Nothing.")
    if kinds:
        problems = page.table([name.capitalize() for name in PROBLEM_HEADER], make_problem_rows(kinds))
    sections.append(("What was wrong", problems))
    note = page.paragraph("Every file of the input, by what became of it; files.parquet names each.")
    sections.append(("Files", page.table(("Files", "Kind", "Status", "Detail"), account) + note))
    return page.render("Dataset", " ".join([f"{lead}; {len(statistics.skipped)} skipped.", *notes]), sections)


def _plots(statistics: LabelStatistics, classes: Sequence[str]) -> list[Markup]:
    splits = list_splits(statistics)
    counts = {split: [statistics.boxes[split, class_id] for class_id in range(len(classes))] for split in splits}
    totals = np.sum(list(counts.values()), axis=0)
    most = [int(i) for i in np.argsort(-totals, kind="stable")[:_SERIES] if totals[i]]
    objects = {split: counter for split, counter in statistics.objects.items() if counter}
    edges, per_image = _histogram(objects)
    figures = [plots.bars("Boxes per class", classes, counts)]
    for title, all_edges, all_counts, unit in (
        ("Box sizes", _EDGES, statistics.sizes, "square root of the area, pixels"),
        ("Box sizes in the image", _SHARES, statistics.shares, "square root of box area / image area"),
    ):
        if most:
            filled = np.flatnonzero(all_counts[most].sum(axis=0))
            first, last = int(filled[0]), int(filled[-1]) + 1
            series = {classes[i]: all_counts[i, first:last] for i in most}
            figures.append(
                plots.histogram_of_counts(title, all_edges[first : last + 1], series, unit, log=True, share=True)
            )
    figures.append(plots.histogram_of_counts("Objects per image", edges, per_image, _unit(edges, objects), share=True))
    return figures


def _histogram(
    objects: Mapping[str, Counter[int]],
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return edges and images per bin by split; the few images with the most boxes are in the last bin."""
    numbers = np.array(sorted(n for counter in objects.values() for n in counter.elements()), np.float64)
    most = float(np.quantile(numbers, 0.98)) if len(numbers) else 1.0
    edges = plots.bin_edges(np.unique(np.append(np.minimum(numbers, max(most, 10)), 0)).round(), 30)
    return edges, {
        split: np.histogram(
            np.minimum(list(counter), edges[-1]), edges, weights=np.array(list(counter.values()), np.float64)
        )[0]
        for split, counter in objects.items()
    }


def _unit(edges: NDArray[np.float64], objects: Mapping[str, Counter[int]]) -> str:
    most = max((n for counter in objects.values() for n in counter), default=0)
    return f"boxes; the last bin goes on to {most}" if most > edges[-1] else "boxes"
