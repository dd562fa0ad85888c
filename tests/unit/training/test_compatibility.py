"""What training writes is an ordinary YOLOv5 file: the package's own `detect` and `val` find the same with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from training_sets import write_dataset

from depers.boxes import from_normalized_xywh, letterbox
from depers.detection import yolo
from depers.detection.detector import Detector
from depers.detection.settings import InferenceSettings, Weights
from depers.evaluation import metrics
from depers.imaging.decoding import decode
from depers.training import loop, validation
from depers.training.augmentation import letterboxed
from depers.training.batches import collate, labelled_image
from depers.training.data import read_splits
from depers.training.image_cache import read_scaled, scaled_size
from depers.training.loss import Loss
from depers.training.process_group import Place

IMGSZ = 320

# The package calls what numpy has removed, loads pickles in the way that torch has given up, and fetches a font.
THEIRS = """
import json, sys
import numpy as np, torch
np.trapz = np.trapezoid
load = torch.load
torch.load = lambda *a, **k: load(*a, **(k | {"weights_only": False}))
import yolov5.utils.general
yolov5.utils.general.check_font = lambda *a, **k: None
import yolov5.detect as detect, yolov5.val as val
data, weights, source, out = sys.argv[1:]
detect.run(weights=weights, source=source, imgsz=(320, 320), conf_thres=0.25, iou_thres=0.45, device="cpu",
           save_txt=True, save_conf=True, nosave=True, project=out, name="detect")
found, *_ = val.run(data=data, weights=weights, imgsz=320, batch_size=1, device="cpu", workers=0, plots=False,
                    project=out, name="val")
json.dump([float(x) for x in found[:4]], open(out + "/val.json", "w"))
"""


def test_the_package_finds_the_same(tmp_path: Path, data: Path) -> None:
    model = yolo.load("yolov5n.pt", (data / "weights" / "yolov5n.pt").read_bytes())
    trained = model.train().to(memory_format=torch.channels_last)  # as the loop holds it
    checkpoint = loop._checkpoint_bytes(trained, 3)
    weights = tmp_path / "best.pt"
    weights.write_bytes(checkpoint)
    images = sorted((data / "coco_val" / "images").glob("*.jpg"))[:8]
    for split in ("train", "val"):
        for image in images:
            label = data / "coco_val" / "labels" / f"{image.stem}.txt"
            for kind, path in (("images", image), ("labels", label)):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                if path.exists():
                    shutil.copy(path, tmp_path / split / kind / path.name)
    names = yaml.safe_load((data / "coco80.yaml").read_text())["names"]
    given = {"path": str(tmp_path), "train": "train/images", "val": "val/images", "nc": len(names), "names": names}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(given))
    command = [sys.executable, "-W", "ignore", "-c", THEIRS, str(tmp_path / "data.yaml"), str(weights)]
    ran = subprocess.run(
        [*command, str(tmp_path / "val" / "images"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]

    how = InferenceSettings(IMGSZ, 0.25, 0.45, precision="float32")
    detector = Detector([Weights("best.pt", {})], [checkpoint], [], how)
    compared = 0
    for image in images:
        text = tmp_path / "detect" / "labels" / f"{image.stem}.txt"
        rows = np.loadtxt(text, ndmin=2) if text.exists() else np.zeros((0, 6))
        rgb = decode(image.read_bytes()).rgb()
        size_wh = (rgb.shape[1], rgb.shape[0])
        box = letterbox(size_wh, IMGSZ)
        canvas = np.full((box.canvas_wh[1], box.canvas_wh[0], 3), 114, np.uint8)
        (x, y), (width, height) = box.pad_xy, box.resized_wh
        canvas[y : y + height, x : x + width] = cv2.resize(rgb, box.resized_wh)  # linear, as the package
        (found,) = detector([canvas])
        sure = found.confidences > 0.35  # near the threshold one of them may miss it
        theirs = from_normalized_xywh(rows[:, 1:5], size_wh)
        mine = box.invert(found.boxes_xyxy[sure])
        apart = np.abs(mine[:, None] - theirs[None]).max(2)  # the package rounds to whole pixels
        apart[found.class_ids[sure][:, None] != rows[:, 0][None]] = np.inf
        # Of two candidates for a large thing, one or the other may be the more confident by a hair.
        allowed = np.maximum(1.5, 0.05 * (mine[:, 2:] - mine[:, :2]).max(1))
        assert not sure.any() or (apart.min(1) < allowed).all(), image
        compared += int(sure.sum())
    assert compared > 10

    precision, recall, map50, map50_95 = json.loads((tmp_path / "val.json").read_text())
    examples = read_splits(str(tmp_path)).val
    sizes = [scaled_size(example.size_wh, IMGSZ) for example in examples]
    canvases = validation.canvases(examples, IMGSZ, 32)
    load = lambda i: read_scaled(examples[i].path, sizes[i])  # noqa: E731
    given = (checkpoint, range(8), load, examples, canvases, 4, IMGSZ, Place().device)
    ours, _ = validation.predict(*given, precision="float32")
    mean = metrics.measure([one.matched() for one in ours], list(names.values())).mean
    assert [mean.precision, mean.recall] == pytest.approx([precision, recall], abs=0.002)
    assert [mean.map50, mean.map50_95] == pytest.approx([map50, map50_95], abs=0.002) and map50 > 0.3


def test_validation_losses_are_those_of_the_package(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", val_count=3, size_wh=(96, 64))
    data = read_splits(str(root))
    torch.manual_seed(0)
    checkpoint = loop._checkpoint_bytes(yolo.build("yolov5n", data.names), 0)
    model = yolo.load("last.pt", checkpoint)
    model.hyp = yolo.hyperparameters() | {"label_smoothing": 0.0}  # type: ignore[assignment]
    canvases = validation.canvases(data.val, 96, 32)
    images = [read_scaled(example.path, scaled_size(example.size_wh, 96)) for example in data.val]
    found, losses = validation.predict(
        checkpoint, range(3), images.__getitem__, data.val, canvases, 3, 96, "cpu", "float32", Loss(model, data.names)
    )
    placed = [
        letterboxed(labelled_image(*both), canvas)
        for both, canvas in zip(zip(images, data.val, strict=True), canvases, strict=True)
    ]
    batch = collate(placed, [np.zeros(len(data.names), np.bool_)] * 3)
    inputs = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        _, levels = model(inputs)
        expected = yolo.training_parts().ComputeLoss(model)(levels, torch.from_numpy(batch.targets))[1]
    np.testing.assert_allclose(losses / 3, expected, rtol=1e-3)
    assert len(found) == 3 and (losses > 0).all()
