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
from depers.training.images.batches import Batches, SampleSpec
from depers.training.images.data import read_splits
from depers.training.loop import train
from depers.training.loss import Loss
from depers.training.options import Options
from depers.training.processes.checkpoints import CheckpointWriter, read_state
from depers.training.processes.process_group import ProcessGroup, synchronize_batch_norm

NAMES = ["car", "head", "face"]
SPLIT = 3  # of eight images, the first worker has three


def find_free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def join(rank: int, port: int) -> ProcessGroup:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    return ProcessGroup(rank, 2, threads=1, local_rank=rank, local_world_size=2)


def compute_gradients(group: ProcessGroup) -> dict[str, torch.Tensor]:
    """Compute gradients and running statistics of a step on the group's part of eight images, in float64."""
    torch.manual_seed(0)
    model = yolo.build("yolov5n", NAMES).double()
    model.hyp = yolo.read_hyperparameters() | {"label_smoothing": 0.0}  # type: ignore[assignment]
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
    members = slice(0, 8) if group.world_size == 1 else slice(0, SPLIT) if group.rank == 0 else slice(SPLIT, 8)
    targets = targets[(targets[:, 0] >= members.start) & (targets[:, 0] < members.stop)] - [
        members.start,
        0,
        0,
        0,
        0,
        0,
    ]
    parallel_model: torch.nn.Module = model
    if group.world_size > 1:
        synchronize_batch_norm(model)
        parallel_model = torch.nn.parallel.DistributedDataParallel(model)
    loss = Loss(model, NAMES, group.sum if group.world_size > 1 else None)(
        parallel_model(images[members]), torch.from_numpy(targets)
    )[0]
    (loss * group.world_size).backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | {name: buffer for name, buffer in model.named_buffers() if "running" in name}  # type: ignore[return-value]


def save_gradients(rank: int, port: int, file: str) -> None:
    gradients = compute_gradients(join(rank, port))
    if rank == 0:
        torch.save(gradients, file)
    torch.distributed.destroy_process_group()


def test_gradients_of_two_workers_are_those_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(save_gradients, (find_free_port(), str(tmp_path / "two.pt")), nprocs=2)
    expected, shared = compute_gradients(ProcessGroup()), torch.load(tmp_path / "two.pt")
    assert len(expected) == len(shared) > 280
    for name, gradient in expected.items():
        torch.testing.assert_close(
            shared[name], gradient, rtol=1e-6, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )


def make_options(root: Path, out: Path, **values: object) -> Options:
    defaults = {"imgsz": 96, "epochs": 1, "steps": 2, "batch_size": 8, "precision": "float32", "device": "cpu"}
    return Options(str(root), str(out), **defaults | values)  # type: ignore[arg-type]


def work(rank: int, port: int, options: Options, disk: str) -> None:
    """Be one of two processes that train together."""
    group = join(rank, port)
    writer = CheckpointWriter(options.out) if rank == 0 else None
    train(options, read_splits(options.dataset), group, None, writer, disk=disk)
    if writer:
        writer.close()
    torch.distributed.destroy_process_group()


def note_plans(rank: int, port: int, options: Options, notes: str) -> None:
    """Train as `work` does, and write down the images of every batch that this process plans."""
    plans: list[list[int]] = []
    plan = Batches.plan

    def plan_and_note(self: Batches, *arguments: Any) -> list[SampleSpec]:
        specs = plan(self, *arguments)
        plans.append([spec.indices[0] for spec in specs])
        return specs

    Batches.plan = plan_and_note  # type: ignore[method-assign]
    work(rank, port, options, "")
    Path(f"{notes}{rank}").write_text(json.dumps(plans))


def test_all_workers_draw_the_same_images_by_their_weights(tmp_path: Path) -> None:
    """From the first pass on: of which one worker alone makes an image of a batch, before the training begins."""
    root, notes = write_dataset(tmp_path / "data", count=12), str(tmp_path / "plans")
    options = make_options(
        root, tmp_path / "out", imgsz=64, batch_size=4, train_workers=2, image_weights=True, epochs=1, steps=6
    )
    torch.multiprocessing.spawn(note_plans, (find_free_port(), options, notes), nprocs=2)
    first, second = (json.loads(Path(f"{notes}{rank}").read_text()) for rank in (0, 1))
    assert first == second and len(first) >= 6
    assert sorted(itertools.chain.from_iterable(first[-6:-3])) != list(range(12))  # by weights, with replacement


@pytest.mark.slow
def test_two_workers_train_as_one(tmp_path: Path) -> None:
    root, disk = write_dataset(tmp_path / "data", count=13), str(tmp_path / "decoded")  # an odd batch is among them
    values = {"nominal_batch": 16, "cache": "disk", "sync_batch_norm": True}
    single, double = (
        make_options(root, tmp_path / f"out{workers}", train_workers=workers, **values) for workers in (1, 2)
    )
    writer = CheckpointWriter(single.out)
    train(single, read_splits(single.dataset), ProcessGroup(threads=1), None, writer, disk=disk)
    writer.close()
    torch.multiprocessing.spawn(work, (find_free_port(), double, disk), nprocs=2)
    first, second = read_state(single.out), read_state(double.out)
    assert first is not None and second is not None
    for name in ("box", "obj", "cls"):
        assert second["rows"][0][name] == pytest.approx(first["rows"][0][name], rel=1e-3)
    # In float32 the sums of a step differ in their last digits, which batch normalization of few pixels amplifies.
    torch.manual_seed(0)
    initial = yolo.build("yolov5n", list(read_splits(single.dataset).names)).state_dict()
    names = [name for name in initial if name.endswith("conv.weight")]
    moves = [
        torch.cat([(state["model"][name] - initial[name]).flatten() for name in names]).numpy()
        for state in (first, second)
    ]
    assert np.abs(moves[0]).max() > 1e-4
    assert np.corrcoef(moves)[0, 1] > 0.99
    assert not list(tmp_path.glob("decoded*"))  # files of decoded images last only as long as the workers
