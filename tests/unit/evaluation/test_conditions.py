"""Figures by condition: which images a slice holds, and what is found in them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from depers.evaluation.conditions import (
    join_twins,
    measure_slices,
    select_slices,
    slice_by_brightness,
    slice_by_group,
)
from depers.evaluation.samples import Sample, judge
from depers.imaging.likeness import read_likeness

BOX = [10.0, 10.0, 50.0, 50.0]


def sample(path: str, found: bool) -> Sample:
    count = int(found)
    return Sample(
        path,
        (64, 64),
        np.array([BOX] * count, np.float32).reshape(-1, 4),
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64),
        np.array([BOX, BOX], np.float32),
        np.array([0, 1]),  # the weights do not know the second
        frozenset((0, 1)),
    )


def test_by_brightness_and_group_the_worst_come_first(tmp_path: Path) -> None:
    grays = {"a/1.png": 20, "a/2.png": 100, "b/1.png": 30, "b/2.png": 200}
    for path, gray in grays.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), np.full((64, 64), gray, np.uint8))
    samples = [sample(path, found=path not in ("a/1.png", "b/1.png")) for path in grays]
    samples.append(sample("c/1.png", found=False))
    likenesses = [read_likeness((tmp_path / path).read_bytes()) for path in grays]
    slices = slice_by_brightness([*likenesses, None])
    assert [(part.name.split()[0], part.indices) for part in slices] == [
        ("dark", (0, 2)), ("dim", (1,)), ("bright", (3,)),
    ]  # fmt: skip
    slices += slice_by_group([each.path[0] for each in samples])
    results = [judge(each, 0.5) for each in samples]
    rows = measure_slices(slices, results, ["car", "head"], [True, False])
    assert [(row.name[:4], row.images, row.labels, row.recall) for row in rows] == [
        ("dark", 2, 2, 0), ("brig", 1, 1, 1), ("dim ", 1, 1, 1), ("c", 1, 1, 0), ("a", 2, 2, 0.5), ("b", 2, 2, 0.5),
    ]  # fmt: skip
    assert rows[1].map50 == pytest.approx(0.995, abs=0.01)
    sheets = select_slices(rows, slices, 1)
    assert list(sheets.values()) == [(0, 2), (4,)]
    assert next(iter(sheets)) == "brightness dark (mean gray below 64): 0.000 of 2 labels found"


def test_twins_are_one_draw() -> None:
    rng = np.random.default_rng(0)
    scenes = [cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (240, 180)) for _ in range(4)]
    copy = cv2.imencode(".jpg", scenes[0][9:], [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
    files = [cv2.imencode(".png", scene)[1].tobytes() for scene in scenes]
    likenesses = [read_likeness(data) for data in (*files, copy, files[1])]
    paths = ["0", "1", "2", "3", "copy of 0", "copy of 1"]
    assert join_twins(paths, likenesses) == ["0", "1", "2", "3", "0", "1"]
    assert join_twins(["a", "a", "b", "b", "c", "d"], [*likenesses[:5], None]) == ["a", "a", "b", "b", "a", "d"]
