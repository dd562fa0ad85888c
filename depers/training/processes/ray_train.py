"""Training on a Ray cluster: the workers of Ray Train, and the actor through which people follow them."""

import math
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from depers import storage
from depers.errors import as_user_error, describe
from depers.runtime import progress
from depers.runtime.telemetry import ray_metrics
from depers.training.callbacks import TrainingCallback, format_epoch
from depers.training.processes.outputs import read_progress

if TYPE_CHECKING:
    from depers.training.options import Options

_POLL_S = 0.5  # seconds between looks at the actor


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

    def on_message(self, text: str) -> None:
        """Take a line."""
        self._messages.append(text)

    def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
        """Take the progress within an epoch."""
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


def fit(options: "Options", datasets: Sequence[tuple[str, float]], use_gpu: bool, cpus_per_worker: int) -> None:
    """Train on the cluster, with `use_gpu` one GPU per worker. Raises UserError for what is wrong.

    A worker that dies is replaced, and training goes on from what was written last. Failures count until there is
    progress again.
    """
    import ray

    # Restarted where it dies: what it held is lost, and the training does not depend on it.
    actor = ray.remote(ProgressActor).options(num_cpus=0, max_restarts=-1).remote()
    failures = 0
    with ProgressPrinter(actor, options.epochs):
        while True:
            progress_before = read_progress(options.out)
            try:
                _fit_once(options, datasets, use_gpu, cpus_per_worker, actor)
                break
            except Exception as error:
                if (cause := as_user_error(error)) is not None:
                    raise cause from None
                failures = failures + 1 if read_progress(options.out) == progress_before else 1
                if 0 <= options.max_failures < failures:
                    raise
                progress.report(f"workers died ({describe(error)}): going on from what was written last")
    with suppress(ray.exceptions.RayError):
        ray.kill(actor)


def _fit_once(
    options: "Options", datasets: Sequence[tuple[str, float]], use_gpu: bool, cpus_per_worker: int, actor: Any
) -> None:
    """Train until all is done or a worker fails."""
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchConfig, TorchTrainer

    name = uuid.uuid4().hex[:12]
    # Ray keeps its own notes in a place that all nodes see; what we resume from is our own.
    single_node = sum(node["Alive"] for node in ray.nodes()) == 1
    with tempfile.TemporaryDirectory(prefix="depers-ray-train-") as folder:
        filesystem, path = None, folder
        if not single_node:
            filesystem, path = storage.arrow_filesystem(storage.join(options.out, "state/ray"))
        trainer = TorchTrainer(
            _train_as_worker,
            train_loop_config={
                "options": asdict(options),
                "datasets": datasets,
                "actor": actor,
                "threads": cpus_per_worker,
                "name": name,
            },
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            scaling_config=ray_train.ScalingConfig(
                num_workers=options.train_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus_per_worker, "GPU": int(use_gpu)},
            ),
            run_config=ray_train.RunConfig(
                name=name,
                storage_filesystem=filesystem,
                storage_path=path,
                failure_config=ray_train.FailureConfig(max_failures=0),
            ),
        )
        trainer.fit()


def _train_as_worker(config: dict[str, Any]) -> None:
    """Be one worker of Ray Train: join its group, bring the data, and run the loop from where it stopped."""
    from ray import train as ray_train
    from ray.train.torch import get_device

    from depers.training.options import Options
    from depers.training.processes.process_group import ProcessGroup
    from depers.training.processes.worker import work

    context = ray_train.get_context()
    group = ProcessGroup(
        context.get_world_rank(),
        context.get_world_size(),
        str(get_device()),
        config["threads"],
        context.get_local_rank(),
        context.get_local_world_size(),
    )
    work(Options(**config["options"]), config["datasets"], group, ActorCallback(config["actor"]), config["name"])
