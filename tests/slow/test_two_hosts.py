"""Two hosts: each with a network of its own, where its name means 127.0.0.1, and with a folder of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hosts
import pytest
from hosts import Cluster
from PIL import Image
from runs import tree
from training_sets import write_dataset

from depers.street_scenes.scenes import draw_scene

pytestmark = pytest.mark.slow
OPEN = {"RAY_AUTH_MODE": "disabled"}  # nobody else sees this network


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is another one on the second host."""
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def cluster(private: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    package = {"PYTHONPATH": str(Path(__file__).parents[2])}
    with (
        hosts.network(2) as names,
        hosts.start_cluster(names, (1, 1), tmp_path_factory.mktemp("logs"), private, OPEN | package, {}) as made,
    ):
        yield made


def test_two_workers_on_two_hosts_train_together(cluster: Cluster, private: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset")
    hyperparameters = private / "rates.yaml"  # which the second host does not have
    hyperparameters.write_text("lr0: 0.02\n")
    flags = ("--epochs", "2", "--batch-size", "2", "--train-workers", "2", "--imgsz", "64", "--device", "cpu")
    command = (sys.executable, "-m", "depers.cli", "train", str(dataset), str(tmp_path / "out"), *flags)
    job = cluster.run_on_head(*command, "--hyperparameters", str(hyperparameters))
    assert job.returncode == 0 and "2 worker(s) on cpu" in job.stderr, job.stderr


def test_a_minute_without_network_changes_no_byte(cluster: Cluster, tmp_path: Path) -> None:
    photos, alone, out = (tmp_path / name for name in ("photos", "alone", "out"))
    photos.mkdir()
    for number in range(400):
        Image.fromarray(draw_scene(number % 20, 3, (640, 360)).image).save(photos / f"{number:03}.jpg")
    command = [sys.executable, "-m", "depers.cli", "anonymize", str(photos)]
    subprocess.run([*command, str(alone)], check=True, capture_output=True)
    with ThreadPoolExecutor(1) as thread:
        job = thread.submit(cluster.run_on_head, *command, str(out), timeout=400)
        records = tmp_path / "out-records" / "units"
        while not job.done() and len(list(records.glob("*.parquet"))) < 4:
            time.sleep(0.1)
        before = len(list(records.glob("*.parquet")))
        with cluster.hosts[1].without_network():
            time.sleep(60)
            meanwhile = len(list(records.glob("*.parquet")))
        result = job.result()
    assert result.returncode == 0, result.stderr
    assert 4 <= before < meanwhile  # the head's own core went on
    assert tree(out) == tree(alone)
