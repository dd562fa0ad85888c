"""The report of an anonymization: what became of the inputs, and results to look at; never an original."""

import hashlib
import heapq
from collections import Counter
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from depers.anonymization import manifest
from depers.archives import registry
from depers.imaging.decoding import ImageError, decode
from depers.pipeline.steps import Row
from depers.reports import page, plots
from depers.statuses import FileStatus

_SAMPLES, _DOUBTFUL, _REASONS = 24, 24, 50
_AROUND = 1.5  # how much of a doubtful box's surroundings is shown, in its own sizes
_BINS = 24


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
        self.doubtful: list[tuple[float, str, int, Row, Row]] = []

    @property
    def samples(self) -> list[Row]:
        """Some results, drawn by the digests of their places: alike in every run, and no camera's turn."""
        return [row for *_, row in sorted(self._samples, key=lambda one: one[1])]

    def see(self, table: pa.Table) -> None:
        """Adds the rows of one table."""
        for row in table.to_pylist():
            is_archive = row["number"] is None and registry.kind_of(row["path"]) is not None
            (self.archives if is_archive else self.files)[row["status"]] += 1
            if row["status"] in ("failed", "incomplete", FileStatus.SKIPPED):
                self.reasons[f"{row['status']}: {row['reason']}"] += 1
                self._bound_reasons()
            if row["method"]:
                self.methods[row["method"]] += 1
            if row["status"] in ("redacted", "clean"):
                self.counts[min(_BINS, len(row["boxes"]))] += 1
            if row["status"] == "redacted":
                self._see_redacted(row)

    def _bound_reasons(self) -> None:
        if len(self.reasons) > 20 * _REASONS:
            kept = self.reasons.most_common(10 * _REASONS)
            others = sum(self.reasons.values()) - sum(count for _, count in kept)
            self.reasons = Counter(dict(kept))
            self.reasons["other reasons"] += others

    def _see_redacted(self, row: Row) -> None:
        """Keeps a fixed number of samples, and the boxes that are least certain."""
        place = f"{row['path']}\0{row['number']}"
        digest = int.from_bytes(hashlib.sha256(place.encode()).digest()[:8])
        _keep(self._samples, (-digest, place, row), _SAMPLES)
        for index, box in enumerate(row["boxes"]):
            self.classes[box["class"]] += 1
            if box["confidence"] is None:
                continue
            self.confidences[min(_BINS - 1, int(box["confidence"] * _BINS))] += 1
            _keep(self.doubtful, (-box["confidence"], place, index, row, box), _DOUBTFUL)


def _keep(heap: list[Any], entry: tuple[Any, ...], most: int) -> None:
    """Adds an entry to a heap of the `most` largest; entries differ before their rows, which have no order."""
    if len(heap) < most:
        heapq.heappush(heap, entry)
    elif entry > heap[0]:
        heapq.heapreplace(heap, entry)


def make_report(out: str, tally: ManifestStatistics) -> str:
    """The page: counts, reasons, histograms, a sample of results, and the boxes that were least certain."""
    total = sum(tally.files.values())
    names = [name for name in manifest.STATUSES if tally.files[name]]
    sections = [("Inputs", page.table(("status", "files"), [(name, tally.files[name]) for name in names]))]
    if tally.archives:
        sections.append(("Archives", page.table(("status", "archives"), sorted(tally.archives.items()))))
    if tally.reasons:
        rows = tally.reasons.most_common(_REASONS)
        sections.append(("What is not in the output, and why", page.table(("reason", "files"), rows)))
    if tally.classes:
        sections.append(("Boxes", page.table(("class", "boxes"), sorted(tally.classes.items())) + _figures(tally)))
    if tally.methods:
        sections.append(("Methods", page.table(("method", "files"), sorted(tally.methods.items()))))
    figures = [_sample(out, row) for row in tally.samples]
    sections.append(("Results, a sample", page.gallery([figure for figure in figures if figure])))
    if tally.doubtful:
        note = "Where the detector was least certain: what looks like nothing shows that the threshold is low enough."
        crops = [_crop(out, row, box) for *_, row, box in sorted(tally.doubtful, key=lambda one: (-one[0], *one[1:3]))]
        gallery = page.gallery([crop for crop in crops if crop])
        sections.append(("Lowest confidence, for review", page.paragraph(note) + gallery))
    return page.render("Anonymized images", f"{total} files, one manifest row each.", sections)


def _figures(tally: ManifestStatistics) -> Markup:
    values: list[tuple[str, Counter[int], str]] = []
    if tally.confidences:
        values.append(("Confidence of the boxes", tally.confidences, "confidence"))
    drawn = [plots.histogram(title, {"boxes": _spread(counts)}, label) for title, counts, label in values]
    images = [number for number, count in tally.counts.items() for _ in range(_scaled(count, tally.counts))]
    drawn.append(plots.histogram("Boxes in an image", {"images": images}, "boxes"))
    return page.gallery(drawn)


def _spread(counts: Counter[int]) -> list[float]:
    return [(number + 0.5) / _BINS for number, count in counts.items() for _ in range(_scaled(count, counts))]


def _scaled(count: int, counts: Counter[int]) -> int:
    """At most some ten thousand numbers to draw, in proportion."""
    return max(1, round(count * min(1.0, 20_000 / sum(counts.values()))))


def _sample(out: str, row: Row) -> Markup:
    pixels = _pixels(out, row)
    return (
        Markup() if pixels is None else page.image(pixels, f"{_place(row)}, boxes: {len(row['boxes'])}", max_side=480)
    )


def _crop(out: str, row: Row, box: Row) -> Markup:
    """The surroundings of one box in the result."""
    pixels = _pixels(out, row) if box["frame"] == 0 else None
    if pixels is None:
        return Markup()
    width, height = box["x_max"] - box["x_min"], box["y_max"] - box["y_min"]
    left, right = int(box["x_min"] - _AROUND * width), int(box["x_max"] + _AROUND * width) + 1
    top, bottom = int(box["y_min"] - _AROUND * height), int(box["y_max"] + _AROUND * height) + 1
    crop = pixels[max(0, top) : max(1, bottom), max(0, left) : max(1, right)]
    return page.image(crop, f"{box['class']} {box['confidence']:.2f}, {_place(row)}", max_side=320)


def _pixels(out: str, row: Row) -> Any:
    try:
        data = manifest.read_result(out, row)
        return None if data is None else decode(data, float("inf")).rgb()
    except (OSError, ImageError):
        return None  # a name that is not text cannot be found by what the manifest says


def _place(row: Row) -> str:
    return str(row["path"] if row["member"] is None else f"{row['path']}: {row['member']}")
