"""Two drivers, a run that is killed between an object and its record, and an S3 that fails: nothing is lost."""

import io
import itertools
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from faulty_s3 import ARCHIVED, BROKEN, RESET, SKEWED, THROTTLE, FaultyS3
from PIL import Image
from runs import run_depers, start_depers, tree

from depers import storage
from depers.street_scenes.scenes import draw_scene


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw_scene(number % 12, 3, (320, 192)).image).save(buffer, "JPEG")
    return buffer.getvalue()


def read(root: str) -> dict[str, bytes]:
    entries = [entry for entry in storage.list_files(root) if not entry.status]
    return {entry.path: storage.read_bytes(f"{root}/{entry.path}") for entry in entries}


@pytest.mark.slow
def test_nothing_is_lost(
    tmp_path: Path, s3_bucket: str, s3_endpoint: str, untrained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number:03}.jpg": jpeg(number) for number in range(60)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    files["a.zip"] = buffer.getvalue()
    for name, data in files.items():
        storage.write_bytes(f"{tmp_path}/in/{name}", data)
        storage.write_bytes(f"{s3_bucket}/in/{name}", data)
    weights = ("--weights", untrained("car"), "--imgsz", "64", "--workers", "2")
    assert run_depers("anonymize", f"{tmp_path}/in", f"{tmp_path}/out", *weights)[0] == 0
    expected = {path: (tmp_path / "out" / path).read_bytes() for path in tree(tmp_path / "out")}

    requests, kinds = itertools.count(1), itertools.cycle((THROTTLE, BROKEN, RESET))
    until = time.monotonic() + 60

    def fault(method: str, place: str, times: int) -> str:
        return next(kinds) if next(requests) % 50 == 0 and time.monotonic() < until else ""

    with FaultyS3(s3_endpoint, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        out, arguments = f"{s3_bucket}/out", ("anonymize", f"{s3_bucket}/in", f"{s3_bucket}/out", *weights)
        killed = start_depers(arguments, subprocess.PIPE)
        while not storage.is_dir(out) or not read(out):  # killed the moment that an object is there, and no record
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
        killed.communicate()
        drivers = [start_depers(arguments, subprocess.PIPE) for _ in range(2)]
        texts = [driver.communicate()[1] for driver in drivers]
        codes = [driver.returncode for driver in drivers]
        assert sorted(codes) == [0, 2], texts
        assert "is in use by another run" in texts[codes.index(2)]
        assert proxy.faults.total() >= 3
    assert read(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["of one file", "of all"])
def test_what_is_the_jobs_ends_it_in_one_line_and_what_is_a_files_does_not(
    s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, untrained: Any, kind: str
) -> None:
    for number in range(12):
        storage.write_bytes(f"{s3_bucket}/in/{number:03}.jpg", jpeg(number))
    arguments = ("anonymize", f"{s3_bucket}/in", f"{s3_bucket}/out", "--weights", untrained("car"), "--imgsz", "64")
    has_begun = []

    def fault(method: str, place: str, times: int) -> str:
        if kind == "of one file":
            return ARCHIVED if "/in/005" in place else ""
        has_begun.extend([True] if "/in/0" in place else [])
        return SKEWED if has_begun else ""

    with FaultyS3(s3_endpoint, fault) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        code, text = run_depers(*arguments)
        expected = (3, "restored first") if kind == "of one file" else (2, "storage fails (the clock of")
        assert code == expected[0] and expected[1] in text.splitlines()[-1], text
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    assert run_depers(*arguments)[0] == 0
    assert len(read(f"{s3_bucket}/out")) == 12
