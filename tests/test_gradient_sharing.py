"""Two processes at batch 4 do what one does at batch 8, to the last step."""

import os
import socket
from pathlib import Path

import pytest
import torch
from training_sets import write_dataset

from depers.checkpoints import Writer, read_state
from depers.collective import Place
from depers.train import Options
from depers.training_data import read_splits
from depers.training_loop import train


def options(root: Path, out: Path, **values: object) -> Options:
    given = {"imgsz": 96, "epochs": 1, "steps": 2, "batch_size": 8, "precision": "float32", "device": "cpu"}
    return Options(str(root), str(out), **given | values)  # type: ignore[arg-type]


def work(rank: int, world: int, port: int, wanted: Options, cache: str) -> None:
    """One of several processes that train together."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    writer = Writer(wanted.out) if rank == 0 else None
    place = Place(rank, world, threads=1, local_rank=rank, local_world=world)
    train(wanted, read_splits(wanted.dataset), place, None, writer, disk=cache)
    if writer:
        writer.close()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", [{}, {"nominal_batch": 16, "cache": "disk"}])
def test_two_workers_are_one(tmp_path: Path, how: dict[str, object]) -> None:
    root = write_dataset(tmp_path / "data", count=13)  # an odd batch is among them
    states = []
    for world in (1, 2):
        wanted = options(root, tmp_path / f"out{world}", workers=world, sync_batch_norm=True, **how)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = (world, port, wanted, str(tmp_path / "cache"))
        if world == 1:
            writer = Writer(wanted.out)
            train(wanted, read_splits(wanted.dataset), Place(threads=1), None, writer, disk=str(tmp_path / "cache"))
            writer.close()
        else:
            torch.multiprocessing.spawn(work, arguments, nprocs=world)
        state = read_state(wanted.out)
        assert state is not None
        states.append(state)
    one, two = states
    fresh = {name: value for name, value in one["model"].items() if value.is_floating_point()}
    assert len(fresh) > 300
    for name, value in fresh.items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    first, second = one["rows"][0], two["rows"][0]
    assert second["box"] == pytest.approx(first["box"], rel=1e-4)
    assert second["obj"] == pytest.approx(first["obj"], rel=1e-4)
    assert not list(tmp_path.glob("cache*"))  # files of decoded pictures last only as long as the workers
