"""Fixtures: the real data, weights, a local Ray, and an S3 server, made once and only where a test asks for them."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# A slow machine is no failure; what must be fast is measured by bench/.
hypothesis.settings.register_profile("depers", deadline=None)
hypothesis.settings.load_profile("depers")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photographs and weights (DEPERS_DATA); its tests are skipped where it is absent."""
    folder = Path(os.environ.get("DEPERS_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real data: DEPERS_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes weights that know the classes given, and find boxes everywhere: for tests of what becomes of boxes."""
    import torch

    from depers.detection import yolo

    def make(*names: str) -> str:
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "any.pt"
        yolo.save(yolo.build("yolov5n", names), path)
        return str(path)

    return make


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of a moto server on loopback; this process and all it starts take it for AWS."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,  # nothing that the developer has configured
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    unset = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3")
    with pytest.MonkeyPatch.context() as patch:
        for name in unset:
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    """The URI `s3://NAME` of a new, empty bucket."""
    import boto3

    name = f"bucket-{abs(hash(request.node.nodeid)):x}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def ray_local(s3_endpoint: str) -> Iterator[None]:
    """A local Ray with 2 CPUs. It follows the S3 server: workers inherit the environment they start in."""
    import ray

    from depers.runtime.cluster import start_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)  # never a cluster that someone works with
        assert start_ray(cpus=2)
    yield
    ray.shutdown()
