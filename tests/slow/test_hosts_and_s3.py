"""Every verb as a job on a cluster of separate hosts, from and to a real S3 server, and in one process on folders."""

import hashlib
import io
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import hosts
import pyarrow.parquet as pq
import pytest
import real_s3
import torch
import yaml
from hosts import Cluster
from runs import run_depers
from small_weights import build_small
from training_sets import write_dataset

from depers import storage
from depers.commands.mission import STEPS
from depers.detection import yolo
from depers.street_scenes.scenes import draw_scene

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TAKEN_ALONG = ("depers", "jobs")
"""What docs/operations.md says that a job needs of a clone."""
BUCKET = "s3://bucket"
SMALL = ("--imgsz", "64")
JOB_SECONDS = 900  # on a busy machine
STAMPED = re.compile(r"(^|/)(units/[^/]+|inputs\.parquet)$")
"""Records that tell of stamps, which are times on a disk, and tags on S3."""
INDEX = "index.parquet"
STAMPS = ("file_stamp", "labels_stamp", "ignore_stamp")
_SHOW_PLACES = """
import json, os, socket, sys, ray
ray.init(address="auto", log_to_driver=False)
@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def look():
    import time, depers
    time.sleep(3)
    return [socket.gethostname(), socket.gethostbyname(socket.gethostname()), depers.__file__]
print("PLACES", json.dumps(ray.get([look.remote() for _ in range(2)])))
"""


class Site(NamedTuple):
    """A cluster, the folder that its jobs are submitted from, with what variables, and where one process works."""

    cluster: Cluster
    working_folder: Path
    environment: dict[str, str]
    folder: Path

    def submit_words(self, *words: str) -> str:
        """Return what a job says that runs these words on the cluster; it must succeed."""
        command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--working-dir", ".", "--", *words]
        job = subprocess.run(
            command,
            cwd=self.working_folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=JOB_SECONDS,
        )
        assert job.returncode == 0 and "succeeded" in job.stdout, job.stdout + job.stderr
        return job.stdout

    def submit(self, job: str, *arguments: str) -> str:
        """Return what a job of `jobs/` says, in whose arguments `@` stands for the bucket."""
        return self.submit_words("python", f"jobs/{job}.py", *(each.replace("@", BUCKET) for each in arguments))

    def run_alone(self, verb: str, *arguments: str) -> None:
        """Run the same verb in processes of this machine, on its folders, for which `@` stands."""
        code, said = run_depers(verb, *(each.replace("@", str(self.folder)) for each in arguments))
        assert code == 0, said

    def run_both(self, verb: str, *arguments: str) -> str:
        """Run a verb in both ways, and return what the job says."""
        self.run_alone(verb, *arguments)
        return self.submit(verb, *arguments)

    def compare(self, name: str) -> list[str]:
        """Return the files below a folder, of which the bucket has the same with the same bytes."""
        place = self.folder / name
        copy = self.folder.parent / "copies" / name
        download(f"{BUCKET}/{name}", copy)
        alone, together = digests(place, str(self.folder)), digests(copy, BUCKET)
        assert alone and alone.keys() == together.keys()
        differing = [path for path, digest in alone.items() if together[path] != digest]
        assert not differing, (name, differing)
        return sorted(alone)


def digests(folder: Path, root: str) -> dict[str, Any]:
    """Every file below a folder with its digest, where the place that is called `root` has none.

    What depends on when a disk saw files change, or on tags of S3, is left out: some records, and stamps of an index.
    """
    digest_by_path: dict[str, Any] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if STAMPED.search(name):
            continue
        if path.name == INDEX:
            digest_by_path[name] = pq.read_table(path).drop_columns(STAMPS).to_pylist()
        elif path.suffix == ".yaml":
            digest_by_path[name] = json.dumps(yaml.safe_load(path.read_text())).replace(root, "@")
        else:
            data = path.read_bytes().replace(root.encode(), b"@")
            digest_by_path[name] = hashlib.sha256(data).hexdigest()
    return digest_by_path


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write_bytes(f"{uri}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def download(uri: str, folder: Path) -> None:
    for entry in storage.list_files(uri):
        path = folder / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read_entry(uri, entry))


def encode(number: int, suffix: str, size_wh: tuple[int, int]) -> bytes:
    success, data = cv2.imencode(suffix, draw_scene(number, 7, size_wh).image[..., ::-1])
    assert success
    return data.tobytes()


def write_inputs(folder: Path) -> None:
    """Draw what the verbs begin with: labelled scenes, photographs of odd names, a large archive, a detector."""
    write_dataset(folder / "raw", 8, 3)
    photos = folder / "photos"
    photos.mkdir()
    for number, name in enumerate(("a b.jpg", "a+b.jpg", "50%20.jpg", "straße/日本 é.png", "q?x=1&y#z.jpg", "end.")):
        path = photos / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(number, path.suffix or ".jpg", (256, 160)))
    (photos / "empty.txt").touch()
    with tarfile.open(photos / "large.tar", "w") as archive:  # uncompressed images, so that S3 has it in parts
        for number in range(4):
            data = encode(100 + number, ".bmp", (1600, 1000))
            member = tarfile.TarInfo(f"{number}.bmp")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for number, name in enumerate(("car", "human")):
        write_dataset(folder / f"{name}s", 6, 1, [name], (256, 160), 1000 * number)
    torch.manual_seed(0)
    model = build_small(folder)
    with torch.no_grad():
        for layer in model.model[-1].m:  # or it would find nothing: here the likeliest boxes have about 0.08
            layer.bias.view(model.model[-1].na, -1)[:, 4] += 5
    yolo.save(model, folder / "small.pt")
    steps: dict[str, Any] = {
        "normalize": {"raw": f"{BUCKET}/raw"},
        "extract": {},
        "synthesize": {"count": 4},
        "train": {"model": "yolov5n", "epochs": 1, "imgsz": 64, "batch-size": 4, "train-workers": 2},
        "evaluate": {"imgsz": 64},
        "anonymize": {"input": f"{BUCKET}/photos", "imgsz": 64},
        "audit": {"imgsz": 64},
    }
    (folder / "mission.yaml").write_text(yaml.safe_dump({"out": f"{BUCKET}/mission", "steps": steps}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("work")
    working_folder = tmp_path_factory.mktemp("clone")
    for name in TAKEN_ALONG:
        shutil.copytree(ROOT / name, working_folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        hosts.network(3) as names,
        real_s3.serve(tmp_path_factory.mktemp("s3"), hosts.OUTSIDE) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        storage.s3.client().create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        write_inputs(folder)
        upload(folder, BUCKET)
        credentials = {name: value for name, value in server.environment.items() if name not in real_s3.WAYS}
        ways = {name: server.environment[name] for name in real_s3.WAYS}  # which travel with a job
        everyone = token | credentials
        with hosts.start_cluster(names, (0, 1, 1), tmp_path_factory.mktemp("logs"), folder, everyone, ways) as cluster:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_"))}
            environment = inherited | token | {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
            yield Site(cluster, working_folder, environment, folder)


def test_a_job_runs_what_was_taken_along_on_every_host(site: Site) -> None:
    said = site.submit_words("python", "-c", f"exec({_SHOW_PLACES!r})")
    [line] = [line for line in said.splitlines() if line.startswith("PLACES ")]
    places = yaml.safe_load(line.removeprefix("PLACES "))
    assert {name for name, _, _ in places} == {"depers-host-1", "depers-host-2"}
    assert {address for _, address, _ in places} == {"127.0.0.1"}
    assert all("working_dir" in file for _, _, file in places), places


def test_from_raw_labels_to_a_trained_detector(site: Site) -> None:
    site.run_both("normalize", "@/raw", "@/dataset", "--calibration-fraction", "0.2")
    assert "data.yaml" in site.compare("dataset")
    site.run_both("extract", "@/dataset", "@/bank")
    site.compare("bank")
    site.run_both("synthesize", "@/bank", "@/more", "--count", "5")
    site.compare("more")
    site.run_both("synthesize", "@/bank", "@/shards", "--count", "5", "--shards")
    site.compare("shards")
    flags = ("--epochs", "2", "--batch-size", "2", "--train-workers", "2", "--device", "cpu", *SMALL)
    said = site.submit("train", "@/dataset", "@/run", "--data", "@/shards=1", "--model", "yolov5n", *flags)
    assert "2 worker(s) on cpu" in said
    assert storage.exists(f"{BUCKET}/run/weights/best.pt")
    weights = ("--weights", "@/run/weights/best.pt")
    site.submit("evaluate", "@/dataset", "@/evaluation", *weights, *SMALL)
    assert storage.exists(f"{BUCKET}/evaluation/metrics.json")


WEIGHTS = ("--weights", "@/small.pt:a=face,b=carplate", *SMALL)


def test_evaluate(site: Site) -> None:
    site.run_both("evaluate", "@/raw", "@/measured", *WEIGHTS)
    assert "metrics.json" in site.compare("measured")


def test_photographs_and_archives(site: Site) -> None:
    site.run_both("detect", "@/photos", "@/found", *WEIGHTS, "--confidence", "0.05")
    site.compare("found")
    site.run_both("anonymize", "@/photos", "@/safe", *WEIGHTS, "--confidence", "0.05")
    assert "large.tar" in site.compare("safe")
    site.compare("safe-records")
    site.run_both("audit", "@/safe", "--input", "@/photos", *WEIGHTS)
    site.compare("safe-records/audit")


def test_what_this_server_does_not_know_is_said_in_one_line(site: Site) -> None:
    places = (f"{BUCKET}/photos", f"{BUCKET}/tagged")
    for setting in (("--s3-tags", "a=b"), ("--s3-sse", "AES256")):
        code, said = run_depers("detect", *places, *(each.replace("@", BUCKET) for each in WEIGHTS), *setting)
        [line] = [line for line in said.splitlines() if "error" in line]
        assert code == 2 and "this S3 does not know what is asked of it" in line, said
    assert not storage.exists(places[1])


def test_label(site: Site) -> None:
    partial = ("--classes", "car", "--classes", "human", "--add", "@/humans", "--keep-splits")
    site.run_both("normalize", "@/cars", "@/joined", *partial)
    site.compare("joined")
    weights = ("--weights", "@/small.pt:a=human,b=car", "--confidence", "0.07", "--ignore-confidence", "0.05")
    site.run_both("label", "@/joined", "@/labelled", *weights, *SMALL)
    assert "data.yaml" in site.compare("labelled")


def test_export(site: Site) -> None:
    site.submit("export", "@/small.pt", "@/photos", "@/small.torchscript", "--compared", "3", *SMALL)
    assert storage.exists(f"{BUCKET}/small.torchscript")


def test_experiment(site: Site) -> None:
    flags = ("--steps", "2", "--validations", "1", "--seeds", "1", "--synthetic", "1", "--batch-size", "2")
    site.submit("experiment", "@/raw", "@/experiment", *SMALL, *flags)
    assert storage.exists(f"{BUCKET}/experiment/report.html")


def test_a_mission_goes_through_and_is_complete_then(site: Site) -> None:
    site.submit("pipeline", "@/mission.yaml")
    assert storage.exists(f"{BUCKET}/mission/safe-records/audit/report.html")
    said = site.submit("pipeline", "@/mission.yaml")
    assert all(f"of 7, {verb}: complete before\n" in said for verb in STEPS), said
