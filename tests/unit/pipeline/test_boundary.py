"""The unit is the boundary: what a file causes, at whatever step, ends as its row; what storage causes as an outage."""

import errno
import hashlib
import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from depers import storage
from depers.anonymization import manifest, redact_step
from depers.archives.base import ArchiveEnd, Chunk
from depers.detection.settings import InferenceSettings
from depers.pipeline import archive_steps, outcomes, steps, workers
from depers.pipeline.box_sources import BoxSource
from depers.pipeline.box_tables import Row
from depers.pipeline.steps import Item, Outcome, PassJob
from depers.pipeline.workers import FusedWorker, Work
from depers.runtime import units
from depers.runtime.units import Unit
from depers.storage import tables
from depers.storage.failures import OutageError

NAMES = [f"{number}.png" for number in range(5)]
ERRORS = [
    ValueError("bad"), OverflowError("int too big"), RecursionError("deep"), MemoryError(), struct.error("short"),
    pa.ArrowNotImplementedError("map"), UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates"), KeyError("key"),
    StopIteration("next"),
]  # fmt: skip

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PassJob:
    """Loose images and a zip of the same; boxes are none, so that all are clean."""
    monkeypatch.setattr(workers, "_get", lambda reference: reference[0])
    root = tmp_path / "in"
    root.mkdir()
    with zipfile.ZipFile(root / "a.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            (root / name).write_bytes(png(number))
            archive.writestr(name, png(number))
    last = partial(redact_step.redact_item, mode="fill", margin=0.0, keep_metadata=(), max_megapixels=1.0)
    return PassJob(
        input=str(root), out=str(tmp_path / "out"), weights=(), classes=(), settings=InferenceSettings(), batch_size=2,
        max_megapixels=1.0, half_stride_pad=False, schema=manifest.SCHEMA, finish=last, mirrors=True,
    )  # fmt: skip


def find_unit(job: PassJob, archive: bool) -> Unit:
    return next(unit for unit in units.cut(storage.list_files(job.input)) if bool(unit.archive) == archive)


def run(job: PassJob, unit: Unit, is_retry: bool = False) -> list[Row]:
    """Do a unit as a job does, and return its rows."""
    worker = FusedWorker(job, [[]])
    if not unit.archive:
        worker.work(Work(unit, is_retry=is_retry))
    else:
        heading, end = None, None
        for content in archive_steps.read_chunks(job, unit, frozenset()):
            if isinstance(content, archive_steps.ChunkHeading):
                heading = content
            elif isinstance(content, Chunk):
                assert heading is not None
                worker.work(Work(unit, heading.number, heading.layout), content)
            else:
                end = content
        assert isinstance(end, ArchiveEnd)
        archive_steps.assemble(job, unit, end)
    [table] = units.read_records(job.records, [unit], job.schema)
    rows: list[Row] = table.to_pylist()
    return rows


def fail_on(name: str, error: Exception, act: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that raises for one file, whose place is somewhere among its arguments."""

    def step(*arguments: Any, **keywords: Any) -> Any:
        if any(name in str(getattr(each, "member", "") or getattr(each, "path", each)) for each in arguments):
            raise error
        return act(*arguments, **keywords)

    return step


@pytest.mark.parametrize("archive", [False, True], ids=["loose", "zip"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_last_step_that_raises_costs_that_file_alone(job: PassJob, archive: bool, error: Exception) -> None:
    rows = run(job._replace(finish=fail_on("2.png", error, job.finish)), find_unit(job, archive))
    statuses = {row["member"] or row["path"]: row["status"] for row in rows}
    assert [statuses[name] for name in NAMES] == ["clean", "clean", "failed", "clean", "clean"]
    failed = next(row for row in rows if row["status"] == "failed")
    assert type(error).__name__ in failed["reason"] and not Path(job.out, "2.png").exists()
    if archive:
        with zipfile.ZipFile(Path(job.out, "a.zip")) as result:
            assert result.namelist() == [name for name in NAMES if name != "2.png"]


@pytest.mark.parametrize("place", ["prepare", "detect", "read_items"])
@pytest.mark.parametrize("archive", [False, True], ids=["loose", "zip"])
def test_a_step_with_a_fault_of_its_own_costs_the_unit(
    job: PassJob, monkeypatch: pytest.MonkeyPatch, archive: bool, place: str
) -> None:
    def raise_error(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr(workers, place, raise_error)
    Path(job.out).mkdir()
    Path(job.out, "0.png").write_bytes(b"what nobody accounts for")
    rows = run(job, find_unit(job, archive))
    assert [row["status"] for row in rows if row["path"] != "a.zip" or row["member"]] == ["failed"] * 5
    assert all("cannot be processed (RuntimeError: a fault)" in row["reason"] for row in rows if row["member"])
    assert archive or not Path(job.out, "0.png").exists()


ODD = {
    "width": 2**40,
    "input_bytes": 2**70,
    "boxes": [{"frame": "x"}],
    "format": object(),
    "reason": "\ud800\0",
    "mode": b"\xff",
}


@pytest.mark.parametrize("archive", [False, True], ids=["loose", "zip"])
@pytest.mark.parametrize("column", sorted(ODD))
def test_a_row_that_the_table_cannot_hold_fails_and_its_image_goes(job: PassJob, archive: bool, column: str) -> None:
    def finish(item: Item, boxes: Any) -> Outcome:
        outcome = job.finish(item, boxes)
        odd = "1.png" in item.place and not item.reason
        return outcome._replace(row=outcome.row | {column: ODD[column]}) if odd else outcome

    rows = run(job._replace(finish=finish), find_unit(job, archive))
    [row] = [row for row in rows if "1.png" in (row["path"], row["member"])]
    assert sum(row["status"] == "clean" for row in rows) >= 4
    if column == "reason":
        assert row["reason"] == "\\xed\\xa0\\x80\0"  # text can always be told
    else:
        assert row["status"] == "failed" and "cannot be recorded" in row["reason"]
        assert archive or not Path(job.out, "1.png").exists()
        if archive:
            with zipfile.ZipFile(Path(job.out, "a.zip")) as result:
                assert "1.png" not in result.namelist()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=ANY_TEXT, member=ANY_TEXT | st.none())
def test_any_name_can_be_recorded(job: PassJob, path: str, member: str | None) -> None:
    item = Item(path, member=member, number=None if member is None else 2**63 - 1)
    for outcome in (outcomes.fail(job, item, f"no: {path}"), outcomes.finish(job, item, [])):
        assert outcomes.to_table(job, [outcome.row]).num_rows == 1
    written = outcomes.write(job._replace(out="s3://bucket/out"), item, Outcome({}, None, retry=True))
    assert written.retry  # storage is not even asked


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_the_new_archive_cannot_have_costs_that_member_alone(job: PassJob, kind: str) -> None:
    names = ["a.png", "é" * 32_000 + ".png", "b.png"]  # in a zip of code page 437: 32 kB, and twice that as UTF-8
    path = Path(job.input, f"b.{kind}")
    if kind == "tar":
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
            for number, name in enumerate(names):
                header = tarfile.TarInfo(name)
                header.size = len(png(number))
                tar.addfile(header, io.BytesIO(png(number)))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for number, name in enumerate(names):
                entry = zipfile.ZipInfo("x" * 32_004 if number == 1 else name)
                archive.writestr(entry, png(number))
        raw = path.read_bytes().replace(b"x" * 32_000, b"\x82" * 32_000)
        path.write_bytes(raw)
    unit = next(unit for unit in units.cut(storage.list_files(job.input)) if unit.entries[0].path == path.name)
    rows = run(job, unit)
    statuses = {row["member"]: row["status"] for row in rows if row["member"]}
    assert len(statuses) == 3 and statuses["a.png"] == statuses["b.png"] == "clean"
    assert Path(job.out, path.name).exists()


@pytest.mark.parametrize("fails", [1, 2, 3], ids=["one", "some", "all"])
def test_what_cannot_be_put_back_into_a_table_is_not_left_in_it(
    job: PassJob, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    secret = bytes(1000)
    images = [png(number)[:-12] + b"\0\0\x03\xe8tEXt" + secret + b"\0\0\0\0" + png(number)[-12:] for number in range(3)]
    for image in images:
        assert secret in image
    pq.write_table(pa.table({"image": images}), Path(job.input, "t.parquet"), compression="none")
    unit = next(unit for unit in units.cut(storage.list_files(job.input)) if unit.archive == "parquet")
    format = archive_steps._load_format(unit)
    encode = format.encode_chunk

    def encode_chunk(chunk: Chunk, results: Any, layout: bytes) -> Any:
        numbers = [member.number for member, data in zip(chunk.members, results, strict=True) if data is not None]
        if any(number < fails for number in numbers) or fails == 3:
            raise pa.ArrowInvalid("no such value")
        return encode(chunk, results, layout)

    monkeypatch.setattr(format, "encode_chunk", encode_chunk)
    rows = run(job, unit)
    statuses = [row["status"] for row in rows if row["number"] is not None]
    assert statuses == ["failed"] * fails + ["clean"] * (3 - fails)
    assert secret not in Path(job.out, "t.parquet").read_bytes()
    [row] = [row for row in rows if row["number"] is None]
    assert (row["status"], row["reason"]) == (
        ("incomplete", "1 of 1 parts cannot be put into it") if fails == 3 else ("complete", "")
    )


@pytest.mark.parametrize("error", [error for error in ERRORS if not isinstance(error, MemoryError)])
def test_an_archive_that_cannot_be_put_together_is_failed_with_its_members(
    job: PassJob, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    format = archive_steps._load_format(find_unit(job, True))

    def assemble(chunks: Any, layout: bytes, file: Any) -> list[int]:
        file.write(next(iter(chunks)))
        raise error

    monkeypatch.setattr(format, "assemble", assemble)
    Path(job.out).mkdir()
    Path(job.out, "a.zip").write_bytes(b"of an earlier version")
    rows = run(job, find_unit(job, True))
    assert {row["status"] for row in rows} == {"failed"} and len(rows) == 6
    assert {row["output_sha256"] for row in rows} == {None} and not Path(job.out, "a.zip").exists()
    assert units.list_finished(job.records).names and not units.find_chunks(job.records)


@pytest.mark.parametrize("error", [TypeError("x"), struct.error("y"), NotImplementedError("z")])
def test_an_archive_whose_reader_fails_keeps_what_was_read(
    job: PassJob, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    unit = find_unit(job, True)
    format = archive_steps._load_format(unit)
    read = format.read

    def read_and_fail(*arguments: Any) -> Any:
        yield next(iter(read(*arguments)))
        raise error

    monkeypatch.setattr(format, "read", read_and_fail)
    rows = run(job, unit)
    assert [row["status"] for row in rows] == ["incomplete"] + ["clean"] * 5 or len(rows) == 6
    [row] = [row for row in rows if row["member"] is None]
    assert row["status"] == "incomplete" and type(error).__name__ in row["reason"]
    assert Path(job.out, "a.zip").exists() and units.list_finished(job.records).names


def test_a_finished_chunk_that_is_damaged_is_done_again(job: PassJob, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, read_bytes = find_unit(job, True), storage.read_bytes
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read_bytes", lambda uri: read_bytes(uri)[:9] if ".chunk" in uri else read_bytes(uri))
        [row] = run(job, unit)
    assert row["status"] == "failed" and "a finished chunk is damaged" in row["reason"]
    assert units.list_finished(job.records) == (set(), {unit.name})
    assert len(run(job, unit)) == 6 and units.list_finished(job.records) == ({unit.name}, set())


def test_storage_that_fails_an_archive_leaves_what_is_in_out(job: PassJob, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = find_unit(job, True)
    run(job, unit)
    good = Path(job.out, "a.zip").read_bytes()
    storage.delete(units.record_uri(job.records, unit.name))  # a node was lost between the object and its record
    with monkeypatch.context() as patch:
        patch.setattr(storage, "open_entry", fail_on("a.zip", PermissionError(13, "access denied"), storage.open_entry))
        [row] = run(job, unit)
    assert (row["status"], row["reason"]) == ("failed", "cannot be read (access denied)")
    assert Path(job.out, "a.zip").read_bytes() == good


def test_a_denied_file_does_not_keep_its_unit_from_being_done(job: PassJob, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, read_entry, seen = find_unit(job, False), storage.read_entry, []

    def read(root: str, entry: Any, *arguments: Any) -> bytes:
        seen.append(entry.path)
        if entry.path == "3.png" and denied:
            raise PermissionError(errno.EACCES, "it is archived (Glacier) and must be restored first")
        return read_entry(root, entry, *arguments)

    monkeypatch.setattr(storage, "read_entry", read)
    denied = True
    rows = run(job, unit)
    assert [row["status"] for row in rows] == ["clean"] * 3 + ["failed", "clean"]
    assert "Glacier" in rows[3]["reason"] and units.list_finished(job.records) == (set(), {unit.name})
    before = {path.name: path.stat().st_mtime_ns for path in Path(job.out).glob("*.png")}
    seen.clear()
    assert run(job, unit, is_retry=True) == rows and seen == ["3.png"]  # the others are done
    assert {path.name: path.stat().st_mtime_ns for path in Path(job.out).glob("*.png")} == before
    denied = False
    rows = run(job, unit, is_retry=True)
    assert [row["status"] for row in rows] == ["clean"] * 5
    assert units.list_finished(job.records) == ({unit.name}, set())


def test_a_record_that_cannot_be_written_is_an_outage(job: PassJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str, table: Any) -> None:
        raise PermissionError(errno.EACCES, "access denied", uri)

    monkeypatch.setattr(tables, "write_table", refuse)
    with pytest.raises(OutageError, match="access denied"):
        FusedWorker(job, [[]]).work(Work(find_unit(job, False)))


@pytest.mark.parametrize("place", ["read_entry", "write_below"])
def test_an_outage_is_never_a_row(job: PassJob, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    outage = OutageError(errno.EPERM, "the credentials have expired", "s3://b/a.jpg")
    monkeypatch.setattr(storage, place, fail_on("", outage, lambda: None))
    with pytest.raises(OutageError, match="expired"):
        FusedWorker(job, [[]]).work(Work(find_unit(job, False)))
    assert units.list_finished(job.records) == (set(), set())


@pytest.mark.parametrize("kind", [PermissionError, OutageError])
def test_boxes_that_storage_fails_are_asked_for_again(
    job: PassJob, monkeypatch: pytest.MonkeyPatch, kind: type[OSError]
) -> None:
    monkeypatch.setattr(steps, "read_boxes", fail_on("", kind(errno.EACCES, "access denied", "labels"), lambda: None))
    job = job._replace(boxes=BoxSource("boxes", ("car",), "labels"))
    unit = find_unit(job, False)
    if kind is OutageError:
        with pytest.raises(OutageError):
            run(job, unit)
    else:
        assert {row["reason"] for row in run(job, unit)} == {"its boxes cannot be read (access denied)"}
        assert units.list_finished(job.records) == (set(), {unit.name})


def test_what_is_passed_through_and_cannot_be_written_is_failed(job: PassJob, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(job.input, "notes.txt").write_text("kept")
    monkeypatch.setattr(storage, "write_below", fail_on("notes", OSError(errno.EIO, "I/O error"), storage.write_below))
    rows = run(job._replace(keep=("*.txt",)), find_unit(job, False))
    assert [row["status"] for row in rows] == ["clean"] * 5 + ["failed"]


def test_poisonous_files_of_every_kind_are_withheld_with_their_reason(job: PassJob) -> None:
    unit = find_unit(job, False)
    FusedWorker(job, [[]]).work(Work(unit, poisonous={1: "took longer than 5 s"}))
    [table] = units.read_records(job.records, [unit], job.schema)
    assert table["reason"].to_pylist()[1] == "took longer than 5 s"
    items = [steps.Item(name, data=png(1)) for name in NAMES]
    detected = workers.DetectStage(job, [[]]).detect(Work(unit, poisonous={4: "no"}), items)
    assert [item.reason for item, _ in detected] == ["", "", "", "", "no"]


@pytest.mark.parametrize("second", ["b.jpg", "b.png", "c.png"])
def test_an_archive_of_which_two_members_have_one_text_fails(job: PassJob, tmp_path: Path, second: str) -> None:
    with zipfile.ZipFile(tmp_path / "in/a.zip", "w") as archive:
        for number, name in enumerate(["0.png", "1.png", "b.png", second]):  # one name may be there twice
            archive.writestr(name, png(number))
    for name in ("0", "1", "b", "c"):
        storage.write_bytes(f"{tmp_path}/boxes/labels/a.zip/{name}.txt", b"")
    source = BoxSource(f"{tmp_path}/boxes", ("car",), f"{tmp_path}/boxes/labels")
    rows = run(job._replace(boxes=source), find_unit(job, archive=True))
    if second == "c.png":
        assert {row["status"] for row in rows} == {"complete", "clean"}
        return
    assert {row["status"] for row in rows} == {"failed"} and not Path(job.out, "a.zip").exists()
    [own] = [row for row in rows if row["member"] is None]
    assert own["reason"] == f"b.png and {second} share their labels, a.zip/b.txt"


def test_members_of_other_names_have_these_in_the_archive_alone(job: PassJob) -> None:
    new_names = {"0.png": "x/0.png", "1.png": "../1.png", "2.png": "2.png/", "a.zip": "b.zip"}
    named = job._replace(rename=lambda path: new_names.get(path, path))
    rows = {row["member"]: row for row in run(named, find_unit(job, True))}
    with zipfile.ZipFile(Path(job.out, "b.zip")) as result:
        assert result.namelist() == ["x/0.png", "3.png", "4.png"]
    assert rows[None]["path"] == "a.zip" and {row["output_path"] for row in rows.values()} == {"b.zip", None}
    assert (rows["0.png"]["output_member"], rows["3.png"]["output_member"]) == ("x/0.png", None)
    assert "must not climb out of its folder, but it would be called '../1.png'" in rows["1.png"]["reason"]
    assert rows["2.png"]["status"] == "failed" and rows["2.png"]["output_path"] is None
    data = manifest.read_result(job.out, rows["0.png"])
    assert data is not None and hashlib.sha256(data).hexdigest() == rows["0.png"]["output_sha256"]


def test_members_that_would_share_a_name_fail_with_their_archive(job: PassJob) -> None:
    rows = run(job._replace(rename=lambda path: path.replace("1.png", "0.png")), find_unit(job, True))
    [archive] = [row for row in rows if row["member"] is None]
    assert archive["status"] == "failed" and archive["reason"] == "0.png and 1.png would both be called 0.png"
    assert {row["status"] for row in rows} == {"failed"} and not Path(job.out, "a.zip").exists()
    assert {row["output_member"] for row in rows} == {None}
