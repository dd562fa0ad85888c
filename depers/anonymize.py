"""`depers anonymize`: mirror pictures with faces, people and plates made unrecognizable, loose or in archives.

Every file, and every member of an archive, ends as exactly one manifest row: `redacted`, `clean` (nothing found),
`failed` with a reason, or, where it is no picture, `kept` or `left out`. What failed is absent from the output. Each
archive has a row of its own: `complete`, `incomplete`, or `failed`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from depers import __version__, exif, pipeline, storage, units
from depers.anonymize_report import Tally, make_report
from depers.boxes import grow
from depers.detections import BOX
from depers.given import BoxSource, boxes_source, previous_source
from depers.images import ImageError
from depers.labels import CLASSES
from depers.options import UserError, option
from depers.prediction import parse_weights
from depers.redaction import MODES, redact_file
from depers.steps import Item, Outcome, Row

_COLUMNS = {"path": pa.string(), "member": pa.string(), "number": pa.int64(), "status": pa.string()}
_COLUMNS |= {"reason": pa.string(), "width": pa.int32(), "height": pa.int32(), "frames": pa.int32()}
_COLUMNS |= {"format": pa.string(), "boxes": pa.list_(BOX), "mode": pa.string(), "method": pa.string()}
_COLUMNS |= {"margin": pa.float32(), "input_bytes": pa.int64(), "input_sha256": pa.string()}
_COLUMNS |= {"output_bytes": pa.int64(), "output_sha256": pa.string(), "output_offset": pa.int64()}
_COLUMNS |= {"version": pa.string()}
SCHEMA = pa.schema(_COLUMNS)
"""The manifest. `path` is relative to INPUT; of what lies in an archive, `member` is the name in it and `number` its
place among all members. Boxes are as detected, before the margin, in upright pixels of their frame. `method` says how
the file was redacted. `output_offset` is where the result's bytes begin in an archive that holds them as they are."""

_FAR = 1 << 24  # pixels; beyond any picture

STATUSES = ("redacted", "clean", "failed", "kept", "left out")
ARCHIVE_STATUSES = ("complete", "incomplete", "failed")


@dataclass(frozen=True)
class Options(pipeline.PassOptions):
    """Mirror INPUT to OUT with every box of the given classes made unrecognizable, and all metadata removed."""

    mode: str = option(
        "pixelate", "what becomes of a box: 6 cells across at most, the same blurred, or gray", choices=MODES
    )
    margin: float = option(0.1, "how much of a box's width and height is added on each side")
    boxes: str | None = option(
        None,
        "no detector, but these boxes: a detections.parquet, or a folder with labels/ and classes.txt or data.yaml",
    )
    previous_detections: str | None = option(
        None,
        "no detector, but the boxes of an earlier run over the same files: its OUT, manifest or detections.parquet",
    )
    keep: tuple[str, ...] = option(
        (), "keep files that are no pictures and match this pattern, as they are (default: none)", metavar="GLOB"
    )
    keep_metadata: tuple[str, ...] = option(
        (), "metadata to keep: date, camera, gps (default: only what is needed to look right)", metavar="NAME"
    )

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        super().__post_init__()
        if not 0 <= self.margin <= 2:
            raise UserError(f"--margin must be between 0 and 2, but got {self.margin:g}")
        for name in self.keep_metadata:
            if name not in exif.GROUPS:
                raise UserError(f"--keep-metadata must be one of {', '.join(exif.GROUPS)}, but got {name!r}")
        for text in self.weights:
            for name in parse_weights(text).class_map.values():
                if name not in CLASSES:
                    raise UserError(f"--weights {text}: a class must be one of {', '.join(CLASSES)}, but got {name!r}")

    def check_sources(self) -> None:
        """Raises UserError unless exactly one thing says where boxes are."""
        given = [bool(self.weights), self.boxes is not None, self.previous_detections is not None]
        if not any(given):
            raise UserError("one of --weights, --boxes and --previous-detections must be given")
        if sum(given) > 1:
            raise UserError(
                "--weights, --boxes and --previous-detections exclude each other, but more than one is given"
            )
        if not self.weights and (self.tile or self.augment):
            raise UserError("--tile and --augment say how a detector looks, but there is none without --weights")

    def source(self, thresholds: Mapping[str, float]) -> BoxSource | None:
        """Where boxes come from, if not from a detector. Raises UserError."""
        if self.boxes is not None:
            return boxes_source(storage.check(self.boxes, "--boxes"))
        if self.previous_detections is not None:
            uri = storage.check(self.previous_detections, "--previous-detections")
            return previous_source(uri, self.confidence, thresholds)
        return None


def by_frame(boxes: Sequence[Row], frames: int, margin: float) -> list[NDArray[np.float32]]:
    """Boxes as float32 (N, 4) xyxy pixels for each frame, grown by the margin. Raises ImageError for further frames.

    They may reach outside their frames, which differ in size.
    """
    edges = np.array([[box[name] for name in ("x_min", "y_min", "x_max", "y_max")] for box in boxes], np.float32)
    numbers = np.array([box["frame"] for box in boxes], np.int64)
    if (numbers >= frames).any():
        raise ImageError(f"holds {frames} frames, but has boxes in frame {numbers.max()}, counted from 0")
    grown = grow(edges.reshape(-1, 4), margin, (_FAR, _FAR))
    return [grown[numbers == frame] for frame in range(frames)]


def redact_item(
    item: Item, boxes: Sequence[Row], *, mode: str, margin: float, keep_metadata: Sequence[str], max_megapixels: float
) -> Outcome:
    """The last step: the redacted picture and its manifest row; a file that is kept goes through as it is."""
    row: Row = {"path": item.path, "member": item.member, "number": item.number, "status": item.status or "failed"}
    row |= {"reason": item.reason, "width": None, "height": None, "boxes": list(boxes), "version": __version__}
    row |= {"input_bytes": item.size, "again": item.again}
    if item.data:
        row["input_sha256"] = hashlib.sha256(item.data).hexdigest()
    if item.status == "kept":
        return Outcome(row | {"output_bytes": item.size, "output_sha256": row["input_sha256"]}, item.data)
    if item.status:
        return Outcome(row)
    width, height = item.size_wh
    row |= {"width": width, "height": height, "mode": mode, "margin": margin}
    if item.reason:
        return Outcome(row)
    result = redact_file(
        item.data,
        by_frame(boxes, item.frames, margin),
        mode=mode,
        keep_metadata=keep_metadata,
        max_megapixels=max_megapixels,
        decoded=item.picture,
    )
    row |= {"status": "redacted" if boxes else "clean", "format": result.format, "method": result.method}
    row |= {"frames": result.frames, "output_bytes": len(result.data)}
    return Outcome(row | {"output_sha256": hashlib.sha256(result.data).hexdigest()}, result.data)


def run(options: Options) -> int:
    """Anonymizes; 3 where some inputs failed. Raises UserError for wrong options, weights or folders."""
    last = partial(
        redact_item,
        mode=options.mode,
        margin=options.margin,
        keep_metadata=options.keep_metadata,
        max_megapixels=options.max_megapixels,
    )
    thresholds = pipeline.thresholds_of(options)
    job = pipeline.make_job(
        options, SCHEMA, lambda out: last, mirrors=True, keep=options.keep, boxes=options.source(thresholds)
    )
    pipeline.refuse_overlap(job)
    summary = pipeline.run(job, options)
    manifest = storage.join(job.out, units.FOLDER, "manifest.parquet")
    tally, failures = Tally(), pipeline.Failures(manifest)
    with storage.TableWriter(manifest, SCHEMA) as writer:
        for table in summary.tables():
            writer.write(table)
            tally.see(table)
            failures.see(table)
    failures.close()
    overview = storage.join(job.out, units.FOLDER, "report.html")
    storage.write_bytes(overview, make_report(job.out, tally).encode())
    outcome = _listed(tally.files, STATUSES)
    if tally.archives:
        outcome += f"; {sum(tally.archives.values())} archives: {_listed(tally.archives, ARCHIVE_STATUSES)}"
    print(f"{sum(tally.files.values())} inputs: {outcome}; {summary.speed}; manifest {manifest}; report {overview}")
    return 3 if failures.count else 0


def _listed(counts: Counter[str], names: Sequence[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name] or name in STATUSES[:3])
