"""The last step of an audit: what is wrong with one object of OUT."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from depers import storage
from depers.boxes import covered_share, grow
from depers.detection.detections import BOX, to_array
from depers.imaging.disguise.search import find_image
from depers.imaging.metadata.residue import find_residue
from depers.pipeline.box_tables import Row
from depers.pipeline.steps import Item, Outcome
from depers.statuses import AuditStatus, FileStatus
from depers.storage import Entry
from depers.storage.failures import explain
from depers.storage.tables import column, parquet_text, schema

SCHEMA = schema(
    column("path", pa.string(), "relative to OUT; of what is in INPUT alone, to it"),
    column("member", pa.string(), "in an archive, the name in it"),
    column("number", pa.int64(), "in an archive, the place among its members"),
    column("status", pa.string(), "sound or wrong"),
    column("reason", pa.string(), "what is wrong; empty where nothing is"),
    column("boxes", pa.list_(BOX), "what a detector still finds"),
)
"""The findings: one row per object and member of OUT, and one for each that is missing."""

_MIN_COVERAGE = 0.5  # the share of a box that must be redacted; what is found again in a redacted person is that person


class FindingRow(NamedTuple):
    """A row of `SCHEMA`."""

    path: str
    status: AuditStatus
    reason: str
    member: str | None = None
    number: int | None = None
    boxes: Sequence[Row] = ()


def check_item(
    item: Item, boxes: Sequence[Row], keep_metadata: Sequence[str] = (), keep_anyway: bool = False
) -> Outcome:
    """Return the finding about one object or member of OUT, by its manifest row and the metadata that may be there."""
    problems, uncovered = [], []
    manifest_row = item.precomputed
    if manifest_row is None:
        problems.append("has no row in the manifest that says it was written")
    elif item.retry or (item.reason and not item.data):
        problems.append(item.reason)
    else:
        expected_member = manifest_row.get("output_member") or manifest_row["member"]
        if expected_member is not None and expected_member != parquet_text(item.member or ""):
            problems.append(f"must be {expected_member}, by its place")
        if hashlib.sha256(item.data).hexdigest() != manifest_row["output_sha256"]:
            problems.append("its digest is not that in the manifest")
        if manifest_row["status"] != FileStatus.PASSED_THROUGH:
            problems += [item.reason] if item.reason else []
            problems += [f"holds {kind}" for kind in find_residue(item.data, keep_metadata)]
            uncovered = [box for box in boxes if measure_coverage(box, manifest_row, item.size_wh) < _MIN_COVERAGE]
            names = Counter(box["class"] for box in uncovered)
            problems += [f"still shows {count} × {name}" for name, count in sorted(names.items())]
        elif not keep_anyway and (image := find_image(item.data)):
            problems.append(f"holds {image}")
    status = AuditStatus.WRONG if problems else AuditStatus.SOUND
    finding = FindingRow(item.path, status, "; ".join(problems), item.member, item.number, uncovered)
    return Outcome(finding._asdict())


def measure_coverage(box: Row, manifest_row: Row, size_wh: tuple[int, int]) -> float:
    """Return the share of a box that lies in the redacted boxes of its frame, 0…1, to the pixel."""
    left, top, right, bottom = np.round(to_array([box])[0]).tolist()
    if right <= left or bottom <= top:
        return 1.0
    redacted = to_array([redaction for redaction in manifest_row["boxes"] if redaction["frame"] == box["frame"]])
    grown = grow(redacted, manifest_row["margin"] or 0, size_wh)
    return covered_share((left, top, right, bottom), np.round(grown))


def check_archive(root: str, entry: Entry, expected: str | None) -> str:
    """Return what is wrong with an archive as a whole; empty where nothing is."""
    if expected is None:
        return "has no row in the manifest that says it was written"
    try:
        return "" if storage.compute_digest(root, entry) == expected else "its digest is not that in the manifest"
    except OSError as error:
        return f"cannot be read ({explain(error)})"
