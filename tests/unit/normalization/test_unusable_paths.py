"""Raw files that can be in no dataset are a problem and in the account, and the others are used."""

import os
from pathlib import Path

import boto3

from depers.normalization.account import list_fates
from depers.normalization.sources import open_set
from depers.statuses import SourceStatus


def test_links_and_pipes_are_told_and_not_read(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    (root / "images").mkdir(parents=True)
    for name in ("images/a.jpg", "images/a.txt"):
        (root / name).touch()
    (root / "classes.txt").write_text("car\n")
    (tmp_path / "private.jpg").touch()
    (root / "images/loop").symlink_to("..")
    (root / "images/b.jpg").symlink_to(tmp_path / "private.jpg")
    os.mkfifo(root / "images/c.jpg")
    label_set = open_set(str(root), "", "yolo", ("car",), {}, (), out=str(tmp_path / "out"))
    assert [image.path for image in label_set.images] == ["images/a.jpg"]
    problems = {problem.path: problem.detail for problem in label_set.problems if problem.kind == "unusable path"}
    assert problems == {
        "images/b.jpg": "a link that leads out of the folder, which only --follow-links allows",
        "images/c.jpg": "neither a file nor a folder",
        "images/loop": "a link to a folder that holds it",
    }
    fates = {fate.path: fate.detail for fate in list_fates(label_set, {"images/a.jpg": (SourceStatus.USED, "train")})}
    assert fates.items() >= problems.items() and len(fates) == 6
    followed = open_set(str(root), "", "yolo", ("car",), {}, (), out=str(tmp_path / "out"), follow_links=True)
    assert [image.path for image in followed.images] == ["images/a.jpg", "images/b.jpg"]


def test_keys_that_are_no_plain_paths_are_in_no_dataset(s3_bucket: str) -> None:
    keys = ["a.jpg", "a.txt", "classes.txt", "../up.jpg", "x//b.jpg", "./c.jpg", "d.jpg/e.jpg", "d.jpg"]
    for key in keys:
        boto3.client("s3").put_object(Bucket=s3_bucket[5:], Key=f"raw/{key}", Body=b"car\n")
    label_set = open_set(f"{s3_bucket}/raw", "", "yolo", ("car",), {}, (), out=f"{s3_bucket}/out")
    assert [image.path for image in label_set.images] == ["a.jpg", "d.jpg/e.jpg"]
    assert sorted(label_set.unusable) == ["../up.jpg", "./c.jpg", "d.jpg", "x//b.jpg"]
