"""A cluster as `cluster.yaml` describes it: a head that does no work, and nodes that come after the verb has begun."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray._common.usage import usage_constants, usage_lib
from ray._private import ray_constants
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from runs import tree
from training_sets import write_dataset

pytestmark = pytest.mark.slow
LATE_SECONDS = 6.0
TIMED = ("_depers/units/", "index.parquet")  # which note when a disk saw files change
NODE = {"num_cpus": 2, "object_store_memory": 150 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
        yield made
        made.shutdown()


def run_late(cluster: Cluster, *arguments: str) -> str:
    """What `depers ARGUMENTS` says on a cluster without a node that can work, to which one comes later."""
    command = [sys.executable, "-m", "depers.cli", *arguments]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    job = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(LATE_SECONDS)
    node = cluster.add_node(**NODE)
    try:
        said = job.communicate(timeout=400)[1]
    finally:
        job.kill()
        cluster.remove_node(node, allow_graceful=True)
    assert job.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("late") / "dataset")


def test_every_verb_of_the_training_half_starts(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    small = ("--imgsz", "64")
    run_late(cluster, "normalize", str(dataset), str(tmp_path / "normalized"))
    run_late(cluster, "extract", str(tmp_path / "normalized"), str(tmp_path / "bank"))
    run_late(cluster, "synthesize", str(tmp_path / "bank"), str(tmp_path / "more"), "--count", "6")
    flags = ("--epochs", "1", "--batch-size", "2", "--train-workers", "2")
    said = run_late(cluster, "train", str(dataset), str(tmp_path / "trained"), *small, *flags)
    assert "2 worker(s)" in said
    weights = str(tmp_path / "trained" / "weights" / "best.pt")
    run_late(cluster, "evaluate", str(dataset), str(tmp_path / "evaluated"), "--weights", weights, *small)
    for number, name in enumerate(("car", "human")):
        write_dataset(tmp_path / f"{name}s", 6, 1, [name], (256, 160), 1000 * number)
    partial = ("--classes", "car", "--classes", "human", "--add", str(tmp_path / "humans"), "--keep-splits")
    run_late(cluster, "normalize", str(tmp_path / "cars"), str(tmp_path / "joined"), *partial)
    flags = ("--confidence", "0.5", "--ignore-confidence", "0.02")
    run_late(
        cluster, "label", str(tmp_path / "joined"), str(tmp_path / "labelled"), "--weights", weights, *small, *flags
    )
    images = str(dataset / "images")
    run_late(cluster, "anonymize", images, str(tmp_path / "safe"), "--weights", weights, "--classes", "all", *small)
    run_late(cluster, "audit", str(tmp_path / "safe"), "--input", images)
    flags = ("--steps", "2", "--validations", "1", "--seeds", "1", "--synthetic", "1", "--batch-size", "2")
    run_late(cluster, "experiment", str(dataset), str(tmp_path / "experiment"), *small, *flags)
    one_node = [sys.executable, "-m", "depers.cli", "normalize", str(dataset), str(tmp_path / "alone")]
    subprocess.run(one_node, check=True, capture_output=True)
    alone, together = (
        {path: digest for path, digest in tree(tmp_path / name).items() if not path.startswith(TIMED)}
        for name in ("alone", "normalized")
    )
    assert alone == together and "data.yaml" in alone


def test_a_cluster_of_another_python_is_refused_in_one_line(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    client = GcsClient(address=cluster.address)
    metadata = usage_lib.get_cluster_metadata(client)

    def claim(version: str) -> None:
        data = json.dumps(metadata | {"python_version": version}).encode()
        namespace = ray_constants.KV_NAMESPACE_CLUSTER
        client.internal_kv_put(usage_constants.CLUSTER_METADATA_KEY, data, overwrite=True, namespace=namespace)

    command = [sys.executable, "-m", "depers.cli", "normalize", str(dataset), str(tmp_path / "out")]
    claim("3.9.1")
    try:
        environment = os.environ | {"RAY_ADDRESS": cluster.address}
        job = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    finally:
        claim(metadata["python_version"])
    assert job.returncode == 2 and job.stderr.count("\n") == 1
    assert f"RAY_ADDRESS {cluster.address}: no cluster that can be joined" in job.stderr
    assert "Python: 3.9.1" in job.stderr and f"with Python {platform.python_version()}" in job.stderr


@pytest.mark.parametrize("topology", ["fused", "staged"])
def test_one_cpu_is_enough(cluster: Cluster, dataset: Path, tmp_path: Path, topology: str) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20)
    command = [sys.executable, "-m", "depers.cli", "anonymize", str(dataset / "images"), str(tmp_path / "safe")]
    command += ["--imgsz", "64", "--topology", topology]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    job = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    cluster.remove_node(node, allow_graceful=True)
    assert job.returncode == 0, job.stderr


def test_a_training_waits_and_says_so(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "depers.cli", "train", str(dataset), str(tmp_path / "out"), "--train-workers", "3"]
    node = cluster.add_node(**NODE)
    job = subprocess.run(
        [*command, "--batch-size", "3"],
        env=os.environ | {"RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    cluster.remove_node(node, allow_graceful=True)
    assert job.returncode == 2 and "--train-workers must be at most 2, which get a CPU each" in job.stderr
    assert not (tmp_path / "out" / "state").exists()


def test_more_workers_train_once_there_is_room_for_them(cluster: Cluster, dataset: Path, tmp_path: Path) -> None:
    flags = ("--imgsz", "64", "--epochs", "400", "--batch-size", "2", "--patience", "0", "--validate-every", "200")
    flags = (*flags, "--train-workers", "2", "--least-train-workers", "1", "--device", "cpu")
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20)]
    command = [sys.executable, "-m", "depers.cli", "train", str(dataset), str(tmp_path / "out"), *flags]
    job = subprocess.Popen(
        command, env=os.environ | {"RAY_ADDRESS": cluster.address}, stderr=subprocess.PIPE, text=True
    )
    assert job.stderr is not None
    for line in job.stderr:
        if "1 worker(s)" in line:
            nodes.append(cluster.add_node(num_cpus=1, object_store_memory=150 * 2**20))
        if "2 worker(s)" in line:
            break
    job.kill()
    job.wait()
    progress = json.loads((tmp_path / "out" / "state" / "progress.json").read_bytes())
    assert progress["batches"] > 0  # of one worker, written before it ended
    for node in nodes:
        cluster.remove_node(node, allow_graceful=True)
