"""`depers anonymize`: mirror a folder of pictures with faces, people and plates made unrecognizable.

Every input ends as one manifest row, `redacted`, `clean` (nothing found) or `failed` with a reason; a failed input is
absent from the output.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from depers import pipeline, report, storage, units
from depers.boxes import grow
from depers.detections import BOX, Detections, to_rows
from depers.images import ImageError, decode, encode
from depers.labels import CLASSES
from depers.options import UserError, option
from depers.prediction import parse_weights
from depers.redaction import MODES, redact
from depers.steps import Item, Row

_COLUMNS = {"path": pa.string(), "status": pa.string(), "reason": pa.string(), "width": pa.int32()}
_COLUMNS |= {"height": pa.int32(), "format": pa.string(), "boxes": pa.list_(BOX), "mode": pa.string()}
_COLUMNS |= {"margin": pa.float32(), "input_bytes": pa.int64(), "input_sha256": pa.string()}
_COLUMNS |= {"output_bytes": pa.int64(), "output_sha256": pa.string()}
SCHEMA = pa.schema(_COLUMNS)
"""The manifest: one row per input, path relative to INPUT; boxes as detected, before the margin, in upright pixels."""

STATUSES = ("redacted", "clean", "failed")
_PICTURES_IN_REPORT = 24


@dataclass(frozen=True)
class Options(pipeline.PassOptions):
    """Mirror INPUT to OUT with every box of the given classes made unrecognizable, and all metadata removed."""

    mode: str = option(
        "pixelate", "what becomes of a box: 6 cells across at most, the same blurred, or gray", choices=MODES
    )
    margin: float = option(0.1, "how much of a box's width and height is added on each side")

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        super().__post_init__()
        if not 0 <= self.margin <= 2:
            raise UserError(f"--margin must be between 0 and 2, but got {self.margin:g}")
        for text in self.weights:
            for name in parse_weights(text).class_map.values():
                if name not in CLASSES:
                    raise UserError(f"--weights {text}: a class must be one of {', '.join(CLASSES)}, but got {name!r}")


def write_redacted(
    item: Item, found: Detections, names: Sequence[str], models: Sequence[str], *, out: str, mode: str, margin: float
) -> Row:
    """The last step: writes the redacted picture to its place below `out`, or makes sure that nothing is there."""
    target = storage.join(out, item.path)
    row = {"path": item.path, "status": "failed", "reason": item.reason, "width": item.size_wh[0]}
    row |= {"height": item.size_wh[1], "format": None, "boxes": to_rows(found, names, models), "mode": mode}
    row |= {"margin": margin, "input_bytes": len(item.data), "input_sha256": hashlib.sha256(item.data).hexdigest()}
    row |= {"output_bytes": None, "output_sha256": None}
    if item.reason:
        storage.delete(target)  # an earlier version of this input may have succeeded
        return row
    picture = item.picture or decode(item.data, max_megapixels=float("inf"))  # the limit was checked in preparing
    boxes = grow(found.boxes_xyxy, margin, picture.size_wh)
    data = encode(picture, redact(picture.pixels, boxes, mode) if len(boxes) else picture.pixels)
    storage.write_bytes(target, data)
    row |= {"status": "redacted" if len(boxes) else "clean", "format": picture.format}
    return row | {"output_bytes": len(data), "output_sha256": hashlib.sha256(data).hexdigest()}


def run(options: Options) -> int:
    """Anonymizes; 3 where some inputs failed. Raises UserError for wrong options, weights or folders."""
    job = pipeline.make_job(
        options, SCHEMA, lambda out: partial(write_redacted, out=out, mode=options.mode, margin=options.margin)
    )
    summary = pipeline.run(job, options)
    manifest = storage.join(job.out, units.FOLDER, "manifest.parquet")
    storage.write_table(manifest, summary.table)
    overview = storage.join(job.out, units.FOLDER, "report.html")
    storage.write_bytes(overview, _report(job.out, summary.table).encode())
    pipeline.print_failures(summary.table)
    counts = Counter(summary.table["status"].to_pylist())
    outcome = ", ".join(f"{counts[status]} {status}" for status in STATUSES)
    print(f"{len(summary.table)} inputs: {outcome}; {summary.speed}; manifest {manifest}; report {overview}")
    return 3 if counts["failed"] else 0


def _report(out: str, table: pa.Table) -> str:
    """The report: counts, failures by reason, and pictures of results (never of originals)."""
    rows = table.to_pylist()
    counts = Counter(row["status"] for row in rows)
    redacted = [row for row in rows if row["status"] == "redacted"]
    classes = Counter(box["class"] for row in redacted for box in row["boxes"])
    reasons = Counter(row["reason"] for row in rows if row["status"] == "failed")
    sections = [
        ("Inputs", report.table(("status", "inputs"), [(name, counts[name]) for name in STATUSES])),
        ("Boxes", report.table(("class", "boxes"), sorted(classes.items()))),
    ]
    if reasons:
        sections.append(("Failures", report.table(("reason", "inputs"), reasons.most_common(50))))
    shown = redacted[:: max(1, len(redacted) // _PICTURES_IN_REPORT)][:_PICTURES_IN_REPORT]
    figures = [_figure(out, row) for row in shown]
    sections.append(("Results, a sample", report.gallery([figure for figure in figures if figure])))
    return report.page("Anonymized pictures", f"{len(rows)} inputs, one manifest row each.", sections)


def _figure(out: str, row: Row) -> str:
    """One result; empty where its name is not text, which alone the manifest keeps."""
    try:
        pixels = decode(storage.read_bytes(storage.join(out, row["path"])), float("inf")).rgb()
    except (OSError, ImageError):
        return ""
    return report.picture(pixels, f"{row['path']}: {len(row['boxes'])} boxes", max_side=480)
