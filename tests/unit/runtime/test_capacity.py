"""What a cluster has and may have, by its nodes and its autoscaler's configuration."""

from pathlib import Path
from typing import Any

import pytest

from depers.errors import UserError
from depers.runtime import capacity
from depers.runtime.capacity import Capacity, NodeKind, choose_device, find_autoscaler, merge_kinds

HEAD, SMALL, LARGE, GPU = {"CPU": 0.0}, {"CPU": 4.0}, {"CPU": 16.0}, {"CPU": 16.0, "GPU": 1.0}
AWS = {
    "max_workers": 24,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "cpu": {"resources": {"CPU": 16}, "max_workers": 20},
        "gpu": {"resources": {"CPU": 16, "GPU": 1}, "max_workers": 4},
    },
}


@pytest.mark.parametrize(
    ("nodes", "config", "expected"),
    [
        ([SMALL, SMALL], None, Capacity((NodeKind(4, 0, 2, 2),))),
        ([HEAD], None, Capacity((), is_open=True)),  # nodes are expected to join
        ([HEAD], {}, Capacity((), is_open=True)),
        ([HEAD, SMALL], {}, Capacity((NodeKind(4, 0, 1, 1),), is_open=True)),
        ([HEAD], AWS, Capacity((NodeKind(16, 0, 0, 20), NodeKind(16, 1, 0, 4)))),
        ([HEAD, LARGE, LARGE, GPU], AWS, Capacity((NodeKind(16, 0, 2, 20), NodeKind(16, 1, 1, 4)))),
        (
            [SMALL],
            AWS | {"max_workers": 2},
            Capacity((NodeKind(4, 0, 1, 1), NodeKind(16, 0, 0, 2), NodeKind(16, 1, 0, 2))),
        ),
        (
            [SMALL],
            {"head_node_type": "h", "available_node_types": {"h": {"resources": SMALL}, "w": {"resources": SMALL}}},
            Capacity((NodeKind(4, 0, 1, capacity._MANY + 1),)),
        ),
    ],
)
def test_nodes_that_are_and_may_come(nodes: list[dict[str, float]], config: Any, expected: Capacity) -> None:
    assert merge_kinds(nodes, config) == expected


def test_what_there_is_is_told() -> None:
    assert merge_kinds([HEAD, LARGE, LARGE], AWS).describe() == (
        "2 of at most 20 nodes with 16 CPUs, 0 of at most 4 nodes with 16 CPUs and 1 GPU"
    )
    assert merge_kinds([HEAD], None).describe() == "no node that can do work"


@pytest.mark.parametrize(
    ("file", "address", "expected"),
    [
        (b"max_workers: 3\n", "10.0.0.1:6379", {"max_workers": 3}),
        (b"max_workers: 3\n", "10.0.0.1:6380", None),  # another cluster's
        (b"a list", "10.0.0.1:6379", {}),
        (b"\x00: [", "10.0.0.1:6379", {}),
    ],
)
def test_the_autoscaler_says_where_its_configuration_is(
    tmp_path: Path, file: bytes, address: str, expected: Any
) -> None:
    (tmp_path / "config.yaml").write_bytes(file)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    (tmp_path / "1" / "cmdline").write_bytes(b"bash\0-c\0monitor.py --gcs-address=10.0.0.1:6379")
    words = ["python", "/ray/autoscaler/v2/monitor.py", "--gcs-address=10.0.0.1:6379"]
    words += [f"--autoscaling-config={tmp_path}/config.yaml"]
    (tmp_path / "2" / "cmdline").write_bytes("\0".join(words).encode())
    assert find_autoscaler(address, tmp_path) == expected


def test_kubernetes_runs_it_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_autoscaler("10.0.0.1:6379", tmp_path) is None
    monkeypatch.setenv("RAY_CLUSTER_NAME", "depers")
    assert find_autoscaler("10.0.0.1:6379", tmp_path) == {}


@pytest.mark.parametrize(
    ("nodes", "config", "device", "gpus", "comes", "chosen"),
    [
        ([SMALL], None, "auto", 1, False, "cpu"),
        ([GPU], None, "auto", 1, False, "cuda"),
        ([GPU], None, "auto", 2, False, "cpu"),
        ([GPU, GPU], None, "cpu", 1, False, "cpu"),
        ([GPU, GPU], None, "cuda", 2, False, "cuda"),
        ([SMALL], None, "cuda", 1, True, "--device cuda needs a GPU, but this Ray cluster has none"),
        ([GPU], None, "cuda", 3, True, "--device cuda needs 3 GPUs, but this Ray cluster has 1"),
        ([HEAD], AWS, "cuda", 5, True, "--device cuda needs 5 GPUs, but this Ray cluster has 4"),
        ([HEAD], AWS, "cuda", 4, True, "cuda"),
        ([HEAD], {}, "cuda", 1, True, "cuda"),
        ([HEAD], {}, "auto", 1, True, "cpu"),  # nobody knows whether one could come
        ([HEAD], AWS, "auto", 1, True, "cuda"),
        ([HEAD], AWS, "auto", 1, False, "cpu"),  # it does not come in time
        ([HEAD], AWS, "auto", 5, True, "cpu"),
    ],
)
def test_the_device_is_what_there_is_or_may_come(
    monkeypatch: pytest.MonkeyPatch,
    nodes: list[dict[str, float]],
    config: Any,
    device: str,
    gpus: int,
    comes: bool,
    chosen: str,
) -> None:
    monkeypatch.setattr(capacity, "measure", lambda: merge_kinds(nodes, config))
    monkeypatch.setattr(capacity, "wait_for", lambda *_: comes)
    if chosen.startswith("--"):
        with pytest.raises(UserError, match=chosen):
            choose_device(device, gpus)
    else:
        assert choose_device(device, gpus) == chosen


@pytest.mark.parametrize(
    ("nodes", "workers", "gpus", "expected"),
    [
        ([LARGE], 1, 0, 16),
        ([LARGE], 3, 0, 5),
        ([{"CPU": 12.0}, SMALL], 2, 0, 6),  # both on the larger one
        ([{"CPU": 12.0}, SMALL], 4, 0, 4),
        ([{"CPU": 4.0, "GPU": 1.0}, LARGE], 1, 1, 4),  # what the node with the GPU has
        ([{"CPU": 4.0, "GPU": 1.0}, LARGE], 2, 1, None),
        ([SMALL], 5, 0, None),
        ([{"GPU": 2.0}], 2, 1, 0),
        ([HEAD], 1, 0, None),
    ],
)
def test_workers_ask_for_what_a_node_has(
    nodes: list[dict[str, float]], workers: int, gpus: int, expected: int | None
) -> None:
    assert merge_kinds(nodes, None).share_cpus(workers, gpus) == expected
