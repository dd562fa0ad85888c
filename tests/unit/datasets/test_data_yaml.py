"""data.yaml: what is written is read, YOLOv5's other forms, and a table of what is refused."""

from pathlib import Path

import pytest
import yaml
from image_lists import list_pairs

from depers import storage
from depers.datasets import data_yaml
from depers.datasets.data_yaml import (
    Dataset,
    check_labels,
    find_split_folder,
    labelled_classes,
    read_dataset,
    without_machine_labels,
    write_data_yaml,
    write_joined_yaml,
    write_subset_yaml,
)
from depers.datasets.labels import CLASSES, SPLITS, read_labels
from depers.errors import UserError


def make_dataset(root: Path, names: tuple[str, ...] = CLASSES) -> Path:
    for split in SPLITS:
        (root / "images" / split).mkdir(parents=True)
    write_data_yaml(root, names)
    return root


@pytest.mark.parametrize("names", [CLASSES, ("yes", "null", "1", "é: #x")])
def test_data_yaml_is_read_as_written(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = make_dataset(tmp_path / "set", names)
    expected = Dataset(str(root), names, f"{root}/images/train", f"{root}/images/val")
    assert read_dataset(root) == read_dataset(str(root / "data.yaml")) == expected
    write_data_yaml(root, names, SPLITS)
    assert read_dataset(root) == expected._replace(calibration=f"{root}/images/calibration")


def test_data_yaml_without_a_split(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    write_data_yaml(str(root), CLASSES, ["train"])
    assert read_dataset(root)[2:4] == (f"{root}/images/train", None)


def test_images_may_be_labelled_for_some_classes_only(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    every = frozenset(range(5))
    assert read_dataset(root).labelled == ()
    assert labelled_classes(read_dataset(root), "heads/a.jpg") == every
    labelled = {"heads/": ["head"], "heads/cars/": ["car", "carplate"], "unlabelled/": []}
    write_data_yaml(root, CLASSES, labelled=labelled)
    dataset = read_dataset(root)
    paths = {"heads/a.jpg": {1}, "heads/cars/a.jpg": {0, 4}, "unlabelled/x/a.jpg": set(), "heads.jpg": every}
    assert {path: labelled_classes(dataset, path) for path in paths} == paths
    write_data_yaml(root, CLASSES, labelled={"": ["face"], "all/": list(CLASSES)})
    assert labelled_classes(read_dataset(root), "x/a.jpg") == {2}
    assert labelled_classes(read_dataset(root), "all/a.jpg") == every


def test_a_dataset_on_s3(s3_bucket: str) -> None:
    root = f"{s3_bucket}/a set"
    write_data_yaml(root, CLASSES, ["train"])
    with pytest.raises(UserError, match=r"train must be a folder of images, but s3://.*/a set/images/train is none"):
        read_dataset(root)
    storage.write_bytes(f"{root}/images/train/ü 1.jpg", b"")
    expected = Dataset(root, CLASSES, f"{root}/images/train", None)
    assert read_dataset(f"{root}/") == read_dataset(f"{root}/data.yaml") == expected
    assert list_pairs(f"{root}/images/train") == [(f"{root}/images/train/ü 1.jpg", f"{root}/labels/train/ü 1.txt")]
    assert len(read_labels(f"{root}/labels/train/ü 1.txt", 5).class_ids) == 0
    with pytest.raises(UserError, match=r"nowhere: must be a dataset folder or its data.yaml, but nothing is there"):
        read_dataset(f"{s3_bucket}/nowhere")


def test_a_path_in_data_yaml_is_seen_from_its_folder_on_s3(s3_bucket: str) -> None:
    storage.write_bytes(f"{s3_bucket}/images/images/a.jpg", b"")
    storage.write_bytes(f"{s3_bucket}/lists/x.yaml", b"path: ../images\ntrain: ./images\nnames: [a]\n")
    assert read_dataset(f"{s3_bucket}/lists/x.yaml").train == f"{s3_bucket}/images/images"


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
        ("names: [a]\ntrain: nowhere", r"train must be a folder of images, but .*nowhere is none"),
        ("names: [a]\nval: [x, y]", r"val must be the path of one folder, but is \['x', 'y'\]"),
        (
            "names: [a]\ntrain: train.txt",
            r"train must be .*train.txt is a list of them: run `depers normalize` first",
        ),
        ("names: [a]\ntrain: [a.txt, b.txt]", r"a.txt is a list of them: run `depers normalize` first"),
        ("names: [a]\ntrain: ../train/images", r"train must be a folder of images, but .*/../train/images is none"),
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


def test_several_folders_of_training_images(tmp_path: Path) -> None:
    for name in ("real", "made", "val"):
        (tmp_path / "images" / name).mkdir(parents=True)
    file = tmp_path / "data.yaml"
    file.write_text("train: [images/real, images/made]\nval: images/val\nnames: [a]\n")
    dataset = read_dataset(tmp_path)
    assert dataset.train == f"{tmp_path}/images/real" and dataset.additional_train == (f"{tmp_path}/images/made",)
    file.write_text("train: images/real\nval: [images/val]\nnames: [a]\n")
    assert read_dataset(tmp_path).val == f"{tmp_path}/images/val"
    file.write_text("train: [images/real, images/none]\nval: images/val\nnames: [a]\n")
    with pytest.raises(UserError, match=r"train must be a folder of images, but .*images/none is none"):
        read_dataset(tmp_path)


def test_added_images_are_labelled_for_all_but_what_their_ignore_regions_say(tmp_path: Path) -> None:
    for name in ("real/images/train", "real/images/val", "made/images/train"):
        (tmp_path / name).mkdir(parents=True)
    names = ("a", "b", "c")
    write_data_yaml(tmp_path / "real", names, labelled={"": ["b"], "x/": ["a", "b"]})
    real, out = read_dataset(tmp_path / "real"), str(tmp_path / "made")
    write_joined_yaml(out, names, None, "synthetic")
    assert read_dataset(out).labelled == ()
    write_joined_yaml(out, names, real, "synthetic")
    dataset = read_dataset(out)
    assert labelled_classes(dataset, "synthetic/1.jpg") == {0, 1, 2}
    assert labelled_classes(dataset, "x/1.jpg") == {0, 1}
    assert labelled_classes(dataset, "z/1.jpg") == {1}


def test_an_untouched_export_of_roboflow_is_read_as_yolov5_reads_it(tmp_path: Path, s3_bucket: str) -> None:
    for root in (str(tmp_path), s3_bucket):
        for split in ("train", "valid"):
            storage.write_bytes(f"{root}/{split}/images/a.jpg", b"")
            storage.write_bytes(f"{root}/{split}/labels/a.txt", b"")
        text = "names: [car]\nnc: 1\nroboflow: {license: CC}\ntest: ../test/images\n"
        text += "train: ../train/images\nval: ../valid/images\n"
        storage.write_bytes(f"{root}/data.yaml", text.encode())
        dataset = read_dataset(root)
        assert (dataset.train, dataset.val) == (f"{root}/train/images", f"{root}/valid/images")
        check_labels(root, dataset.train, dataset.val)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("obj_train_data", r"images must lie in a folder named images, but lie in .*obj_train_data: run `depers norm"),
        ("images/train", r"the labels of .*images/train must be in .*/labels/train, but nothing is there: run `depers"),
        ("Images/train", r"must be in .*/Labels/train, but nothing is there: run `depers normalize` first"),
    ],
)
def test_images_without_a_folder_of_labels_are_refused(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        check_labels("set", None, str(tmp_path / folder))


@pytest.mark.parametrize(
    "text", ["b.txt", "labels/B.TXT", "labels/b.jpg.txt", "labels/train/b/b.txt", "nowhere.txt", "cafe\u0301.txt"]
)
def test_an_image_without_a_label_file_is_no_background(text: str, tmp_path: Path, s3_bucket: str) -> None:
    """YOLOv5 would teach it as one; its labels may only have another name, or lie elsewhere."""
    for root in (str(tmp_path), s3_bucket):
        for path in ("images/train/a.jpg", "images/train/b.JPG", "images/train/café.png"):
            storage.write_bytes(f"{root}/{path}", b"")
        for path in ("a.txt", "b.txt", "café.txt"):
            storage.write_bytes(f"{root}/labels/train/{path}", b"")
        check_labels("set", f"{root}/images/train")
        wrong = "café" if text.startswith("cafe") else "b"
        storage.delete(f"{root}/labels/train/{wrong}.txt")
        place = text if "/" in text else f"labels/train/{text}"
        storage.write_bytes(f"{root}/{place if text != 'b.txt' else 'b.txt'}", b"0 0.5 0.5 0.2 0.2")
        with pytest.raises(
            UserError, match=rf"1 of 3 in .* have none, such as {wrong}.*: run `depers normalize` first"
        ):
            check_labels("set", f"{root}/images/train")


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("s3://b/set", "images/train", "s3://b/set/images/train"),
        ("s3://b/set", "../other", "s3://b/other"),
        ("s3://b/set", "/images", "s3://b/set/images"),
        ("s3://b/set", "../../../c/secret", "s3://b/c/secret"),
        ("s3://b", "../..", "s3://b"),
        ("s3://b", "", "s3://b"),
        ("s3://b/set", "s3://c/x", "s3://c/x"),
        ("/set", "../other", "/set/../other"),
        ("/set", "/other", "/other"),
    ],
)
def test_a_path_is_seen_from_its_folder_and_stays_in_its_bucket(folder: str, path: str, expected: str) -> None:
    assert data_yaml._resolve(folder, path) == expected


def test_what_a_detector_labelled_teaches_and_does_not_measure(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    labelled = {"heads/": ["a", "b"], "": ["a"]}
    write_data_yaml(tmp_path, ("a", "b"), labelled=labelled, machine_labelled={"heads/": ["b"]})
    dataset = read_dataset(tmp_path)
    assert labelled_classes(dataset, "heads/x.jpg") == {0, 1}
    assert labelled_classes(without_machine_labels(dataset), "heads/x.jpg") == {0}
    assert labelled_classes(without_machine_labels(dataset), "x.jpg") == {0}
    write_joined_yaml(str(tmp_path / "joined"), dataset.names, dataset, "synthetic")
    (tmp_path / "joined/images/train").mkdir(parents=True)
    assert read_dataset(tmp_path / "joined").machine_labelled == dataset.machine_labelled
    write_subset_yaml(str(tmp_path / "joined"), dataset)
    assert read_dataset(tmp_path / "joined").machine_labelled == dataset.machine_labelled


def test_what_a_detector_labelled_must_be_labelled(tmp_path: Path) -> None:
    (tmp_path / "images/train").mkdir(parents=True)
    write_data_yaml(tmp_path, ("a", "b"), ("train",), labelled={"heads/": ["a"]}, machine_labelled={"heads/": ["b"]})
    with pytest.raises(UserError, match="machine_labelled 'heads/' must be among the classes that are labelled there"):
        read_dataset(tmp_path)


def test_tars_stand_beside_folders(tmp_path: Path) -> None:
    """YOLOv5 reads no tars, so it finds no folder either; whatever is joined to them keeps them."""
    names, pattern = ("car", "head"), "shards/{000000..000002}.tar"
    real_root, first, second, alone = (str(tmp_path / name) for name in ("real", "first", "second", "alone"))
    for folder in (f"{real_root}/images/train", f"{real_root}/images/val", f"{second}/images/train"):
        Path(folder).mkdir(parents=True)
    write_data_yaml(real_root, names)
    real = read_dataset(real_root)
    write_joined_yaml(first, names, real, "synthetic", pattern)
    dataset = read_dataset(first)
    assert (dataset.train, dataset.additional_train, dataset.val) == (real.train, (), real.val)
    [tars] = dataset.shards
    assert tars.folder == f"{first}/shards" and tars.names == ("000000.tar", "000001.tar", "000002.tar")
    assert yaml.safe_load(Path(first, "data.yaml").read_text())["train"] == ""
    write_joined_yaml(second, names, dataset, "synthetic")
    joined = read_dataset(second)
    assert (joined.train, joined.additional_train) == (real.train, (f"{second}/images/train",))
    assert joined.shards == dataset.shards
    write_joined_yaml(second, names, dataset, "synthetic", pattern)
    assert [tars.folder for tars in read_dataset(second).shards] == [f"{first}/shards", f"{second}/shards"]
    write_joined_yaml(alone, names, None, "synthetic", pattern)
    with pytest.raises(UserError, match=r"in tars \(.*/alone/shards/.*\), which only `depers train` reads"):
        find_split_folder(read_dataset(alone), "train", alone)
