"""`depers audit`: a second, independent pass over what an anonymization wrote, against its manifest.

Every row must have its object with the recorded digest, and every object its row; no image may hold metadata or
bytes after its end; and with weights, a detector looks at the redacted images again. 3 where anything is wrong.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from depers import storage
from depers.anonymization.audit_report import FindingStatistics, make_report
from depers.anonymization.audit_step import SCHEMA, check_archive, check_item
from depers.anonymization.manifest import WrittenRows, describe_place
from depers.archives import registry
from depers.errors import UserError
from depers.options import (
    CheckedOptions,
    argument,
    batch_size_option,
    classes_option,
    confidence_option,
    device_option,
    imgsz_option,
    option,
    tile_option,
    weights_option,
    workers_option,
)
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.steps import Row
from depers.runtime import units
from depers.statuses import AuditStatus
from depers.storage import tables
from depers.storage.tables import parquet_text

_MEGAPIXELS = 10_000.0  # whatever was written may be read
_PRINTED = 10


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Check OUT, the result of `depers anonymize`, against its manifest; write OUT/_depers/audit/report.html."""

    out: str = argument("what `depers anonymize` wrote, a path or s3:// URI")
    input: str | None = option(None, "the INPUT of that run, to check that every file of it has its row")
    weights: tuple[str, ...] = weights_option("the detector that looks at the results again; may be repeated")
    classes: tuple[str, ...] = classes_option()
    confidence: float = confidence_option(0.25, "least confidence of what counts as found again")
    imgsz: int = imgsz_option()
    tile: int | None = tile_option()
    batch_size: int = batch_size_option()
    device: str = device_option()
    workers: int | None = workers_option()

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
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
class _Reading(pipeline_options.PassOptions):
    """A pass that may do without a detector."""

    def check_sources(self) -> None:
        """Digests and metadata can be checked alone."""


def _missing(rows: WrittenRows, seen: Counter[str], given_input: str | None) -> Iterator[Row]:
    """What the manifest has and OUT has not; and where INPUT is given, what either of the two does not know."""

    def finding(path: str, reason: str, member: Row | None = None) -> Row:
        found: Row = {"path": path, "status": AuditStatus.WRONG, "reason": reason, "boxes": []}
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
            row |= {"status": AuditStatus.WRONG if reasons else AuditStatus.SOUND, "reason": "; ".join(reasons)}
        found.append(row)
    return pa.Table.from_pylist(found, schema=SCHEMA)


def run(options: Options) -> int:
    """Audits; 3 where anything is wrong. Raises UserError where OUT holds no finished run."""
    import ray

    reading = options.reading()
    manifest = storage.join(reading.input, units.FOLDER, "manifest.parquet")
    if not storage.exists(manifest):
        raise UserError(f"{reading.input}: must be what a finished `depers anonymize` wrote, but has no manifest")
    rows = WrittenRows(manifest)
    _clear(reading.out)  # an earlier audit says nothing about what is there now
    listed = storage.list_files(reading.input)
    entries = [entry for entry in listed if not entry.path.startswith(f"{units.FOLDER}/")]
    allowed = units.read_job(reading.input).get("keep_metadata", ())
    last = partial(check_item, keep_metadata=tuple(allowed))
    job = pipeline.make_job(reading, SCHEMA, lambda _: last, keep=("*",))
    check = ray.remote(check_archive).options(num_cpus=0.05)
    whole = {entry: rows.archive_row(entry.path) for entry in entries if registry.kind_of(entry.path)}
    checking = {
        entry.path: check.remote(job.input, entry, row["output_sha256"] if row else None)
        for entry, row in whole.items()
    }
    seen, statistics = Counter[str](), FindingStatistics()
    findings = storage.join(job.out, "findings.parquet")
    with tables.TableWriter(findings, SCHEMA) as writer:
        for table in pipeline.run(job, reading, entries, rows).tables() if entries else ():
            for path, number in zip(table["path"].to_pylist(), table["number"].to_pylist(), strict=True):
                seen[path] += number is not None or path not in checking
            mine = {path: ray.get(checking[path]) for path in set(table["path"].to_pylist()) & checking.keys()}
            judged = _judged(table, mine)
            writer.write(judged)
            statistics.add(judged)
        missing = pa.Table.from_pylist(list(_missing(rows, seen, options.input)), schema=SCHEMA)
        writer.write(missing)
        statistics.add(missing)
    written = {
        (row["path"], row["number"]): rows.of(row["path"]).get(row["number"])
        for row in statistics.first_rows_with_boxes
    }
    places = {key: row for key, row in written.items() if row is not None}
    page = storage.join(job.out, "report.html")
    storage.write_bytes(page, make_report(job.input, statistics, places, bool(options.weights)).encode())
    for row in statistics.first_rows[:_PRINTED]:
        print(f"wrong: {describe_place(row)}: {row['reason']}", file=sys.stderr)
    if statistics.wrong > _PRINTED:
        print(f"… and {statistics.wrong - _PRINTED} more: see the findings", file=sys.stderr)
    sound = statistics.total - statistics.wrong
    print(f"{statistics.total} checked: {sound} sound, {statistics.wrong} wrong; {findings}; report {page}")
    return 3 if statistics.wrong else 0
