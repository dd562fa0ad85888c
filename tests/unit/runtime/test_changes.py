"""What changed behind the records: results that are not what was written, inputs that only look as before."""

import hashlib
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from depers import storage
from depers.runtime import changes, units
from depers.runtime.units import RecordNotes, Unit
from depers.storage import Entry
from depers.storage.listing import FileListing, Results

SCHEMA = pa.schema(
    [("path", pa.string()), ("number", pa.int64()), ("status", pa.string()), ("output_bytes", pa.int64())]
    + [(name, pa.string()) for name in ("input_sha256", "output_sha256")]
)
FAILED, SKIPPED, DENIED = "03.jpg", "04.txt", "05.jpg"
WITHOUT_RESULT = {FAILED: "failed", SKIPPED: "skipped", DENIED: "failed"}
WRITTEN = [f"{number:02}.jpg" for number in range(16) if number not in (3, 4, 5)] + ["z.zip"]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_bucket")) if request.param == "s3" else str(tmp_path)


def record(records: str, unit: Unit, stamps: dict[str, str], data: bytes) -> None:
    """Write the record of a unit whose results, and inputs, are all `data`."""
    digest = hashlib.sha256(data).hexdigest()
    rows = []
    for entry in unit.entries:
        row = {"path": entry.path, "status": WITHOUT_RESULT.get(entry.path, "redacted"), "input_sha256": digest}
        has_result = entry.path not in WITHOUT_RESULT
        rows.append(row | ({"output_bytes": len(data), "output_sha256": digest} if has_result else {}))
        rows += [{"path": entry.path, "number": 0, "output_bytes": 1}] * bool(unit.archive)
    retries = {entry.path: 0.0 for entry in unit.entries if entry.path == DENIED}
    own_stamps = {entry.path: stamps[entry.path] for entry in unit.entries if entry.path in stamps}
    units.write_record(records, unit.name, pa.Table.from_pylist(rows, SCHEMA), RecordNotes(retries, own_stamps))


def find_unit(work: list[Unit], path: str) -> int:
    return next(index for index, unit in enumerate(work) if any(entry.path == path for entry in unit.entries))


def do_work(root: str) -> list[Unit]:
    """The units of a run that is finished, with records of what is in OUT."""
    stamps = {path: storage.write_below(f"{root}/out", path, b"redacted") for path in WRITTEN}
    entries = [Entry(path, 1, "tag") for path in sorted([*WRITTEN, *WITHOUT_RESULT])]
    work = [unit for part in (entries[:5], entries[5:9], entries[9:]) for unit in units.cut(part)]
    for unit in work:
        record(f"{root}/records", unit, stamps, b"redacted")
    assert len({find_unit(work, path) for path in ("00.jpg", DENIED, "09.jpg", "z.zip")}) == 4
    return work


@pytest.fixture
def work(root: str) -> list[Unit]:
    return do_work(root)


def check(root: str, work: list[Unit]) -> tuple[list[int], list[str]]:
    """The units that are to be done again, by their places, and the foreign files, then strangers."""
    results = Results.of(storage.list_files(f"{root}/out"))
    finished = units.list_finished(f"{root}/records")
    assert len(finished.names) == len(work) - 1 and len(finished.retries) == 1
    deviations = changes.check_results(f"{root}/records", work, finished, f"{root}/out", results)
    return [i for i, unit in enumerate(work) if unit.name in deviations.units], [
        *sorted(deviations.foreign),
        *deviations.strangers,
    ]


def test_what_was_written_is_known_by_its_stamp(root: str, work: list[Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "compute_digest", None)  # it is not even asked for
    assert check(root, work) == ([], [])


@pytest.mark.parametrize(
    ("edits", "lost", "foreign"),
    [
        ({"09.jpg": None}, ["09.jpg"], []),
        ({"z.zip": None, "00.jpg": None}, ["00.jpg", "z.zip"], []),
        ({"09.jpg": b"the original"}, ["09.jpg"], ["09.jpg"]),
        ({"09.jpg": b"redac"}, ["09.jpg"], ["09.jpg"]),
        ({"09.jpg": b"detcader", "z.zip": b"original"}, ["09.jpg", "z.zip"], ["09.jpg", "z.zip"]),
        ({"09.jpg": b"redacted"}, [], []),
        ({FAILED: b"the original"}, [], [FAILED]),
        ({SKIPPED: b"a note", "new.txt": b"a note", DENIED: b"of an earlier run"}, [], [SKIPPED]),
    ],
)
def test_what_is_not_what_was_written_is_found(
    root: str, work: list[Unit], edits: dict[str, bytes | None], lost: list[str], foreign: list[str]
) -> None:
    for path, data in edits.items():
        storage.delete_below(f"{root}/out", path)
        if data is not None:
            storage.write_below(f"{root}/out", path, data)
    assert check(root, work) == check(root, work) == ([find_unit(work, path) for path in lost], foreign)


def test_a_copy_of_out_is_compared_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = do_work(str(tmp_path))
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "copy").rename(tmp_path / "out")
    assert check(str(tmp_path), work) == ([], [])
    monkeypatch.setattr(storage, "compute_digest", None)
    assert check(str(tmp_path), work) == ([], [])


def replace_unseen(path: Path, data: bytes) -> None:
    """Write over a file so that size and time stay as they were."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    assert len(data) == path.stat().st_size
    path.write_bytes(data)
    os.utime(path, ns=times)


@pytest.mark.parametrize(
    ("edits", "changed"),
    [
        ({}, []),
        ({"09.jpg": b"derewolf"}, ["09.jpg"]),
        ({"09.jpg": b"redacted", "10.jpg": b"redacted", "00.jpg": b"cadredet"}, ["00.jpg"]),
        ({"z.zip": b"ziperola"}, ["z.zip"]),
        ({DENIED: b"redacted"}, []),
    ],
)
def test_inputs_of_equal_size_and_time(tmp_path: Path, edits: dict[str, bytes], changed: list[str]) -> None:
    inputs, records = tmp_path / "in", f"{tmp_path}/records"
    inputs.mkdir()
    for path in [*WRITTEN, *WITHOUT_RESULT]:
        (inputs / path).write_bytes(b"redacted")
    known = FileListing.of(storage.list_files(str(inputs)))
    work = units.cut(known)
    for unit in work:
        record(records, unit, {}, b"redacted")
    for path, data in edits.items():
        replace_unseen(inputs / path, data)
    entries = storage.list_files(str(inputs))
    assert [entry[:3] for entry in entries] == [entry[:3] for entry in known]
    now = units.cut(entries)
    assert [unit.name for unit in now] == [unit.name for unit in work]
    listing = FileListing.of(entries)
    names = changes.find_changed_inputs(records, now, units.list_finished(records), str(inputs), listing, [known])
    assert names == {now[find_unit(now, path)].name for path in changed}
    unfinished = units.Finished(frozenset(), frozenset())  # of an archive there may be chunks
    names = changes.find_changed_inputs(records, now, unfinished, str(inputs), listing, [known[:2], known[2:]])
    assert len(names) == len({unit.name for unit in now if any(entry.path in edits for entry in unit.entries)})
