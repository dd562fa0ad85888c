"""Training on a Ray cluster: the workers of Ray Train, and the actor through which people follow them."""

import math
import sys
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from depers import storage
from depers.errors import UserError

if TYPE_CHECKING:
    from depers.training.options import Options

_POLL_S = 0.5  # seconds between looks at the board


class Board:
    """An actor that holds what the workers have to say until the driver asks for it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._progress: tuple[int, int, int, Sequence[float]] | None = None
        self._wrong: str | None = None

    def say(self, line: str) -> None:
        """Takes a line."""
        self._lines.append(line)

    def batch(self, epoch: int, number: int, count: int, losses: Sequence[float]) -> None:
        """Takes the progress within an epoch."""
        self._progress = (epoch, number, count, losses)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Takes the row of an epoch that is done."""
        self._lines.append(row_text(row))

    def fail(self, wrong: str) -> None:
        """Takes what the user can put right; the workers end."""
        self._wrong = wrong

    def wrong(self) -> str | None:
        """What `fail` was told, if anything."""
        return self._wrong

    def news(self) -> tuple[list[str], tuple[int, int, int, Sequence[float]] | None]:
        """The lines since the last call, and the newest progress."""
        lines, self._lines = self._lines, []
        return lines, self._progress


def row_text(row: Mapping[str, float]) -> str:
    """The line of an epoch."""
    return (
        f"epoch {row['epoch']:3.0f}  box {row['box']:.4f}  obj {row['obj']:.4f}  cls {row['cls']:.4f}"
        f"  P {row['precision']:.3f}  R {row['recall']:.3f}"
        f"  mAP@.5 {row['map50']:.3f}  mAP@.5:.95 {row['map50_95']:.3f}"
        f"  {row['images_per_s']:.1f} images/s  {row['seconds']:.0f} s"
    )


class Follower:
    """Prints what the workers say, on stdout, and a progress bar for the epoch that runs, on a terminal's stderr."""

    def __init__(self, board: Any, epochs: int) -> None:
        self._board, self._epochs = board, epochs
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._bar: Any = None

    def __enter__(self) -> None:
        from tqdm import tqdm

        bar = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
        self._bar = tqdm(total=0, leave=False, bar_format=bar, disable=not sys.stderr.isatty())
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        self._bar.close()

    def _follow(self) -> None:
        while not self._done.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        import ray

        with suppress(ray.exceptions.RayError):  # the board's node is gone, or Ray is: the training tells
            lines, progress = ray.get(self._board.news.remote(), timeout=10)
            for line in lines:
                self._bar.clear()
                print(line, flush=True)
            if progress:
                epoch, number, count, losses = progress
                named = "".join(
                    f"  {name} {loss:.3f}" for name, loss in zip(("box", "obj", "cls"), losses, strict=False)
                )
                self._bar.total, self._bar.n = count, number
                self._bar.set_description_str(f"epoch {epoch}/{self._epochs}{named}")


def fit(options: "Options", datasets: Sequence[tuple[str, float]], gpus: bool, each: int) -> None:
    """Trains on the cluster: `each` CPUs, and with `gpus` one GPU, per worker. Raises UserError for what is wrong.

    A worker that dies is replaced, and training goes on from what was written last.
    """
    import ray
    from ray import train as ray_train
    from ray.train.torch import TorchConfig, TorchTrainer

    board = ray.remote(Board).options(num_cpus=0).remote()
    name = uuid.uuid4().hex[:12]
    # Ray keeps its own notes in a place that all nodes see; what we resume from is our own.
    alone = sum(node["Alive"] for node in ray.nodes()) == 1
    with tempfile.TemporaryDirectory(prefix="depers-ray-train-") as folder:
        filesystem, path = (None, folder) if alone else storage.arrow_filesystem(storage.join(options.out, "state/ray"))
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "options": asdict(options),
                "datasets": datasets,
                "board": board,
                "threads": each,
                "name": name,
            },
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ray_train.ScalingConfig(
                num_workers=options.workers, use_gpu=gpus, resources_per_worker={"CPU": each, "GPU": int(gpus)}
            ),
            run_config=ray_train.RunConfig(
                name=name,
                storage_filesystem=filesystem,
                storage_path=path,
                failure_config=ray_train.FailureConfig(max_failures=options.max_failures),
            ),
        )
        with Follower(board, options.epochs):
            trainer.fit()
    wrong = ray.get(board.wrong.remote())
    ray.kill(board)
    if wrong is not None:
        raise UserError(wrong)


def _work(config: dict[str, Any]) -> None:
    """One worker of Ray Train: finds its place, brings the data, and runs the loop from where it was left.

    What the user can put right goes to the board: raised, Ray would start all over.
    """
    import ray
    from ray import train as ray_train
    from ray.train.torch import get_device

    from depers.resources import GIB
    from depers.storage.cache import DatasetCache
    from depers.training import checkpoints, loop
    from depers.training import data as training_data
    from depers.training.options import Options
    from depers.training.process_group import Place

    context = ray_train.get_context()
    options = Options(**config["options"])
    place = Place(
        context.get_world_rank(),
        context.get_world_size(),
        str(get_device()),
        config["threads"],
        context.get_local_rank(),
        context.get_local_world_size(),
    )
    (first, weight), *more = config["datasets"]
    cache = DatasetCache(options.cache_folder, options.cache_limit * GIB)
    writer = checkpoints.Writer(options.out) if place.rank == 0 else None
    problem: UserError | None = None
    try:
        try:
            data = training_data.read_splits(first, more, weight, cache.fetch)
        except UserError as error:
            problem = error
        place.agree(problem)
        disk = storage.join(options.cache_folder, "images", config["name"])
        state = place.gather(checkpoints.read_state(options.out) if place.rank == 0 else None)[0]
        loop.train(options, data, place, state, writer, _Told(config["board"]), disk)
        try:
            if writer:
                writer.close()
        except UserError as error:
            problem = error
        place.agree(problem)
    except UserError as error:
        ray.get(config["board"].fail.remote(str(error)))
    finally:
        if writer:
            with suppress(UserError):  # the last epoch's state must not be lost with an error
                writer.close()
        cache.close()


class _Told:
    """A `Watch` that tells the board; what does not arrive is not missed."""

    def __init__(self, board: Any) -> None:
        self._board, self._last = board, -math.inf

    def say(self, line: str) -> None:
        self._board.say.remote(line)

    def batch(self, epoch: int, number: int, count: int, losses: Sequence[float]) -> None:
        import time

        if number == count or time.monotonic() - self._last > _POLL_S:
            self._last = time.monotonic()
            self._board.batch.remote(epoch, number, count, losses)

    def epoch(self, row: Mapping[str, float]) -> None:
        self._board.epoch.remote(row)
