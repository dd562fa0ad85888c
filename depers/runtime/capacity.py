"""What a Ray cluster has, and what its autoscaler may add: on which device a job computes, and what it waits for."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from depers import yaml_files
from depers.errors import UserError
from depers.runtime.progress import report

PATIENCE_SECONDS = 15.0
"""After which it is said what is waited for."""
GPU_SECONDS = 600.0
"""For which `--device auto` waits for GPUs that the cluster may have: about twice what an instance takes to start."""
_POLL_SECONDS = 1.0
_ANSWER_SECONDS = 10.0
_HEAD = "node:__internal_head__"  # a resource of the head alone
_MANY = 2**30  # nodes, where a configuration has no bound
_KUBERAY = "RAY_CLUSTER_NAME"  # in the containers of KubeRay, whose autoscaler runs in one of its own


class NodeKind(NamedTuple):
    """Nodes with the same CPUs and GPUs: how many there are, and how many there may be."""

    cpus: int
    gpus: int
    present: int
    limit: int

    def fits(self, cpus: float, gpus: float) -> int:
        """Return how many workers with so many CPUs and GPUs each one such node can hold."""
        counts = [int(have // need) for have, need in ((self.cpus, cpus), (self.gpus, gpus)) if need]
        return min(counts) if counts else 1


class Capacity(NamedTuple):
    """The nodes that can do work. `is_open` says that others may come, of which nothing is known."""

    kinds: tuple[NodeKind, ...]
    is_open: bool = False

    def total(self, name: str, is_potential: bool = False) -> int:
        """Return how many `cpus` or `gpus` there are, or, `is_potential`, how many there may be."""
        return sum(getattr(kind, name) * (kind.limit if is_potential else kind.present) for kind in self.kinds)

    def count_workers(self, cpus: float, gpus: float, is_potential: bool = False) -> int:
        """Return how many workers with so many CPUs and GPUs each the nodes hold, or, `is_potential`, may hold."""
        return sum(kind.fits(cpus, gpus) * (kind.limit if is_potential else kind.present) for kind in self.kinds)

    def share_cpus(self, workers: int, gpus: int, is_potential: bool = False) -> int | None:
        """Return the CPUs that each of several workers with so many `gpus` can have, as many as possible.

        None where the nodes, or, `is_potential`, those that there may be, cannot hold them: each lies on one node.
        """
        shares = {kind.cpus // number for kind in self.kinds for number in range(1, workers + 1)} | (
            {0} if gpus else set()
        )
        candidates = [
            cpus for cpus in shares if (cpus or gpus) and self.count_workers(cpus, gpus, is_potential) >= workers
        ]
        return max(candidates, default=None)

    def cpus_per_gpu(self) -> int:
        """Return how many CPUs a node has for each of its GPUs, at least one: where nodes differ, the fewest."""
        shares = [kind.cpus // kind.gpus for kind in self.kinds if kind.gpus and kind.limit]
        return max(1, min(shares, default=1))

    def describe(self) -> str:
        """Return the nodes as text: `2 of at most 20 nodes with 16 CPUs, at most 4 with 16 CPUs and 1 GPU`."""
        texts = []
        for kind in self.kinds:
            gpus = f" and {kind.gpus} GPU{'s' if kind.gpus > 1 else ''}" if kind.gpus else ""
            count = str(kind.present) if kind.limit == kind.present else f"{kind.present} of at most {kind.limit}"
            count = f"{kind.present} of any number of" if kind.limit >= _MANY else count
            texts.append(f"{count} nodes with {kind.cpus} CPUs{gpus}")
        return ", ".join(texts) or "no node that can do work"


def measure() -> Capacity:
    """Return what the cluster has now and may have: as its autoscaler's configuration says, where there is one."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return merge_kinds([node["Resources"] for node in nodes], _read_node_types(nodes))


def merge_kinds(nodes: Sequence[Mapping[str, float]], config: Mapping[str, Any] | None) -> Capacity:
    """Return the capacity of nodes with these resources, and of an autoscaler with this configuration.

    None is no autoscaler, an empty configuration one of which nothing is known. Where there is no autoscaler, and no
    node that can do work, one is expected to join.
    """
    counts = Counter(_size(resources) for resources in nodes if any(_size(resources)))
    types = dict((config or {}).get("available_node_types") or {})
    has_types = bool(types)
    head = types.pop((config or {}).get("head_node_type") or "", None)
    bound = (config or {}).get("max_workers")
    limits = Counter({_size(head.get("resources") or {}): 1} if head else {})
    for node_type in types.values():
        numbers = [int(number) for number in (node_type.get("max_workers"), bound) if number is not None]
        limits[_size(node_type.get("resources") or {})] += min(numbers, default=_MANY)
    sizes = sorted(size for size in counts | limits if any(size))
    kinds = tuple(NodeKind(*size, counts[size], max(counts[size], limits[size])) for size in sizes)
    return Capacity(kinds, not has_types and (config is not None or not kinds))


def _size(resources: Mapping[str, float]) -> tuple[int, int]:
    """Return the whole CPUs and GPUs of a node."""
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def _read_node_types(nodes: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the configuration of the autoscaler: None where there is none, empty where it cannot be read.

    It lies on the head, and only the process that scales knows where: its command line says it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    heads = [node["NodeID"] for node in nodes if _HEAD in node["Resources"]]
    context = ray.get_runtime_context()
    if not heads or heads[0] == context.get_node_id():
        return find_autoscaler(context.gcs_address)
    strategy = NodeAffinitySchedulingStrategy(heads[0], soft=False)
    task = ray.remote(num_cpus=0, max_retries=0)(find_autoscaler).options(scheduling_strategy=strategy)
    try:
        config: Mapping[str, Any] | None = ray.get(task.remote(context.gcs_address), timeout=60)
    except ray.exceptions.RayError:
        return {}
    return config


def find_autoscaler(gcs_address: str, processes: Path = Path("/proc")) -> dict[str, Any] | None:
    """Return the configuration of the autoscaler that this machine runs for the cluster at an address.

    None where there is none, empty where it runs elsewhere (in Kubernetes, beside the head) or cannot be read.
    """
    for path in processes.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended, or is another user's
            continue
        flags = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
        is_scaler = any(word.endswith("/monitor.py") for word in words)
        if not is_scaler or flags.get("--gcs-address") != gcs_address:
            continue
        if not (file := flags.get("--autoscaling-config")):
            return None
        try:
            config = yaml_files.parse_yaml(file, Path(file).expanduser().read_bytes())
        except (OSError, UserError):
            return {}
        return config if isinstance(config, dict) else {}
    return {} if os.environ.get(_KUBERAY) else None


def spans_machines() -> bool:
    """Return whether the work runs, or may run, on other machines than the driver's: not on a local Ray."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    own_id = ray.get_runtime_context().get_node_id()
    is_here = [node["NodeID"] == own_id and any(_size(node["Resources"])) for node in nodes]
    return not all(is_here) or _read_node_types(nodes) is not None


def count_cpus() -> int:
    """Return the CPUs of the cluster now, at least one."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def choose_device(device: str, gpus: int = 1) -> str:
    """Return the device, cpu or cuda, that `--device` means on this cluster for work that needs this many `gpus`.

    GPUs that the cluster may have are waited for: with `auto` for ten minutes, with `cuda` for as long as it takes.
    Raise UserError where there can never be enough for `cuda`.
    """
    if device == "cpu":
        return device
    capacity = measure()
    if capacity.count_workers(0, 1) >= gpus:
        return "cuda"
    requirement = "a GPU" if gpus == 1 else f"{gpus} GPUs"
    is_possible = capacity.count_workers(0, 1, is_potential=True) >= gpus
    if device == "cuda":
        if not is_possible and not capacity.is_open:
            count = capacity.total("gpus", is_potential=True)
            raise UserError(f"--device cuda needs {requirement}, but this Ray cluster has {count or 'none'}")
        wait_for([{"GPU": 1}] * gpus, requirement, capacity)
        return device
    if not is_possible:
        return "cpu"
    report(
        f"--device auto: waits up to {GPU_SECONDS / 60:.0f} minutes for {requirement}, which the cluster may start"
        " (--device cpu does not)"
    )
    if wait_for([{"GPU": 1}] * gpus, requirement, capacity, GPU_SECONDS):
        return "cuda"
    report(f"--device auto: {requirement} did not come within {GPU_SECONDS / 60:.0f} minutes: goes on with CPUs")
    return "cpu"


def wait_for(
    bundles: Sequence[Mapping[str, float]], purpose: str, capacity: Capacity, seconds: float | None = None
) -> bool:
    """Have the cluster hold these resources at the same time, each bundle on one node; return whether it does.

    The autoscaler starts nodes for them. After a while it is said that they are waited for; `seconds` is when to give
    up (default: never).
    """
    import ray

    group = ray.util.placement_group([dict(bundle) for bundle in bundles], strategy="PACK")
    try:
        if group.wait(min(PATIENCE_SECONDS, PATIENCE_SECONDS if seconds is None else seconds)):
            return True
        free = ray.available_resources()
        numbers = f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free"
        report(f"waiting for {purpose}: the cluster has {capacity.describe()}; {numbers}")
        waited = PATIENCE_SECONDS
        while seconds is None or waited < seconds:
            if group.wait(_POLL_SECONDS):
                return True
            waited += _POLL_SECONDS
        return False
    finally:
        ray.util.remove_placement_group(group)


@contextmanager
def announced_wait() -> Iterator[None]:
    """Say within the block, after a while, that the cluster has no CPU yet, and what may come."""
    import ray

    end = threading.Event()

    def announce() -> None:
        if not end.wait(PATIENCE_SECONDS) and ray.cluster_resources().get("CPU", 0) < 1:
            report(f"waiting for a node with CPUs: the cluster has {measure().describe()}")

    thread = threading.Thread(target=announce, daemon=True)
    if ray.cluster_resources().get("CPU", 0) < 1:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if thread.is_alive():
            thread.join(_POLL_SECONDS)


@contextmanager
def followed_nodes() -> Iterator[None]:
    """Tell Ray Data within the block of nodes that come and go, which by itself it looks at three times a minute."""
    import ray

    end = threading.Event()

    def look() -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def follow(node_ids: set[str]) -> None:
        while not end.wait(_POLL_SECONDS):
            with suppress(ray.exceptions.RayError, ValueError):  # there is no such actor yet, or Ray has ended
                if (new_ids := look()) != node_ids:
                    coordinator = ray.get_actor("AutoscalingCoordinator", namespace="AutoscalingCoordinator")
                    ray.get(coordinator.get_reserved_resources.remote("", recompute=True), timeout=_ANSWER_SECONDS)
                    node_ids = new_ids

    thread = threading.Thread(target=follow, args=(look(),), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
