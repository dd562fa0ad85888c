"""Every verb in Azure and Google Cloud, by their real clients, against emulators on loopback: the bytes of a disk.

The emulators and clients are those that CONTRIBUTING.md names. Nothing is installed: tests of what is missing are
skipped, saying so. All runs join one cluster, whose nodes have the credentials, as nodes with a role have.
"""

import importlib.util
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from archive_files import make_tar

from depers import storage
from depers.storage import other_stores
from depers.street_scenes import scenes

pytestmark = pytest.mark.slow
ACCOUNT = "devstoreaccount1"  # Azurite's own, whose key its documentation gives to everyone
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
NAMES = ["a b/c=d#1.jpg", "ü/straße+.jpg", "z%20z.jpg", "a%2Fb.jpg", "[x]*.jpg", "日本/é, {1}.jpg"]
NOTES = re.compile(r"/_depers/|-records/(?!manifest\.parquet)|/state/|/tensorboard/|report\.html$|mission\.json$")
"""What tells of one run: of its times, its places, and the tags that its storage gave."""
START_SECONDS = 240


class Emulator(NamedTuple):
    """What has to be there, its command for a port and a folder, and the variables by which its client finds it."""

    client: str
    name: str
    is_there: Callable[[], bool]
    command: Callable[[int, str], list[str]]
    variables: Callable[[int], dict[str, str]]


EMULATORS = {
    "az": Emulator(
        "adlfs",
        "the command azurite-blob",
        lambda: shutil.which("azurite-blob") is not None,
        lambda port, folder: [
            "azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder, "--silent",
            "--skipApiVersionCheck", "--disableTelemetry",
        ],
        lambda port: {
            "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT};"
        },
    ),
    "gs": Emulator(
        "gcsfs",
        "the package gcp-storage-emulator",
        lambda: importlib.util.find_spec("gcp_storage_emulator") is not None,
        lambda port, folder: [
            sys.executable, "-m", "gcp_storage_emulator", "-d", folder, "start", "-H", "127.0.0.1", "--port", str(port),
            "-q",
        ],
        lambda port: {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "NO_GCE_CHECK": "true"},
    ),
}  # fmt: skip


def list_missing(emulator: Emulator) -> list[str]:
    client = [] if importlib.util.find_spec(emulator.client) else [f"the package {emulator.client}"]
    return client + ([] if emulator.is_there() else [emulator.name])


def find_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait(is_there: Callable[[], bool], process: "subprocess.Popen[bytes]", what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        assert process.poll() is None and time.monotonic() < deadline, what
        time.sleep(0.1)


def start_emulator(command: list[str], port: int) -> "subprocess.Popen[bytes]":
    """Start what listens on a port of loopback, and wait until it does."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(listens, process, f"{command} does not listen")
    return process


def start_node(port: int, notes: Path) -> "subprocess.Popen[bytes]":
    """Start a cluster of one node, with the environment of this process, and wait until it takes work."""
    command = [
        "ray", "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--block",
        "--object-store-memory=209715200", "--include-dashboard=false",
    ]  # fmt: skip
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with notes.open("wb") as file:
        process = subprocess.Popen(command, env=os.environ | variables, stdout=file, stderr=subprocess.STDOUT)
    wait(lambda: b"block forever" in notes.read_bytes(), process, "the node of Ray does not start")
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait()
    for child in psutil.wait_procs(children, timeout=10)[1]:
        child.kill()


@pytest.fixture(scope="module")
def schemes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The schemes whose emulators run, with the variables of their clients; RAY_ADDRESS is a node that has them."""
    there = [scheme for scheme, emulator in EMULATORS.items() if not list_missing(emulator)]
    if not there:
        yield there
        return
    processes = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            for scheme in there:
                port, emulator = find_port(), EMULATORS[scheme]
                folder = str(tmp_path_factory.mktemp(scheme))
                processes.append(start_emulator(emulator.command(port, folder), port))
                for name, value in emulator.variables(port).items():
                    patch.setenv(name, value)
            other_stores._file_system.cache_clear()
            patch.setenv("RAY_AUTH_MODE", "disabled")
            port = find_port()
            processes.append(start_node(port, tmp_path_factory.mktemp("ray") / "notes.txt"))
            patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            yield there
    finally:
        for process in reversed(processes):
            end(process)
        other_stores._file_system.cache_clear()


@pytest.fixture(scope="module", params=list(EMULATORS))
def bucket(request: pytest.FixtureRequest, schemes: list[str]) -> str:
    """The URI of an empty bucket."""
    import fsspec

    scheme = request.param
    if scheme not in schemes:
        missing = " and ".join(list_missing(EMULATORS[scheme]))
        pytest.skip(f"{scheme}:// is not tried for real without {missing}: CONTRIBUTING.md")
    fsspec.filesystem(scheme, skip_instance_cache=True).mkdir("bucket")
    return f"{scheme}://bucket"


def run_depers(*arguments: str) -> tuple[int, str]:
    """The exit code of `depers ARGUMENTS` on the cluster, and all that it says."""
    command = [sys.executable, "-m", "depers.cli", *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    return process.returncode, process.stdout + process.stderr


class Sources(NamedTuple):
    """Labelled scenes, and what to anonymize: bytes by their paths."""

    raw: Mapping[str, bytes]
    photos: Mapping[str, bytes]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_raw(folder, 12, 1, 0)
    raw = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    images = [raw[path] for path in sorted(raw) if path.endswith(".jpg")]
    photos = dict(zip(NAMES, images, strict=False))
    photos["sets/a.tar"] = make_tar({f"{number}.jpg": data for number, data in enumerate(images[6:8])})
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "x.jpg"} for data in images[8:10]]}), buffer)
    photos["sets/b c.parquet"] = buffer.getvalue()
    photos["empty.jpg"] = b""
    return Sources(raw, photos)


def lay(root: str, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        storage.write_below(root, path, data)


def read(root: str) -> dict[str, bytes]:
    """Every file below `root` that is whole, by its path."""
    entries = [entry for entry in storage.list_files(root) if not entry.status]
    return {entry.path: storage.read_bytes(f"{root}/{entry.path}") for entry in entries}


def read_tags(root: str) -> dict[str, str]:
    return {entry.path: entry.stamp for entry in storage.list_files(root)}


@pytest.fixture(scope="module")
def weights(untrained: Any) -> tuple[str, ...]:
    return ("--weights", str(untrained("car")), "--imgsz", "64", "--confidence", "0.003")


def run_all(base: str, sources: Sources, weights: tuple[str, ...], folder: Path) -> str:
    """Run every verb, from `base` to `base`; return what they say."""
    lay(f"{base}/raw", sources.raw)
    lay(f"{base}/photos", sources.photos)
    detector = {"weights": weights[1], "imgsz": 64, "confidence": 0.003}
    steps: dict[str, Any] = {
        "normalize": {"raw": f"{base}/raw"},
        "extract": {},
        "synthesize": {"count": 8},
        "train": {"model": "yolov5n", "epochs": 1, "imgsz": 64, "batch-size": 8},
        "evaluate": {"imgsz": 64},
        "anonymize": {"input": f"{base}/photos"} | detector,
        "audit": detector,
    }
    (folder / "mission.yaml").write_text(yaml.safe_dump({"out": f"{base}/out", "steps": steps}))
    code, said = run_depers("mission", str(folder / "mission.yaml"))
    assert code == 3 and "empty.jpg" in said, said  # of an empty image nothing can be made
    code, text = run_depers("detect", f"{base}/photos", f"{base}/boxes", *weights)
    assert code == 3 and "empty.jpg" in text, text
    return said + text


@pytest.fixture(scope="module")
def local(
    schemes: list[str], tmp_path_factory: pytest.TempPathFactory, sources: Sources, weights: tuple[str, ...]
) -> dict[str, Any]:
    """What all verbs write on this machine's disk."""
    folder = tmp_path_factory.mktemp("local")
    run_all(f"{folder}/base", sources, weights, folder)
    return choose_results(read(f"{folder}/base"), f"{folder}/base")


def choose_results(files: Mapping[str, bytes], base: str) -> dict[str, Any]:
    """What runs promise to be the same anywhere: tables without stamps, figures without times, all else as bytes."""
    return {path: _decode(path, data, base) for path, data in files.items() if not NOTES.search(path)}


def _decode(path: str, data: bytes, base: str) -> Any:
    if path.startswith(("raw/", "photos/", "out/safe/")):
        return data
    if path.endswith(".parquet"):
        table = pq.read_table(io.BytesIO(data))
        return table.select([name for name in table.column_names if not name.endswith("_stamp")]).to_pylist()
    if path.endswith((".json", ".yaml")):
        return repr(yaml.safe_load(data)).replace(base, "BASE")
    if path == "out/run/results.csv":
        return [line.split(",")[:-2] for line in data.decode().splitlines()]  # without images_per_s and seconds
    return data


def test_all_verbs_write_what_they_write_on_a_disk(
    bucket: str, local: dict[str, Any], sources: Sources, weights: tuple[str, ...], tmp_path: Path
) -> None:
    said = run_all(f"{bucket}/base", sources, weights, tmp_path)
    assert said.count("promises less than S3") == 2 and KEY not in said, said
    files = read(f"{bucket}/base")
    assert not any(KEY.encode() in data for data in files.values())
    results = choose_results(files, f"{bucket}/base")
    assert sorted(results) == sorted(local)
    assert [path for path in local if results[path] != local[path]] == []
    assert len([path for path in results if path.startswith("out/safe/")]) == len(NAMES) + 2
    assert any(row["status"] == "redacted" for row in results["out/safe-records/manifest.parquet"])


def test_reruns_do_what_changed_and_nothing_again(bucket: str, sources: Sources, weights: tuple[str, ...]) -> None:
    """The first of them was killed."""
    source, out = f"{bucket}/changing", f"{bucket}/changing-out"
    arguments = ("anonymize", source, out, *weights)
    photos = {path: data for path, data in sources.photos.items() if data}
    lay(source, photos)
    process = subprocess.Popen(
        [sys.executable, "-m", "depers.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not storage.is_dir(out) or not read(out):  # killed the moment that an object is there
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    code, said = run_depers(*arguments)
    assert code == 0, said
    whole = f"{bucket}/whole-out"
    code, said = run_depers("anonymize", source, whole, *weights)
    assert code == 0, said
    assert read(out) == read(whole) and set(read(out)) == set(photos)

    tags = read_tags(out)
    assert run_depers(*arguments)[0] == 0
    assert read_tags(out) == tags
    storage.write_below(source, "new é+.jpg", photos[NAMES[0]])
    storage.delete(f"{source}/{NAMES[1]}")
    code, said = run_depers(*arguments)
    assert code == 0, said
    after = read_tags(out)
    assert set(after) == set(tags) - {NAMES[1]} | {"new é+.jpg"}
    assert {path: tag for path, tag in after.items() if path in tags} == {
        path: tag for path, tag in tags.items() if path != NAMES[1]
    }
    assert storage.read_bytes(f"{out}/new é+.jpg") == storage.read_bytes(f"{out}/{NAMES[0]}")
