"""Inputs that somebody hostile has named: from S3 to a folder, from S3 to S3, and a folder full of links."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import depers
from depers import storage
from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.resources import GIB
from depers.storage import tables
from depers.storage.cache import DatasetCache

pytestmark = pytest.mark.usefixtures("ray_local")


def image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def pack_tar(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            header = tarfile.TarInfo(name)
            header.size = len(image(1))
            archive.addfile(header, io.BytesIO(image(1)))
    return buffer.getvalue()


def pack_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("p/a.png", image(1))
        archive.writestr("__MACOSX/p/._a.png", b"\0\5\x16\7" + bytes(50))
    return buffer.getvalue()


LONG = "写" * 83 + ".png"
PLAIN = {"ok.png": image(0), "a/x.png": image(1), "y.png": image(2), "folder/b.png": image(3), LONG: image(4)}
PLAIN |= {"names.tar": pack_tar(["./a.png", "ü" * 16_000 + ".png"]), "mac.zip": pack_zip()}
HOSTILE = {
    "../../escaped.png": image(5), "../../victim.txt": b"no image", "../../kept.sh": b"echo", "a//x.png": image(6),
    "/y.png": image(7), "dot/./z.png": image(8), "n/.": image(9), "folder": image(10),
    "../../evil.tar": pack_tar(["a"]), "z" * 256: image(11),
}  # fmt: skip


@pytest.fixture
def photos(s3_bucket: str) -> str:
    client = boto3.client("s3")
    for key, data in (PLAIN | HOSTILE).items():
        client.put_object(Bucket=s3_bucket.removeprefix("s3://"), Key=f"photos/{key}", Body=data)
    return f"{s3_bucket}/photos"


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """The boxes of all images: none."""
    places = [*PLAIN, *HOSTILE, "names.tar/a.png", "mac.zip/p/a.png"]
    for place in places:
        if ".." not in place and place.endswith(".png"):
            target = tmp_path / "boxes/labels" / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            if len(target.name) < 200:
                target.with_suffix(".txt").touch()
    (tmp_path / "boxes/labels" / LONG).with_suffix(".txt").touch()
    (tmp_path / "boxes/classes.txt").write_text("car\n")
    return str(tmp_path / "boxes")


def states(folder: Path, out: Path) -> dict[str, int]:
    """When what lies around OUT and its records was changed: creating and deleting would change a folder."""
    paths = [folder, *folder.rglob("*")]
    apart = (out, out.with_name("out-records"))
    return {
        str(p): p.lstat().st_mtime_ns for p in paths if p != out.parent and not any(p.is_relative_to(a) for a in apart)
    }


def statuses(manifest: str) -> dict[str, str]:
    rows = tables.read_table(manifest).to_pylist()
    assert len({(row["path"], row["number"]) for row in rows}) == len(rows)
    return {row["path"]: row["status"] for row in rows if row["number"] is None}


def test_keys_stay_below_out_and_all_are_accounted_for(photos: str, labels: str, tmp_path: Path) -> None:
    out = tmp_path / "deep/er/out"
    out.mkdir(parents=True)
    for place in ("victim.txt", "deep/victim.txt", "deep/kept.sh"):
        (tmp_path / place).write_text("the user's own")
    before = states(tmp_path, out)
    for _ in range(2):
        result = depers.anonymize(photos, str(out), boxes=labels, keep=("*.sh", "*.txt"))
        assert statuses(result.manifest) == (
            dict.fromkeys(HOSTILE, "failed") | dict.fromkeys(PLAIN, "clean") | {"names.tar": "complete"}
            | {"mac.zip": "complete"}
        )  # fmt: skip
    assert states(tmp_path, out) == before
    assert sorted(entry.path for entry in storage.list_files(str(out))) == sorted(PLAIN)
    members = [row for row in tables.read_table(result.manifest).to_pylist() if row["member"]]
    assert [(row["member"][:10], row["status"]) for row in members] == [
        ("p/a.png", "clean"), ("__MACOSX/p", "skipped"), ("./a.png", "clean"), ("ü" * 10, "failed"),
    ]  # fmt: skip


def test_keys_are_mirrored_on_s3_as_they_are(photos: str, s3_bucket: str, tmp_path: Path) -> None:
    boxes = str(tmp_path / "boxes.parquet")
    found = [{"path": path, "status": "detected", "boxes": []} for path in PLAIN | HOSTILE]
    tables.write_table(boxes, pa.Table.from_pylist(found, SCHEMA))
    result = depers.anonymize(photos, f"{s3_bucket}/out", boxes=boxes, keep=("*.sh", "*.txt"))
    rows = statuses(result.manifest)
    assert rows.keys() == (PLAIN | HOSTILE).keys()
    written = {path for path, status in rows.items() if status not in ("failed", "skipped")}
    assert {entry.path for entry in storage.list_files(f"{s3_bucket}/out")} == written
    assert written == rows.keys()


def test_a_folder_of_links_and_pipes(labels: str, tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for name in ("ok.png", "sub/y.png"):
        (root / name).write_bytes(image(1))
    (tmp_path / "secret.txt").write_text("secret")
    for name, target in {
        "loop": ".",
        "sub/loop": "..",
        "up": "..",
        "secret.txt": "../secret.txt",
        "a.tar": "/",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.png")
    half_written = f".depers-{'0' * 32}.partial"
    (root / half_written).write_bytes(image(1))
    for path in ("ok", "sub/y"):
        (Path(labels, "labels", path).parent).mkdir(exist_ok=True)
        Path(labels, "labels", f"{path}.txt").touch()
    result = depers.anonymize(str(root), str(tmp_path / "out"), boxes=labels, keep=("*",))
    assert statuses(result.manifest) == dict.fromkeys(("ok.png", "sub/y.png"), "clean") | dict.fromkeys(
        ("loop", "sub/loop", "up", "secret.txt", "a.tar", "pipe.png", half_written), "skipped"
    )
    assert [entry.path for entry in storage.list_files(str(tmp_path / "out"))] == ["ok.png", "sub/y.png"]
    # A folder of OUT that has become a link is not written through, nor deleted in.
    (tmp_path / "out/sub/y.png").rename(tmp_path / "y.png")
    (tmp_path / "out/sub").rmdir()
    (tmp_path / "out/sub").symlink_to(tmp_path)
    (root / "sub/y.png").write_bytes(image(2))
    before = (tmp_path / "y.png").read_bytes()
    result = depers.anonymize(str(root), str(tmp_path / "out"), boxes=labels, keep=("*",))
    assert statuses(result.manifest)["sub/y.png"] == "failed" and (tmp_path / "y.png").read_bytes() == before


def test_a_dataset_is_not_brought_outside_its_cache(s3_bucket: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    storage.write_bytes(f"{s3_bucket}/set/images/../../../../../outside/hook.sh", b"echo")
    for uri, message in ((f"{s3_bucket}/set/images", "hook.sh: cannot be brought"), ("s3://b/../..", "the part '..'")):
        with pytest.raises(UserError, match=message):
            DatasetCache(str(tmp_path / "cache"), GIB).fetch([uri])
    assert not list((tmp_path / "outside").iterdir())
    # What an earlier version has noted is not followed outside either.
    victim = tmp_path / "victim.txt"
    victim.write_text("the user's own")
    storage.write_bytes(f"{s3_bucket}/plain/images/a.png", image(1))
    cache = DatasetCache(str(tmp_path / "cache"), 100)
    cache.fetch([f"{s3_bucket}/plain/images"])
    cache.close()
    [record] = (tmp_path / "cache/folders").glob("*.json")
    path = os.path.relpath(victim, tmp_path / "cache/data" / s3_bucket[5:] / "plain/images")
    record.write_text(record.read_text().replace('"a.png"', f'"{path}"'))
    DatasetCache(str(tmp_path / "cache"), GIB).fetch([f"{s3_bucket}/plain/images"])
    record.write_text(record.read_text().replace(f"{s3_bucket}/plain/images", f"s3://{'../' * 9}{tmp_path}"))
    storage.write_bytes(f"{s3_bucket}/other/images/a.png", bytes(90))
    DatasetCache(str(tmp_path / "cache"), 100).fetch([f"{s3_bucket}/other/images"])
    assert victim.exists()
