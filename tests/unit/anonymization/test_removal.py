"""What left INPUT: its results are removed, each is told, and nothing else is touched."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from depers import storage
from depers.anonymization.manifest import DEPARTED, KEPT, SCHEMA
from depers.anonymization.removal import Removal
from depers.detection.settings import InferenceSettings
from depers.pipeline.run import Stock, Summary
from depers.pipeline.steps import Outcome, PassJob
from depers.runtime import inputs, lease, units
from depers.runtime.lease import Lease
from depers.runtime.progress import Speed
from depers.storage import Entry, tables
from depers.storage.listing import FileListing, Results

Row = dict[str, Any]


def make_row(path: str, status: str = "redacted", **values: Any) -> Row:
    written = {"output_bytes": 4} if status in ("redacted", "clean", "passed_through", "complete", "incomplete") else {}
    row: Row = dict.fromkeys(SCHEMA.names)
    return row | {"path": path, "status": status, "reason": "", "boxes": []} | written | values


def make_table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, SCHEMA)


@pytest.fixture
def job(tmp_path: Path) -> PassJob:
    def finish(item: object, boxes: object) -> Outcome:
        return Outcome({})

    return PassJob(
        input=f"{tmp_path}/in", out=f"{tmp_path}/out", weights=(), classes=(), settings=InferenceSettings(),
        batch_size=8, max_megapixels=1.0, half_stride_pad=False, schema=SCHEMA, finish=finish, mirrors=True,
        records_beside=f"{tmp_path}/out-records",
    )  # fmt: skip


@pytest.fixture
def held(job: PassJob) -> Iterator[Lease]:
    with lease.hold(job.records, job.out) as held_lease:
        yield held_lease


def summarize(job: PassJob, held: Lease, present: list[str], before: list[str], outputs: list[str]) -> Summary:
    """Return a run over `present`; earlier ones had `before`, and left `outputs`, each of 4 bytes."""
    for path in outputs:
        storage.write_bytes(f"{job.out}/{path}", b"data")
    absent = tuple(Entry(path, 1, "") for path in before if path not in present)
    results = Results.of(storage.list_files(job.out) if outputs else ())
    listing = FileListing.of(Entry(path, 1, "") for path in present)
    stock = Stock(absent, absent, results, listing)
    all_units = units.cut(listing)
    return Summary(job, all_units, 0, [], Speed(0, 0, None), held, stock)


def record(job: PassJob, name: str, rows: list[Row], folder: str = "former") -> None:
    tables.write_table(f"{job.records}/{folder}/{name}.parquet", make_table(rows))


def finish(summary: Summary, rows: list[Row], keep: bool = False) -> list[tuple[str, str | None, str, str]]:
    """Return path, member, status and reason of the rows that are added to those of the inputs."""
    removal = Removal(summary, keep)
    completed = pa.concat_tables(removal.complete([make_table(rows)])).to_pylist()
    removal.settle()
    return [(row["path"], row["member"], row["status"], row["reason"]) for row in completed[len(rows) :]]


def files(root: str) -> list[str]:
    return [entry.path for entry in storage.list_files(root) if not entry.status] if storage.is_dir(root) else []


def test_what_departed_is_removed_and_told_and_forgotten(job: PassJob, held: Lease) -> None:
    before = ["a.jpg", "gone/deep/b.jpg", "failed.jpg", "unrecorded.jpg", "deleted.jpg"]
    outputs = ["a.jpg", "gone/deep/b.jpg", "unrecorded.jpg", "stranger.txt"]
    summary = summarize(job, held, ["a.jpg"], before, outputs)
    old = [make_row("a.jpg"), make_row("gone/deep/b.jpg"), make_row("failed.jpg", "failed"), make_row("deleted.jpg")]
    record(job, "x", old)
    told = finish(summary, [make_row("a.jpg")])
    removed = ["deleted.jpg", "gone/deep/b.jpg", "unrecorded.jpg"]  # of what was never written nothing is removed
    assert told == [(path, None, "removed", DEPARTED) for path in removed]
    assert files(job.out) == ["a.jpg", "stranger.txt"] and not Path(job.out, "gone").exists()
    assert files(job.records) == ["inputs.parquet", lease.NAME]
    assert [entry.path for entry in inputs.read_inputs(job.records).entries] == ["a.jpg"]


def test_what_is_kept_keeps_its_row_until_it_is_removed(job: PassJob, held: Lease) -> None:
    summary = summarize(
        job, held, ["a.jpg"], ["a.jpg", "b.jpg", "unrecorded.jpg"], ["a.jpg", "b.jpg", "unrecorded.jpg"]
    )
    digest = hashlib.sha256(b"data").hexdigest()
    record(job, "new", [make_row("a.jpg"), make_row("b.jpg", output_sha256=digest)])
    record(job, "old", [make_row("b.jpg", output_sha256="older")])
    told = finish(summary, [make_row("a.jpg")], keep=True)
    unknown = f"{DEPARTED}, and no record tells of its result in OUT"
    assert told == [("b.jpg", None, "redacted", KEPT), ("unrecorded.jpg", None, "failed", unknown)]
    [row] = tables.read_table(f"{job.records}/kept.parquet").to_pylist()
    assert row["output_sha256"] == digest
    known = [entry.path for entry in inputs.read_inputs(job.records).entries]
    assert files(job.out) == known == ["a.jpg", "b.jpg", "unrecorded.jpg"]

    again = summarize(job, held, ["a.jpg"], known, known)
    assert finish(again, [make_row("a.jpg")], keep=True) == told
    told = finish(summarize(job, held, ["a.jpg"], known, known), [make_row("a.jpg")])
    assert [(path, status) for path, _, status, _ in told] == [("b.jpg", "removed"), ("unrecorded.jpg", "removed")]
    assert files(job.out) == ["a.jpg"] and files(job.records) == ["inputs.parquet", lease.NAME]


@pytest.mark.parametrize("content", [b"original", b"atad"])
def test_what_took_the_place_of_a_kept_result_is_removed(job: PassJob, held: Lease, content: bytes) -> None:
    digest = hashlib.sha256(b"data").hexdigest()
    record(job, "x", [make_row("b.jpg", output_sha256=digest)])
    summary = summarize(job, held, ["a.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"])
    assert finish(summary, [make_row("a.jpg")], keep=True) == [("b.jpg", None, "redacted", KEPT)]
    storage.write_bytes(f"{job.out}/b.jpg", content)
    results = Results.of(storage.list_files(job.out))
    again = summary._replace(stock=summary.stock._replace(outputs=results))
    [(path, _, status, reason)] = finish(again, [make_row("a.jpg")], keep=True)
    assert (path, status) == ("b.jpg", "failed") and reason.endswith("another file: it is removed")
    assert files(job.out) == ["a.jpg"] and files(job.records) == ["inputs.parquet", lease.NAME]


@pytest.mark.parametrize(("status", "gone"), [("complete", ["b.jpg"]), ("incomplete", []), ("failed", [])])
def test_members_that_left_an_archive_are_told(job: PassJob, held: Lease, status: str, gone: list[str]) -> None:
    def archive(*members: tuple[str, str], status: str = "complete") -> list[Row]:
        rows = [make_row("z.zip", state, member=name, number=index) for index, (name, state) in enumerate(members)]
        return [make_row("z.zip", status), *rows]

    summary = summarize(job, held, ["z.zip"], ["z.zip"], ["z.zip"])
    record(job, "x", archive(("a.jpg", "redacted"), ("b.jpg", "clean"), ("c.txt", "skipped"), ("d.jpg", "failed")))
    told = finish(summary, archive(("a.jpg", "redacted"), status=status))
    assert told == [("z.zip", name, "removed", DEPARTED) for name in gone]
    assert files(job.out) == ["z.zip"]


def test_a_lease_that_was_lost_removes_nothing(job: PassJob, held: Lease) -> None:
    summary = summarize(job, held, ["a.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"])
    storage.write_bytes(f"{job.records}/{lease.NAME}", b'{"owner": "another"}')
    with pytest.raises(Exception, match="another run has taken over"):
        finish(summary, [make_row("a.jpg")])
    assert files(job.out) == ["a.jpg", "b.jpg"]
