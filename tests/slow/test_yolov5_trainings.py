"""Weights as `yolov5 train` of the package leaves them, finished and cut off, are ordinary weights here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_sets import write_dataset

from depers import storage
from depers.datasets.labels import CLASSES
from depers.detection import yolo
from depers.training.images.data import read_splits
from depers.training.loop import train
from depers.training.options import Options
from depers.training.processes.process_group import ProcessGroup

pytestmark = pytest.mark.slow


def load_program() -> str:
    """Return the program that runs the package's own training."""
    path = Path(__file__).resolve().parents[2] / "bench" / "training.py"
    spec = importlib.util.spec_from_file_location("bench_training", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return str(module.TRAIN)


@pytest.mark.parametrize("is_cut_off", [False, True], ids=["finished", "cut off"])
def test_weights_of_the_package_load(tmp_path: Path, is_cut_off: bool) -> None:
    root = write_dataset(tmp_path / "dataset", 4, 2)
    file = root / "data.yaml"
    file.write_text(f"path: {root}\n{file.read_text()}")  # the package looks beside itself otherwise
    program = load_program()
    if is_cut_off:  # before the optimizer is taken out of the file
        program = program.replace("train.main(", "train.strip_optimizer = lambda *a, **k: None\ntrain.main(")
    options = {
        "data": str(root / "data.yaml"), "cfg": "yolov5n.yaml", "weights": "", "imgsz": 64, "batch_size": 2,
        "epochs": 1, "noplots": True, "device": "cpu", "workers": 0, "project": str(tmp_path),
        "name": "run", "exist_ok": True,
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(options)]
    run = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-2000:]
    for name in ("best.pt", "last.pt"):
        uri = str(tmp_path / "run" / "weights" / name)
        model = yolo.load(uri, storage.read_bytes(uri))
        content = torch.load(uri, weights_only=False)
        assert (content["optimizer"] is not None) is is_cut_off
        ours = model.state_dict()
        for key, value in (content["ema"] or content["model"]).float().state_dict().items():
            assert torch.equal(ours[key], value), key
        assert list(model.names.values()) == list(CLASSES)  # type: ignore[union-attr, operator]
    further = Options(str(root), str(tmp_path / "out"), weights=uri, imgsz=64, epochs=1, batch_size=2, device="cpu")
    train(further, read_splits(str(root)), ProcessGroup())
