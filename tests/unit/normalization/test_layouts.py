"""Which files are images and labels of which layout: tables of names, and folders that cannot be told."""

import pytest

from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.normalization.layouts import (
    FileRole,
    LabelFile,
    match_files,
    parse_label_name,
    recognise,
)
from depers.normalization.matching import ListedImageFinder, name_in_dataset


def head_of(path: str) -> bytes:
    """What stands in a file of this name."""
    heads = {".json": b'{"images": []', ".xml": b"<annotation>", ".txt": b"0 0.5 0.5 0.1 0.1"}
    return heads.get(path[path.rfind(".") :], b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_car..txt", ("a", "car")),
        ("a_car.txt", ("a", "car")),
        ("a_car.TXT", ("a", "car")),
        ("cam.1 - 2022_01.05_head..txt", ("cam.1 - 2022_01.05", "head")),
        ("x_face_car..txt", ("x_face", "car")),
        ("deep/er/a_carplate..txt", ("deep/er/a", "carplate")),
        ("missing_car..txt", ("", "car")),
        ("a_bus..txt", None),
        ("a..txt", None),
        ("a_car...txt", None),
        ("a_car", None),
        ("classes.txt", None),
    ],
)
def test_parse_label_name(name: str, expected: tuple[str, str] | None) -> None:
    stems = dict.fromkeys(["a", "cam.1 - 2022_01.05", "x_face", "x", "deep/er/a"], "")
    assert parse_label_name(name, stems, CLASSES) == expected


def test_parse_label_name_of_classes_that_end_alike() -> None:
    classes = ("plate", "licence_plate")
    assert parse_label_name("a_licence_plate..txt", {"a": ""}, classes) == ("a", "licence_plate")
    assert parse_label_name("a_licence_plate..txt", {"a_licence": ""}, classes) == ("a_licence", "plate")
    assert parse_label_name("a_licence_plate..txt", {"a": "", "a_licence": ""}, classes) == ("a", "licence_plate")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("images/a.jpg", "a.jpg"),
        ("images/train/a.jpg", "train/a.jpg"),
        ("train/images/a.jpg", "train/a.jpg"),
        ("VOC2007/JPEGImages/a.b c.jpg", "VOC2007/a.b c.jpg"),
        ("VOC2007/Annotations/a.b c.xml", "VOC2007/a.b c.xml"),
        ("a.jpg", "a.jpg"),
        ("images/labels.jpg", "labels.jpg"),
    ],
)
def test_name_in_dataset(path: str, name: str) -> None:
    assert name_in_dataset(path) == name


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["images/a.jpg", "labels/a_car..txt", "labels/a_face..txt"], "competition"),
        (["images/a_car.jpg", "images/a.jpg", "labels/a_car.txt", "labels/a.txt"], "yolo"),
        (["images/a.jpg", "labels/a_car.txt", "labels/nobody.txt"], "competition"),
        (["images/train/a.jpg", "labels/train/a.txt", "data.yaml"], "yolo"),
        (["train/images/a.jpg", "train/labels/a.txt", "README.roboflow.txt"], "yolo"),
        (["a.jpg", "a.txt", "classes.txt"], "yolo"),
        (["photos/a.jpg", "texts/a.txt"], "yolo"),
        (["JPEGImages/a.jpg", "Annotations/a.xml", "ImageSets/Main/train.txt"], "voc"),
        (["val2017/a.jpg", "annotations/instances_val2017.json"], "coco"),
    ],
)
def test_recognise(paths: list[str], expected: str) -> None:
    assert recognise("raw", paths, CLASSES, head_of) == expected


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a.jpg"], r"raw: must hold labels .*, but there is none$"),
        (["a.jpg", "b.txt", "c.txt"], r"of 2 text files none does, such as 'b.txt'"),
        (["a.jpg", "via.json"], r"of 1 text files none does, such as 'via.json'"),
        (["a.jpg", "a.txt", "a.xml"], r"holds several \(1 yolo, 1 voc\): name one with --format"),
    ],
)
def test_recognise_refuses(paths: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        recognise("raw", paths, CLASSES, lambda path: b"{}" if path.endswith(".json") else head_of(path))


def test_match_reports_all_that_belongs_nowhere() -> None:
    paths = ["images/b.jpg", "images/a.png", "images/a.jpg", "images/Thumbs.db", "images/.hidden.jpg", "readme.md"]
    paths += [
        "images/d.jpg",
        "labels/d_face..txt",
        "labels/d_car..txt",
        "labels/c_car..txt",
        "labels/notes.txt",
        "old/a.xml",
        "old/b.xml",
    ]
    matched = match_files("competition", paths, CLASSES, head_of)
    assert [(p.path, p.name, p.label_files) for p in matched.images] == [
        ("images/b.jpg", "b.jpg", ()),
        ("images/d.jpg", "d.jpg", (LabelFile("labels/d_car..txt", "car"), LabelFile("labels/d_face..txt", "face"))),
    ]
    rule = f"must end in _CLASS..txt with CLASS one of {', '.join(CLASSES)}"
    assert {problem[:1] + problem[2:] for problem in matched.problems} == {
        ("images/Thumbs.db", "not an image name", "skipped", ".db"),
        ("images/a.jpg", "same name as another image", "skipped", "images/a.png"),
        ("images/a.png", "same name as another image", "skipped", "images/a.jpg"),
        ("labels/c_car..txt", "label without image", "skipped", "car"),
        ("labels/notes.txt", "not a label name", "skipped", rule),
        ("old/a.xml", "label file of another format", "skipped", ".xml"),
        ("old/b.xml", "label file of another format", "skipped", ".xml"),
    }
    assert sorted(matched.roles) == sorted(paths)
    named = {problem.path for problem in matched.problems}
    assert {path for path, role in matched.roles.items() if role == FileRole.PROBLEM} == named
    assert matched.roles["readme.md"] == matched.roles["images/.hidden.jpg"] == FileRole.BESIDE


def test_match_finds_the_only_image_of_that_name() -> None:
    matched = match_files(
        "yolo", ["photos/a.jpg", "x/b.jpg", "y/b.jpg", "texts/a.txt", "texts/b.txt"], CLASSES, head_of
    )
    assert [image.label_files for image in matched.images] == [(LabelFile("texts/a.txt", ""),)]
    assert sorted(problem[:3] for problem in matched.problems) == [
        ("texts/b.txt", 0, "label without image"),
        ("x/b.jpg", 0, "image without label"),  # which of the two it is about, nobody can tell
        ("y/b.jpg", 0, "image without label"),
    ]


@pytest.mark.parametrize(
    ("file_name", "json_path", "expected"),
    [
        ("a.jpg", "annotations/instances_val2017.json", ["val2017/a.jpg"]),
        ("a.jpg", "annotations/other.json", ["train2017/a.jpg", "val2017/a.jpg"]),
        ("a.jpg", "train2017/_annotations.coco.json", ["train2017/a.jpg"]),
        ("val2017/a.jpg", "x.json", ["val2017/a.jpg"]),
        ("./train2017\\b.jpg", "x.json", ["train2017/b.jpg"]),
        ("/home/someone/set/train2017/b.jpg", "x.json", ["train2017/b.jpg"]),
        ("c.jpg", "x.json", []),
    ],
)
def test_image_finder(file_name: str, json_path: str, expected: list[str]) -> None:
    finder = ListedImageFinder(["train2017/a.jpg", "val2017/a.jpg", "train2017/b.jpg"])
    assert finder.find(file_name, json_path) == expected
