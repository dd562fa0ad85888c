"""Digests of datasets: the same wherever they lie, another for every edit of names, labels or images."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn_bank import write_dataset

from depers import storage
from depers.datasets.digests import digest_dataset
from depers.errors import UserError


def test_a_copy_is_the_same_dataset(tmp_path: Path) -> None:
    root = write_dataset(f"{tmp_path}/a")
    shutil.copytree(root, tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        os.utime(path, (1, 1))
    assert digest_dataset(root) == digest_dataset(f"{tmp_path}/b") == digest_dataset(f"{root}/data.yaml")


def test_a_copy_on_s3_is_the_same_dataset(tmp_path: Path, s3_bucket: str) -> None:
    assert digest_dataset(write_dataset(f"{tmp_path}/a")) == digest_dataset(write_dataset(f"{s3_bucket}/b"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda root: (root / "labels/train/train1.txt").write_text("0 0.5 0.5 0.4 0.5\n"),
        lambda root: (root / "labels/val/val1.txt").unlink(),
        lambda root: (root / "images/train/train1.jpg").unlink(),
        lambda root: (root / "images/val/new.jpg").write_bytes(b"an image"),
        lambda root: (root / "data.yaml").write_text((root / "data.yaml").read_text().replace("face", "visage")),
        lambda root: storage.write_bytes(f"{root}/ignore/train/train1.txt", b"0 0.5 0.5 0.4 0.5\n"),
    ],
)
def test_an_edited_dataset_is_another(tmp_path: Path, edit: Callable[[Path], object]) -> None:
    root = write_dataset(f"{tmp_path}/a")
    before = digest_dataset(root)
    edit(Path(root))
    assert digest_dataset(root) != before


def test_what_is_no_dataset_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing is there|must be a dataset folder"):
        digest_dataset(f"{tmp_path}/none")
