"""What a rerun does after every kind of change: the table in docs/operations.md, cell by cell, on files and on S3."""

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from threshold_files import format_file

import depers
from depers import storage
from depers.commands import anonymize, audit
from depers.commands.anonymize import AnonymizeResult, Options
from depers.errors import UserError
from depers.runtime import lease, progress
from depers.street_scenes.scenes import draw_scene

pytestmark = pytest.mark.usefixtures("ray_local")
LABEL = b"0 0.5 0.5 0.25 0.25\n"


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(number, 7, (96, 64)).image).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: str, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        storage.write_bytes(f"{root}/{name}", data)


def read(root: str) -> dict[str, bytes]:
    return {entry.path: storage.read_bytes(f"{root}/{entry.path}") for entry in storage.list_files(root)}


def rows_of(result: AnonymizeResult) -> dict[str, dict[str, Any]]:
    table = pq.read_table(io.BytesIO(storage.read_bytes(result.manifest)))
    return {row["path"]: row for row in table.to_pylist()}


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3_bucket")) if request.param == "s3" else str(tmp_path)


def zipped(*numbers: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in numbers:
            archive.writestr(f"m{number}.png", png(number))
    return buffer.getvalue()


def redact(data: bytes, share: float = 0.25) -> bytes:
    """Return an image as it must come out, with a box in its middle."""
    x, y = 48 * share, 32 * share
    return depers.redact(data, [(48 - x, 32 - y, 48 + x, 32 + y)])


def move(old: str, new: str) -> None:
    if not storage.is_remote(old):
        Path(old).rename(new)
        return
    write(new, read(old))
    for path in read(old):
        storage.delete(f"{old}/{path}")


def replace_unseen(root: str, name: str, data: bytes) -> None:
    """Write over a file with as many bytes; on a disk, its time of change stays what it was."""
    path = Path(root, name)
    times = (0, 0) if storage.is_remote(root) else (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    write(root, {name: data})
    if not storage.is_remote(root):
        os.utime(path, ns=times)


def refusal(options: Options) -> str:
    with pytest.raises(UserError) as caught:
        anonymize.run(options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_rerun_does(root: str) -> None:
    names = [f"{number:02}.png" for number in range(10)]
    write(f"{root}/in", {name: png(number) for number, name in enumerate(names)} | {"z.zip": zipped(0, 1)})
    texts = {f"labels/{name[:2]}.txt": LABEL for name in [*names, "10.png"]}
    texts |= {f"labels/z.zip/m{number}.txt": LABEL for number in range(2)}
    write(f"{root}/boxes", {"classes.txt": b"car\n"} | texts)
    thresholds = format_file({"car": 0.5}).encode()
    write(root, {"thresholds.json": thresholds, "moved.json": thresholds})
    first = Options(f"{root}/in", f"{root}/out", boxes=f"{root}/boxes", thresholds=f"{root}/thresholds.json", workers=1)
    result = anonymize.run(first)
    assert result.files == {"redacted": 12} and result.archives == {"complete": 1} and result.speed.images == 13
    before, rows = read(f"{root}/out"), rows_of(result)
    assert sorted(before) == [*names, "z.zip"]

    # Nothing changed, and all of it was moved.
    move(f"{root}/boxes", f"{root}/moved-boxes")
    move(f"{root}/in", f"{root}/moved")
    options = replace(first, input=f"{root}/moved", boxes=f"{root}/moved-boxes", thresholds=f"{root}/moved.json")
    result = anonymize.run(options)
    assert result.speed.images == 0 and rows_of(result) == rows and read(f"{root}/out") == before

    # Another INPUT, none, options and class lists that decide otherwise, another driver.
    write(f"{root}/other", {name: png(number + 1) for number, name in enumerate(names)})
    assert "holds a run of" in refusal(replace(options, input=f"{root}/other"))
    write(f"{root}/empty", {"x": b""})
    storage.delete(f"{root}/empty/x")
    assert refusal(replace(options, input=f"{root}/empty")).endswith(("but is empty", "no such folder"))
    assert "holds a run with mode" in refusal(replace(options, mode="fill"))
    write(f"{root}/moved-boxes", {"classes.txt": b"head\n"})
    assert "holds a run with boxes names ['car'], but now it is ['head']" in refusal(options)
    write(f"{root}/moved-boxes", {"classes.txt": b"car\n"})
    write(root, {"moved.json": thresholds.replace(b"0.5", b"0.6")})
    assert "holds a run with thresholds car 0.5, but now it is 0.6" in refusal(options)
    write(root, {"moved.json": thresholds})
    with lease.hold(f"{root}/out-records", "OUT"):
        assert "is in use by another run" in refusal(options)
    assert read(f"{root}/out") == before

    # Boxes, inputs and an archive edited, one removed, one added, an output lost, a file of somebody else.
    write(f"{root}/moved-boxes", {"labels/09.txt": b"0 0.5 0.5 0.75 0.75\n"})
    edits = {"00.png": png(11), "02.png": png(2)[:200], "10.png": png(10), "z.zip": zipped(0)}
    write(f"{root}/moved", edits)
    storage.delete(f"{root}/moved/01.png")
    storage.delete(f"{root}/out/05.png")
    write(f"{root}/out", {"index.html": b"somebody's"})
    result = anonymize.run(replace(options, keep_removed=True))
    assert result.files == {"redacted": 11, "removed": 1, "failed": 1}  # 01.png is kept, m1.png is not
    kept = rows_of(result)
    assert kept["01.png"] == rows["01.png"] | {
        "reason": "is no longer in INPUT, but its result was kept (--keep-removed)"
    }
    assert read(f"{root}/out")["01.png"] == before["01.png"]

    result = anonymize.run(options)
    assert result.speed.images == 0 and result.files == {"redacted": 10, "removed": 1, "failed": 1}
    assert (rows_of(result)["01.png"]["status"], rows_of(result)["01.png"]["output_sha256"]) == ("removed", None)
    after = read(f"{root}/out")
    assert after.pop("index.html") == b"somebody's"
    archive_after = after["z.zip"]
    expected = {name: redact(before_edit) for name, before_edit in zip(names, map(png, range(10)), strict=True)}
    expected |= {"00.png": redact(png(11)), "09.png": redact(png(9), 0.75), "10.png": redact(png(10))}
    del expected["01.png"], expected["02.png"]
    with zipfile.ZipFile(io.BytesIO(after.pop("z.zip"))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"m0.png": redact(png(0))}
    assert after == expected

    # Originals over their own results, and in the place of one that failed; results cut off, altered, written again as
    # they were; an input that was replaced by one of equal size and time.
    replace_unseen(f"{root}/moved", "10.png", png(10)[::-1])
    altered = {"03.png": after["03.png"][:50], "04.png": after["04.png"][::-1], "09.png": after["09.png"]}
    write(f"{root}/out", altered | {"00.png": png(11), "02.png": png(2), "z.zip": zipped(0)})
    said = io.StringIO()
    with progress.shown_on(said):
        result = anonymize.run(options)
    assert "results of 2 units are missing, or are not what was written" in said.getvalue()
    assert "removes 5 files that are not the results in whose place they lie, such as 00.png" in said.getvalue()
    assert result.files == {"redacted": 9, "failed": 2} and rows_of(result)["10.png"]["status"] == "failed"
    del after["10.png"]
    assert read(f"{root}/out") == after | {"index.html": b"somebody's", "z.zip": archive_after}
    assert all(b"01.png" not in data for data in read(f"{root}/out-records").values())  # it is forgotten


def zip_of(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("root", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
def test_names_that_are_mapped(root: str) -> None:
    people = {f"cam/jane doe {number}.png": png(number) for number in range(3)}
    archive = {"jane/": b"", "jane/doe.png": png(3), "notes.txt": b"", "other.png": png(4)}
    inputs = people | {"cam/x/jane doe 0.png": png(5), "cam/jane.zip": zip_of(archive)}
    write(f"{root}/in", inputs)
    names = [name for name in inputs if name.endswith("png")] + ["cam/jane.zip/jane/doe.png", "cam/jane.zip/other.png"]
    write(f"{root}/boxes", {f"labels/{name[:-4]}.txt": LABEL for name in names} | {"classes.txt": b"car\n"})
    first = Options(f"{root}/in", f"{root}/out", boxes=f"{root}/boxes", map=("strip:cam/", "hash"), workers=1)
    result = anonymize.run(first)
    assert result.files == {"redacted": 6, "skipped": 1} and result.archives == {"complete": 1}
    before, rows = read(f"{root}/out"), rows_of(result)
    place_of = {name: str(row["output_path"]) for name, row in rows.items()}
    assert set(before) == set(place_of.values()) and place_of.keys() == inputs.keys()
    assert all(name[-4:] == place[-4:] and place.count("/") == name.count("/") - 1 for name, place in place_of.items())
    assert place_of["cam/x/jane doe 0.png"].endswith(f"/{place_of['cam/jane doe 0.png']}")  # equal names, equal hashes
    published = "".join(before) + "".join(members_of(before[place_of["cam/jane.zip"]]))
    assert not any(word in published for word in ("cam", "jane", "doe", "other"))
    key = str(json.loads(read(f"{root}/out-records")["job.json"])["names_key"])
    assert key and not any(key.encode() in data for data in before.values())
    assert {place: before[place] for place in (place_of[name] for name in people)} == {
        place_of[name]: redact(data) for name, data in people.items()
    }
    assert sorted(members_of(before[place_of["cam/jane.zip"]]).values()) == sorted(
        [b"", redact(png(3)), redact(png(4))]
    )

    def check(**changes: Any) -> list[dict[str, Any]]:
        found = audit.run(audit.Options(f"{root}/out", input=f"{root}/in", **changes))
        table = pq.read_table(io.BytesIO(storage.read_bytes(found.findings)))
        return [row for row in table.to_pylist() if row["status"] == "wrong"]

    # Nothing changed; then one input left, one came, one result was lost, and one was overwritten by its original.
    result = anonymize.run(first)
    assert result.speed.images == 0 and read(f"{root}/out") == before
    storage.delete(f"{root}/in/cam/jane doe 1.png")
    write(f"{root}/in", {"cam/new.png": png(6)})
    write(f"{root}/boxes", {"labels/cam/new.txt": LABEL})
    storage.delete(f"{root}/out/{place_of['cam/jane doe 0.png']}")
    write(f"{root}/out", {place_of["cam/jane doe 2.png"]: png(2), "jane doe 2.png": b"somebody's"})
    assert {row["reason"] for row in check()} >= {"is missing from OUT", "is in INPUT, but has no row in the manifest"}
    result = anonymize.run(first)
    rows = rows_of(result)
    after = read(f"{root}/out")
    assert after.pop("jane doe 2.png") == b"somebody's"
    assert rows["cam/jane doe 1.png"]["status"] == "removed" and result.files["redacted"] == 6
    assert after.pop(str(rows["cam/new.png"]["output_path"])) == redact(png(6))
    del before[place_of["cam/jane doe 1.png"]]
    assert after == before
    storage.delete(f"{root}/out/jane doe 2.png")
    assert check() == []

    # Other names are another run; the boxes of this one are known by the names of its inputs.
    assert "holds a run with map" in refusal(replace(first, map=("hash",)))
    collision = replace(first, out=f"{root}/other", map=("replace:/jane doe ./same/",), boxes=None)
    collision = replace(collision, previous_detections=f"{root}/out-records")
    assert "their result would be called cam/same.png" in refusal(collision)
    again = anonymize.run(replace(collision, map=("strip:cam/",)))
    assert again.files == {"redacted": 6, "skipped": 1}
    plain = read(f"{root}/other")
    assert sorted(plain) == ["jane doe 0.png", "jane doe 2.png", "jane.zip", "new.png", "x/jane doe 0.png"]
    assert plain["new.png"] == redact(png(6)) and list(members_of(plain["jane.zip"]))[1] == "jane/doe.png"
