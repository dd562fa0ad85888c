"""What other machines of a cluster see of the driver's: its disk, and its environment."""

import dataclasses
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from depers import storage
from depers.errors import UserError
from depers.options import flag
from depers.options.command_line import S3_SETTINGS
from depers.runtime import capacity, lease
from depers.runtime.progress import report

A = TypeVar("A")
T = TypeVar("T")

_TRAVELLING = (
    "weights", "thresholds", "model", "hyperparameters", "augmentation", "callback", "cache_folder", "file",
)  # fmt: skip
"""Options whose files the driver reads, or that each node has for itself."""
_TABLES = ("boxes", "previous_detections")  # which it reads where they are files
_MADE = ("out", "records")
_PLACE_METAVARS = ("RAW", "DATASET=WEIGHT")
_NAMES = 100  # of a folder that are compared
_HEAD_BYTES = 65_536

_FORWARDED = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT",
    *(f"DEPERS_{name.upper()}" for name in S3_SETTINGS),
    "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ANON", "GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
    "STORAGE_EMULATOR_HOST",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
)  # fmt: skip
_PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "GCSFS_", "OCIFS_", "OSS_")
"""What the variables of stores' clients begin with."""
_FILES = (
    "AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_CERTIFICATE_PATH",
)  # fmt: skip
_RUNTIME_VARIABLES = (
    "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_DISABLED", "AZURE_FEDERATED_TOKEN_FILE",
)  # fmt: skip
"""Those that each machine has for itself."""


def choose_variables(environment: Mapping[str, str], job_variables: Mapping[str, str]) -> dict[str, str]:
    """Return what of the driver's environment the workers get: how stores are reached, and no secret.

    What the job was given, the `job_variables`, they have. Secrets would be shown among the notes of the cluster.
    """
    return {name: environment[name] for name in _FORWARDED if name in environment and name not in job_variables}


def list_others(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what else matters on workers: credentials and files with certificates, as digests of what they are."""
    names = {name for name in environment if name.startswith(_PREFIXES)} | {*_FILES} & environment.keys()
    names -= {*_FORWARDED, *_RUNTIME_VARIABLES}
    return {name: _digest(name, environment[name]) for name in sorted(names)}


def _digest(name: str, value: str) -> str:
    """Return a digest of a variable, of one that names a file with what that holds."""
    is_file = name in _FILES or name.endswith("_FILE")
    try:
        content = Path(value).read_bytes() if is_file and Path(value).is_file() else b""
    except OSError:
        content = b""
    is_missing = is_file and not Path(value).exists()
    return "" if is_missing else hashlib.sha256(value.encode() + b"\0" + content).hexdigest()


def find_differing(digests: Mapping[str, str]) -> list[str]:
    """Return which variables are others on this machine."""
    own_digests = list_others(os.environ)
    return [name for name, digest in digests.items() if own_digests.get(name) != digest]


def warn_of_variables() -> None:
    """Say, once a node has answered, what of the driver's environment its workers do not have."""
    digests = list_others(os.environ)
    if not digests or not capacity.spans_machines():
        return

    def compare() -> None:
        for _, names in ask_nodes(find_differing, digests):
            if names:
                report(
                    f"warning: {', '.join(names)} of this machine {'is' if len(names) == 1 else 'are'} not what workers"
                    " have: what stores need, give to all nodes, by roles or `ray job submit --runtime-env-json`"
                )
                return

    threading.Thread(target=compare, daemon=True).start()


def announce_stores(*options: Any) -> None:
    """Say once what is not promised where an option of one of these verbs names a place in another store than S3."""
    for value in (getattr(each, field.name) for each in options for field in dataclasses.fields(each)):
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and storage.is_remote(text) and not storage.is_s3(text):
                report(
                    f"{storage.split_uri(text)[0]}:// promises less than S3: two runs into one OUT that begin together"
                    f" are noticed within {lease.REFRESH_SECONDS:g} s, not before; what is read is held against its tag"
                    " afterwards, what is written against its size, neither against a checksum"
                )
                return


def check_places(options: Any) -> None:
    """Raise UserError where an option is a path of this machine that other nodes of the cluster do not see."""
    places = dict(list_places(options))
    if not places or not capacity.spans_machines():
        return
    with marked_folders([uri for name, uri in places.items() if name.lower().lstrip("-") in _MADE]) as markers:
        fingerprints = {uri: markers.get(uri) or describe_place(uri) for uri in places.values()}
        for node, differing in ask_nodes(find_unseen, fingerprints):
            for name, uri in places.items():
                if uri in differing:
                    raise UserError(
                        f"{name} must be an s3:// URI, or lie on a disk that all nodes share, but is {uri}, which node"
                        f" {node} does not have"
                    )


def list_places(options: Any) -> Iterator[tuple[str, str]]:
    """Yield the options, as messages name them, that name local files or folders which workers read or write."""
    for field in dataclasses.fields(options):
        if "positional" not in field.metadata or field.name in _TRAVELLING:
            continue
        is_positional, value = field.metadata["positional"], getattr(options, field.name)
        for text in value if isinstance(value, tuple) else (value,):
            if not isinstance(text, str) or storage.is_remote(text):
                continue
            is_always = is_positional or field.metadata.get("metavar") == "URI"
            is_place = is_always or field.metadata.get("metavar") in _PLACE_METAVARS or "/" in text
            candidates = [text, text.rpartition("=")[0], text.partition(":")[0]]
            if not is_always:
                candidates = [uri for uri in candidates if uri and Path(uri).exists()]
            if not is_place or not candidates or storage.is_remote(candidates[0]):
                continue
            if field.name in _TABLES and Path(candidates[0]).is_file():
                continue
            yield flag(field), storage.absolute(candidates[0])


@contextmanager
def marked_folders(uris: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield files that are there within the block, by the folders to be written that they lie in, or the ones above.

    Whoever sees the file sees the folder.
    """
    markers = {}
    try:
        for uri in uris:
            folder = next(path for path in (Path(uri), *Path(uri).parents) if path.is_dir())
            marker = folder / f".depers-{uuid.uuid4().hex}.partial"
            with suppress(OSError):  # where nothing can be written, the verb says so
                marker.touch(exist_ok=False)
                markers[uri] = str(marker)
        yield markers
    finally:
        for path in markers.values():
            Path(path).unlink(missing_ok=True)


def describe_place(uri: str) -> str:
    """Return what tells a file or a folder from others of the same name; empty where there is none."""
    path = Path(uri)
    try:
        stat = path.stat()
        if path.is_dir():
            content = "\0".join(sorted(entry.name for entry in path.iterdir())[:_NAMES])
        else:
            with path.open("rb") as file:
                content = f"{stat.st_size} {hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()}"
    except OSError:
        return ""
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()


def find_unseen(fingerprints: Mapping[str, str]) -> list[str]:
    """Return the places that are not on this machine what they are on the driver's: described, or with a marker."""
    return [
        uri
        for uri, fingerprint in fingerprints.items()
        if not (Path(fingerprint).exists() if fingerprint.startswith("/") else describe_place(uri) == fingerprint)
    ]


def ask_nodes(function: Callable[[A], T], argument: A) -> Iterator[tuple[str, T]]:
    """Yield what a function says on each other node that can do work, where there is none yet, on the first to come."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own_id = ray.get_runtime_context().get_node_id()
    nodes = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"]
        and node["NodeID"] != own_id
        and node["Resources"].get("CPU", 0) + node["Resources"].get("GPU", 0)
    }
    tasks = {}
    for node, address in nodes.items():
        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        remote = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=strategy)
        tasks[remote.remote(argument)] = address
    if not tasks and not ray.cluster_resources().get("CPU", 0):
        tasks[ray.remote(num_cpus=1)(function).remote(argument)] = "that came first"
    for task, address in tasks.items():
        try:
            answer: T = ray.get(task)
        except ray.exceptions.RayError:  # the node is gone
            continue
        yield address, answer
