"""jobs/*.py: run directly, and under `ray job submit` to a Ray head with token authentication."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from depers import cli

ROOT = Path(__file__).resolve().parents[2]
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py"))
VERBS = {"pipeline": "mission"}
"""The verbs of jobs that are called otherwise: `depers.pipeline` is a room."""
RAY = Path(sys.executable).with_name("ray")


class Head(NamedTuple):
    """A running Ray head: its job server, and the environment that gives access to it."""

    address: str
    env: dict[str, str]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def run(command: list[str | Path], env: dict[str, str], **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=240, **options)  # type: ignore


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, by their ids."""
    parent = psutil.Process(process.pid)
    started = [parent, *parent.children(recursive=True)]
    for each in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, alive = psutil.wait_procs(started, timeout=5)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Unix sockets below it have at most 107 characters
    port, client_port, agent_port = free_ports(3)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = {
        **inherited,
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": folder,  # where it notes its address for others to join
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        *(str(RAY), "start", "--head", "--block", "--port=0", f"--temp-dir={folder}", "--num-cpus=2"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--dashboard-agent-listen-port={agent_port}"),
        *(f"--ray-client-server-port={client_port}", f"--object-store-memory={256 * 2**20}"),
    ]
    with Path(folder, "start.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        ready = Head(f"http://127.0.0.1:{port}", env)
        deadline = time.monotonic() + 60
        while status(ready, env["RAY_AUTH_TOKEN"]) != 200:
            assert process.poll() is None and time.monotonic() < deadline, Path(folder, "start.log").read_text()
            time.sleep(0.3)
        yield ready
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def status(head: Head, token: str | None) -> int:
    """The HTTP status that the job server answers a listing of its jobs with; 0 where nothing listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{head.address}/api/jobs/", headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def submit(head: Head, job: str, *argv: str | Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """The line that the docstring of the job gives."""
    command = [RAY, "job", "submit", "--working-dir", ".", "--", "python", f"jobs/{job}.py", *argv]
    env = {**head.env, "RAY_API_SERVER_ADDRESS": head.address, **changed}
    return run(command, env, cwd=ROOT)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Four images in the raw layout, two of them labelled in two classes."""
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for index in range(4):
        stem = f"street no.{index}"
        Image.new("RGB", (64, 48), (40 * index, 90, 160)).save(folder / "images" / f"{stem}.jpg")
        for name in ("car", "carplate")[: 1 + index % 2]:
            (folder / "labels" / f"{stem}_{name}..txt").write_text("0 0.5 0.5 0.25 0.25\n")
    return folder


@pytest.mark.parametrize("job", JOBS)
def test_every_job_is_a_verb_and_says_how_to_submit_it(job: str) -> None:
    assert VERBS.get(job, job) in cli.VERBS
    text = (ROOT / "jobs" / f"{job}.py").read_text()
    assert f"ray job submit --working-dir . -- python jobs/{job}.py " in text
    assert len(text.splitlines()) <= 20


@pytest.mark.parametrize("job", JOBS)
def test_help_of_a_job_is_that_of_its_verb(job: str, tmp_path: Path) -> None:
    result = run([sys.executable, ROOT / "jobs" / f"{job}.py", "--help"], dict(os.environ), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: depers {VERBS.get(job, job)} ")


def test_normalize_directly(raw: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    out = tmp_path / "dataset"
    result = run([sys.executable, ROOT / "jobs" / "normalize.py", raw, out], env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_is_dataset(out)


def test_normalize_submitted(head: Head, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    result = submit(head, "normalize", raw, out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "succeeded" in result.stdout
    assert_is_dataset(out)


def assert_is_dataset(out: Path) -> None:
    labels = {path.stem: path.read_text().split()[::5] for path in out.glob("labels/*/*.txt")}
    assert labels == {
        "street no.0": ["0"],
        "street no.1": ["0", "4"],
        "street no.2": ["0"],
        "street no.3": ["0", "4"],
    }
    assert len(list(out.glob("images/*/*.jpg"))) == 4


def test_anonymize_submitted(head: Head, data: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    chosen = sorted((data / "coco_val" / "images").glob("*.jpg"))[:3]
    for path in chosen:
        shutil.copy(path, photos)
    weights = f"{data / 'weights' / 'yolov5n.pt'}:person=human,car=car"
    result = submit(head, "anonymize", photos, tmp_path / "out", "--weights", weights)
    assert result.returncode == 0, result.stdout + result.stderr
    paths = pq.read_table(tmp_path / "out-records" / "manifest.parquet").column("path").to_pylist()
    assert paths == [path.name for path in chosen] == sorted(path.name for path in (tmp_path / "out").iterdir())


def test_a_failing_job_fails_with_the_one_line(head: Head, tmp_path: Path) -> None:
    result = submit(head, "detect", tmp_path / "in", tmp_path / "out", "--weights", tmp_path / "missing.pt")
    assert result.returncode != 0
    (line,) = {line for line in result.stdout.splitlines() if line.startswith("depers detect: error: ")}
    assert str(tmp_path) in line
    assert "Traceback" not in result.stdout


def test_no_token_no_job(head: Head, raw: Path, tmp_path: Path) -> None:
    assert status(head, None) == 401
    assert status(head, "f" * 64) in (401, 403)
    for token in ("", "f" * 64):
        result = submit(head, "normalize", raw, tmp_path / "out", RAY_AUTH_TOKEN=token, HOME=str(tmp_path))
        assert result.returncode != 0
        assert "token" in (result.stdout + result.stderr).lower()
    assert not (tmp_path / "out").exists()
