"""A real S3 server: OpenStack Swift with its `s3api`, four processes that keep objects in a temporary folder.

It is none of depers's dependencies: where Debian's `swift-proxy`, `swift-account`, `swift-container` and `swift-object`
are not installed, who asks for it is skipped.
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

STORES = ("account", "container", "object")
RINGS = "swift-ring-builder"
START_SECONDS = 300

_PROXY = """
[DEFAULT]
bind_ip = {address}
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_level = WARNING

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth
    slo versioned_writes symlink proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true

[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{name} = {secret} .admin
""" + "".join(
    f"\n[filter:{name}]\nuse = egg:swift#{name}\n"
    for name in ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "slo", "symlink")
)
_PROXY += """
[filter:cache]
paste.filter_factory = swift_cache:make_filter

[filter:s3api]
use = egg:swift#s3api
location = us-east-1

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
_STORE = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_level = WARNING

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
replication_server = false
"""


WAYS = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
"""Variables that say how the server is reached, and no secret."""


class RealS3(NamedTuple):
    """Where the server is, and who may use it."""

    endpoint: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that AWS users set for it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,  # nothing that the developer has configured
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextmanager
def serve(folder: Path, address: str = "127.0.0.1") -> Iterator[RealS3]:
    """Run the server at an address of this host, and end it with the block. Skip the test where it is not installed."""
    commands = [RINGS, *(f"swift-{kind}-server" for kind in ("proxy", *STORES))]
    if absent := [command for command in commands if shutil.which(command) is None]:
        pytest.skip(f"needs a real S3 server, OpenStack Swift, of which this is not installed: {', '.join(absent)}")
    folder.mkdir(parents=True, exist_ok=True)
    refuse_folder(folder)
    port, *store_ports = free_ports(address, 1 + len(STORES))
    user = getpass.getuser()
    for kind, store_port in zip(STORES, store_ports, strict=True):
        (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
        make_ring(folder / f"{kind}.builder", store_port)
        text = _STORE.format(kind=kind, port=store_port, user=user, folder=folder)
        (folder / f"{kind}-server.conf").write_text(text)
    server = RealS3(f"http://{address}:{port}", "depers:tester", "not-so-secret")
    account, _, name = server.key.partition(":")
    text = _PROXY.format(
        address=address, port=port, user=user, folder=folder, account=account, name=name, secret=server.secret
    )
    (folder / "proxy-server.conf").write_text(text)
    shutil.copy(Path(__file__).with_name("swift_cache.py"), folder)  # alone, among nothing that its Python might take
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for kind in (*STORES, "proxy"):
            processes.append(start_server(kind, folder))
        wait_for(server, processes, folder)
        yield server
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def refuse_folder(folder: Path) -> None:
    """Skip the test where the file system has no extended attributes, in which Swift keeps what it knows of objects."""
    try:
        os.setxattr(folder, "user.depers", b"1")
    except OSError as error:
        pytest.skip(f"needs a file system with extended attributes at {folder} ({error.strerror})")


def free_ports(address: str, count: int) -> list[int]:
    """Find ports of an address where nobody listens."""
    sockets = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_ring(builder: Path, port: int) -> None:
    """Say where one kind of store has its only replica."""
    for words in (
        ("create", "2", "1", "1"),
        ("add", "--region", "1", "--zone", "1", "--ip", "127.0.0.1", "--port", str(port))
        + ("--device", "disk", "--weight", "1"),
        ("rebalance",),
    ):
        run_foreign([RINGS, str(builder), *words], builder.parent)


def run_foreign(command: Sequence[str], folder: Path) -> None:
    """Run a command of another Python than this one, and show what it says where it fails."""
    ended = subprocess.run(
        command, cwd=folder, env=foreign_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def foreign_environment() -> dict[str, str]:
    """The variables of this process without those that would have the system's Python read this one's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


def start_server(kind: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Start one of the four processes, which writes to KIND.log."""
    with (folder / f"{kind}.log").open("wb") as log:
        command = [f"swift-{kind}-server", str(folder / f"{kind}-server.conf"), "--verbose"]
        environment = foreign_environment() | {"PYTHONPATH": str(folder)}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def wait_for(server: RealS3, processes: Sequence["subprocess.Popen[bytes]"], folder: Path) -> None:
    """Return once the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        said = "".join(path.read_text(errors="replace") for path in folder.glob("*.log"))
        assert all(process.poll() is None for process in processes) and time.monotonic() < deadline, said
        try:
            with urllib.request.urlopen(f"{server.endpoint}/healthcheck", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
