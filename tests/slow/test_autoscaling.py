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
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FakeMultiNodeProvider
from runs import tree
from training_sets import write_dataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
PORT = 6395
HEAD = "ray.head.default"  # as the provider calls it
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
WATCH = """
import os
import time

from ray._raylet import GcsClient

client = GcsClient(address=os.environ["RAY_ADDRESS"])
while True:
    nodes = [node for node in client.get_all_node_info().values() if node.state == 0 and "CPU" in node.resources_total]
    print(len(nodes), *{node.node_type_name for node in nodes}, flush=True)
    time.sleep(0.3)
"""
TIMED = ("_depers/units/", "index.parquet")  # which note when a disk saw files change


def make_configuration(address: str) -> dict[str, Any]:
    """`cluster.yaml` with small nodes, which processes of this machine are."""
    configuration = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    types = configuration["available_node_types"]
    types[HEAD] = types.pop(configuration["head_node_type"])
    for name, node_type in types.items():
        is_gpu = "GPU" in node_type.get("resources", {})
        node_type["node_config"] = {}
        node_type["resources"] = {"CPU": 0} if name == HEAD else dict(WORKER)
        node_type["max_workers"] = 0 if name == HEAD or is_gpu else MOST_NODES
    made = {name: configuration[name] for name in ("cluster_name", "upscaling_speed", "available_node_types")}
    switches = ("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check", "launch_multiple")
    module = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
    provider = {"type": "external", "module": module, "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID}
    made |= {"head_node_type": HEAD, "provider": provider | dict.fromkeys(switches, True)}
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
    variables |= {"RAY_enable_autoscaler_v2": "1"}  # as `ray up` starts it
    variables |= dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), FAKE_HEAD_NODE_ID)
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


class Watch:
    """How many nodes can work, as long as it is asked."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> list[int]:
        """All counts so far."""
        return [int(line.split()[0]) for line in self._read_lines()]

    def list_types(self) -> set[str]:
        """The types of all nodes so far."""
        return {name for line in self._read_lines() for name in line.split()[1:]}

    def _read_lines(self) -> list[str]:
        return [line for line in self._file.read_text().splitlines() if line[:1].isdigit()]

    def wait_for(self, count: int, seconds: float) -> None:
        """Return once there are so many."""
        end = time.monotonic() + seconds
        while self.read()[-1:] != [count]:
            assert time.monotonic() < end, self.read()[-1:]
            time.sleep(0.2)


@pytest.fixture
def watch(address: str, tmp_path: Path) -> Iterator[Watch]:
    file = tmp_path / "counts"
    with file.open("w") as output:
        environment = os.environ | {"RAY_ADDRESS": address} | QUIET
        process = subprocess.Popen([sys.executable, "-c", WATCH], env=environment, stdout=output)
    yield Watch(file)
    process.kill()
    process.wait()


def run_depers(address: str | None, *arguments: object) -> str:
    """What `depers ARGUMENTS` says on the cluster, or without one."""
    environment = os.environ | ({"RAY_ADDRESS": address} | QUIET if address else {})
    command = [sys.executable, "-m", "depers.cli", *map(str, arguments)]
    job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert job.returncode == 0, job.stderr
    return job.stderr


def test_nodes_start_for_every_verb_and_end_when_idle(address: str, watch: Watch, tmp_path: Path) -> None:
    watch.wait_for(0, 120)
    dataset, small = write_dataset(tmp_path / "dataset", 24), ("--imgsz", 64)
    run_depers(address, "normalize", dataset, tmp_path / "normalized")
    run_depers(address, "extract", tmp_path / "normalized", tmp_path / "bank")
    run_depers(address, "synthesize", tmp_path / "bank", tmp_path / "more", "--count", 40)
    assert 1 <= max(watch.read()) <= MOST_NODES
    flags = ("--epochs", 1, "--batch-size", 2, "--train-workers", 2, *small)
    assert "2 worker(s)" in run_depers(address, "train", dataset, tmp_path / "trained", *flags)
    assert max(watch.read()) == MOST_NODES
    assert watch.list_types() == {"cpu"}  # none on demand, as long as there are others
    watch.wait_for(0, 10 * IDLE_SECONDS)
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
