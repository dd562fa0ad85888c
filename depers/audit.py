"""`depers audit`: a second, independent pass over what an anonymization wrote, against its manifest.

Every row must have its object with the recorded digest, and every object its row; no picture may hold metadata or
bytes after its end; and with weights, a detector looks at the redacted pictures again. 3 where anything is wrong.
"""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from depers import archives, pipeline, storage, units
from depers.audit_report import Wrong, make_report, place
from depers.boxes import grow
from depers.detections import BOX, parquet_text
from depers.given import Rows
from depers.metadata import residue
from depers.options import UserError, argument, option
from depers.steps import Item, Outcome, Row
from depers.storage import Entry

WRITTEN = ("redacted", "clean", "kept")
"""The statuses of manifest rows whose result must be in OUT."""
SCHEMA = pa.schema(
    {
        "path": pa.string(), "member": pa.string(), "number": pa.int64(), "status": pa.string(), "reason": pa.string(),
        "boxes": pa.list_(BOX),
    }
)  # fmt: skip
"""The findings: one row per object and member of OUT, `sound` or `wrong` with the reasons; `boxes` is what a detector
still finds. What is missing has a row, too."""

_COVERED = 0.5  # the share of a box that must be redacted; what is found again in a redacted person is that person
_MEGAPIXELS = 10_000.0  # whatever was written may be read
_PRINTED = 10


@dataclass(frozen=True)
class Options:
    """Check OUT, the result of `depers anonymize`, against its manifest; write OUT/_depers/audit/report.html."""

    out: str = argument("what `depers anonymize` wrote, a path or s3:// URI")
    input: str | None = option(None, "the INPUT of that run, to check that every file of it has its row")
    weights: tuple[str, ...] = option(
        (), "detector to look at the results again, PATH_OR_URI[:model_class=class,…]", metavar="W"
    )
    classes: tuple[str, ...] = option((), "only these classes (default: all that the weights give)", metavar="CLASS")
    confidence: float = option(0.25, "least confidence of what counts as found again, 0…1")
    imgsz: int = option(640, "longer side for the detector in pixels, a multiple of 32")
    tile: int | None = option(None, "larger pictures are looked at whole and in overlapping tiles of this size")
    batch_size: int = option(8, "pictures per inference")
    device: str = option("auto", "where to detect", choices=("auto", "cpu", "cuda"))
    workers: int | None = option(None, "actors (default: one per core of the cluster)")

    def __post_init__(self) -> None:
        """Raises UserError for a value that is not allowed."""
        self.reading()
        if self.input is not None:
            storage.check(self.input, "--input")

    def reading(self) -> "_Reading":
        """The options of the pass over OUT."""
        return _Reading(
            input=self.out,
            out=storage.join(self.out, units.FOLDER, "audit"),
            weights=self.weights,
            classes=self.classes,
            confidence=self.confidence,
            imgsz=self.imgsz,
            tile=self.tile,
            batch_size=self.batch_size,
            device=self.device,
            workers=self.workers,
            max_megapixels=_MEGAPIXELS,
        )


@dataclass(frozen=True)
class _Reading(pipeline.PassOptions):
    """A pass that may do without a detector."""

    def check_sources(self) -> None:
        """Digests and metadata can be checked alone."""


class Written(Rows):
    """The manifest's rows of what was written; those of an archive by their place in the new one."""

    def of(self, path: str) -> dict[int | None, Row]:
        """The rows of one output."""
        rows = [row for row in super().of(path).values() if row["status"] in WRITTEN]
        if archives.kind_of(path) is None:
            return dict.fromkeys([None], rows[0]) if rows else {}
        return dict(enumerate(sorted(rows, key=lambda row: row["number"])))

    def archive_row(self, path: str) -> Row | None:
        """The row of an archive itself, if there should be one in OUT."""
        row = super().of(path).get(None)
        return row if row is not None and row["status"] in ("complete", "incomplete") else None


def check_item(item: Item, boxes: Sequence[Row], keep_metadata: Sequence[str] = ()) -> Outcome:
    """What is wrong with one object or member of OUT, given its manifest row and the metadata that may be there."""
    problems, uncovered = [], []
    given = item.given
    if given is None:
        problems.append("has no row in the manifest that says it was written")
    elif item.again or (item.reason and not item.data):
        problems.append(item.reason)
    else:
        if given["member"] is not None and given["member"] != parquet_text(item.member or ""):
            problems.append(f"must be {given['member']}, by its place")
        if hashlib.sha256(item.data).hexdigest() != given["output_sha256"]:
            problems.append("its digest is not that in the manifest")
        if given["status"] != "kept":
            problems += [item.reason] if item.reason else []
            problems += [f"holds {what}" for what in residue(item.data, keep_metadata)]
            uncovered = [box for box in boxes if covered(box, given, item.size_wh) < _COVERED]
            names = Counter(box["class"] for box in uncovered)
            problems += [f"still shows {count} × {name}" for name, count in sorted(names.items())]
    row: Row = {"path": item.path, "member": item.member, "number": item.number, "boxes": uncovered}
    row |= {"status": "wrong" if problems else "sound", "reason": "; ".join(problems), "again": item.again}
    return Outcome(row)


def covered(box: Row, given: Row, size_wh: tuple[int, int]) -> float:
    """The share of a box that lies in the redacted boxes of its frame, 0…1, to the pixel."""
    edges = [[one[name] for name in ("x_min", "y_min", "x_max", "y_max")] for one in (box, *given["boxes"])]
    left, top, right, bottom = np.round(edges[0]).astype(int).tolist()
    if right <= left or bottom <= top:
        return 1.0
    same = [one["frame"] == box["frame"] for one in given["boxes"]]
    redacted = np.array(edges[1:], np.float32).reshape(-1, 4)[np.array(same, bool)]
    mask = np.zeros((bottom - top, right - left), bool)
    for x0, y0, x1, y1 in np.round(grow(redacted, given["margin"] or 0, size_wh)).astype(int).tolist():
        mask[max(0, y0 - top) : max(0, y1 - top), max(0, x0 - left) : max(0, x1 - left)] = True
    return float(mask.mean())


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


def _missing(rows: Written, seen: Counter[str], given_input: str | None) -> Iterator[Row]:
    """What the manifest has and OUT has not; and where INPUT is given, what either of the two does not know."""

    def finding(path: str, reason: str, member: Row | None = None) -> Row:
        found: Row = {"path": path, "status": "wrong", "reason": reason, "boxes": []}
        return found | {"member": member["member"], "number": member["number"]} if member else found

    for path in rows:
        written = rows.of(path)
        for number in range(seen[path], len(written)):
            yield finding(path, "is missing from OUT", written.get(number))
        if not seen[path] and not written and rows.archive_row(path) and path not in seen:
            yield finding(path, "is missing from OUT")
    if given_input is not None:
        inputs = {parquet_text(entry.path) for entry in storage.list_files(given_input)}
        known = set(rows)
        for path in sorted(inputs - known):
            yield finding(path, "is in INPUT, but has no row in the manifest")
        for path in sorted(known - inputs):
            yield finding(path, "has a row in the manifest, but is not in INPUT")


def _clear(folder: str) -> None:
    if storage.is_dir(folder):
        with ThreadPoolExecutor(16) as pool:
            uris = [storage.join(folder, entry.path) for entry in storage.list_files(folder)]
            list(pool.map(storage.delete, uris))


def _judged(table: pa.Table, checks: Mapping[str, str]) -> pa.Table:
    """The findings with those about archives as a whole: such a row says so far only how well it could be read."""
    found = []
    for row in table.to_pylist():
        if row["number"] is None and row["path"] in checks:
            reasons = [text for text in (row["reason"], checks[row["path"]]) if text]
            row |= {"status": "wrong" if reasons else "sound", "reason": "; ".join(reasons)}
        found.append(row)
    return pa.Table.from_pylist(found, schema=SCHEMA)


def run(options: Options) -> int:
    """Audits; 3 where anything is wrong. Raises UserError where OUT holds no finished run."""
    import ray

    reading = options.reading()
    manifest = storage.join(reading.input, units.FOLDER, "manifest.parquet")
    if not storage.exists(manifest):
        raise UserError(f"{reading.input}: must be what a finished `depers anonymize` wrote, but has no manifest")
    rows = Written(manifest)
    _clear(reading.out)  # an earlier audit says nothing about what is there now
    listed = storage.list_files(reading.input)
    entries = [entry for entry in listed if not entry.path.startswith(f"{units.FOLDER}/")]
    allowed = json.loads(storage.read_bytes(storage.join(reading.input, units.JOB))).get("keep_metadata", ())
    last = partial(check_item, keep_metadata=tuple(allowed))
    job = pipeline.make_job(reading, SCHEMA, lambda _: last, keep=("*",))
    check = ray.remote(check_archive).options(num_cpus=0.05)
    whole = {entry: rows.archive_row(entry.path) for entry in entries if archives.kind_of(entry.path)}
    checking = {
        entry.path: check.remote(job.input, entry, row["output_sha256"] if row else None)
        for entry, row in whole.items()
    }
    seen, wrong = Counter[str](), Wrong()
    findings = storage.join(job.out, "findings.parquet")
    with storage.TableWriter(findings, SCHEMA) as writer:
        for table in pipeline.run(job, reading, entries, rows).tables() if entries else ():
            for path, number in zip(table["path"].to_pylist(), table["number"].to_pylist(), strict=True):
                seen[path] += number is not None or path not in checking
            mine = {path: ray.get(checking[path]) for path in set(table["path"].to_pylist()) & checking.keys()}
            judged = _judged(table, mine)
            writer.write(judged)
            wrong.see(judged)
        missing = pa.Table.from_pylist(list(_missing(rows, seen, options.input)), schema=SCHEMA)
        writer.write(missing)
        wrong.see(missing)
    written = {(row["path"], row["number"]): rows.of(row["path"]).get(row["number"]) for row in wrong.shown}
    places = {key: row for key, row in written.items() if row is not None}
    page = storage.join(job.out, "report.html")
    storage.write_bytes(page, make_report(job.input, wrong, places, bool(options.weights)).encode())
    for row in wrong.listed[:_PRINTED]:
        print(f"wrong: {place(row)}: {row['reason']}", file=sys.stderr)
    if wrong.count > _PRINTED:
        print(f"… and {wrong.count - _PRINTED} more: see the findings", file=sys.stderr)
    print(f"{wrong.total} checked: {wrong.total - wrong.count} sound, {wrong.count} wrong; {findings}; report {page}")
    return 3 if wrong.count else 0
