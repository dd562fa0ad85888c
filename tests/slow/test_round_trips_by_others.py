"""Random datasets as others write them: YOLO, COCO and VOC by supervision say the same boxes and classes.

Needs a Python that has supervision, named by DEPERS_SUPERVISION_PYTHON: an environment of its own, since it is no part
of depers. `pip install supervision` there.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from label_sets import HIGH, NAMES, WIDE, Dataset, dataset, expect, make_image, read_set, rounded

COUNT = 1000
WRITER = """
import json, sys
import numpy as np
import supervision as sv
names, root = json.load(open(sys.argv[1])), sys.argv[2]
for number, images in enumerate(names["datasets"]):
    folder = f"{root}/{number}"
    paths = [f"{folder}/yolo/images/{name}.jpg" for name in images]
    import os
    os.makedirs(f"{folder}/yolo/images")
    for path in paths:
        os.link(sys.argv[3], path)
    annotations = {}
    for path, boxes in zip(paths, images.values()):
        rows = np.array([[x, y, x + w, y + h] for _, x, y, w, h in boxes], float).reshape(-1, 4)
        ids = np.array([names["names"].index(c) for c, *_ in boxes], int)
        annotations[path] = sv.Detections(xyxy=rows, class_id=ids) if len(ids) else sv.Detections.empty()
    written = sv.DetectionDataset(names["names"], paths, annotations)
    written.as_yolo(annotations_directory_path=f"{folder}/yolo/labels", data_yaml_path=f"{folder}/yolo/data.yaml")
    read = sv.DetectionDataset.from_yolo(f"{folder}/yolo/images", f"{folder}/yolo/labels", f"{folder}/yolo/data.yaml")
    read.as_coco(images_directory_path=f"{folder}/coco/images", annotations_path=f"{folder}/coco/annotations.json")
    again = sv.DetectionDataset.from_coco(f"{folder}/coco/images", f"{folder}/coco/annotations.json")
    again.as_pascal_voc(f"{folder}/voc/JPEGImages", f"{folder}/voc/Annotations")
"""


@pytest.mark.slow
def test_yolo_to_coco_to_voc_by_supervision(tmp_path: Path) -> None:
    python = os.environ.get("DEPERS_SUPERVISION_PYTHON")
    if not python:
        pytest.skip("DEPERS_SUPERVISION_PYTHON must name a Python that has supervision")
    datasets: list[Dataset] = []

    @settings(max_examples=COUNT, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(dataset)
    def collect(images: Dataset) -> None:
        datasets.append(images)

    collect()
    (tmp_path / "writer.py").write_text(WRITER)
    (tmp_path / "image.jpg").write_bytes(make_image((WIDE, HIGH)))
    (tmp_path / "datasets.json").write_text(json.dumps({"names": NAMES, "datasets": datasets}))
    arguments = [
        python,
        "-W",
        "ignore",
        *(str(tmp_path / name) for name in ("writer.py", "datasets.json", "raw", "image.jpg")),
    ]
    subprocess.run(arguments, check=True)
    assert len(datasets) >= COUNT
    for number, images in enumerate(datasets):
        expected = expect(images)
        for kind in ("yolo", "coco", "voc"):
            root = tmp_path / "raw" / str(number) / kind
            found, _ = read_set(root, classes=NAMES, columns="box", unlabelled="background", size_wh=(WIDE, HIGH))
            assert {name: rounded(boxes) for name, boxes in found.items()} == expected, (number, kind)
        shutil.rmtree(tmp_path / "raw" / str(number))
