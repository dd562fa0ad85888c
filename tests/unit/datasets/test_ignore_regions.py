"""Ignore regions: where they lie, what is read, and when a region is the whole image."""

from pathlib import Path

import numpy as np
import pytest

from depers import storage
from depers.datasets.ignore_regions import (
    IgnoreFolder,
    ignore_path,
    locate_folder,
    shares_ignored,
    split_off_unlabelled,
)
from depers.datasets.labels import Labels
from depers.errors import UserError


def test_they_lie_beside_the_labels() -> None:
    assert ignore_path("d/images/train/a/b.jpg") == "d/ignore/train/a/b.txt"
    assert locate_folder("s3://d/Images/val/") == "s3://d/Ignore/val"
    assert locate_folder("d/train/images", "labels") == "d/train/labels"


def test_reading(tmp_path: Path, s3_bucket: str) -> None:
    for root in (str(tmp_path), s3_bucket):
        images = f"{root}/images/train"
        assert len(IgnoreFolder(images, 2).read(f"{images}/a.jpg").class_ids) == 0
        storage.write_bytes(f"{root}/ignore/train/a.txt", b"1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2\n")
        folder = IgnoreFolder(images, 2)
        assert folder.read(f"{images}/a.jpg").class_ids.tolist() == [1]
        assert len(folder.read(f"{images}/b.jpg").class_ids) == 0
        with pytest.raises(UserError, match=r"ignore/train/a.txt, line 1: the class id must be .* 0…0"):
            IgnoreFolder(images, 1).read(f"{images}/a.jpg")


def test_a_region_that_is_the_whole_image_says_that_the_class_is_not_labelled() -> None:
    ignored = Labels.of([0, 1, 1], [[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 0.9], [0.5, 0.5, 0.9995, 1]])
    rest, labelled = split_off_unlabelled(ignored, frozenset({0, 1, 2}))
    assert labelled == {2}
    assert rest.class_ids.tolist() == [1] and rest.boxes_xywh.tolist() == [[0.5, 0.5, 1, 0.9]]


def test_only_regions_of_the_own_class_count() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]], np.float32)
    regions = np.array([[0, 0, 10, 5], [0, 0, 20, 20]], np.float32)
    shares = shares_ignored(boxes, np.array([0, 1, 1]), regions, np.array([0, 1]))
    assert shares.tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert shares_ignored(boxes, np.array([0, 1, 1]), regions[:0], np.array([], np.int64)).tolist() == [0, 0, 0]
