"""`depers detect` for real: the table and the YOLO text say the same, and what cannot be read is a failed row."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depers import storage
from depers.boxes import from_normalized_xywh
from depers.commands import detect
from depers.commands.detect import Options
from depers.datasets.labels import read_number
from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.storage import tables
from depers.street_scenes.scenes import draw_scene

NAMES = ["human", "car", "face"]


@pytest.fixture(scope="module")
def weights(untrained: Callable[..., str]) -> str:
    return untrained(*NAMES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    for index, name in enumerate(["24-11-2021_05-31-51_AM.jpg", "a b/ü#=.png", "a b/v1.0 x.jpg"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_scene(index, 7, (320, 192)).image).save(root / name)
    (root / "notes.jpg").write_text("notes")
    return root


def options(folder: Path, out: Path | str, weights: str, **more: object) -> Options:
    return Options(str(folder), str(out), (weights,), imgsz=320, confidence=0.003, **more)


@pytest.mark.usefixtures("ray_local")
def test_table_and_text_agree(folder: Path, weights: str, s3_bucket: str) -> None:
    out = f"{s3_bucket}/a b/found"
    assert detect.run(options(folder, out, weights, format="yolo", classes=("human", "face"))).partial
    table = tables.read_table(f"{out}/detections.parquet")
    assert table.schema.equals(SCHEMA)
    assert storage.read_bytes(f"{out}/classes.txt").decode().split() == ["human", "face"]
    rows = {row["path"]: row for row in table.to_pylist()}
    assert sorted(rows) == [entry.path for entry in storage.list_files(str(folder))]
    failed = rows.pop("notes.jpg")
    assert failed["status"] == "failed" and failed["reason"] and not failed["boxes"]
    texts = [entry.path for entry in storage.list_files(f"{out}/labels")]
    assert texts == [str(Path(path).with_suffix(".txt")) for path in rows]
    for path, text in zip(rows, texts, strict=True):
        row = rows[path]
        assert row["arithmetic"] in ("float32", "bfloat16")
        assert row["status"] == "detected" and (row["width"], row["height"]) == (320, 192) and row["boxes"]
        lines = [line.split() for line in storage.read_bytes(f"{out}/labels/{text}").decode().splitlines()]
        values = np.array([[read_number(field) for field in line] for line in lines])
        boxes = from_normalized_xywh(values[:, 1:5], (320, 192))
        assert [["human", "face"][int(value)] for value in values[:, 0]] == [box["class"] for box in row["boxes"]]
        expected = [[box[name] for name in ("x_min", "y_min", "x_max", "y_max")] for box in row["boxes"]]
        np.testing.assert_allclose(boxes, expected, atol=1e-3)
        np.testing.assert_allclose(values[:, 5], [box["confidence"] for box in row["boxes"]], atol=1e-4)
        assert {box["model"] for box in row["boxes"]} == {"any.pt"}


def test_images_that_would_share_a_text_are_refused(folder: Path, weights: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a b/ü#=.jpg")
    with pytest.raises(UserError, match=r"two inputs must have two names, .* be called labels/a b/ü#=\.txt$"):
        detect.run(options(folder, tmp_path / "out", weights, format="yolo"))
    assert not (tmp_path / "out").exists()
