"""A cluster of hosts on one machine: each with network, processes, name, `/tmp` of Ray and home of its own.

Each is a set of Linux namespaces, in which its name means 127.0.0.1. They meet on a network that this machine is on,
too, at `OUTSIDE`. Who asks for them where `ip`, `unshare` or the rights for that are missing is skipped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

BRIDGE, NETWORK = "depers-net", "10.201.7"
OUTSIDE = f"{NETWORK}.1"
"""This machine's address on the network of the hosts."""
GCS_PORT, DASHBOARD_PORT = 6391, 8265
STORE_BYTES = 100 * 2**20
START_SECONDS = 600  # on a busy machine
_TRIES = 5  # to start a node on a busy machine
_STARTED = "Ray runtime started"
_PATIENCE = {"RAY_health_check_timeout_ms": "60000"}
"""Ray's own, where others use the machine."""


class Host(NamedTuple):
    """A host: its name, its address, and the process that keeps its namespaces."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"

    def enter(self, *command: str) -> list[str]:
        """Return the command that runs one on this host."""
        [first] = psutil.Process(self.process.pid).children()
        return ["nsenter", "--all", f"--target={first.pid}", "--wd=/", "--", *command]

    @contextmanager
    def without_network(self) -> Iterator[None]:
        """Cut the host off from all others for as long as the block takes."""
        link = f"depers{self.address.rpartition('.')[2]}"
        ip("link", "set", link, "down")
        try:
            yield
        finally:
            ip("link", "set", link, "up")


class Cluster(NamedTuple):
    """A Ray cluster: its hosts, of which the first is the head, and the variables that its nodes were started with."""

    hosts: tuple[Host, ...]
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        """Where drivers on its hosts join it."""
        return f"{self.hosts[0].address}:{GCS_PORT}"

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://{self.hosts[0].address}:{DASHBOARD_PORT}"

    def run_on_head(self, *command: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
        """Run a command on the head, with RAY_ADDRESS set."""
        environment = dict(self.environment) | {"RAY_ADDRESS": self.address}
        return subprocess.run(
            self.hosts[0].enter(*command), env=environment, capture_output=True, text=True, check=False, timeout=timeout
        )


def ip(*words: str) -> None:
    """Run `ip`. Raise CalledProcessError, FileNotFoundError."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


def lay_network(names: Sequence[str]) -> None:
    """Make a bridge with this machine on it, and a namespace per name. Raise where that is not allowed."""
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    for number, name in enumerate(names, 2):
        ip("netns", "add", name)
        ip("link", "add", f"depers{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("link", "set", f"depers{number}", "master", BRIDGE, "up")
        ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")


def remove_network(names: Sequence[str]) -> None:
    """Remove what there is of the network."""
    links = [
        BRIDGE,
        *(f"depers{number}" for number in range(2, len(names) + 2)),
    ]  # they outlive namespaces
    for words in (*(("link", "del", link) for link in links), *(("netns", "del", name) for name in names)):
        with suppress(subprocess.CalledProcessError, FileNotFoundError):
            ip(*words)


@contextmanager
def network(count: int) -> Iterator[list[str]]:
    """Yield the names of so many namespaces, which see one another and this machine. Skip where that is not allowed."""
    names = [f"depers-host-{number}" for number in range(count)]
    if absent := [command for command in ("ip", "unshare", "nsenter") if shutil.which(command) is None]:
        pytest.skip(f"needs {', '.join(absent)}")
    try:
        remove_network(names)  # of a run that was killed
        lay_network(names)
        yield names
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode().strip()
        assert "not permitted" in reason or "denied" in reason, reason
        pytest.skip(f"needs the right to make network namespaces ({reason})")
    finally:
        remove_network(names)


def start_host(
    name: str,
    address: str,
    folder: Path,
    private: Sequence[Path],
    environment: Mapping[str, str],
    command: Sequence[str],
) -> Host:
    """Run a command as the first process of a host, to which the `private` folders are empty and its own."""
    hosts_file = folder / f"{name}-hosts"
    hosts_file.write_text(f"127.0.0.1 localhost {name}\n")
    steps = [f"hostname {name}", f"mount --bind {hosts_file} /etc/hosts"]
    steps += [f"mount -t tmpfs none {place}" for place in (*private, "/dev/shm")]
    script = " && ".join([*steps, 'exec "$@"'])
    namespaces = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    whole_command = ["ip", "netns", "exec", name, "unshare", *namespaces, "sh", "-c", script, "sh", *command]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(whole_command, env=environment, stdout=log, stderr=log, cwd="/")
    return Host(name, address, process)


@contextmanager
def start_cluster(
    names: Sequence[str],
    cpus: Sequence[int],
    folder: Path,
    private: Path,
    environment: Mapping[str, str],
    head_environment: Mapping[str, str],
) -> Iterator[Cluster]:
    """Start Ray with so many CPUs on each host, the first of which is the head, and end it with the block.

    Every host but the head has an empty folder of its own in the place of `private`. `environment` is added to what all
    nodes have, `head_environment` to what the head has.
    """
    own = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Unix sockets below it have at most 107 characters
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "AWS_"))}
    variables = inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(own),
        "TMPDIR": str(own),
        "XDG_CACHE_HOME": str(own / "cache"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        **_PATIENCE,
        **environment,
    }
    hosts: list[Host] = []
    try:
        for number, (name, cpu_count) in enumerate(zip(names, cpus, strict=True)):
            address = f"{NETWORK}.{number + 2}"
            command = ["ray", "start", "--block", f"--num-cpus={cpu_count}", f"--node-ip-address={address}"]
            command += [f"--object-store-memory={STORE_BYTES}", f"--temp-dir={own}"]
            if hosts:
                command += [f"--address={hosts[0].address}:{GCS_PORT}"]
            else:
                command += ["--head", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0"]
                command += [f"--dashboard-port={DASHBOARD_PORT}"]
            own_folders = (own, private) if hosts else (own,)
            started = variables | (head_environment if not hosts else {})
            for attempt in range(_TRIES):
                hosts.append(start_host(name, address, folder, own_folders, started, command))
                if is_node(hosts[-1], folder):
                    break
                assert attempt + 1 < _TRIES, read_logs(folder)
                end_host(hosts.pop())
        cluster = Cluster(tuple(hosts), variables | head_environment)
        yield cluster
    finally:
        for host in reversed(hosts):
            end_host(host)
        shutil.rmtree(own, ignore_errors=True)


def is_node(host: Host, folder: Path) -> bool:
    """Wait until a host's node is one of the cluster; return False where its Ray gives up first, as after 30 s."""
    deadline = time.monotonic() + START_SECONDS
    while _STARTED not in (folder / f"{host.name}.log").read_text(errors="replace"):
        assert time.monotonic() < deadline, read_logs(folder)
        if host.process.poll() is not None:
            return False
        time.sleep(0.2)
    return True


def end_host(host: Host) -> None:
    """End the first process of a host, and with it, by the kernel, all that runs there."""
    host.process.kill()
    host.process.wait()


def read_logs(folder: Path) -> str:
    """Return what the first processes of the hosts have written."""
    return "".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in sorted(folder.glob("*.log")))
