"""Kill −9 of workers, the driver and nodes, a second driver, storage that fails: the final tree must be as undisturbed.

    python bench/chaos.py --weights yolov5n.pt [--kills 20] [--seed 1] [--s3]

A cluster of a head without CPUs and two nodes runs on this machine; the job is a process of its own. A mixture of loose
images, a tar, a zip and a Parquet file is anonymized again and again until enough was killed. Nodes are killed at
random moments, and the moment that a new object lies in OUT, before its record does. A second driver on the same OUT
must refuse, or take over where the first is dead. With --s3 all lies on an S3 server, of which every 50th request fails
for the first minute of every round: it is throttled, breaks, or is broken off.
"""

import argparse
import contextlib
import hashlib
import io
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from depers import storage
from depers.errors import UserError
from depers.storage import s3
from depers.street_scenes.scenes import draw_scene

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))  # the failing S3

JOB_TITLES = ("ray::Map", "ray::assemble", "ray::CrashLedger")


def make_input(root: Path) -> None:
    """Write loose images and three archives."""
    scenes = []
    for number in range(12):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(number, 3, (640, 360)).image).save(buffer, "JPEG")
        scenes.append(buffer.getvalue())
    (root / "loose").mkdir(parents=True)
    for number in range(60):
        (root / f"loose/{number:03}.jpg").write_bytes(scenes[number % 12])
    with tarfile.open(root / "a.tar", "w") as archive:
        for number in range(200):
            header = tarfile.TarInfo(f"{number:03}.jpg")
            header.size = len(scenes[number % 12])
            archive.addfile(header, io.BytesIO(scenes[number % 12]))
    with zipfile.ZipFile(root / "b.zip", "w") as packed:
        for number in range(100):
            packed.writestr(f"{number:03}.jpg", scenes[number % 12])
    image = [{"bytes": scenes[number % 12], "path": str(number)} for number in range(100)]
    pq.write_table(pa.table({"image": image}), root / "c.parquet")


def read_digests(root: str) -> dict[str, str]:
    """Return the digest of every file of OUT, and of what those beside it say, by its path."""
    digests = {}
    for folder in (root, f"{root}-records"):
        for entry in storage.list_files(folder):
            data = storage.read_bytes(f"{folder}/{entry.path}")
            if entry.path.startswith("units/"):  # when storage took the results is noted beside the rows
                data = repr(pq.read_table(io.BytesIO(data)).to_pylist()).encode()
            digests[entry.path] = hashlib.sha256(data).hexdigest()
    return digests


def count_files(root: str) -> int:
    """Return how many files there are, 0 where storage does not say."""
    with contextlib.suppress(UserError):
        return sum(not entry.status for entry in storage.list_files(root)) if storage.is_dir(root) else 0
    return 0


def wait_for_object(root: str, job: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Return the moment that one more object lies below the folder, or the job or the time has ended."""
    until, count = time.monotonic() + seconds, count_files(root)
    while job.poll() is None and time.monotonic() < until and count_files(root) <= count:
        time.sleep(0.01)


class Jobs:
    """Starts jobs, each in a process of its own."""

    def __init__(self, source: str, weights: str, address: str, log: Path) -> None:
        self._command = [sys.executable, "-m", "depers.cli", "anonymize", source]
        self._weights, self._address, self._log = weights, address, log

    def start(self, out: str) -> "subprocess.Popen[bytes]":
        """Start one that writes to OUT."""
        command = [*self._command, out, "--weights", self._weights]
        log = self._log.open("ab")
        return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": self._address}, stdout=log, stderr=log)


class FailingStorage:
    """An S3 server on loopback that every process started from now on takes for AWS, with a proxy that fails."""

    def __init__(self) -> None:
        from faulty_s3 import BROKEN, RESET, THROTTLE, FaultyS3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self._requests, self._fails_until = itertools.count(1), 0.0
        kinds = itertools.cycle((THROTTLE, BROKEN, RESET))

        def fault(method: str, place: str, times: int) -> str:
            fails = next(self._requests) % 50 == 0 and time.monotonic() < self._fails_until
            return next(kinds) if fails else ""

        self.proxy = FaultyS3(f"http://{host}:{port}", fault).__enter__()
        os.environ |= {
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        s3.client().create_bucket(Bucket="chaos")

    def fail_for(self, seconds: float) -> None:
        """Fail every 50th request for some time from now on."""
        self._fails_until = time.monotonic() + seconds


def list_processes() -> dict[bool, list[psutil.Process]]:
    """Return this cluster's processes: under True those of the job (actors, readers, those that put archives together,
    the ledger), under False Ray's own.
    """
    processes: dict[bool, list[psutil.Process]] = {True: [], False: []}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            title = "".join(process.cmdline()[:1])
            if title.startswith("ray::") and not title.startswith("ray::IDLE"):
                processes[title.startswith(JOB_TITLES)].append(process)
    return processes


def main() -> None:
    """Run undisturbed, then with kills, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    from ray.cluster_utils import Cluster

    chance = random.Random(arguments.seed)
    work = Path(tempfile.mkdtemp(prefix="depers-chaos-"))
    make_input(work / "in")
    failing = FailingStorage() if arguments.s3 else None
    root, source = (str(work), str(work / "in")) if failing is None else ("s3://chaos", "s3://chaos/in")
    if failing is not None:
        for entry in storage.list_files(str(work / "in")):
            storage.write_bytes(f"{source}/{entry.path}", (work / "in" / entry.path).read_bytes())
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    nodes = [cluster.add_node(**node) for _ in range(2)]
    jobs = Jobs(source, arguments.weights, cluster.address, work / "job.log")
    started = time.monotonic()
    assert jobs.start(f"{root}/expected").wait() == 0, (work / "job.log").read_text()
    seconds = time.monotonic() - started
    expected = read_digests(f"{root}/expected")
    print(f"undisturbed: {len(expected)} files in {seconds:.0f} s", flush=True)
    killed: Counter[str] = Counter()
    refused = rounds = same = 0
    while killed.total() < arguments.kills:
        rounds += 1
        out = f"{root}/out{rounds}"
        if failing is not None:
            failing.fail_for(60)
        job = jobs.start(out)
        until = time.monotonic() + chance.uniform(0.3, 0.9) * seconds
        while True:
            while job.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if job.poll() is not None and job.returncode == 0:
                break
            victim_kind = ""
            if killed.total() < arguments.kills:
                kinds = ("driver", "worker", "worker", "worker", "node", "node between object and record")
                victim_kind = chance.choice((*kinds, "second driver"))
            if victim_kind == "driver" and job.poll() is None:
                job.send_signal(signal.SIGKILL)
                job.wait()
                killed[victim_kind] += 1
            elif victim_kind == "worker":
                victims = list_processes()[chance.random() < 0.8]
                if victims:
                    victim = chance.choice(sorted(victims, key=lambda process: process.pid))
                    title = "".join(victim.cmdline()[:1])
                    victim.kill()
                    killed[victim_kind] += 1
                    print(f"  killed {title}", flush=True)
            elif victim_kind.startswith("node"):
                if victim_kind != "node":
                    wait_for_object(out, job, seconds)
                number = chance.randrange(len(nodes))
                cluster.remove_node(nodes[number], allow_graceful=False)
                killed[victim_kind] += 1
                nodes[number] = cluster.add_node(**node)
            elif victim_kind == "second driver" and job.poll() is None:
                code = jobs.start(out).wait()
                assert code == 2 or job.poll() is not None, f"a second driver ended with {code}"
                refused += code == 2
            if job.poll() is not None and job.returncode != 0:
                job = jobs.start(out)
            until = time.monotonic() + (chance.uniform(0.1, 0.7) * seconds if victim_kind else 5)
        result = read_digests(out)
        same += result == expected
        different = [name for name in expected.keys() | result.keys() if expected.get(name) != result.get(name)]
        print(f"round {rounds}: {dict(killed)} so far; {'the same' if not different else different[:5]}", flush=True)
        for folder in (out, f"{out}-records"):
            storage.delete_files(folder, [entry.path for entry in storage.list_files(folder)])
    print(f"{killed.total()} kills ({dict(killed)}) in {rounds} rounds, {same} of them byte-identical")
    faults = (
        "" if failing is None else f"; {dict(failing.proxy.faults)} faults in {failing.proxy.seen.total()} requests"
    )
    print(f"{refused} second drivers were refused{faults}; load {os.getloadavg()[0]:.1f}")
    cluster.shutdown()
    shutil.rmtree(work)
    sys.exit(same != rounds)


if __name__ == "__main__":
    main()
