"""Two processes that share a batch do what one does with all of it."""

import itertools
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_sets import write_dataset

from depers.detection import yolo
from depers.training.batches import Batches, Planned
from depers.training.checkpoints import Writer, read_state
from depers.training.data import read_splits
from depers.training.loop import train
from depers.training.loss import Loss
from depers.training.options import Options
from depers.training.process_group import Place, synchronize

NAMES = ["car", "head", "face"]
SPLIT = 3  # of eight images, the first worker has three


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def join(rank: int, port: int) -> Place:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    return Place(rank, 2, threads=1, local_rank=rank, local_world=2)


def gradients(place: Place) -> dict[str, torch.Tensor]:
    """Gradients and running statistics of a step on the place's part of eight images, in float64."""
    torch.manual_seed(0)
    model = yolo.build("yolov5n", NAMES).double()
    model.hyp = yolo.hyperparameters() | {"label_smoothing": 0.0}  # type: ignore[assignment]
    rng = np.random.default_rng(0)
    targets = np.column_stack(
        [
            rng.integers(0, 8, 40),
            rng.integers(0, 3, 40),
            rng.uniform(0.1, 0.9, (40, 2)),
            rng.uniform(0.05, 0.4, (40, 2)),
        ]
    )
    images = torch.from_numpy(rng.random((8, 3, 96, 64)))
    own = slice(0, 8) if place.world == 1 else slice(0, SPLIT) if place.rank == 0 else slice(SPLIT, 8)
    targets = targets[(targets[:, 0] >= own.start) & (targets[:, 0] < own.stop)] - [own.start, 0, 0, 0, 0, 0]
    trained: torch.nn.Module = model
    if place.world > 1:
        synchronize(model)
        trained = torch.nn.parallel.DistributedDataParallel(model)
    loss = Loss(model, NAMES, place.total if place.world > 1 else None)(
        trained(images[own]), torch.from_numpy(targets)
    )[0]
    (loss * place.world).backward()  # type: ignore[no-untyped-call]
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return found | {name: buffer for name, buffer in model.named_buffers() if "running" in name}  # type: ignore[return-value]


def give_gradients(rank: int, port: int, file: str) -> None:
    found = gradients(join(rank, port))
    if rank == 0:
        torch.save(found, file)
    torch.distributed.destroy_process_group()


def test_gradients_of_two_workers_are_those_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(give_gradients, (free_port(), str(tmp_path / "two.pt")), nprocs=2)
    one, two = gradients(Place()), torch.load(tmp_path / "two.pt")
    assert len(one) == len(two) > 280
    for name, wanted in one.items():
        torch.testing.assert_close(two[name], wanted, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def options(root: Path, out: Path, **values: object) -> Options:
    given = {"imgsz": 96, "epochs": 1, "steps": 2, "batch_size": 8, "precision": "float32", "device": "cpu"}
    return Options(str(root), str(out), **given | values)  # type: ignore[arg-type]


def work(rank: int, port: int, wanted: Options, disk: str) -> None:
    """One of two processes that train together."""
    place = join(rank, port)
    writer = Writer(wanted.out) if rank == 0 else None
    train(wanted, read_splits(wanted.dataset), place, None, writer, disk=disk)
    if writer:
        writer.close()
    torch.distributed.destroy_process_group()


def note_plans(rank: int, port: int, wanted: Options, notes: str) -> None:
    """Trains as `work` does, and writes down the images of every batch that this process plans."""
    plans: list[list[int]] = []
    plan = Batches.plan

    def noting(self: Batches, *arguments: Any) -> list[Planned]:
        planned = plan(self, *arguments)
        plans.append([one.indices[0] for one in planned])
        return planned

    Batches.plan = noting  # type: ignore[method-assign]
    work(rank, port, wanted, "")
    Path(f"{notes}{rank}").write_text(json.dumps(plans))


def test_all_workers_draw_the_same_images_by_their_weights(tmp_path: Path) -> None:
    """From the first pass on: of which one worker alone makes an image of a batch, before the training begins."""
    root, notes = write_dataset(tmp_path / "data", count=12), str(tmp_path / "plans")
    wanted = options(root, tmp_path / "out", imgsz=64, batch_size=4, workers=2, image_weights=True, epochs=1, steps=6)
    torch.multiprocessing.spawn(note_plans, (free_port(), wanted, notes), nprocs=2)
    first, second = (json.loads(Path(f"{notes}{rank}").read_text()) for rank in (0, 1))
    assert first == second and len(first) >= 6
    assert sorted(itertools.chain.from_iterable(first[-6:-3])) != list(range(12))  # by weights, with replacement


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    root, disk = write_dataset(tmp_path / "data", count=13), str(tmp_path / "decoded")  # an odd batch is among them
    how = {"nominal_batch": 16, "cache": "disk", "sync_batch_norm": True}
    one, two = (options(root, tmp_path / f"out{workers}", workers=workers, **how) for workers in (1, 2))
    writer = Writer(one.out)
    train(one, read_splits(one.dataset), Place(), None, writer, disk=disk)
    writer.close()
    torch.multiprocessing.spawn(work, (free_port(), two, disk), nprocs=2)
    first, second = read_state(one.out), read_state(two.out)
    assert first is not None and second is not None
    for name in ("box", "obj", "cls"):
        assert second["rows"][0][name] == pytest.approx(first["rows"][0][name], rel=1e-3)
    # In float32 the sums of a step differ in their last digits, which batch normalization of few pixels amplifies.
    torch.manual_seed(0)
    fresh = yolo.build("yolov5n", list(read_splits(one.dataset).names)).state_dict()
    names = [name for name in fresh if name.endswith("conv.weight")]
    moves = [
        torch.cat([(state["model"][name] - fresh[name]).flatten() for name in names]).numpy()
        for state in (first, second)
    ]
    assert np.abs(moves[0]).max() > 1e-4
    assert np.corrcoef(moves)[0, 1] > 0.99
    assert not list(tmp_path.glob("decoded*"))  # files of decoded images last only as long as the workers
