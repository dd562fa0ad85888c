"""Audit step."""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from depers import storage
from depers.boxes import covered_share, grow
from depers.detection.detections import BOX
from depers.imaging.metadata.residue import find_residue
from depers.pipeline.steps import Item, Outcome, Row
from depers.statuses import FileStatus
from depers.storage import Entry
from depers.storage.tables import parquet_text

SCHEMA = pa.schema(
    {
        "path": pa.string(), "member": pa.string(), "number": pa.int64(), "status": pa.string(), "reason": pa.string(),
        "boxes": pa.list_(BOX),
    }
)  # fmt: skip
"""The findings: one row per object and member of OUT, `sound` or `wrong` with the reasons; `boxes` is what a detector
still finds. What is missing has a row, too."""

_COVERED = 0.5  # the share of a box that must be redacted; what is found again in a redacted person is that person


def check_item(item: Item, boxes: Sequence[Row], keep_metadata: Sequence[str] = ()) -> Outcome:
    """What is wrong with one object or member of OUT, given its manifest row and the metadata that may be there."""
    problems, uncovered = [], []
    precomputed = item.precomputed
    if precomputed is None:
        problems.append("has no row in the manifest that says it was written")
    elif item.retry or (item.reason and not item.data):
        problems.append(item.reason)
    else:
        if precomputed["member"] is not None and precomputed["member"] != parquet_text(item.member or ""):
            problems.append(f"must be {precomputed['member']}, by its place")
        if hashlib.sha256(item.data).hexdigest() != precomputed["output_sha256"]:
            problems.append("its digest is not that in the manifest")
        if precomputed["status"] != FileStatus.PASSED_THROUGH:
            problems += [item.reason] if item.reason else []
            problems += [f"holds {what}" for what in find_residue(item.data, keep_metadata)]
            uncovered = [box for box in boxes if covered(box, precomputed, item.size_wh) < _COVERED]
            names = Counter(box["class"] for box in uncovered)
            problems += [f"still shows {count} × {name}" for name, count in sorted(names.items())]
    row: Row = {"path": item.path, "member": item.member, "number": item.number, "boxes": uncovered}
    row |= {"status": "wrong" if problems else "sound", "reason": "; ".join(problems)}
    return Outcome(row)


def covered(box: Row, precomputed: Row, size_wh: tuple[int, int]) -> float:
    """The share of a box that lies in the redacted boxes of its frame, 0…1, to the pixel."""
    edges = [[one[name] for name in ("x_min", "y_min", "x_max", "y_max")] for one in (box, *precomputed["boxes"])]
    left, top, right, bottom = np.round(edges[0]).tolist()
    if right <= left or bottom <= top:
        return 1.0
    same = [one["frame"] == box["frame"] for one in precomputed["boxes"]]
    redacted = np.array(edges[1:], np.float32).reshape(-1, 4)[np.array(same, bool)]
    grown = grow(redacted, precomputed["margin"] or 0, size_wh)
    return covered_share((left, top, right, bottom), np.round(grown))


def digest_of(root: str, entry: Entry) -> str:
    """The SHA-256 of a whole object; raises OSError."""
    digest = hashlib.sha256()
    with storage.open_entry(root, entry) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_archive(root: str, entry: Entry, expected: str | None) -> str:
    """What is wrong with an archive as a whole; empty where nothing is."""
    if expected is None:
        return "has no row in the manifest that says it was written"
    try:
        return "" if digest_of(root, entry) == expected else "its digest is not that in the manifest"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
