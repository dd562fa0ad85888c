"""What an audit found, gathered while it goes on, and as an HTML page."""

import re
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from depers.anonymization import manifest
from depers.boxes import EDGES
from depers.imaging.decoding import decode
from depers.imaging.headers import ImageError
from depers.pipeline.box_tables import Row
from depers.reports import drawing, page
from depers.statuses import AuditStatus

_FIGURES, _LINES = 24, 200


class FindingStatistics:
    """Counts findings, and keeps the first of them to list and to show; its size does not grow with theirs."""

    def __init__(self) -> None:
        self.total = self.wrong = 0
        self.kinds: Counter[str] = Counter()
        self.first_rows: list[Row] = []
        """Of what is wrong."""
        self.first_rows_with_boxes: list[Row] = []

    def add(self, table: pa.Table) -> None:
        """Add the rows of a table."""
        self.total += len(table)
        for row in table.filter(pc.equal(table["status"], AuditStatus.WRONG)).to_pylist():
            self.wrong += 1
            for problem in row["reason"].split("; "):
                self.kinds[_generalize(problem)] += 1
            if len(self.first_rows) < _LINES:
                self.first_rows.append(row)
            if row["boxes"] and len(self.first_rows_with_boxes) < _FIGURES:
                self.first_rows_with_boxes.append(row)


def _generalize(problem: str) -> str:
    """Return a problem without its particulars."""
    return re.sub(r"\d+ × ", "", problem)[:80]


def make_report(
    out: str,
    statistics: FindingStatistics,
    manifest_rows: Mapping[tuple[str, int | None], Row],
    with_detector: bool,
) -> str:
    """Return the page: counts, what is wrong by kind, the first of it, and what a detector still finds.

    `manifest_rows`, by path and number, are those of what it still finds something in.
    """
    counts = [(AuditStatus.SOUND, statistics.total - statistics.wrong), (AuditStatus.WRONG, statistics.wrong)]
    sections = [("Objects, members and inputs", page.table(("finding", "number"), counts))]
    if statistics.wrong:
        sections.append(("What is wrong", page.table(("kind", "number"), statistics.kinds.most_common(50))))
        lines = [(manifest.describe_place(row), row["reason"]) for row in statistics.first_rows]
        heading = "The first of it" if statistics.wrong > len(lines) else "All of it"
        sections.append((heading, page.table(("what", "why"), lines)))
    rows = statistics.first_rows_with_boxes
    figures = [_draw_finding(out, row, manifest_rows.get((row["path"], row["number"]))) for row in rows]
    if figures:
        note = "Found again in the redacted images, where less than half of it is redacted."
        gallery = page.gallery([figure for figure in figures if figure])
        sections.append(("What is still found", page.paragraph(note) + gallery))
    if not with_detector:
        note = "Without --weights no detector has looked at the results again."
        sections.append(("Not checked", page.paragraph(note)))
    return page.render("Audit", "A second pass over the output, independent of the first.", sections)


def _draw_finding(out: str, row: Row, manifest_row: Row | None) -> Markup:
    try:
        data = manifest.read_result(out, manifest_row) if manifest_row else None
        pixels = decode(data, float("inf")).rgb() if data else None
    except (OSError, ImageError):
        return Markup()
    if pixels is None:
        return Markup()
    boxes = [box for box in row["boxes"] if box["frame"] == 0]
    edges = [[box[name] for name in EDGES] for box in boxes]
    texts = [f"{box['class']} {box['confidence']:.2f}" for box in boxes]
    image = drawing.draw_boxes(pixels, edges, texts, [drawing.color(box["class"]) for box in boxes])
    return page.image(image, f"{manifest.describe_place(row)}: {row['reason']}", max_side=640)
