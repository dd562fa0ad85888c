"""An object store that others have filled, and a disk without room for what it would spill."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from ray._private.ray_constants import DEFAULT_OBJECT_PREFIX
from ray.cluster_utils import Cluster
from runs import tree

from depers.street_scenes.scenes import draw_scene

pytestmark = pytest.mark.slow
STORE = 80 * 2**20
FILLER = """
import os, sys, time
import numpy as np
import ray

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
objects = []
while True:
    try:
        objects.append(ray.put(np.zeros(2**20, np.uint8)))
    except ray.exceptions.OutOfDiskError:
        open(sys.argv[2], "w").close()
        time.sleep(1)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    disk = tmp_path_factory.mktemp("spilled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        no_disk = {"local_fs_capacity_threshold": 0.0}  # of a disk, from which Ray calls it full
        node = {"num_cpus": 2, "object_store_memory": STORE, "object_spilling_directory": str(disk)}
        made = Cluster(initialize_head=True, head_node_args=node | {"_system_config": no_disk})
        # Where Ray will spill: a folder in which no file can be made.
        (disk / f"{DEFAULT_OBJECT_PREFIX}_{made.head_node.node_id}").symlink_to("/proc")
        yield made
        made.shutdown()


@contextmanager
def filled(cluster: Cluster, begin: Path, full: Path) -> Iterator[None]:
    """Another program fills the store from when `begin` is there, and makes `full` once it is."""
    command = [sys.executable, "-c", FILLER, str(begin), str(full)]
    program = subprocess.Popen(command, env=os.environ | {"RAY_ADDRESS": cluster.address})
    try:
        yield
    finally:
        program.kill()
        program.wait()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.05)


def begin_run(cluster: Cluster | None, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | ({"RAY_ADDRESS": cluster.address} if cluster else {})
    command = [sys.executable, "-m", "depers.cli", "anonymize", *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("full") / "photos"
    root.mkdir()
    for number in range(240):
        Image.fromarray(draw_scene(number % 12, 3, (640, 360)).image).save(root / f"{number:03}.jpg")
    return root


@pytest.mark.parametrize("topology", ["fused", "staged"])
def test_a_store_that_fills_meanwhile_changes_no_byte(
    cluster: Cluster, photos: Path, tmp_path: Path, topology: str
) -> None:
    one, out, begin, full = (tmp_path / name for name in ("one", "out", "begin", "full"))
    alone = begin_run(None, str(photos), str(one))
    assert alone.wait() == 0
    with filled(cluster, begin, full):
        job = begin_run(cluster, str(photos), str(out), "--topology", topology)
        records = tmp_path / "out-records" / "units"
        while job.poll() is None and not (records.is_dir() and any(records.iterdir())):
            time.sleep(0.05)
        begin.touch()
        wait_for(full)
        assert job.poll() is None
        said = job.communicate(timeout=200)[1]
    assert job.returncode == 0, said
    assert tree(out) == tree(one)


def test_a_store_that_is_full_before_is_told_in_one_line(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    with filled(cluster, photos, full):
        wait_for(full)
        job = begin_run(cluster, str(photos), str(tmp_path / "out"), "--topology", "staged")
        said = job.communicate(timeout=200)[1]
    assert job.returncode == 2, said
    assert "depers anonymize: error: the cluster's object store is full, and so is the disk that it spills to" in said
