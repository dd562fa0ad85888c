"""The whole chain of a pass in one process, without Ray: read, redact, keep the chunks, put together, account."""

import hashlib
import io
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from depers import storage
from depers.anonymization import manifest, redact_step
from depers.archives.base import ArchiveEnd, Chunk
from depers.detection.settings import InferenceSettings, Weights
from depers.pipeline import archive_steps, outcomes, workers
from depers.pipeline.box_sources import BoxSource
from depers.pipeline.box_tables import Row
from depers.pipeline.isolation import work_one_by_one
from depers.pipeline.steps import Item, Outcome, PassJob
from depers.pipeline.workers import FusedWorker, Work
from depers.runtime import units
from depers.runtime.crash_ledger import CRASHED, Position
from depers.runtime.units import Unit
from depers.street_scenes.scenes import draw_scene

IMAGES = 40


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 50 + number).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PassJob:
    """A tar and loose images, all with a label but the first of each."""
    monkeypatch.setattr(workers, "_get", lambda reference: reference[0])
    root, labels = tmp_path / "in", tmp_path / "boxes/labels"
    root.mkdir()
    images = {f"{number:02}.png": png(number) for number in range(IMAGES)}
    with tarfile.open(root / "a.tar", "w") as archive:
        for name, data in images.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    for number, (name, data) in enumerate(images.items()):
        for place in (name, f"a.tar/{name}"):
            (labels / place).parent.mkdir(parents=True, exist_ok=True)
            if number:
                (labels / place).with_suffix(".txt").write_text("0 0.5 0.5 0.5 0.5\n" if number % 2 else "")
        (root / name).write_bytes(data)
    last = partial(redact_step.redact_item, mode="fill", margin=0.0, keep_metadata=(), max_megapixels=1.0)
    return PassJob(
        input=str(root), out=str(tmp_path / "out"), weights=(), classes=(), settings=InferenceSettings(), batch_size=8,
        max_megapixels=1.0, half_stride_pad=False, schema=manifest.SCHEMA, finish=last, mirrors=True,
        boxes=BoxSource("boxes", ("car",), str(labels)),
    )  # fmt: skip


def run_archive(job: PassJob, unit: Unit, finished: frozenset[int] = frozenset(), **more: Any) -> None:
    worker = FusedWorker(job, [[]])
    layout, end = b"", None
    for chunk in archive_steps.read_chunks(job, unit, finished):
        if isinstance(chunk, archive_steps.ChunkHeading):
            layout = chunk.layout
        elif isinstance(chunk, Chunk):
            assert chunk.number not in finished
            worker.work(Work(unit, chunk.number, layout, **more), chunk)
        else:
            end = chunk
    assert isinstance(end, ArchiveEnd)
    archive_steps.assemble(job, unit, end)


def test_an_archive_and_its_loose_files_become_the_same(job: PassJob) -> None:
    everything = units.cut(storage.list_files(job.input))
    for unit in everything:
        if unit.archive:
            run_archive(job, unit)
        else:
            FusedWorker(job, [[]]).work(Work(unit))
    rows = [row for table in units.read_records(job.records, everything, job.schema) for row in table.to_pylist()]
    members = {row["member"]: row for row in rows if row["member"]}
    loose = {row["path"]: row for row in rows if row["path"] != "a.tar"}
    assert len(members) == len(loose) == IMAGES
    for name in members:
        for column in ("status", "input_sha256", "output_sha256", "boxes", "width", "method"):
            assert members[name][column] == loose[name][column]
    statuses = [row["status"] for row in loose.values()]
    assert (statuses.count("failed"), statuses.count("redacted"), statuses.count("clean")) == (1, 20, 19)
    whole = Path(job.out, "a.tar").read_bytes()
    for row in members.values():
        if row["status"] != "failed":
            part = whole[row["output_offset"] :][: row["output_bytes"]]
            assert hashlib.sha256(part).hexdigest() == row["output_sha256"]
    assert not Path(job.out, "00.png").exists() and not Path(job.out, "_depers/chunks").exists()


def test_finished_chunks_are_not_done_again(job: PassJob) -> None:
    [unit] = [one for one in units.cut(storage.list_files(job.input)) if one.archive]
    run_archive(job, unit)
    expected = Path(job.out, "a.tar").read_bytes()
    first = next(chunk for chunk in archive_steps.read_chunks(job, unit, frozenset()) if isinstance(chunk, Chunk))
    FusedWorker(job, [[]]).work(Work(unit, 0), first)
    before = Path(units.chunk_uri(job.records, unit.name, 0)).stat().st_mtime_ns
    assert units.find_chunks(job.records) == {unit.name: {0}}
    stamp = Path(units.chunk_uri(job.records, unit.name, 0))
    Path(job.out, "a.tar").unlink()
    kept = stamp.read_bytes()
    run_archive(job, unit, frozenset({0}))
    assert Path(job.out, "a.tar").read_bytes() == expected and kept and before


def test_a_poisonous_file_fails_and_the_others_do_not(job: PassJob) -> None:
    unit = next(unit for unit in units.cut(storage.list_files(job.input)) if not unit.archive)
    poisonous = Position(2)
    notes: list[Position] = []
    worker = FusedWorker(job, [[]])
    work_one_by_one(worker, Work(unit), None, {poisonous: CRASHED}, notes.append)
    [table] = units.read_records(job.records, [unit], job.schema)
    rows = table.to_pylist()
    assert rows[2]["reason"] == CRASHED
    assert not Path(job.out, unit.entries[2].path).exists()
    assert sum(row["status"] == "failed" for row in rows) == 2  # and the one without labels
    batch = Position(0, is_batch=True)
    positions = [Position(index) for index in range(len(unit.entries))]
    harmless = [position for position in positions if position != poisonous]
    assert notes == [*harmless, batch, *harmless, *harmless]  # prepared, detected together, completed, finished
    notes.clear()
    work_one_by_one(worker, Work(unit), None, {batch: CRASHED}, notes.append)
    assert notes == positions * 3  # not together, since that ended it


@pytest.mark.parametrize("mirrors", [True, False], ids=["redacting computes", "finishing writes files of its own"])
def test_images_are_finished_one_at_a_time_unless_that_waits_for_storage(job: PassJob, mirrors: bool) -> None:
    unit = next(one for one in units.cut(storage.list_files(job.input)) if not one.archive)
    held: list[bool] = []

    def finish(item: Item, boxes: Sequence[Row]) -> Outcome:
        held.append(worker.computing.locked())  # no other batch is there to hold it
        return job.finish(item, boxes)

    worker = FusedWorker(job._replace(mirrors=mirrors, finish=finish), [[]])
    worker.work(Work(unit))
    assert held == [mirrors] * len(unit.entries)


def test_what_is_written_is_let_go(job: PassJob) -> None:
    outcome = outcomes.write(job, Item("a.png"), Outcome({"status": "redacted"}, b"image"))
    assert outcome == Outcome({"status": "redacted"}, stamp=storage.read_stamp(job.out, "a.png"))
    assert Path(job.out, "a.png").read_bytes() == b"image"


def test_work_one_by_one_finds_the_same_to_the_last_digit(tmp_path: Path, data: Path, job: PassJob) -> None:
    weights = data / "weights" / "yolov5n.pt"
    (tmp_path / "street").mkdir()
    for number in range(8):
        scene = Image.fromarray(draw_scene(number, 3, (640, 360)).image)
        scene.save(tmp_path / "street" / f"{number}.jpg", quality=90)
    tables = []
    for name in ("work", "work_one_by_one"):
        wanted = job._replace(
            input=str(tmp_path / "street"), out=str(tmp_path / name), weights=(Weights(str(weights), {}),), boxes=None
        )
        [unit] = units.cut(storage.list_files(wanted.input))
        worker = FusedWorker(wanted, [[weights.read_bytes()]])
        if name == "work":
            worker.work(Work(unit))
        else:
            work_one_by_one(worker, Work(unit), None, {}, lambda position: None)
        tables += units.read_records(wanted.records, [unit], wanted.schema)
    assert tables[0].equals(tables[1]) and sum(len(row["boxes"]) for row in tables[0].to_pylist()) > 20


def test_a_file_that_changed_fails_and_is_tried_again(job: PassJob) -> None:
    everything = units.cut(storage.list_files(job.input))
    unit = next(one for one in everything if not one.archive)
    name = unit.entries[1].path
    Path(job.input, name).write_bytes(png(99))
    storage.write_bytes(f"{job.out}/{name}", b"what an earlier version became")
    FusedWorker(job, [[]]).work(Work(unit))
    [table] = units.read_records(job.records, [unit], job.schema)
    row = table.to_pylist()[1]
    assert Path(job.out, name).exists()  # it may be good: a read failure never deletes
    assert row["status"] == "failed" and "changed since it was listed" in row["reason"]
    assert not units.list_finished(job.records).names


def test_an_archive_that_went_is_one_failed_row(job: PassJob) -> None:
    [unit] = [one for one in units.cut(storage.list_files(job.input)) if one.archive]
    Path(job.input, "a.tar").unlink()
    run_archive(job, unit)
    [table] = units.read_records(job.records, [unit], job.schema)
    [row] = table.to_pylist()
    assert row["status"] == "failed" and "cannot be read" in row["reason"] and not Path(job.out, "a.tar").exists()
    assert not units.list_finished(job.records).names
