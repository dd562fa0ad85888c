"""The report of an anonymization: what became of the inputs, and results to look at; never an original."""

import hashlib
import heapq
from collections import Counter
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from depers.anonymization import manifest
from depers.archives import registry
from depers.imaging.decoding import decode
from depers.imaging.headers import ImageError
from depers.pipeline.box_tables import Row
from depers.reports import page, plots
from depers.statuses import ArchiveStatus, FileStatus

_SAMPLES, _DOUBTFUL, _REASONS = 24, 24, 50
_CONTEXT = 1.5  # how much of a doubtful box's surroundings is shown, in its own sizes
_BINS = 24
_WITH_REASON = (FileStatus.FAILED, FileStatus.SKIPPED, FileStatus.REMOVED, ArchiveStatus.INCOMPLETE)


class ManifestStatistics:
    """Counts over manifest rows, and the few rows that the report shows; its size does not grow with theirs."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.archives: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.confidences = Counter[int]()
        self.counts = Counter[int]()
        self._samples: list[tuple[int, str, Row]] = []
        self._doubtful: list[tuple[float, str, int, Row, Row]] = []

    def count_inputs(self) -> int:
        """Return how many files there were, without those that were removed."""
        return sum(count for status, count in self.files.items() if status != FileStatus.REMOVED)

    @property
    def samples(self) -> list[Row]:
        """Some results, drawn by the digests of their places: alike in every run, and no camera's turn."""
        return [row for _, _, row in sorted(self._samples, key=lambda sample: sample[1])]

    @property
    def doubtful(self) -> list[tuple[Row, Row]]:
        """The rows and boxes with the lowest confidence, that first."""
        entries = sorted(self._doubtful, key=lambda entry: (-entry[0], *entry[1:3]))
        return [(row, box) for *_, row, box in entries]

    def add(self, table: pa.Table) -> None:
        """Add the rows of one table."""
        for row in table.to_pylist():
            is_archive = row["number"] is None and registry.kind_of(row["path"]) is not None
            (self.archives if is_archive else self.files)[row["status"]] += 1
            if row["status"] in _WITH_REASON:
                self.reasons[f"{row['status']}: {row['reason']}"] += 1
                self._bound_reasons()
            if row["method"]:
                self.methods[row["method"]] += 1
            if row["status"] in (FileStatus.REDACTED, FileStatus.CLEAN):
                self.counts[min(_BINS, len(row["boxes"]))] += 1
            if row["status"] == FileStatus.REDACTED:
                self._add_redacted(row)

    def _bound_reasons(self) -> None:
        if len(self.reasons) > 20 * _REASONS:
            frequent = self.reasons.most_common(10 * _REASONS)
            remainder = sum(self.reasons.values()) - sum(count for _, count in frequent)
            self.reasons = Counter(dict(frequent))
            self.reasons["other reasons"] += remainder

    def _add_redacted(self, row: Row) -> None:
        """Keep a fixed number of samples, and the boxes that are least certain."""
        place = f"{row['path']}\0{row['number']}"
        digest = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8])
        _push(self._samples, (-digest, place, row), _SAMPLES)
        for index, box in enumerate(row["boxes"]):
            self.classes[box["class"]] += 1
            if box["confidence"] is None:
                continue
            self.confidences[min(_BINS - 1, int(box["confidence"] * _BINS))] += 1
            _push(self._doubtful, (-box["confidence"], place, index, row, box), _DOUBTFUL)


def _push(heap: list[Any], entry: tuple[Any, ...], most: int) -> None:
    """Add an entry to a heap of the `most` largest; entries differ before their rows, which have no order."""
    if len(heap) < most:
        heapq.heappush(heap, entry)
    elif entry > heap[0]:
        heapq.heapreplace(heap, entry)


def make_report(out: str, statistics: ManifestStatistics) -> str:
    """Return the page: counts, reasons, histograms, a sample of results, and the boxes that were least certain."""
    total = statistics.count_inputs()
    counts = [(status, statistics.files[status]) for status in manifest.STATUSES if statistics.files[status]]
    sections = [("Inputs", page.table(("status", "files"), counts))]
    if statistics.archives:
        sections.append(("Archives", page.table(("status", "archives"), sorted(statistics.archives.items()))))
    if statistics.reasons:
        rows = statistics.reasons.most_common(_REASONS)
        sections.append(("What is not in the output, and why", page.table(("reason", "files"), rows)))
    if statistics.classes:
        table = page.table(("class", "boxes"), sorted(statistics.classes.items()))
        sections.append(("Boxes", table + _draw_histograms(statistics)))
    if statistics.methods:
        sections.append(("Methods", page.table(("method", "files"), sorted(statistics.methods.items()))))
    figures = [_draw_sample(out, row) for row in statistics.samples]
    sections.append(("Results, a sample", page.gallery([figure for figure in figures if figure])))
    if statistics.doubtful:
        note = "Where the detector was least certain: what looks like nothing shows that the threshold is low enough."
        crops = [_draw_crop(out, row, box) for row, box in statistics.doubtful]
        gallery = page.gallery([crop for crop in crops if crop])
        sections.append(("Lowest confidence, for review", page.paragraph(note) + gallery))
    return page.render("Anonymized images", f"{total} files, one manifest row each.", sections)


def _draw_histograms(statistics: ManifestStatistics) -> Markup:
    figures = []
    if statistics.confidences:
        values = _expand_bins(statistics.confidences)
        figures.append(plots.histogram("Confidence of the boxes", {"boxes": values}, "confidence"))
    counts = statistics.counts
    images = [number for number, count in counts.items() for _ in range(_scale_count(count, counts))]
    figures.append(plots.histogram("Boxes in an image", {"images": images}, "boxes"))
    return page.gallery(figures)


def _expand_bins(counts: Counter[int]) -> list[float]:
    """Return a value in the middle of its bin for each that was counted, or for a share of them."""
    return [(number + 0.5) / _BINS for number, count in counts.items() for _ in range(_scale_count(count, counts))]


def _scale_count(count: int, counts: Counter[int]) -> int:
    """Return a count in proportion: all together are at most some ten thousand numbers to draw."""
    return max(1, round(count * min(1.0, 20_000 / sum(counts.values()))))


def _draw_sample(out: str, row: Row) -> Markup:
    pixels = _read_pixels(out, row)
    if pixels is None:
        return Markup()
    return page.image(pixels, f"{manifest.describe_place(row)}, boxes: {len(row['boxes'])}", max_side=480)


def _draw_crop(out: str, row: Row, box: Row) -> Markup:
    """Return the surroundings of one box in the result."""
    pixels = _read_pixels(out, row) if box["frame"] == 0 else None
    if pixels is None:
        return Markup()
    width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
    left, right = int(box["x_min"] - _CONTEXT * width), int(box["x_max"] + _CONTEXT * width) + 1
    top, bottom = int(box["y_min"] - _CONTEXT * height), int(box["y_max"] + _CONTEXT * height) + 1
    crop = pixels[max(0, top) : max(1, bottom), max(0, left) : max(1, right)]
    caption = f"{box['class']} {box['confidence']:.2f}, {manifest.describe_place(row)}"
    return page.image(crop, caption, max_side=320)


def _read_pixels(out: str, row: Row) -> Any:
    try:
        data = manifest.read_result(out, row)
        return None if data is None else decode(data, float("inf")).rgb()
    except (OSError, ImageError):
        return None  # a name that is not text cannot be found by what the manifest says
