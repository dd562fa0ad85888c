"""What an audit found, gathered while it goes on, and as an HTML page."""

import re
from collections import Counter
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from depers.anonymization import manifest
from depers.imaging.decoding import ImageError, decode
from depers.pipeline.steps import Row
from depers.reports import drawing, page

_SHOWN, _LISTED = 24, 200


class FindingStatistics:
    """Counts findings, and keeps the first of them to list and to show; its size does not grow with theirs."""

    def __init__(self) -> None:
        self.total = self.count = 0
        self.kinds: Counter[str] = Counter()
        self.listed: list[Row] = []
        self.shown: list[Row] = []

    def see(self, table: pa.Table) -> None:
        """Adds the rows of a table."""
        self.total += len(table)
        for row in table.filter(pc.equal(table["status"], "wrong")).to_pylist():
            self.count += 1
            for problem in row["reason"].split("; "):
                self.kinds[_kind(problem)] += 1
            if len(self.listed) < _LISTED:
                self.listed.append(row)
            if row["boxes"] and len(self.shown) < _SHOWN:
                self.shown.append(row)


def _kind(problem: str) -> str:
    """A problem without its particulars."""
    return re.sub(r"\d+ × ", "", problem)[:80]


def make_report(out: str, wrong: FindingStatistics, offsets: Mapping[tuple[str, int | None], Row], looked: bool) -> str:
    """The page: counts, what is wrong by kind, the first of it, and what a detector still finds."""
    counts = [("sound", wrong.total - wrong.count), ("wrong", wrong.count)]
    sections = [("Objects, members and inputs", page.table(("finding", "number"), counts))]
    if wrong.count:
        sections.append(("What is wrong", page.table(("kind", "number"), wrong.kinds.most_common(50))))
        lines = [(place(row), row["reason"]) for row in wrong.listed]
        heading = "The first of it" if wrong.count > len(lines) else "All of it"
        sections.append((heading, page.table(("what", "why"), lines)))
    figures = [_figure(out, row, offsets.get((row["path"], row["number"]))) for row in wrong.shown]
    if figures:
        note = "Found again in the redacted images, where less than half of it is redacted."
        gallery = page.gallery([figure for figure in figures if figure])
        sections.append(("What is still found", page.paragraph(note) + gallery))
    if not looked:
        note = "Without --weights no detector has looked at the results again."
        sections.append(("Not checked", page.paragraph(note)))
    return page.render("Audit", "A second pass over the output, independent of the first.", sections)


def _figure(out: str, row: Row, written: Row | None) -> Markup:
    try:
        data = manifest.read_result(out, written) if written else None
        pixels = decode(data, float("inf")).rgb() if data else None
    except (OSError, ImageError):
        return Markup()
    if pixels is None:
        return Markup()
    boxes = [box for box in row["boxes"] if box["frame"] == 0]
    edges = [[box[name] for name in ("x_min", "y_min", "x_max", "y_max")] for box in boxes]
    texts = [f"{box['class']} {box['confidence']:.2f}" for box in boxes]
    drawn = drawing.draw_boxes(pixels, edges, texts, [drawing.color(box["class"]) for box in boxes])
    return page.image(drawn, f"{place(row)}: {row['reason']}", max_side=640)


def place(row: Row) -> str:
    """What a finding is about: the object, and the member in it."""
    return str(row["path"] if row["member"] is None else f"{row['path']}: {row['member']}")
