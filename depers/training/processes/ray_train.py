"""Training on a Ray cluster: the workers of Ray Train, and the actor through which people follow them."""

import math
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from depers import storage
from depers.errors import UserError, as_user_error, describe
from depers.runtime import capacity, progress
from depers.runtime.telemetry import ray_metrics
from depers.training.callbacks import TrainingCallback, format_epoch
from depers.training.processes.job_files import pack_files, unpacked_files
from depers.training.processes.notices import Notice, NoticeBoard, SpotInstance, set_interface
from depers.training.processes.outputs import REPORT, read_progress

if TYPE_CHECKING:
    from depers.training.options import Options

_POLL_S = 0.5  # seconds between looks at the actor
_ROOM_SECONDS = 15.0  # between two looks whether there is room for more workers
_SPOT_SECONDS = 120.0  # between the notice of an instance's end and the end


class EpochProgress(NamedTuple):
    """How far an epoch is: `batch` of `batch_count`, and the means of its losses so far, if known."""

    epoch: int
    batch: int
    batch_count: int
    losses: Sequence[float]


class ProgressActor(TrainingCallback):
    """An actor that holds what the workers have to say until the driver asks for it."""

    def __init__(self) -> None:
        self._messages: list[str] = []
        self._progress: EpochProgress | None = None
        self._must_stop = self._is_training = False

    def begin(self) -> None:
        """Know that workers have been asked for, which do not train yet, and are not to stop."""
        self._must_stop = self._is_training = False

    def is_training(self) -> bool:
        """Return whether workers train."""
        return self._is_training

    def ask_to_stop(self) -> None:
        """Have the workers write their state and end, since there is room for more of them."""
        self._must_stop = True

    def is_to_stop(self) -> bool:
        """Return whether they are to."""
        return self._must_stop

    def on_message(self, text: str) -> None:
        """Take a line."""
        self._messages.append(text)

    def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
        """Take the progress within an epoch."""
        self._is_training = True
        self._progress = EpochProgress(epoch, batch, batch_count, losses)

    def on_epoch_end(self, row: Mapping[str, float]) -> None:
        """Take the row of an epoch that is done."""
        self._messages.append(format_epoch(row))

    def take_messages(self) -> tuple[list[str], EpochProgress | None]:
        """Return the lines since the last call, and the newest progress."""
        messages, self._messages = self._messages, []
        return messages, self._progress


class ActorCallback(TrainingCallback):
    """Passes on to a `ProgressActor` what the loop says; what does not arrive is not missed."""

    def __init__(self, actor: Any) -> None:
        self._actor, self._last = actor, -math.inf

    def on_message(self, text: str) -> None:
        """Pass on a line."""
        self._actor.on_message.remote(text)

    def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
        """Pass on the progress within an epoch, not more often than it is asked for."""
        if batch == batch_count or time.monotonic() - self._last > _POLL_S:
            self._last = time.monotonic()
            self._actor.on_batch_end.remote(epoch, batch, batch_count, losses)

    def on_epoch_end(self, row: Mapping[str, float]) -> None:
        """Pass on the row of an epoch."""
        self._actor.on_epoch_end.remote(row)


class ProgressPrinter:
    """Shows what a `ProgressActor` holds, and on a terminal a bar for the epoch that runs, while its block runs."""

    def __init__(self, actor: Any, epochs: int) -> None:
        self._actor, self._epochs = actor, epochs
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._bar: Any = None

    def __enter__(self) -> None:
        if sys.stderr.isatty():  # in a log, bars of hours are noise
            bar_format = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
            self._bar = progress.open_bar(0, leave=False, bar_format=bar_format)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._show()
        if self._bar:
            self._bar.close()

    def _follow(self) -> None:
        while not self._end.wait(_POLL_S):
            self._show()

    def _show(self) -> None:
        import ray

        with suppress(ray.exceptions.RayError):  # the actor's node is gone, or Ray is: the training tells
            messages, epoch = ray.get(self._actor.take_messages.remote(), timeout=10)
            for message in messages:
                if self._bar:
                    self._bar.clear()
                progress.report(message)
            if epoch:
                ray_metrics.note_waiting(self._epochs - epoch.epoch + 1)
            if epoch and self._bar:
                names = ("box", "obj", "cls")
                losses = "".join(
                    f"  {name} {loss:.3f}" for name, loss in zip(names, epoch.losses, strict=False)
                )  # on a GPU they are not known
                self._bar.total, self._bar.n = epoch.batch_count, epoch.batch
                self._bar.set_description_str(f"epoch {epoch.epoch}/{self._epochs}{losses}")


class Workers(NamedTuple):
    """A group of workers: how many, and the CPUs and GPUs of each."""

    size: int
    cpus: int
    gpus: int

    @property
    def bundle(self) -> dict[str, float]:
        """Return the resources of one of them."""
        return {name: count for name, count in (("CPU", self.cpus), ("GPU", self.gpus)) if count}

    def describe(self) -> str:
        """Return them as text."""
        parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in self.bundle.items()]
        return f"{self.size} training worker{'' if self.size == 1 else 's'} of {' and '.join(parts)}"


def fit(options: "Options", datasets: Sequence[tuple[str, float]], use_gpu: bool) -> None:
    """Train on the cluster, with `use_gpu` one GPU per worker. Raises UserError for what is wrong.

    A worker that dies is replaced, where its node is gone on another one, and training goes on from what was written
    last. Failures count until there is progress again.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Restarted where it dies: what it held is lost, and the training does not depend on it.
    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    settings = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": place}
    actor = ray.remote(ProgressActor).options(**settings).remote()
    failures = 0
    with ProgressPrinter(actor, options.epochs):
        while read_progress(options.out).finished_epochs != options.epochs or not _has_report(options):
            progress_before = read_progress(options.out)
            try:
                workers = find_workers(options, int(use_gpu))
                with _room_watched(options, workers, actor):
                    _fit_once(options, datasets, workers, actor)
            except Exception as error:
                if (cause := as_user_error(error)) is not None:
                    raise cause from None
                failures = failures + 1 if read_progress(options.out) == progress_before else 1
                if 0 <= options.max_failures < failures:
                    raise
                progress.report(f"workers died ({describe(error)}): going on from what was written last")
            else:
                # Workers that were told to stop end before all is done. What they wrote says it: the board may be dead.
                if read_progress(options.out).finished_epochs == options.epochs:
                    break
    with suppress(ray.exceptions.RayError):
        ray.kill(actor)


def _has_report(options: "Options") -> bool:
    return storage.exists(storage.join(options.out, REPORT))


def find_workers(options: "Options", gpus: int) -> Workers:
    """Return the workers to train with: as many as the cluster holds now, between the least and --train-workers.

    Where it does not hold the least yet, wait for them, and say so. Raise UserError where no nodes ever hold them.
    """
    counts = list_counts(options)
    while True:
        nodes = capacity.measure()
        for is_potential in (False, True):
            for count in counts[-1:] if is_potential else counts:
                if (cpus := nodes.share_cpus(count, gpus, is_potential)) is None:
                    continue
                workers = Workers(count, cpus, gpus)
                is_last = count == counts[-1]
                seconds = None if is_last else capacity.PATIENCE_SECONDS
                if capacity.wait_for([workers.bundle] * count, workers.describe(), nodes, seconds):
                    return workers
        if not nodes.is_open:
            maximum = nodes.count_workers(0 if gpus else 1, gpus, is_potential=True)
            on = "a GPU each" if gpus else "a CPU each"
            name = "--train-workers" if options.least_train_workers is None else "--least-train-workers"
            raise UserError(
                f"{name} must be at most {maximum}, which get {on} of {nodes.describe()}, but is {counts[-1]}"
            )
        # Nobody knows what will come: the smallest will do, to see the others.
        smallest = Workers(counts[-1], 0 if gpus else 1, gpus)
        capacity.wait_for([smallest.bundle] * smallest.size, smallest.describe(), nodes)


def list_counts(options: "Options") -> list[int]:
    """Return how many workers there may be, the most first: each has as many images of a batch as the others."""
    least = options.least_train_workers or options.train_workers
    return [count for count in range(options.train_workers, least - 1, -1) if options.batch_size % count == 0]


@contextmanager
def _room_watched(options: "Options", workers: Workers, actor: Any) -> Iterator[None]:
    """Within the block ask for the next larger group of workers, and have this one stop where there is room for it.

    Not before it trains: what is asked for might take the place that its own workers are about to get.
    """
    import ray

    larger = [count for count in list_counts(options) if count > workers.size]
    end = threading.Event()

    def watch() -> None:
        group = None
        try:
            while not end.wait(_ROOM_SECONDS):
                with suppress(ray.exceptions.RayError):  # of an actor that is just being restarted
                    if group is None and ray.get(actor.is_training.remote()):
                        bundles = [workers.bundle] * (larger[-1] - workers.size)
                        group = ray.util.placement_group(bundles, strategy="PACK")
                    if group is not None and group.wait(1):  # whole seconds: of less, Ray waits for none
                        actor.ask_to_stop.remote()
                        return
        finally:
            if group is not None:
                ray.util.remove_placement_group(group)

    actor.begin.remote()
    thread = threading.Thread(target=watch, daemon=True)
    if larger:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if larger:
            thread.join()


def _fit_once(options: "Options", datasets: Sequence[tuple[str, float]], workers: Workers, actor: Any) -> None:
    """Train until all is done or a worker fails."""
    from ray import train as ray_train
    from ray.train.torch import TorchTrainer

    name = uuid.uuid4().hex[:12]
    # Ray keeps its own notes in a place that all nodes see; what we resume from is our own.
    is_spread = capacity.spans_machines()
    with tempfile.TemporaryDirectory(prefix="depers-ray-train-") as folder:
        filesystem, path = None, folder
        if is_spread:
            filesystem, path = storage.arrow_filesystem(storage.join(options.out, "state/ray"))
        trainer = TorchTrainer(
            _train_as_worker,
            train_loop_config={
                "options": asdict(options),
                "files": pack_files(options) if is_spread else {},
                "datasets": datasets,
                "actor": actor,
                "threads": max(1, workers.cpus),
                "name": name,
            },
            torch_config=_make_torch_config("nccl" if workers.gpus else "gloo", options.interface),
            scaling_config=ray_train.ScalingConfig(
                num_workers=workers.size,
                use_gpu=bool(workers.gpus),
                resources_per_worker={"CPU": workers.cpus, "GPU": workers.gpus},
            ),
            run_config=ray_train.RunConfig(
                name=name,
                storage_filesystem=filesystem,
                storage_path=path,
                failure_config=ray_train.FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        trainer.fit()


def _make_torch_config(backend: str, interface: str | None) -> Any:
    """Return how Ray joins the workers to a group: over the interface that holds each node's address in the cluster."""
    import ray
    from ray.train.torch import TorchConfig
    from ray.train.torch.config import _TorchBackend

    def choose_interface() -> None:
        set_interface(interface, ray.util.get_node_ip_address())

    class Backend(_TorchBackend):  # type: ignore[misc]
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            worker_group.execute(choose_interface)
            super().on_start(worker_group, backend_config)

    class Config(TorchConfig):  # type: ignore[misc]
        @property
        def backend_cls(self) -> type[Backend]:
            return Backend

    return Config(backend=backend)


def _train_as_worker(config: dict[str, Any]) -> None:
    """Be one worker of Ray Train: join its group, bring the data, and run the loop from where it stopped."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import get_device

    from depers.training.options import Options
    from depers.training.processes.process_group import ProcessGroup
    from depers.training.processes.worker import work

    context = ray_train.get_context()
    group = ProcessGroup(context.get_world_rank(), context.get_world_size(), str(get_device()), config["threads"])
    node = ray.get_runtime_context().get_node_id()
    nodes = group.gather(node)  # Ray Train counts by address, which nodes may have in common
    group = group._replace(local_rank=nodes[: group.rank].count(node), local_world_size=nodes.count(node))
    actor, callback = config["actor"], ActorCallback(config["actor"])
    notices = NoticeBoard(_list_sources(actor if group.rank == 0 else None))
    name = f"{config['name']}-{node}"  # nodes may share a disk
    with unpacked_files(Options(**config["options"]), config["files"]) as options:
        try:
            work(options, config["datasets"], group, callback, name, notices)
        finally:
            notices.close()


def _list_sources(actor: Any) -> list[Callable[[], Notice]]:
    """Return what a worker listens to: whether its node leaves, and, with the `actor`, whether it is to stop."""
    import ray
    from ray._private.state import state
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    context = ray.get_runtime_context()
    node, instance = context.get_node_id(), SpotInstance()

    def ask_instance() -> Notice:
        if not instance.is_leaving():
            return Notice.NONE
        # Ray does not ask EC2: it hears it from here, and brings nothing new to the node.
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + _SPOT_SECONDS) * 1000)
        with suppress(Exception):
            GcsClient(address=context.gcs_address).drain_node(node, reason, "spot instance", deadline)
        return Notice.SAVE

    def ask_ray() -> Notice:
        return Notice.SAVE if node in state.get_draining_nodes() else Notice.NONE

    def ask_driver() -> Notice:
        return Notice.STOP if ray.get(actor.is_to_stop.remote(), timeout=10) else Notice.NONE

    return [ask_instance, ask_ray, *([ask_driver] if actor is not None else [])]
