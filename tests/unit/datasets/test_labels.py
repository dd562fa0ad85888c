"""YOLO text: round trips, tables of what is refused, and real label files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_lists import list_pairs

from depers import storage
from depers.datasets import labels
from depers.datasets.labels import CLASSES, Labels, drop_doubles, format_yolo, label_path, parse_yolo, sort_labels
from depers.errors import UserError

fraction = st.integers(0, 10**6).map(lambda millionths: millionths / 1e6)
side = st.integers(1, 10**6).map(lambda millionths: millionths / 1e6)
lines = st.lists(st.tuples(st.integers(0, 4), fraction, fraction, side, side), max_size=20)


@given(lines, st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\ufeff"]))
def test_what_is_written_is_read(rows: list[tuple[int, float, float, float, float]], end: str, mark: str) -> None:
    given_labels = Labels.of([row[0] for row in rows], [row[1:] for row in rows])
    read = parse_yolo(mark + format_yolo(given_labels).replace("\n", end), len(CLASSES), "it")
    np.testing.assert_array_equal(read.class_ids, given_labels.class_ids)
    np.testing.assert_allclose(read.boxes_xywh, given_labels.boxes_xywh, rtol=0, atol=1e-12)
    assert (read.class_ids.dtype, read.boxes_xywh.dtype) == (np.int64, np.float64)
    assert read.boxes_xywh.shape == (len(rows), 4)


@given(
    st.lists(
        st.sampled_from(
            [
                "0 0.5 0.5 0.1 0.1",
                "1 1.0 0.25 1.001 0.000001",
                "0 1.5 0.5 0.1 0.1",
                "7 0.5 0.5 1.0 1.0",
                "0 0.5 0.5 0.0 0.1",
                "0 0.5 0.5 1 0.1",
                "0  0.5 0.5 0.1 0.1",
                "0 0.5 0.5 0.1",
            ]
        )
    )
)
def test_usual_text_is_read_as_any_other(rows: list[str]) -> None:
    def read(text: str) -> object:
        try:
            class_ids, boxes = parse_yolo(text, 2, "it")
        except UserError as error:
            return str(error)
        return class_ids.tolist(), boxes.tolist()

    text = "".join(f"{row}\n" for row in rows)
    assert read(text) == read(text + "\n")  # a blank line makes it unusual


def test_sorted_labels_are_those_of_python() -> None:
    rng = np.random.default_rng(5)
    labels = Labels(rng.integers(0, 3, 200), rng.integers(0, 3, (200, 4)) / 4)
    rows = sorted({(class_id, *box) for class_id, box in zip(*(part.tolist() for part in labels), strict=True)})
    in_order = sort_labels(labels)
    assert [(class_id, *box) for class_id, box in zip(*(part.tolist() for part in in_order), strict=True)] == rows
    assert len(sort_labels(Labels.of([], [])).boxes_xywh) == 0


def test_doubles_are_dropped_and_the_order_stays() -> None:
    boxes = [[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]]
    labels = drop_doubles(Labels.of([2, 1, 2, 0], boxes))
    assert labels.class_ids.tolist() == [2, 1, 0] and labels.boxes_xywh.tolist() == [boxes[0], boxes[1], boxes[3]]
    assert len(drop_doubles(Labels.of([], [])).class_ids) == 0


def test_format_yolo() -> None:
    two = Labels.of([3, 0], [[0.5, 0.25, 0.125, 1], [0, 1 / 3, 2e-6, 0.1]])
    assert format_yolo(two) == "3 0.500000 0.250000 0.125000 1.000000\n0 0.000000 0.333333 0.000002 0.100000\n"
    text = format_yolo(two, np.array([0.98766, 1], np.float32))
    assert [line.split()[5] for line in text.splitlines()] == ["0.9877", "1.0000"]
    assert format_yolo(Labels.of([], [])) == ""
    with pytest.raises(ValueError):
        format_yolo(two, np.array([0.5], np.float32))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", r"must be five numbers .* got '0 0.5 0.5 0.1'"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"must be five numbers"),
        ("5 0.5 0.5 0.1 0.1", r"class id must be a whole number 0…4, but got '5'"),
        ("-1 0.5 0.5 0.1 0.1", r"class id .* got '-1'"),
        ("0.5 0.5 0.5 0.1 0.1", r"class id .* got '0.5'"),
        ("car 0.5 0.5 0.1 0.1", r"class id .* got 'car'"),
        ("nan 0.5 0.5 0.1 0.1", r"class id .* got 'nan'"),
        ("0 nan 0.5 0.1 0.1", r"center x must be a number in 0…1, but got 'nan'"),
        ("0 0.5 1.5 0.1 0.1", r"center y .* got '1.5'"),
        ("0 -0.1 0.5 0.1 0.1", r"center x .* got '-0.1'"),
        ("0 0.5 0.5 640 0.1", r"width .* got '640'"),
        ("0 0.5 0.5 0.1 inf", r"height .* got 'inf'"),
        ("0 0,5 0.5 0.1 0.1", r"center x .* got '0,5'"),
        ("0 0.5 0.5 0.1 0.1_0", r"height .* got '0.1_0'"),
        ("0 0.5 0.5 0 0.1", r"width and height must be more than 0, but got 0 and 0.1"),
    ],
)
def test_parse_yolo_refuses(line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"labels/a.txt, line 3: .*{message}"):
        parse_yolo(f"0 0.5 0.5 0.1 0.1\n\n{line}\n", 5, "labels/a.txt")


@given(st.text(max_size=60) | st.text("01.-e naif\n", max_size=60))
def test_parse_yolo_reads_or_refuses_whatever_the_text(text: str) -> None:
    try:
        read = parse_yolo(text, 2, "it")
    except UserError as error:
        assert str(error).startswith("it, line ")
    else:
        assert set(read.class_ids.tolist()) <= {0, 1}
        assert (read.boxes_xywh >= 0).all() and (read.boxes_xywh[:, 2:] > 0).all()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("d/images/train/a.jpg", "d/labels/train/a.txt"),
        ("d/images/val/deep/a.b_c d.jpeg", "d/labels/val/deep/a.b_c d.txt"),
        ("images/x/images/a.png", "images/x/labels/a.txt"),
        ("/images/a.jpg", "/labels/a.txt"),
        ("/images/.jpg", "/labels/.jpg.txt"),
        ("s3://images/images/a.x/b.jpg", "s3://images/labels/a.x/b.txt"),
        ("d/Images/train/a.jpg", "d/Labels/train/a.txt"),
        ("d/IMAGES/images.jpg", "d/LABELS/images.txt"),
        ("d/images/Images/a.jpg", "d/labels/Images/a.txt"),
    ],
)
def test_label_path(image: str, expected: str) -> None:
    assert label_path(image) == expected


@pytest.mark.parametrize("image", ["photos/a.jpg", "images", "d/images.jpg"])
def test_label_path_needs_a_folder_named_images(image: str) -> None:
    with pytest.raises(UserError, match="folder named images"):
        label_path(image)


def test_pairs_and_read_labels(tmp_path: Path) -> None:
    folder = f"{tmp_path}/images/train"
    for name in ("b.JPG", "a.1.png", "deep/c.jpg", "notes.md"):
        storage.write_bytes(f"{folder}/{name}", b"")
    texts = f"{tmp_path}/labels/train"
    storage.write_bytes(f"{texts}/a.1.txt", b"1 0.5 0.5 0.1 0.1\r\n")
    storage.write_bytes(f"{texts}/b.txt", b"\xff\xfe")
    files = list_pairs(folder)
    assert files == [
        (f"{folder}/a.1.png", f"{texts}/a.1.txt"),
        (f"{folder}/b.JPG", f"{texts}/b.txt"),
        (f"{folder}/deep/c.jpg", f"{texts}/deep/c.txt"),
    ]
    assert labels.read_labels(files[0][1], 5).class_ids.tolist() == [1]
    assert labels.read_labels(files[2][1], 5).boxes_xywh.shape == (0, 4)
    with pytest.raises(UserError, match=r"b.txt: must be YOLO text, but holds other bytes"):
        labels.read_labels(files[1][1], 5)
    with pytest.raises(UserError, match=r"a.1.txt, line 1: .* 0…0"):
        labels.read_labels(files[0][1], 1)


def test_real_labels_are_read(data: Path) -> None:
    read = [labels.read_labels(text, 80) for _, text in list_pairs(str(data / "coco_val" / "images"))]
    assert len(read) == 64
    assert sum(len(value.class_ids) for value in read) > 100
    assert all((value.boxes_xywh[:, 2:] > 0).all() for value in read)
