"""YOLO text and the dataset folder: round trips, tables of what is refused, and real label files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers import labels, storage
from depers.labels import (
    CLASSES,
    Dataset,
    Labels,
    format_yolo,
    label_path,
    labelled_classes,
    pairs,
    parse_yolo,
    read_dataset,
    write_data_yaml,
    write_joined_yaml,
)
from depers.options import UserError

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
        ("0 nan 0.5 0.1 0.1", r"centre x must be a number in 0…1, but got 'nan'"),
        ("0 0.5 1.5 0.1 0.1", r"centre y .* got '1.5'"),
        ("0 -0.1 0.5 0.1 0.1", r"centre x .* got '-0.1'"),
        ("0 0.5 0.5 640 0.1", r"width .* got '640'"),
        ("0 0.5 0.5 0.1 inf", r"height .* got 'inf'"),
        ("0 0,5 0.5 0.1 0.1", r"centre x .* got '0,5'"),
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
    ],
)
def test_label_path(image: str, expected: str) -> None:
    assert label_path(image) == expected


@pytest.mark.parametrize("image", ["pictures/a.jpg", "images", "d/images.jpg"])
def test_label_path_needs_a_folder_named_images(image: str) -> None:
    with pytest.raises(UserError, match="folder named images"):
        label_path(image)


def make_dataset(root: Path, names: tuple[str, ...] = CLASSES) -> Path:
    for split in labels.SPLITS:
        (root / "images" / split).mkdir(parents=True)
    labels.write_data_yaml(root, names)
    return root


@pytest.mark.parametrize("names", [CLASSES, ("yes", "null", "1", "é: #x")])
def test_data_yaml_is_read_as_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = make_dataset(tmp_path / "set", names)
    expected = Dataset(str(root), names, f"{root}/images/train", f"{root}/images/val")
    assert read_dataset(root) == read_dataset(str(root / "data.yaml")) == expected


def test_data_yaml_without_a_split(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    labels.write_data_yaml(str(root), CLASSES, ["train"])
    assert read_dataset(root)[2:4] == (f"{root}/images/train", None)


def test_pictures_may_be_labelled_for_some_classes_only(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    every = frozenset(range(5))
    assert read_dataset(root).labelled == ()
    assert labelled_classes(read_dataset(root), "heads/a.jpg") == every
    labelled = {"heads/": ["head"], "heads/cars/": ["car", "carplate"], "unlabelled/": []}
    labels.write_data_yaml(root, CLASSES, labelled=labelled)
    dataset = read_dataset(root)
    paths = {"heads/a.jpg": {1}, "heads/cars/a.jpg": {0, 4}, "unlabelled/x/a.jpg": set(), "heads.jpg": every}
    assert {path: labelled_classes(dataset, path) for path in paths} == paths
    labels.write_data_yaml(root, CLASSES, labelled={"": ["face"], "all/": list(CLASSES)})
    assert labelled_classes(read_dataset(root), "x/a.jpg") == {2}
    assert labelled_classes(read_dataset(root), "all/a.jpg") == every


def test_a_dataset_on_s3(s3_bucket: str) -> None:
    root = f"{s3_bucket}/a set"
    labels.write_data_yaml(root, CLASSES, ["train"])
    with pytest.raises(UserError, match=r"train must be a folder of pictures, but s3://.*/a set/images/train is none"):
        read_dataset(root)
    storage.write_bytes(f"{root}/images/train/ü 1.jpg", b"")
    expected = Dataset(root, CLASSES, f"{root}/images/train", None)
    assert read_dataset(f"{root}/") == read_dataset(f"{root}/data.yaml") == expected
    assert pairs(f"{root}/images/train") == [(f"{root}/images/train/ü 1.jpg", f"{root}/labels/train/ü 1.txt")]
    assert len(labels.read_labels(f"{root}/labels/train/ü 1.txt", 5).class_ids) == 0
    with pytest.raises(UserError, match=r"nowhere: must be a dataset folder or its data.yaml, but nothing is there"):
        read_dataset(f"{s3_bucket}/nowhere")


def test_a_path_in_data_yaml_is_seen_from_its_folder_on_s3(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/pictures/images/a.jpg", b"")
    storage.write_bytes(f"{s3_bucket}/lists/x.yaml", b"path: ../pictures\ntrain: ./images\nnames: [a]\n")
    assert read_dataset(f"{s3_bucket}/lists/x.yaml").train == f"{s3_bucket}/pictures/images"


def test_data_yaml_in_yolov5s_other_forms(tmp_path: Path) -> None:
    (tmp_path / "sub" / "images").mkdir(parents=True)
    file = tmp_path / "x.yaml"
    file.write_text("path: sub\ntrain: images\nval: \nnames: {1: b, 0: a}\n")
    assert read_dataset(file) == Dataset(f"{tmp_path}/sub", ("a", "b"), f"{tmp_path}/sub/images", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [a", r"data.yaml: must be YAML, but"),
        ("- a", r"must be a mapping .* is list"),
        ("", r"must be a mapping .* is NoneType"),
        ("nc: 1", r"names must be a list of class names, but is None"),
        ("names: []", r"names must be a list .* is \[\]"),
        ("names: [a, 3]", r"names must be a list .* 3"),
        ("names: [a, a]", r"names must differ, but are a, a"),
        ("names: {0: a, 2: b}", r"names must be numbered from 0 .* \[0, 2\]"),
        ("names: [a]\nnc: 2", r"nc must be the number of names, 1, but is 2"),
        ("names: [a]\ntrain: nowhere", r"train must be a folder of pictures, but .*nowhere is none"),
        ("names: [a]\nval: [x, y]", r"val must be the path of one folder, but is \['x', 'y'\]"),
        ("names: [a]\nlabelled: [a]", r"labelled must map prefixes .* to class names, but is \['a'\]"),
        ("names: [a]\nlabelled: {x/: a}", r"labelled 'x/' must be a list of classes \(a\), but is 'a'"),
        ("names: [a]\nlabelled: {x/: [b]}", r"labelled 'x/' must be a list of classes \(a\), but is \['b'\]"),
        ("names: [a]\npath: 3", r"path must be the path of a folder, but is 3"),
    ],
)
def test_read_dataset_refuses(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_dataset(tmp_path)


def test_read_dataset_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no data.yaml"):
        read_dataset(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: must be a dataset folder or its data.yaml, but nothing is there"):
        read_dataset(tmp_path / "nowhere")


def test_pairs_and_read_labels(tmp_path: Path) -> None:
    folder = f"{make_dataset(tmp_path)}/images/train"
    for name in ("b.JPG", "a.1.png", "deep/c.jpg", "notes.md"):
        storage.write_bytes(f"{folder}/{name}", b"")
    texts = f"{tmp_path}/labels/train"
    storage.write_bytes(f"{texts}/a.1.txt", b"1 0.5 0.5 0.1 0.1\r\n")
    storage.write_bytes(f"{texts}/b.txt", b"\xff\xfe")
    found = pairs(folder)
    assert found == [
        (f"{folder}/a.1.png", f"{texts}/a.1.txt"),
        (f"{folder}/b.JPG", f"{texts}/b.txt"),
        (f"{folder}/deep/c.jpg", f"{texts}/deep/c.txt"),
    ]
    assert labels.read_labels(found[0][1], 5).class_ids.tolist() == [1]
    assert labels.read_labels(found[2][1], 5).boxes_xywh.shape == (0, 4)
    with pytest.raises(UserError, match=r"b.txt: must be YOLO text, but holds other bytes"):
        labels.read_labels(found[1][1], 5)
    with pytest.raises(UserError, match=r"a.1.txt, line 1: .* 0…0"):
        labels.read_labels(found[0][1], 1)


def test_real_labels_are_read(data: Path) -> None:
    read = [labels.read_labels(text, 80) for _, text in pairs(str(data / "coco_val" / "images"))]
    assert len(read) == 64
    assert sum(len(each.class_ids) for each in read) > 100
    assert all((each.boxes_xywh[:, 2:] > 0).all() for each in read)


def test_several_folders_of_training_pictures(tmp_path: Path) -> None:
    for name in ("real", "made", "val"):
        (tmp_path / "images" / name).mkdir(parents=True)
    file = tmp_path / "data.yaml"
    file.write_text("train: [images/real, images/made]\nval: images/val\nnames: [a]\n")
    found = read_dataset(tmp_path)
    assert found.train == f"{tmp_path}/images/real" and found.added == (f"{tmp_path}/images/made",)
    file.write_text("train: images/real\nval: [images/val]\nnames: [a]\n")
    with pytest.raises(UserError, match=r"val must be the path of one folder, but is \['images/val'\]"):
        read_dataset(tmp_path)
    file.write_text("train: [images/real, images/none]\nval: images/val\nnames: [a]\n")
    with pytest.raises(UserError, match=r"train must be a folder of pictures, but .*images/none is none"):
        read_dataset(tmp_path)


def test_joined_datasets_are_labelled_for_what_all_of_it_is(tmp_path: Path) -> None:
    for name in ("real/images/train", "real/images/val", "made/images/train"):
        (tmp_path / name).mkdir(parents=True)
    write_data_yaml(tmp_path / "real", ("a", "b", "c"), labelled={"x/": ["a", "b"], "y/": ["b", "c"]})
    write_joined_yaml(str(tmp_path / "made"), ("a", "b", "c"), read_dataset(tmp_path / "real"), "synthetic")
    found = read_dataset(tmp_path / "made")
    assert labelled_classes(found, "synthetic/1.jpg") == {1}
    assert labelled_classes(found, "x/1.jpg") == {0, 1}
    assert labelled_classes(found, "z/1.jpg") == {0, 1, 2}
