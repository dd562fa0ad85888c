"""Writing behind the training's back: nothing is lost, nothing is held up, failures are tried again."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from depers import storage
from depers.errors import UserError
from depers.training.processes import checkpoints, outputs
from depers.training.processes.checkpoints import CheckpointWriter, copy_to_cpu, read_state, serialize_state


class Storage:
    """Local files that cannot be written some times, or only slowly."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.failures, self.names = 0, list[str]()
        self.open = threading.Event()
        self.open.set()
        self._write = storage.write_bytes
        patch.setattr(storage, "write_bytes", self.write_bytes)
        patch.setattr(checkpoints, "_PAUSES", (0.01, 0.02))

    def write_bytes(self, uri: str, data: bytes) -> None:
        self.open.wait(10)
        if self.failures:
            self.failures -= 1
            raise OSError("503 Slow Down")
        self._write(uri, data)
        self.names.append(uri.rsplit("/", 1)[1])


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    yield Storage(monkeypatch)


def test_failures_are_tried_again_in_order(tmp_path: Path, store: Storage) -> None:
    store.failures = 5
    writer = CheckpointWriter(str(tmp_path))
    writer.put({"best.pt": b"best", "state/last.pt": lambda: b"state"})
    writer.close()
    assert store.names == ["best.pt", "last.pt"]
    assert (tmp_path / "state" / "last.pt").read_bytes() == b"state"


def test_training_is_not_held_up_and_the_newest_wins(tmp_path: Path, store: Storage) -> None:
    store.open.clear()
    writer = CheckpointWriter(str(tmp_path))
    started = time.monotonic()
    for epoch in range(50):
        writer.put({"last.pt": f"{epoch}".encode()})
    writer.put({"best.pt": b"49"})
    assert time.monotonic() - started < 1
    store.open.set()
    writer.close()
    assert store.names[-2:] == ["last.pt", "best.pt"] and len(store.names) <= 3
    assert (tmp_path / "last.pt").read_bytes() == b"49"


def test_what_cannot_be_written_in_time_is_an_error(tmp_path: Path, store: Storage) -> None:
    store.failures = 10**9
    writer = CheckpointWriter(str(tmp_path), patience=0.1)
    writer.put({"last.pt": b"x"})
    with pytest.raises(UserError, match=r"last.pt: cannot be written \(OSError: 503 Slow Down\)"):
        writer.close()


def test_what_is_optional_holds_nothing_up(tmp_path: Path, store: Storage) -> None:
    (tmp_path / "tensorboard").write_text("a file in the place of a folder")
    warnings: list[str] = []
    writer = CheckpointWriter(str(tmp_path), patience=0.1, warn=warnings.append)
    writer.put({}, {"tensorboard/events": b"x"})
    while not warnings:
        time.sleep(0.01)
    writer.put({"last.pt": b"1"})
    writer.close()
    assert store.names == ["last.pt"] and "tensorboard/events: cannot be written" in warnings[-1]


def test_what_cannot_be_made_is_raised_by_the_next_call(tmp_path: Path) -> None:
    warnings: list[str] = []
    writer = CheckpointWriter(str(tmp_path), warn=warnings.append)
    writer.put({"state/last.pt": lambda: [][0], "weights/last.pt": b"1"})
    while not warnings:
        time.sleep(0.01)
    with pytest.raises(UserError, match=r"state/last.pt: cannot be made \(IndexError"):
        writer.put({"weights/last.pt": b"2"})
    with pytest.raises(UserError, match=r"state/last.pt: cannot be made \(IndexError"):
        writer.close()
    assert (tmp_path / "weights" / "last.pt").read_bytes() == b"1"


def test_a_plot_that_cannot_be_made_is_left_out_and_later_epochs_are_written(tmp_path: Path, store: Storage) -> None:
    warnings: list[str] = []
    writer = CheckpointWriter(str(tmp_path), warn=warnings.append)
    store.open.clear()
    writer.put({"first.pt": b"0"})
    for epoch in range(3):
        writer.put({"last.pt": b"%d" % epoch, "state.pt": b"%d" % epoch}, {"plot.html": lambda: [][0], "events": b"x"})
    store.open.set()
    writer.close()
    assert store.names == ["first.pt", "last.pt", "state.pt", "events"]  # what is to be looked at comes last
    assert (tmp_path / "state.pt").read_bytes() == b"2" and not (tmp_path / "plot.html").exists()
    [warning] = warnings
    assert warning.startswith(f"{tmp_path}/plot.html: cannot be made (IndexError") and "goes on without" in warning


def test_who_listens_does_not_end_the_writing(tmp_path: Path, store: Storage) -> None:
    def refuse(message: str) -> None:
        raise ConnectionError("no tracking server")

    store.failures = 2
    writer = CheckpointWriter(str(tmp_path), warn=refuse)
    writer.put({"first.pt": b"0"}, {"plot.html": lambda: [][0]})
    until = time.monotonic() + 10
    while "first.pt" not in store.names and time.monotonic() < until:
        time.sleep(0.01)
    writer.put({"state/last.pt": b"1"})
    writer.close()
    assert store.names == ["first.pt", "last.pt"]


def test_a_slow_listener_holds_nothing_up(tmp_path: Path, store: Storage) -> None:
    heard, answer = threading.Event(), threading.Event()

    def wait(message: str) -> None:
        heard.set()
        answer.wait(10)

    store.failures = 1
    writer = CheckpointWriter(str(tmp_path), warn=wait)
    writer.put({"last.pt": b"0"})
    assert heard.wait(10)
    started = time.monotonic()
    writer.put({"last.pt": b"1"})
    assert time.monotonic() - started < 1
    answer.set()
    writer.close()
    assert (tmp_path / "last.pt").read_bytes() == b"1"


def test_nothing_is_lost_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the thread: what it has not written is an error."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(CheckpointWriter, "_choose", lambda _: [][0])
    writer = CheckpointWriter(str(tmp_path))
    writer.put({"state/last.pt": b"1"})
    with pytest.raises(UserError, match=r"state/last.pt: has not been written"):
        writer.close()


@pytest.mark.parametrize("note", [b"", b"null", b'{"batches": 1e400, "finished_epochs": 1}', b"[" * 100_000, b"\xff"])
def test_a_damaged_note_of_progress_is_none(tmp_path: Path, note: bytes) -> None:
    storage.write_bytes(f"{tmp_path}/{outputs.PROGRESS}", note)
    assert outputs.read_progress(str(tmp_path)) == outputs.Progress()


def test_a_snapshot_does_not_follow_the_training(tmp_path: Path) -> None:
    weight = torch.ones(2)
    checkpoint = copy_to_cpu({"model": {"weight": weight}, "epoch": 3, "momentum": [weight]})
    weight += 1
    storage.write_bytes(f"{tmp_path}/state/last.pt", serialize_state(checkpoint))
    copy = read_state(str(tmp_path))
    assert copy is not None and copy["epoch"] == 3
    assert copy["model"]["weight"].tolist() == [1, 1] == copy["momentum"][0].tolist()
    assert read_state(str(tmp_path / "elsewhere")) is None


class Foreign:
    """Runs a command when unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/depers-state-was-here",)


@pytest.mark.parametrize("content", [{"epoch": Foreign()}, Foreign(), [1], {"epoch": {1, 2}}, {(1, 2): 3}])
def test_a_state_is_numbers_alone(tmp_path: Path, content: object) -> None:
    storage.write_bytes(f"{tmp_path}/state/last.pt", serialize_state(content))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"state/last.pt: must be the state of a training, but "):
        read_state(str(tmp_path))
    assert not Path("/tmp/depers-state-was-here").exists()


def test_a_state_is_of_its_training() -> None:
    shape = torch.Size([2, 3])
    fresh = {
        "model": {"weight": torch.zeros(shape)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "fused": True}]},
        "random": {"cpu": torch.zeros(9, dtype=torch.uint8), "cuda": []}, "rows": [], "epoch": 0, "best": -1.0,
    }  # fmt: skip
    stored = {
        **fresh, "epoch": 3, "best": 0.5, "rows": [{"box": 0.1}],
        "optimizer": {**fresh["optimizer"], "state": {0: {"step": torch.tensor(1.0), "momentum": torch.ones(shape)}}},  # type: ignore[dict-item]
    }  # fmt: skip
    checkpoints.check_state("out", stored, fresh, [shape])
    for key, value, path in (
        ("model", {"weight": torch.zeros(3)}, "model.weight"), ("epoch", -1, "epoch"), ("epoch", 0.5, "epoch"),
        ("best", float("nan"), "best"), ("rows", [{"box": "x"}], "rows"), ("model", {}, "model"),
        ("optimizer", {"state": {}, "param_groups": []}, "optimizer.param_groups"),
        ("optimizer", stored["optimizer"] | {"state": {0: {"momentum": torch.ones(5)}}}, "optimizer.state"),  # type: ignore[operator]
        ("optimizer", stored["optimizer"] | {"state": {7: {}}}, "optimizer.state"),  # type: ignore[operator]
        ("random", {"cpu": fresh["random"]["cpu"], "cuda": [1]}, "random.cuda"),  # type: ignore[index]
    ):  # fmt: skip
        with pytest.raises(
            UserError, match=rf"out/state/last.pt: must be the state of this training, but its {path} is"
        ):
            checkpoints.check_state("out", stored | {key: value}, fresh, [shape])
