"""What a training hears while it runs, and where its workers and files are."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from depers.errors import UserError
from depers.runtime import capacity
from depers.runtime.capacity import merge_kinds
from depers.training.options import Options
from depers.training.processes import notices
from depers.training.processes.job_files import pack_files, unpacked_files
from depers.training.processes.notices import Notice, NoticeBoard, SpotInstance, find_interface, set_interface
from depers.training.processes.ray_train import find_workers


class Metadata(BaseHTTPRequestHandler):
    """The part of EC2's metadata service that tells of spot instances; `action` is what it tells."""

    action = b""

    def do_PUT(self) -> None:
        self._answer(200, b"a-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self._answer(401, b"")
        elif self.path != "/latest/meta-data/spot/instance-action" or not self.action:
            self._answer(404, b"")
        else:
            self._answer(200, self.action)

    def _answer(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Metadata]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)  # which the tests of S3 set
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # never used for it
    monkeypatch.setattr(Metadata, "action", b"")
    yield Metadata
    server.shutdown()


def test_a_spot_instance_knows_that_it_leaves(metadata: type[Metadata]) -> None:
    instance = SpotInstance()
    assert not instance.is_leaving()
    metadata.action = b'{"action": "terminate", "time": "2030-01-01T00:00:00Z"}'
    assert any(instance.is_leaving() for _ in range(5))  # a machine may be busy
    metadata.action = b"<html>"
    assert not instance.is_leaving()


def test_elsewhere_there_is_nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    instance = SpotInstance()
    assert not any(instance.is_leaving() for _ in range(notices._TRIES))
    assert not instance._tries


def test_a_notice_is_told_once_and_the_most_urgent_one_first() -> None:
    said = [Notice.NONE, Notice.SAVE]
    board = NoticeBoard([lambda: said[0], lambda: said[1], lambda: 1 / 0], poll_seconds=0.01)  # type: ignore[list-item,return-value]
    deadline = time.monotonic() + 5
    heard = []
    while time.monotonic() < deadline and len(heard) < 2:
        if notice := board.take():
            heard.append(notice)
            said[0] = Notice.STOP
        time.sleep(0.02)
    time.sleep(0.1)
    assert heard == [Notice.SAVE, Notice.STOP] and board.take() is Notice.NONE
    board.close()


def test_the_interface_is_that_of_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_interface("127.0.0.1") == "lo" and find_interface("203.0.113.7") is None
    for variable in notices._INTERFACES:
        monkeypatch.delenv(variable, raising=False)
    set_interface(None, "203.0.113.7")
    assert not any(variable in os.environ for variable in notices._INTERFACES)
    set_interface(None, "127.0.0.1")
    assert [os.environ[variable] for variable in notices._INTERFACES] == ["lo", "=lo"]
    set_interface(None, "203.0.113.7")
    set_interface("eth1", "127.0.0.1")
    assert [os.environ[variable] for variable in notices._INTERFACES] == ["eth1", "=eth1"]


def make_options(**values: Any) -> Options:
    return Options("dataset", "out", batch_size=12, **values)


AWS: Mapping[str, Any] = {"available_node_types": {"cpu": {"resources": {"CPU": 16}, "max_workers": 2}}}


@pytest.mark.parametrize(
    ("nodes", "config", "most", "least", "expected"),
    [
        ([{"CPU": 12.0}, {"CPU": 4.0}], None, 2, None, (2, 6)),
        ([{"CPU": 2.0}], None, 3, 1, (2, 1)),
        ([{"CPU": 2.0}], None, 12, 2, (2, 1)),
        ([{"CPU": 2.0}], AWS, 4, 1, (2, 1)),  # what is there begins, and asks for more
        ([{"CPU": 0.0}], AWS, 4, None, (4, 8)),
        (
            [{"CPU": 2.0}],
            None,
            3,
            None,
            "--train-workers must be at most 2, which get a CPU each of 1 nodes with 2 CPUs",
        ),
        ([{"CPU": 2.0}], None, 4, 3, "--least-train-workers must be at most 2, .*, but is 3"),
        ([{"CPU": 0.0}], AWS, 36, None, "--batch-size must be a multiple"),
    ],
)
def test_as_many_workers_train_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    config: Mapping[str, Any] | None,
    most: int,
    least: int | None,
    expected: tuple[int, int] | str,
) -> None:
    monkeypatch.setattr(capacity, "measure", lambda: merge_kinds(nodes, config))
    monkeypatch.setattr(capacity, "wait_for", lambda *_: True)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            find_workers(make_options(train_workers=most, least_train_workers=least), 0)
    else:
        workers = find_workers(make_options(train_workers=most, least_train_workers=least), 0)
        assert (workers.size, workers.cpus) == expected


def test_small_files_travel_and_names_stay(tmp_path: Path) -> None:
    (tmp_path / "my.pt").write_bytes(b"weights")
    (tmp_path / "rates.yaml").write_text("lr0: 1")
    (tmp_path / "watch.py").write_text("class W: ...")
    options = make_options(
        weights=str(tmp_path / "my.pt"),
        hyperparameters=str(tmp_path / "rates.yaml"),
        callback=f"{tmp_path / 'watch.py'}:W",
        augmentation="scratch-high",
    )
    contents = pack_files(options)
    for name in ("my.pt", "rates.yaml", "watch.py"):
        (tmp_path / name).unlink()
    with unpacked_files(options, contents) as unpacked:
        assert Path(unpacked.weights or "").read_bytes() == b"weights"
        assert Path(unpacked.weights or "").name == "my.pt"
        assert Path(unpacked.hyperparameters).read_text() == "lr0: 1"
        assert (unpacked.callback or "").endswith("/watch.py:W")
        assert unpacked.augmentation == "scratch-high" and unpacked.model is None
    assert not Path(unpacked.weights or "").exists()
    with pytest.raises(UserError, match=r"my\.pt: cannot be read"):
        pack_files(options)
