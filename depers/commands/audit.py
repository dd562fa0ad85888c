"""`depers audit`: a second, independent pass over what an anonymization wrote, against its manifest.

Every row must have its object with the recorded digest, and every object its row; no image may hold metadata or
bytes after its end; and with weights, a detector looks at the redacted images again.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from depers import storage
from depers.anonymization.audit_report import FindingStatistics, make_report
from depers.anonymization.audit_step import SCHEMA, check_archive, check_item
from depers.anonymization.completeness import find_missing
from depers.anonymization.manifest import MANIFEST, WrittenRows, open_manifest
from depers.archives import registry
from depers.detection import shipped
from depers.errors import UserError
from depers.options import CheckedOptions, argument, option
from depers.options.shared import (
    batch_size_option,
    classes_option,
    confidence_option,
    device_option,
    imgsz_option,
    tile_option,
    weights_option,
    workers_option,
)
from depers.pipeline import options as pipeline_options
from depers.pipeline import run as pipeline
from depers.pipeline.box_tables import BoxTable
from depers.pipeline.options import find_records, records_option
from depers.pipeline.steps import PassJob
from depers.runtime import claims, lease
from depers.runtime.inputs import read_selection
from depers.runtime.results import FailureCounter, VerbResult
from depers.statuses import AuditStatus
from depers.storage import Entry, tables
from depers.storage.selection import list_selected
from depers.storage.tables import parquet_text

_MEGAPIXELS = 10_000.0  # whatever was written may be read


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Check OUT, the result of `depers anonymize`, against its manifest; write RECORDS/audit/report.html."""

    out: str = argument("what `depers anonymize` wrote, a path or s3:// URI")
    records: str | None = records_option()
    input: str | None = option(None, "the INPUT of that run, to check that every file of it has its row")
    weights: tuple[str, ...] = weights_option("the detector that looks at the results again; may be repeated")
    classes: tuple[str, ...] = classes_option(
        f"all that the weights give; with --weights default what identifies: {', '.join(shipped.CLASSES)}"
    )
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
        """Return the options of the pass over OUT."""
        return _Reading(
            input=self.out,
            out=storage.join(find_records(self.out, self.records), "audit"),
            weights=self.weights,
            classes=self.classes or (shipped.CLASSES if self.weights == (shipped.NAME,) else ()),
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

    @property
    def detectors(self) -> tuple[str, ...]:
        """Return the weights given, if any: digests and metadata can be checked alone."""
        return self.weights


def _clear(folder: str) -> None:
    if storage.is_dir(folder):
        with ThreadPoolExecutor(16) as pool:
            paths = [entry.path for entry in storage.list_files(folder) if not entry.status]
            list(pool.map(lambda path: storage.delete_below(folder, path), paths))


def _with_archives(table: pa.Table, problems: Mapping[str, str]) -> pa.Table:
    """Return the findings with those about archives as a whole: their rows say only how well they could be read."""
    rows = []
    for row in table.to_pylist():
        if row["number"] is None and row["path"] in problems:
            reasons = [text for text in (row["reason"], problems[row["path"]]) if text]
            row |= {"status": AuditStatus.WRONG if reasons else AuditStatus.SOUND, "reason": "; ".join(reasons)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@dataclass(frozen=True, kw_only=True)
class AuditResult(VerbResult):
    """What is wrong: `failures` are the findings, of so many objects, members and inputs that were checked."""

    findings: str
    """The table of everything that was checked."""
    report: str
    checked: int

    def summary(self) -> list[str]:
        """Return the line that says how much is wrong."""
        count = self.failures.count
        counts = f"{self.checked} checked: {self.checked - count} sound, {count} wrong"
        return [f"{counts}; {self.findings}; report {self.report}"]


def run(options: Options) -> AuditResult:
    """Check OUT against its manifest. Raises UserError where there are no records of a finished run."""
    out, records = storage.absolute(options.out), find_records(options.out, options.records)
    pipeline.refuse_overlap({"OUT": out, "records": records})
    manifest = storage.join(records, MANIFEST)
    if not storage.exists(manifest):
        hint = "name its records with --records" if options.records is None else "its records must be there"
        requirement = "must be what a finished `depers anonymize` wrote"
        raise UserError(f"{out}: {requirement}, but there is no {manifest}: {hint}")
    with lease.hold(records, out, is_writer=False):  # nobody writes what is looked at
        return _audit(options, records, open_manifest(manifest))


def _audit(options: Options, records: str, table: BoxTable) -> AuditResult:
    reading = options.reading()
    _clear(reading.out)  # an earlier audit says nothing about what is there now
    noted = claims.read_job(reading.input, records)
    keep_anyway, inputs = bool(noted.get("keep_anyway", False)), None
    if options.input is not None:
        selection = read_selection(records)
        places = (storage.absolute(reading.input), records)
        listing = list_selected(storage.absolute(options.input), bool(noted.get("follow_links")), places, selection)
        inputs = pa.array((parquet_text(entry.path) for entry in listing), pa.large_string())
        del listing  # before OUT is listed: both may be large
    entries = storage.list_files(reading.input)
    check = partial(check_item, keep_metadata=tuple(noted.get("keep_metadata", ())), keep_anyway=keep_anyway)
    job = pipeline.make_job(
        reading,
        SCHEMA,
        lambda _: check,
        keep=("*",),
        keep_columns=tuple(noted.get("keep_columns", ())),
        keep_anyway=keep_anyway,
    )
    findings = storage.join(job.out, "findings.parquet")
    statistics, counter = FindingStatistics(), FailureCounter(findings, (AuditStatus.WRONG,))
    with tables.TableWriter(findings, SCHEMA) as writer:
        for part in _findings(job, reading, entries, table, inputs):
            writer.write(part)
            statistics.add(part)
            counter.add(part)
    findings_with_boxes = statistics.first_rows_with_boxes
    rows = _read_rows(table.by_outputs(), {row["path"] for row in findings_with_boxes})
    manifest_rows = {
        (row["path"], row["number"]): rows.of(row["path"]).get(row["number"]) for row in findings_with_boxes
    }
    redactions = {key: row for key, row in manifest_rows.items() if row is not None}
    report = storage.join(job.out, "report.html")
    page = make_report(job.input, statistics, redactions, bool(options.weights))
    storage.write_bytes(report, page.encode())
    return AuditResult(failures=counter.failures(), findings=findings, report=report, checked=statistics.total)


def _read_rows(table: BoxTable, paths: Collection[str]) -> WrittenRows:
    """Return the rows of the manifest about a few files."""
    names = pa.array(sorted(paths), pa.string())
    parts = [part.filter(pc.is_in(part["path"], names)) for part in (table.read() if paths else ())]
    return WrittenRows(pa.concat_tables(parts) if parts else pa.table({"path": pa.array([], pa.string())}))


def _read_archive_rows(table: BoxTable, paths: Sequence[str]) -> WrittenRows:
    """Return the rows of the manifest about archives themselves, without those about their members."""
    names, columns = pa.array(paths, pa.string()), ("path", "number", "status", "output_sha256")
    parts = [
        part.filter(pc.and_(pc.is_null(part["number"]), pc.is_in(part["path"], names)))
        for part in (table.read(columns) if paths else ())
    ]
    return WrittenRows(pa.concat_tables(parts) if parts else pa.table({"path": pa.array([], pa.string())}))


def _findings(
    job: PassJob, reading: _Reading, entries: Sequence[Entry], table: BoxTable, inputs: pa.Array | None
) -> Iterator[pa.Table]:
    """Yield tables of findings: about what is in OUT, then about what is not."""
    import ray

    written_table = table.by_outputs()

    check = ray.remote(check_archive).options(num_cpus=0.05)
    archives = [entry for entry in entries if registry.kind_of(entry.path)]
    archive_rows = _read_archive_rows(written_table, [parquet_text(entry.path) for entry in archives])
    checks = {}
    for entry in archives:
        row = archive_rows.archive_row(entry.path)
        checks[entry.path] = check.remote(job.input, entry, row["output_sha256"] if row else None)
    del archive_rows
    member_counts = {parquet_text(entry.path): 0 for entry in archives}
    with ExitStack() as stack:
        run = pipeline.run(job, reading, entries, written_table, WrittenRows) if entries else None
        summary = stack.enter_context(run) if run else None
        for part in summary.tables() if summary else ():
            members = part.filter(pc.is_valid(part["number"]))
            for pair in pc.value_counts(members["path"]).to_pylist():
                member_counts[pair["values"]] += pair["counts"]
            problems = {path: ray.get(checks[path]) for path in set(part["path"].to_pylist()) & checks.keys()}
            yield _with_archives(part, problems)
    out_paths = (parquet_text(entry.path) for entry in entries)
    input_paths = None if inputs is None else (path.as_py() for path in inputs)
    for findings in find_missing(table, out_paths, member_counts, input_paths):
        yield pa.Table.from_pylist(findings, schema=SCHEMA)
