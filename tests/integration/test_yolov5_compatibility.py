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
from predictions import predict_images

from depers.boxes import from_normalized_xywh, letterbox
from depers.detection import yolo
from depers.detection.detector import DetectorEnsemble
from depers.detection.settings import InferenceSettings, Weights
from depers.evaluation import metrics
from depers.imaging.decoding import decode
from depers.training.images.data import read_splits
from depers.training.images.image_cache import fit_size, read_scaled
from depers.training.processes.checkpoints import serialize_weights

IMGSZ = 320

# The package calls what numpy has removed, loads pickles in the way that torch has given up, and fetches a font.
PACKAGE = """
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
    model = model.train().to(memory_format=torch.channels_last)  # as the loop holds it
    checkpoint = serialize_weights(model, 3)
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
    content = {"path": str(tmp_path), "train": "train/images", "val": "val/images", "nc": len(names), "names": names}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-W", "ignore", "-c", PACKAGE, str(tmp_path / "data.yaml"), str(weights)]
    process = subprocess.run(
        [*command, str(tmp_path / "val" / "images"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-2000:]

    settings = InferenceSettings(IMGSZ, 0.25, 0.45, precision="float32")
    detector = DetectorEnsemble([Weights("best.pt", {})], [checkpoint], [], settings)
    count = 0
    for image in images:
        text = tmp_path / "detect" / "labels" / f"{image.stem}.txt"
        rows = np.loadtxt(text, ndmin=2) if text.exists() else np.zeros((0, 6))
        rgb = decode(image.read_bytes()).rgb()
        size_wh = (rgb.shape[1], rgb.shape[0])
        box = letterbox(size_wh, IMGSZ)
        canvas = np.full((box.canvas_wh[1], box.canvas_wh[0], 3), 114, np.uint8)
        (x, y), (width, height) = box.pad_xy, box.resized_wh
        canvas[y : y + height, x : x + width] = cv2.resize(rgb, box.resized_wh)  # linear, as the package
        (detections,) = detector([canvas])
        mask = detections.confidences > 0.35  # near the threshold one of them may miss it
        package_boxes = from_normalized_xywh(rows[:, 1:5], size_wh)
        boxes = box.invert(detections.boxes_xyxy[mask])
        distances = np.abs(boxes[:, None] - package_boxes[None]).max(2)  # the package rounds to whole pixels
        distances[detections.class_ids[mask][:, None] != rows[:, 0][None]] = np.inf
        # Of two candidates for a large thing, one or the other may be the more confident by a hair.
        tolerance = np.maximum(1.5, 0.05 * (boxes[:, 2:] - boxes[:, :2]).max(1))
        assert not mask.any() or (distances.min(1) < tolerance).all(), image
        count += int(mask.sum())
    assert count > 10

    precision, recall, map50, map50_95 = json.loads((tmp_path / "val.json").read_text())
    examples = read_splits(str(tmp_path)).val
    images = [read_scaled(example, fit_size(example.size_wh, IMGSZ)) for example in examples]
    results, _ = predict_images(checkpoint, images, examples, len(names), 4, IMGSZ, precision="float32")
    mean = metrics.measure([result.match() for result in results], list(names.values())).mean
    assert [mean.precision, mean.recall] == pytest.approx([precision, recall], abs=0.002)
    assert [mean.map50, mean.map50_95] == pytest.approx([map50, map50_95], abs=0.002) and map50 > 0.3
