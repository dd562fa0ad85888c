"""Ray's own autoscaler, on a cluster as `cluster.yaml` describes it: no node that can work until there is work.

Its provider starts nodes as processes of this machine; what is asked of it, when, and what ends idle is the real thing.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray._private.services import get_node_ip_address
from runs import tree
from training_sets import write_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PORT = 6395
MOST_NODES, IDLE_SECONDS = 2, 20
WORKER = {"CPU": 1, "object_store_memory": 150 * 2**20}
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_AUTH_MODE": "disabled"}
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
COUNT = """
import ray

ray.init(log_to_driver=False)
print(sum("CPU" in node["Resources"] for node in ray.nodes() if node["Alive"]))
"""
TIMED = ("_depers/units/", "index.parquet")  # which note when a disk saw files change


def make_configuration(address: str) -> dict[str, Any]:
    """`cluster.yaml` with small nodes, which processes of this machine are."""
    configuration = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = configuration["available_node_types"]
    head = configuration["head_node_type"]
    for name, node_type in types.items():
        is_gpu = "GPU" in node_type.get("resources", {})
        node_type["node_config"] = {}
        node_type["resources"] = {"CPU": 0} if name == head else dict(WORKER)
        node_type["max_workers"] = 0 if name == head or is_gpu else MOST_NODES
    names = ("cluster_name", "upscaling_speed", "available_node_types", "head_node_type")
    made = {name: configuration[name] for name in names if name in configuration}
    made["provider"] = {"type": "fake_multinode", "gcs_address": address}
    made |= {"max_workers": MOST_NODES, "idle_timeout_minutes": IDLE_SECONDS / 60, "auth": {"ssh_user": "nobody"}}
    made |= {"file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False}
    return made | {name: [] for name in COMMANDS}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"{get_node_ip_address()}:{PORT}"
    file = tmp_path_factory.mktemp("autoscaling") / "cluster.yaml"
    file.write_text(yaml.safe_dump(make_configuration(address)))
    command = ["ray", "start", "--head", "--block", f"--port={PORT}", "--num-cpus=0", "--include-dashboard=false"]
    command += ["--object-store-memory=104857600", f"--autoscaling-config={file}"]
    variables = QUIET | {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    head = subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)
    try:
        time.sleep(10)
        yield address
    finally:
        processes = psutil.Process(head.pid).children(recursive=True)
        head.terminate()
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()
        head.wait()


def count_nodes(address: str) -> int:
    """How many nodes can work now."""
    environment = os.environ | {"RAY_ADDRESS": address} | QUIET
    done = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def run_depers(address: str | None, *arguments: object) -> str:
    """What `depers ARGUMENTS` says on the cluster, or without one."""
    environment = os.environ | ({"RAY_ADDRESS": address} | QUIET if address else {})
    command = [sys.executable, "-m", "depers.cli", *map(str, arguments)]
    job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert job.returncode == 0, job.stderr
    return job.stderr


def test_nodes_start_for_every_verb_and_end_when_idle(address: str, tmp_path: Path) -> None:
    assert count_nodes(address) == 0
    dataset, small = write_dataset(tmp_path / "dataset", 24), ("--imgsz", 64)
    run_depers(address, "normalize", dataset, tmp_path / "normalized")
    assert 1 <= count_nodes(address) <= MOST_NODES
    run_depers(address, "extract", tmp_path / "normalized", tmp_path / "bank")
    run_depers(address, "synthesize", tmp_path / "bank", tmp_path / "more", "--count", 40)
    flags = ("--epochs", 1, "--batch-size", 2, "--train-workers", 2, *small)
    assert "2 worker(s)" in run_depers(address, "train", dataset, tmp_path / "trained", *flags)
    assert count_nodes(address) == MOST_NODES
    end = time.monotonic() + 10 * IDLE_SECONDS
    while count_nodes(address):
        assert time.monotonic() < end
        time.sleep(2)
    weights = ("--weights", tmp_path / "trained" / "weights" / "best.pt", *small)
    run_depers(address, "anonymize", dataset / "images", tmp_path / "safe", "--classes", "all", *weights)
    run_depers(None, "anonymize", dataset / "images", tmp_path / "alone", "--classes", "all", *weights)
    run_depers(None, "normalize", dataset, tmp_path / "normalized-alone")
    assert tree(tmp_path / "safe") == tree(tmp_path / "alone")
    alone, together = (
        {path: digest for path, digest in tree(tmp_path / name).items() if not path.startswith(TIMED)}
        for name in ("normalized-alone", "normalized")
    )
    assert alone == together and "data.yaml" in alone
