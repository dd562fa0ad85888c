"""`depers anonymize` and `depers audit` on archives for real: mixed, nested, damaged, resumed, tampered with."""

import base64
import hashlib
import io
import itertools
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from runs import tree

from depers import storage
from depers.anonymization.manifest import SCHEMA
from depers.commands import anonymize, audit, detect
from depers.commands.anonymize import Options
from depers.errors import UserError
from depers.storage import tables
from depers.street_scenes.scenes import draw_scene

MEMBERS = 40


def scene(number: int, form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(number % 8, 7, (320, 192)).image).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(untrained: Callable[..., str]) -> str:
    return untrained("human", "car")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebDataset shard, a zip, a Hugging Face table, a truncated tar and loose images under one prefix."""
    root = tmp_path_factory.mktemp("input")
    (root / "sub/deep").mkdir(parents=True)
    with tarfile.open(root / "shard-000.tar", "w") as archive:
        for number in range(MEMBERS):
            for name, data in ((f"x/IMG.{number:03}.jpg", scene(number)), (f"x/IMG.{number:03}.json", b"{}")):
                header = tarfile.TarInfo(name)
                header.size, header.uname = len(data), "joe"
                archive.addfile(header, io.BytesIO(data))
    with zipfile.ZipFile(root / "sub/b.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("d/", b"")
        for number in range(5):
            packed.writestr(f"d/{number}.png", scene(number, "PNG"))
        packed.writestr("d/broken.jpg", scene(0)[:500])
        packed.writestr("d/secret.doc", b"who was there")
        packed.writestr("../up.jpg", scene(1))
    image = [{"bytes": scene(number), "path": f"{number}.jpg"} for number in range(6)] + [
        {"bytes": b"\xff\xd8\xff", "path": "7.jpg"}
    ]
    text = ["a street"] * 6 + [base64.b64encode(scene(0)).decode()]
    columns = {"id": range(7), "image": image, "text": text, "gps": [[52.5, 13.4]] * 7}
    pq.write_table(pa.table(columns), root / "sub/deep/c.parquet")
    whole = (root / "shard-000.tar").read_bytes()
    (root / "cut.tar").write_bytes(whole[: whole.index(b"x/IMG.003.jpg") + 600])
    (root / "junk.zip").write_bytes(b"no archive")
    for number in range(6):
        (root / f"sub/{number}.jpg").write_bytes(scene(number))
    (root / "sub/notes.csv").write_text("a,b")
    (root / "sub/labelme.json").write_text(json.dumps({"imageData": base64.b64encode(scene(0)).decode()}))
    pq.write_table(pa.table({"name": ["joe"]}), root / "sub/names.parquet")
    return root


def options(folder: Path | str, out: Path | str, detector: str, **more: Any) -> Options:
    how: dict[str, Any] = {
        "weights": (detector,),
        "imgsz": 320,
        "confidence": 0.003,
        "keep": ("*.json",),
        "keep_columns": ("id", "text"),
    }
    return Options(input=str(folder), out=str(out), **how | more)


def manifest(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tables.read_table(f"{out}-records/manifest.parquet").to_pylist()
    return rows


@pytest.fixture(scope="module")
def done(ray_local: None, folder: Path, weights: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "out"
    assert anonymize.run(options(folder, out, weights)).partial
    return out


def test_every_member_has_one_row(done: Path) -> None:
    rows = manifest(done)
    places = [(row["path"], row["number"]) for row in rows]
    assert len(set(places)) == len(places)
    assert [path for path, _ in itertools.groupby(path for path, _ in places)] == list(
        dict.fromkeys(path for path, _ in places)
    )
    found = {(row["path"], row["member"]): row["status"] for row in rows}
    shard = [status for (path, _), status in found.items() if path == "shard-000.tar"]
    assert sorted(shard) == ["complete"] + ["passed_through"] * MEMBERS + ["redacted"] * MEMBERS
    assert found["cut.tar", None] == "incomplete" and found["cut.tar", "x/IMG.003.jpg"] == "failed"
    assert found["cut.tar", "x/IMG.002.jpg"] == "redacted"
    assert found["junk.zip", None] == "failed" and not (done / "junk.zip").exists()
    assert found["sub/b.zip", "d/broken.jpg"] == "failed" and found["sub/b.zip", "d/secret.doc"] == "skipped"
    assert found["sub/b.zip", "../up.jpg"] == "failed" and found["sub/b.zip", None] == "complete"
    assert found["sub/deep/c.parquet", "image[6]"] == "failed" and found["sub/deep/c.parquet", "image[5]"] == "redacted"
    assert found["sub/deep/c.parquet", "text[6]"] == "failed" and found["sub/deep/c.parquet", "gps"] == "skipped"
    assert found["sub/deep/c.parquet", "id"] == found["sub/deep/c.parquet", "text"] == "passed_through"
    assert found["sub/labelme.json", None] == "failed" and not (done / "sub/labelme.json").exists()
    assert found["sub/names.parquet", None] == "skipped" and not (done / "sub/names.parquet").exists()
    assert found["sub/notes.csv", None] == "skipped" and found["sub/3.jpg", None] == "redacted"
    assert all(row["reason"] for row in rows if row["status"] in ("failed", "skipped", "incomplete"))


def test_outputs_mirror_inputs_and_match_their_rows(done: Path) -> None:
    rows = manifest(done)
    with tarfile.open(done / "shard-000.tar") as archive:
        names = archive.getnames()
        assert names == [
            f"x/IMG.{number // 2:03}.{'jpg' if number % 2 == 0 else 'json'}" for number in range(2 * MEMBERS)
        ]
        content = {name: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    whole = (done / "shard-000.tar").read_bytes()
    for row in rows:
        if row["path"] == "shard-000.tar" and row["number"] is not None:
            assert hashlib.sha256(content[row["member"]]).hexdigest() == row["output_sha256"]
            assert whole[row["output_offset"] :][: row["output_bytes"]] == content[row["member"]]
            assert content[row["member"]] != row["input_sha256"]
    with zipfile.ZipFile(done / "sub/b.zip") as packed:
        assert packed.testzip() is None and packed.namelist() == ["d/"] + [f"d/{number}.png" for number in range(5)]
    table = pq.read_table(done / "sub/deep/c.parquet")
    assert table["id"].to_pylist() == list(range(7)) and table["image"][6].as_py() is None
    assert table["text"].to_pylist() == ["a street"] * 6 + [None] and table.column_names == ["id", "image", "text"]
    assert {row["path"] for row in table["image"].to_pylist()[:6]} == {None}
    assert {
        row["output_sha256"] for row in rows if row["path"] == "sub/deep/c.parquet" and row["status"] == "redacted"
    } == {hashlib.sha256(row["bytes"]).hexdigest() for row in table["image"].to_pylist()[:6]}
    assert {path.name for path in Path(f"{done}-records").iterdir()} == {
        "inputs.parquet",
        "job.json",
        "manifest.parquet",
        "report.html",
        "units",
    }


def test_a_member_and_a_loose_file_of_the_same_bytes_become_the_same(done: Path, folder: Path) -> None:
    by_input: dict[str, set[str]] = {}
    for row in manifest(done):
        if row["status"] == "redacted":
            by_input.setdefault(row["input_sha256"], set()).add(row["output_sha256"])
    assert all(len(outputs) == 1 for outputs in by_input.values())


def test_s3_and_another_topology_give_the_same_bytes(
    done: Path, folder: Path, weights: str, s3_bucket: str, tmp_path: Path
) -> None:
    for entry in storage.list_files(str(folder)):
        storage.write_bytes(f"{s3_bucket}/in/{entry.path}", (folder / entry.path).read_bytes())
    assert anonymize.run(options(f"{s3_bucket}/in", f"{s3_bucket}/out", weights, topology="staged")).partial
    for entry in storage.list_files(f"{s3_bucket}/out"):
        storage.write_bytes(str(tmp_path / entry.path), storage.read_bytes(f"{s3_bucket}/out/{entry.path}"))
    assert tree(tmp_path) == tree(done)
    rows = storage.read_bytes(f"{s3_bucket}/out-records/manifest.parquet")
    assert pq.read_table(io.BytesIO(rows)).to_pylist() == manifest(done)


def test_boxes_of_an_earlier_run_redact_alike_without_a_detector(
    done: Path, folder: Path, weights: str, tmp_path: Path
) -> None:
    again = options(folder, tmp_path / "again", weights, weights=(), previous_detections=str(done))
    assert anonymize.run(again).partial
    assert tree(tmp_path / "again") == tree(done)


def test_boxes_that_a_person_edited_are_redacted_as_they_are(
    folder: Path, weights: str, ray_local: None, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(scene(number, "PNG"))
    labels = tmp_path / "boxes/labels"
    labels.mkdir(parents=True)
    (tmp_path / "boxes/classes.txt").write_text("car\nhead\n")
    (labels / "0.txt").write_text("1 0.5 0.5 0.25 0.25\n")
    (labels / "1.txt").write_text("")
    out = tmp_path / "out"
    edited = options(source, out, weights, weights=(), boxes=str(tmp_path / "boxes"), margin=0.0, mode="fill")
    assert anonymize.run(edited).partial
    rows = {row["path"]: row for row in manifest(out)}
    assert [rows[f"{number}.png"]["status"] for number in range(3)] == ["redacted", "clean", "failed"]
    assert "has no labels at" in rows["2.png"]["reason"] and not (out / "2.png").exists()
    before, after = (np.asarray(Image.open(root / "0.png").convert("RGB")) for root in (source, out))
    changed = (before != after).any(axis=2)
    assert changed[72:120, 120:200].mean() > 0.9 and changed.sum() <= 48 * 80
    [box] = rows["0.png"]["boxes"]
    assert box["class"] == "head" and box["confidence"] is None


def test_detections_of_archives_name_their_members(folder: Path, weights: str, ray_local: None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    how = detect.Options(str(folder / "sub"), str(out), (weights,), imgsz=320, confidence=0.01, format="yolo", tile=256)
    assert detect.run(how).partial
    rows = {(row["path"], row["member"]): row for row in tables.read_table(str(out / "detections.parquet")).to_pylist()}
    assert rows["b.zip", "d/1.png"]["status"] == "detected" and rows["b.zip", None]["status"] == "complete"
    assert (out / "labels/b.zip/d/1.txt").is_file() and not [one for one in out.rglob("*.zip") if one.is_file()]
    assert rows["notes.csv", None]["status"] == "skipped"


def test_an_audit_of_an_untouched_run_finds_nothing(done: Path, folder: Path) -> None:
    result = audit.run(audit.Options(str(done), input=str(folder)))
    assert not result.partial and " 0 wrong" in result.summary()[0]
    rows = tables.read_table(f"{done}-records/audit/findings.parquet").to_pylist()
    written = [
        row
        for row in manifest(done)
        if row["status"] in ("redacted", "clean", "passed_through", "complete", "incomplete")
    ]
    assert len(rows) == len(written) and {row["status"] for row in rows} == {"sound"}


def test_an_audit_finds_what_was_done_to_the_output(done: Path, folder: Path, weights: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    shutil.copytree(f"{done}-records", f"{out}-records")
    (out / "sub/0.jpg").unlink()
    (out / "sub/1.jpg").write_bytes((folder / "sub/1.jpg").read_bytes())
    (out / "stray.jpg").write_bytes((folder / "sub/1.jpg").read_bytes())
    data = bytearray((out / "shard-000.tar").read_bytes())
    row = next(row for row in manifest(out) if row["member"] == "x/IMG.005.jpg")
    data[row["output_offset"] + row["output_bytes"] - 20] ^= 255
    (out / "shard-000.tar").write_bytes(data)
    (out / "sub/b.zip").unlink()
    rows = manifest(out)
    for row in rows:
        if row["path"] == "sub/2.jpg":
            row["boxes"] = row["boxes"][:1]  # as if less had been found
    tables.write_table(f"{out}-records/manifest.parquet", pa.Table.from_pylist(rows, schema=SCHEMA))
    how = audit.Options(str(out), input=str(folder), weights=(weights,), imgsz=320, confidence=0.003)
    assert audit.run(how).partial
    rows = tables.read_table(f"{out}-records/audit/findings.parquet").to_pylist()
    wrong = {(row["path"], row["member"]): row["reason"] for row in rows if row["status"] == "wrong"}
    assert wrong["sub/0.jpg", None] == "is missing from OUT" and wrong["sub/b.zip", "d/3.png"] == "is missing from OUT"
    assert "its digest is not that in the manifest" in wrong["sub/1.jpg", None]
    assert "no row in the manifest" in wrong["stray.jpg", None]
    assert "its digest is not that in the manifest" in wrong["shard-000.tar", "x/IMG.005.jpg"]
    assert "its digest is not that in the manifest" in wrong["shard-000.tar", None]
    assert wrong["sub/2.jpg", None].startswith("still shows ")
    page = Path(f"{out}-records/audit/report.html").read_text()
    assert "What is still found" in page and "is missing from OUT" in page


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"boxes": "b"}, "exclude each other"),
        ({"weights": (), "boxes": "b", "tile": 640}, "there is none with --boxes"),
        ({"tile": 3}, "--tile must be at least 64, but got 3"),
    ],
)
def test_sources_that_do_not_go_together(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        options("in", "out", "w.pt", **wrong)


def test_what_is_no_run_is_not_audited(tmp_path: Path, ray_local: None) -> None:
    with pytest.raises(UserError, match="must be what a finished `depers anonymize` wrote"):
        audit.run(audit.Options(str(tmp_path)))
