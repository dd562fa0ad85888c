"""Which images a training has seen, known again by content wherever they lie."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
    line = describe_seen(counts, 5)[0]
    assert line.startswith(f"warning: of 5 images, the training of {best} used 1 in train and 2 in val, ")
    assert (
        count_seen([str(tmp_path / "run/weights/best.pt")], str(write_images(tmp_path / "new", val=[b"x"]) / "images"))[
            best
        ]
        == {}
    )
    assert describe_seen({best: {}}, 5) == []
    [line] = describe_seen({best: {}, foreign: None}, 5)
    assert line.startswith(f"not known: whether the training of {foreign} used any of the 5 images: no ")


def test_weights_are_known_from_wherever_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "data", train=[b"a"], val=[b"b"])
    write_seen(str(tmp_path / "run"), [str(tmp_path / "data")])
    weights = tmp_path / "run/weights"
    weights.mkdir()
    for name in ("best.pt", "last.pt", "other.pt"):
        (weights / name).write_bytes(name.encode())
    (tmp_path / "link.pt").symlink_to(weights / "best.pt")
    (tmp_path / "linked").symlink_to(weights)
    folder, known = str(tmp_path / "data/images/val"), {"val": 1}
    for place, typed in (
        (weights, "best.pt"),
        (weights, "./last.pt"),
        (weights, "../weights/best.pt"),
        (tmp_path / "run", "weights/best.pt"),
        (tmp_path, "link.pt"),
        (tmp_path, "linked/last.pt"),
    ):
        monkeypatch.chdir(place)
        assert count_seen([typed], folder) == {typed: known}, typed
    copied = tmp_path / "copied"
    copied.mkdir()
    monkeypatch.chdir(copied)
    Path("best.pt").write_bytes(b"best.pt")
    assert count_seen(["best.pt", str(weights / "other.pt")], folder) == dict.fromkeys(
        ["best.pt", str(weights / "other.pt")]
    )
    Path(NAME).write_bytes((tmp_path / "run" / NAME).read_bytes())  # moved together
    assert count_seen(["best.pt"], folder) == {"best.pt": known}
    annexed = tmp_path / "annexed"  # large files as links to where they are kept
    (annexed / "weights").mkdir(parents=True)
    (annexed / "weights/best.pt").symlink_to(weights / "other.pt")
    (annexed / NAME).write_bytes((tmp_path / "run" / NAME).read_bytes())
    assert count_seen([str(annexed / "weights/best.pt")], folder) == {str(annexed / "weights/best.pt"): known}


def test_what_taught_the_weights_that_a_training_starts_from_has_taught_its_own(tmp_path: Path) -> None:
    write_images(tmp_path / "first", train=[b"a"], val=[b"b"])
    write_images(tmp_path / "second", train=[b"c"], val=[b"d"])
    write_seen(str(tmp_path / "run"), [str(tmp_path / "first")])
    write_seen(str(tmp_path / "next"), [str(tmp_path / "second")], str(tmp_path / "run/weights/best.pt"))
    write_seen(str(tmp_path / "alone"), [str(tmp_path / "second")], "yolov5n.pt")
    measured = str(write_images(tmp_path / "all", val=[b"a", b"b", b"c", b"d"]) / "images/val")
    places = [str(tmp_path / name / "weights/last.pt") for name in ("next", "alone")]
    assert count_seen(places, measured) == {places[0]: {"train": 2, "val": 2}, places[1]: {"train": 1, "val": 1}}


def test_what_differs_in_length_or_at_its_end_is_another_image(tmp_path: Path) -> None:
    root = write_images(tmp_path, val=[b"a" * 9000, b"a" * 9001, b"a" * 8999 + b"b", b"", b"a"])
    assert len(set(digest_folder(str(root / "images/val")).tolist())) == 5


@pytest.mark.parametrize(
    "content",
    [
        b"no table",
        pa.table({"a": [1]}),
        pa.table({"split": ["train"], "digest": ["zz"]}),
        pa.table({"split": ["train"], "digest": [1.5]}),
        pa.table({"split": ["train"], "digest": pa.array([None], pa.uint64())}),
        pa.table({"split": pa.array([None], pa.string()), "digest": pa.array([1], pa.uint64())}),
        pa.table({"split": ["\x1b[31m"], "digest": pa.array([1], pa.uint64())}),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path: Path, content: bytes | pa.Table) -> None:
    """Content that nothing can equal would say that no image was used."""
    if isinstance(content, bytes):
        (tmp_path / NAME).write_bytes(content)
    else:
        pq.write_table(content, tmp_path / NAME)
    with pytest.raises(
        UserError, match=f"{tmp_path}/{NAME}: must be a table of images that a training wrote"
    ) as caught:
        count_seen([f"{tmp_path}/weights/last.pt"], str(tmp_path))
    assert str(caught.value).isprintable()
