"""Tests of how Ray starts and of what a cluster can do, without one."""

import os

import pytest
import ray

from depers.errors import UserError
from depers.runtime import cluster
from depers.runtime.cluster import choose_device

NOTE = b"[2030-01-01 I 1 1] logging.cc:303: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\n"


def start(debug: bool, error: BaseException | None = None) -> None:
    with cluster._quiet_start(debug):
        os.write(2, NOTE + b"the raylet died\n")
        if error:
            raise error


@pytest.mark.parametrize(("debug", "shown"), [(False, ""), (True, NOTE.decode())])
def test_what_ray_writes_at_its_start_is_shown_but_for_the_note(
    debug: bool, shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    start(debug)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == f"{shown}the raylet died\nafter\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionError("no cluster")])
def test_last_words_are_shown(error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)):
        start(False, error)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the raylet died\nafter\n"


@pytest.mark.parametrize(
    ("available", "device", "gpus", "chosen"),
    [
        (0, "auto", 1, "cpu"),
        (1, "auto", 1, "cuda"),
        (1, "auto", 2, "cpu"),
        (2, "cpu", 1, "cpu"),
        (2, "cuda", 2, "cuda"),
        (0, "cuda", 1, "--device cuda needs a GPU, but this Ray cluster has none"),
        (1, "cuda", 3, "--device cuda needs 3 GPUs, but this Ray cluster has 1"),
    ],
)
def test_choose_device(monkeypatch: pytest.MonkeyPatch, available: int, device: str, gpus: int, chosen: str) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": float(available)} if available else {})
    if chosen.startswith("--"):
        with pytest.raises(UserError, match=chosen):
            choose_device(device, gpus)
    else:
        assert choose_device(device, gpus) == chosen
