"""Which images a training has seen, known again by content wherever they lie."""

from pathlib import Path

import pytest

from depers.datasets.data_yaml import write_data_yaml
from depers.datasets.seen_images import NAME, count_seen, describe_seen, digest_folder, write_seen
from depers.errors import UserError


def write_images(root: Path, **contents: list[bytes]) -> Path:
    for split, images in contents.items():
        folder = root / "images" / split
        folder.mkdir(parents=True)
        for number, data in enumerate(images):
            (folder / f"{number}.jpg").write_bytes(data)
    write_data_yaml(root, ["car"], list(contents))
    return root


def test_images_are_known_again_wherever_they_lie(tmp_path: Path) -> None:
    images = [bytes([number]) * 9000 for number in range(8)]
    write_images(tmp_path / "first", train=images[:3], val=images[3:5])
    write_images(tmp_path / "second", train=images[5:6], val=images[6:7])  # its val is not used
    write_seen(str(tmp_path / "run"), [str(tmp_path / "first"), str(tmp_path / "second")])
    measured = write_images(tmp_path / "other", val=[images[7], images[4], images[3], images[0], images[6]])
    folder = str(measured / "images/val")
    best, foreign = str(tmp_path / "run/weights/best.pt"), "yolov5n.pt"
    counts = count_seen([best, foreign], folder)
    assert counts == {best: {"train": 1, "val": 2}, foreign: None}
    [line] = describe_seen(counts, 5)
    assert line.startswith(f"warning: of 5 images, the training of {best} used 1 in train and 2 in val, ")
    assert (
        count_seen([str(tmp_path / "run/weights/best.pt")], str(write_images(tmp_path / "new", val=[b"x"]) / "images"))[
            best
        ]
        == {}
    )
    assert describe_seen({best: {}, foreign: None}, 5) == []


def test_what_differs_in_length_or_at_its_end_is_another_image(tmp_path: Path) -> None:
    root = write_images(tmp_path, val=[b"a" * 9000, b"a" * 9001, b"a" * 8999 + b"b", b"", b"a"])
    assert len(set(digest_folder(str(root / "images/val")).tolist())) == 5


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"no table")
    with pytest.raises(UserError, match=f"{tmp_path}/{NAME}: must be a table of images that a training wrote"):
        count_seen([f"{tmp_path}/weights/last.pt"], str(tmp_path))
