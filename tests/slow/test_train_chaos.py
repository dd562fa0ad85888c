"""Trainings that are disturbed end as undisturbed ones: dead workers, a dead driver, an S3 that fails."""

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from training_sets import write_dataset

from depers import storage
from depers.commands.train import run
from depers.detection import yolo
from depers.runtime import progress
from depers.training import report
from depers.training.callbacks import TrainingCallback
from depers.training.images.data import read_splits
from depers.training.loop import train
from depers.training.options import Options
from depers.training.processes import checkpoints, outputs
from depers.training.processes.checkpoints import CheckpointWriter, read_state
from depers.training.processes.outputs import read_progress, read_results
from depers.training.processes.process_group import ProcessGroup

EPOCHS = 5
COLUMNS = ("box", "obj", "cls", "val_box", "val_obj", "val_cls")


def make_options(root: Path, out: str, epochs: int = EPOCHS) -> Options:
    values = {"batch_size": 4, "nominal_batch": 4, "device": "cpu", "precision": "float32"}
    return Options(str(root), out, imgsz=128, epochs=epochs, **values)  # type: ignore[arg-type]


def command(options: Options) -> list[str]:
    names = ("imgsz", "epochs", "batch_size", "nominal_batch", "device", "precision")
    flags = [text for name in names for text in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    return [sys.executable, "-m", "depers.cli", "train", options.dataset, options.out, *flags]


def train_undisturbed(root: Path, out: Path, epochs: int = EPOCHS) -> list[dict[str, float]]:
    """The rows of the same training, done here and at once."""
    writer = CheckpointWriter(str(out))
    train(make_options(root, str(out), epochs), read_splits(str(root)), ProcessGroup(threads=1), None, writer)
    writer.close()
    return read_results(str(out))


def assert_alike(rows: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert [row["epoch"] for row in rows] == [row["epoch"] for row in expected] == list(range(1, len(expected) + 1))
    for row, expected_row in zip(rows, expected, strict=True):
        for name in COLUMNS:
            assert row[name] == pytest.approx(expected_row[name], rel=0.05), (row["epoch"], name)
        assert row["map50"] == pytest.approx(expected_row["map50"], abs=0.05)  # of three images, after so few steps


def wait_for_rows(out: str, count: int) -> None:
    until = time.monotonic() + 240
    while len(read_results(out)) < count:
        assert time.monotonic() < until, "no epoch has ended"
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_a_dead_worker_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_dataset(tmp_path / "data", count=24), tmp_path / "out"
    pids: list[int] = []

    def kill() -> None:
        wait_for_rows(str(out), 2)
        for process in psutil.Process().children(recursive=True):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                pids.append(process.pid)
                process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with progress.shown_on(sys.stderr):
        assert not run(make_options(root, str(out))).partial
    killer.join()
    assert pids
    assert "going on after epoch" in capsys.readouterr().err
    assert_alike(read_results(str(out)), train_undisturbed(root, tmp_path / "calm"))


@pytest.mark.slow
def test_a_dead_driver_is_started_again(tmp_path: Path) -> None:
    root, out = write_dataset(tmp_path / "data", count=24), tmp_path / "out"
    options = make_options(root, str(out), epochs=12)  # more than end in the seconds that a worker outlives its driver
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    first = subprocess.Popen(command(options), env=environment, stdout=subprocess.DEVNULL)
    workers = []
    try:
        wait_for_rows(str(out), 2)
        family = psutil.Process(first.pid).children(recursive=True)
        workers = [process for process in family if "RayTrainWorker" in " ".join(process.cmdline())]
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and not alive
    epochs = len(read_results(str(out)))
    assert 2 <= epochs < options.epochs
    second = subprocess.run(command(options), env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    lines = second.stdout + second.stderr
    assert f"going on after epoch {epochs}" in lines or f"going on after epoch {epochs - 1}" in lines
    assert_alike(read_results(str(out)), train_undisturbed(root, tmp_path / "calm", options.epochs))


class Proxy(ThreadingHTTPServer):
    """Stands before an S3 server; of the uploads of weights and states, the first ones end as `faults` says.

    While it is `away`, no request of any kind is answered.
    """

    daemon_threads = True

    def __init__(self, endpoint: str, faults: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint, self.faults, self.lock = urlsplit(endpoint).netloc, faults, threading.Lock()
        self.away, self.refused = threading.Event(), list[str]()

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.away.is_set():
            self.server.refused.append(f"{self.command} {self.path}")
            self.close_connection = True
            return
        fault = ""
        if self.command == "PUT" and self.path.split("?")[0].endswith(".pt"):
            with self.server.lock:
                fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "time-out":
            time.sleep(20)
        if fault in ("reset", "time-out"):
            self.close_connection = True
            return
        if fault:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        upstream = http.client.HTTPConnection(self.server.endpoint, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if self.command != "HEAD" and answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def faulty_s3(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Proxy]]:
    """A bucket behind a proxy, for this process and what it starts."""
    proxy = Proxy(s3_endpoint, [])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}")
    storage.s3._client.cache_clear()
    yield s3_bucket, proxy
    proxy.shutdown()
    proxy.server_close()
    storage.s3._client.cache_clear()


def test_weights_arrive_although_s3_fails(
    faulty_s3: tuple[str, Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, proxy = faulty_s3
    monkeypatch.setattr(checkpoints, "_PAUSES", (0.05, 0.1))
    proxy.faults += ["500", "reset", "500"]
    writer = CheckpointWriter(f"{bucket}/out")
    writer.put({"weights/best.pt": b"best" * 1000, outputs.STATE: b"state" * 1000})
    writer.close()
    assert not proxy.faults
    assert storage.read_bytes(f"{bucket}/out/weights/best.pt") == b"best" * 1000
    assert storage.read_bytes(f"{bucket}/out/{outputs.STATE}") == b"state" * 1000


@pytest.mark.slow
def test_training_completes_although_s3_fails(faulty_s3: tuple[str, Proxy], tmp_path: Path) -> None:
    bucket, proxy = faulty_s3
    root, out = write_dataset(tmp_path / "data", count=24), f"{bucket}/out"
    proxy.faults += ["500", "time-out", *["500"] * 7, "reset"]  # more than the S3 client tries on its own
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.run(
        command(make_options(root, out)), env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert not proxy.faults
    state = read_state(out)
    assert state is not None and state["epoch"] == EPOCHS
    assert yolo.load("best.pt", storage.read_bytes(f"{out}/weights/best.pt"))
    assert_alike(read_results(out), train_undisturbed(root, tmp_path / "calm"))


@pytest.mark.slow
def test_a_training_outlives_two_epochs_without_s3(faulty_s3: tuple[str, Proxy], tmp_path: Path) -> None:
    """S3 is gone as a whole, for whoever asks it for anything; the epochs are told of meanwhile, and written later."""
    bucket, proxy = faulty_s3
    root, out = write_dataset(tmp_path / "data", count=24), f"{bucket}/out"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(command(make_options(root, out)), env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        epoch = re.match(r"epoch +(\d+) ", line)
        if epoch and epoch[1] == "2":
            proxy.away.set()
        if epoch and epoch[1] == "4":
            proxy.away.clear()
    assert process.wait() == 0, "".join(lines)
    assert any(request.startswith("PUT") for request in proxy.refused), lines
    state = read_state(out)
    assert state is not None and state["epoch"] == EPOCHS and read_progress(out).finished_epochs == EPOCHS
    assert_alike(read_results(out), train_undisturbed(root, tmp_path / "calm"))


def find_processes(name: str) -> list[psutil.Process]:
    """Processes of this test's Ray whose command line has `name`."""
    processes = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if name in " ".join(process.cmdline()):
                processes.append(process)
    return processes


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_ten_dead_workers_and_a_dead_board_lose_nothing(tmp_path: Path) -> None:
    """More workers die than --max-failures allows without progress; and nobody listens any more at the end."""
    epochs, kills = 12, 10
    root, out = write_dataset(tmp_path / "data", count=24), tmp_path / "out"
    options = replace(make_options(root, str(out), epochs), max_failures=1, save_every=2)
    killed: list[int] = []

    def kill() -> None:
        for count in range(1, kills + 1):
            wait_for_rows(str(out), count)
            for process in [*find_processes("RayTrainWorker"), *find_processes("ProgressActor")]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.append(process.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    result = run(options)
    killer.join()
    assert len(killed) >= 2 * kills - 2
    assert not result.partial and result.epochs == epochs and result.report
    assert read_progress(str(out)).finished_epochs == epochs
    assert_alike(read_results(str(out)), train_undisturbed(root, tmp_path / "calm", epochs))


@pytest.mark.slow
def test_a_training_outlives_plots_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = write_dataset(tmp_path / "data", count=6), tmp_path / "out"

    def fail(*_: object) -> bytes:
        raise ValueError("no room on the page")

    for name in ("draw_batch", "format_events", "make_report"):
        monkeypatch.setattr(report, name, fail)
    rows = train_undisturbed(root, out, 2)
    assert len(rows) == 2 and read_progress(str(out)).finished_epochs == 2
    assert {path.name for path in out.rglob("*.*")} == {"best.pt", "last.pt", "results.csv", "progress.json"}
    state = read_state(str(out))
    assert state is not None and state["epoch"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("every", [None, 2])
def test_a_training_goes_on_within_an_epoch_and_beyond_its_last(tmp_path: Path, every: int | None) -> None:
    """From a state between two steps, or after a finished training of fewer epochs: as if nothing had happened."""
    root, out = write_dataset(tmp_path / "data", count=22), str(tmp_path / "out")
    options = replace(make_options(root, out, 3), save_every=every)
    splits = read_splits(str(root))
    if every:
        first, batches = options, 8  # of an epoch's six, the second of the second

        class Interruption(TrainingCallback):
            def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
                if (epoch, batch) == (2, 3):
                    raise KeyboardInterrupt
    else:
        first, batches = replace(options, epochs=2), 12

        class Interruption(TrainingCallback):  # type: ignore[no-redef]
            pass

    writer = CheckpointWriter(out)
    with suppress(KeyboardInterrupt):
        train(first, splits, ProcessGroup(threads=1), None, writer, Interruption())
    writer.close()
    assert read_progress(out).batches == batches
    writer = CheckpointWriter(out)
    train(options, splits, ProcessGroup(threads=1), read_state(out), writer)
    writer.close()
    rows, expected = read_results(out), train_undisturbed(root, tmp_path / "calm", 3)
    if every:
        assert_alike(rows, expected)
    else:
        assert [row["epoch"] for row in rows] == [1, 2, 3]  # on another schedule
