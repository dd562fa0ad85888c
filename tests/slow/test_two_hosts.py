"""Two hosts: each with a network of its own, where its name means 127.0.0.1, and with a folder of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
from hosts import Cluster
from training_sets import write_dataset

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
