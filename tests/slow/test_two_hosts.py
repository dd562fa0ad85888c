"""Two hosts: each with a network of its own, where its name means 127.0.0.1, and with a folder of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from training_sets import write_dataset

pytestmark = pytest.mark.slow
NAMESPACE, LINKS, ADDRESSES = "depers-host", ("depers0", "depers1"), ("10.201.7.1", "10.201.7.2")
PORT = 6391
OPEN = {"RAY_AUTH_MODE": "disabled"}  # nobody else sees these networks


class Hosts(NamedTuple):
    """The address of their cluster, and a folder that is another one on the second host."""

    address: str
    private: Path


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def lay_network() -> None:
    """Two interfaces that see one another, the second one in a namespace. Raise where that is not allowed."""
    ip("netns", "add", NAMESPACE)
    ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1], "netns", NAMESPACE)
    ip("addr", "add", f"{ADDRESSES[0]}/24", "dev", LINKS[0])
    ip("link", "set", LINKS[0], "up")
    ip("-n", NAMESPACE, "addr", "add", f"{ADDRESSES[1]}/24", "dev", LINKS[1])
    ip("-n", NAMESPACE, "link", "set", LINKS[1], "up")
    ip("-n", NAMESPACE, "link", "set", "lo", "up")


def remove_network() -> None:
    for words in (("link", "del", LINKS[0]), ("netns", "del", NAMESPACE)):
        with suppress(subprocess.CalledProcessError, FileNotFoundError):
            ip(*words)


def start_node(*flags: str, prefix: Sequence[str] = ()) -> "subprocess.Popen[bytes]":
    command = [*prefix, "ray", "start", "--num-cpus=1", "--object-store-memory=104857600", "--block", *flags]
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"} | OPEN
    return subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    private = tmp_path_factory.mktemp("private")
    nodes = []
    try:
        lay_network()
    except (subprocess.CalledProcessError, FileNotFoundError):
        remove_network()
        pytest.skip("needs `ip`, and the right to make network namespaces")
    try:
        address = f"{ADDRESSES[0]}:{PORT}"
        nodes.append(
            start_node("--head", f"--port={PORT}", f"--node-ip-address={ADDRESSES[0]}", "--include-dashboard=false")
        )
        time.sleep(8)
        own_folder = f'mount -t tmpfs none {private} && exec "$@"'
        prefix = ("ip", "netns", "exec", NAMESPACE, "unshare", "-m", "sh", "-c", own_folder, "sh")
        nodes.append(start_node(f"--address={address}", f"--node-ip-address={ADDRESSES[1]}", prefix=prefix))
        time.sleep(8)
        yield Hosts(address, private)
    finally:
        for node in reversed(nodes):
            processes = psutil.Process(node.pid).children(recursive=True)
            node.terminate()
            for process in psutil.wait_procs(processes, timeout=10)[1]:
                process.kill()
            node.wait()
        remove_network()


def run_depers(hosts: Hosts, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"RAY_ADDRESS": hosts.address} | OPEN
    command = [sys.executable, "-m", "depers.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_two_workers_on_two_hosts_train_together(hosts: Hosts, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    hyperparameters = hosts.private / "rates.yaml"  # which the second host does not have
    hyperparameters.write_text("lr0: 0.02\n")
    flags = ("--epochs", "2", "--batch-size", "2", "--train-workers", "2", "--imgsz", "64", "--device", "cpu")
    job = run_depers(
        hosts, "train", str(dataset), str(tmp_path / "out"), *flags, "--hyperparameters", str(hyperparameters)
    )
    assert job.returncode == 0 and "2 worker(s) on cpu" in job.stderr, job.stderr
