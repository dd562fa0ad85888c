"""Every real file with a defect, metadata or many pixels, loose and in each kind of archive: all accounted for."""

import shutil
import subprocess
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depers.commands import anonymize, audit
from depers.storage import tables

FOLDERS = ("badimages", "exif", "big")


@pytest.fixture(scope="module")
def packed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The files four times: in a folder, a tar, a zip and a Parquet file; and their names."""
    root = tmp_path_factory.mktemp("real")
    files = {
        str(path.relative_to(data)): path
        for name in FOLDERS
        for path in sorted((data / name).rglob("*"))
        if path.is_file()
    }
    with tarfile.open(root / "a.tar", "w") as archive, zipfile.ZipFile(root / "b.zip", "w") as zipped:
        for name, path in files.items():
            target = root / "loose" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
            archive.add(path, name)
            zipped.write(path, name)
    content = [{"bytes": path.read_bytes(), "path": name} for name, path in files.items()]
    pq.write_table(pa.table({"image": content}), root / "c.parquet")
    return root, list(files)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_all_are_accounted_for_and_none_leaks(packed: tuple[Path, list[str]], data: Path, tmp_path: Path) -> None:
    root, names = packed
    out = tmp_path / "out"
    options = anonymize.Options(str(root), str(out), (str(data / "weights/yolov5n.pt"),), imgsz=320)
    assert anonymize.run(options).partial
    rows = tables.read_table(f"{out}-records/manifest.parquet").to_pylist()
    by_place: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] not in ("complete", "incomplete"):
            by_place.setdefault(row["path"].split("/")[0], []).append(row)
    assert {place: len(found) for place, found in by_place.items()} == dict.fromkeys(
        ("a.tar", "b.zip", "c.parquet", "loose"), len(names)
    )
    counts = {place: Counter(row["status"] for row in found) for place, found in by_place.items()}
    assert counts["a.tar"] == counts["b.zip"] == counts["loose"]
    digests = {place: sorted(row["output_sha256"] or "" for row in found) for place, found in by_place.items()}
    assert digests["a.tar"] == digests["b.zip"] == digests["loose"]
    assert set(digests["c.parquet"]) <= set(digests["loose"])
    assert not audit.run(audit.Options(str(out), input=str(root))).partial
    if shutil.which("exiftool"):
        telling = "$GPSLatitude or $ThumbnailImage or $MakerNoteVersion"
        command = ["exiftool", "-r", "-q", "-if", telling, "-p", "$FileName", out / "loose"]
        assert not subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
