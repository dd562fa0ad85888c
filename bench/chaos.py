"""Kill −9 of workers, the driver and nodes at random moments: the final tree must be that of an undisturbed run.

    python bench/chaos.py --weights yolov5n.pt [--kills 20] [--seed 1]

A cluster of a head without CPUs and two nodes runs on this machine; the job is a process of its own. A mixture of loose
images, a tar, a zip and a Parquet file is anonymized again and again until enough was killed.
"""

import argparse
import contextlib
import hashlib
import io
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

from depers.street_scenes.scenes import draw_scene

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


def read_digests(root: Path) -> dict[str, str]:
    """Return the digest of every file of OUT, and of the records beside it, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (root, Path(f"{root}-records"))
        for path in folder.rglob("*")
        if path.is_file()
    }


def start_job(source: Path, out: Path, weights: str, address: str) -> "subprocess.Popen[bytes]":
    """Start the job in a process of its own."""
    command = [sys.executable, "-m", "depers.cli", "anonymize", str(source), str(out), "--weights", weights]
    log = (out.parent / "job.log").open("ab")
    return subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": address}, stdout=log, stderr=log)


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
    arguments = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    from ray.cluster_utils import Cluster

    chance = random.Random(arguments.seed)
    work = Path(tempfile.mkdtemp(prefix="depers-chaos-"))
    make_input(work / "in")
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
    nodes = [cluster.add_node(**node) for _ in range(2)]
    started = time.monotonic()
    undisturbed = start_job(work / "in", work / "expected", arguments.weights, cluster.address)
    assert undisturbed.wait() == 0, (work / "job.log").read_text()
    seconds = time.monotonic() - started
    expected = read_digests(work / "expected")
    print(f"undisturbed: {len(expected)} files in {seconds:.0f} s", flush=True)
    killed: Counter[str] = Counter()
    rounds = same = 0
    while killed.total() < arguments.kills:
        rounds += 1
        out = work / f"out{rounds}"
        job = start_job(work / "in", out, arguments.weights, cluster.address)
        until = time.monotonic() + chance.uniform(0.3, 0.9) * seconds
        while True:
            while job.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if job.poll() is not None and job.returncode == 0:
                break
            victim_kind = (
                chance.choice(("driver", "worker", "worker", "worker", "node"))
                if killed.total() < arguments.kills
                else ""
            )
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
            elif victim_kind == "node":
                number = chance.randrange(len(nodes))
                cluster.remove_node(nodes[number], allow_graceful=False)
                killed[victim_kind] += 1
                nodes[number] = cluster.add_node(**node)
            if job.poll() is not None and job.returncode != 0:
                job = start_job(work / "in", out, arguments.weights, cluster.address)
            until = time.monotonic() + (chance.uniform(0.1, 0.7) * seconds if victim_kind else 5)
        result = read_digests(out)
        same += result == expected
        different = [name for name in expected.keys() | result.keys() if expected.get(name) != result.get(name)]
        print(f"round {rounds}: {dict(killed)} so far; {'the same' if not different else different[:5]}", flush=True)
        shutil.rmtree(out)
        shutil.rmtree(f"{out}-records")
    print(f"{killed.total()} kills ({dict(killed)}) in {rounds} rounds, {same} of them byte-identical")
    print(f"load {os.getloadavg()[0]:.1f}")
    cluster.shutdown()
    shutil.rmtree(work)
    sys.exit(same != rounds)


if __name__ == "__main__":
    main()
