"""Labels that are not what they seem: read where that is certain, else left out or refused, never guessed."""

import json
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_sets import Boxes, read_set, write_files

from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.normalization.formats.coco import find_segmentation_box
from depers.normalization.formats.yolo import AUTO, Shape, find_shape

FACE = "0 0.7 0.6 0.1 0.12"
CORNERS = "0.65 0.54 0.75 0.54 0.75 0.66 0.65 0.66"
BOX = [("face", 0.7, 0.6, 0.1, 0.12)]


def yolo(*texts: str, names: str = "face\n", **files: str) -> dict[str, str]:
    """A YOLO set of an image per text."""
    labels = {f"labels/{number}.txt": text + "\n" for number, text in enumerate(texts)}
    return {"classes.txt": names, **{f"images/{n}.jpg": "" for n in range(len(texts))}, **labels, **files}


def near(boxes: Boxes) -> Any:
    return [(name, *(pytest.approx(value, abs=1e-6) for value in numbers)) for name, *numbers in boxes]


# What the numbers of a line are


@pytest.mark.parametrize(
    ("numbers", "shape"),
    [
        ("0.7 0.6 0.1 0.12", Shape.BOX),
        ("0.7 0.6 0.1 0.12 0.87", Shape.CONFIDENCE),
        ("0.7 0.6 0.1 0.12 1", Shape.FLAG),
        ("0.7 0.6 0.1 0.12 37", Shape.NUMBER),
        ("0.7 0.6 0.1 0.12 -1", Shape.NUMBER),
        ("0.7 0.6 0.1 0.12 0", Shape.NUMBER),
        ("0.7 0.6 0.1 0.12 0.9 37", Shape.POINTS),  # a confidence and a track
        (f"0.7 0.6 0.1 0.12 {CORNERS}", Shape.POINTS),
        ("0.7 0.6 0.1 0.12 -1 -1 -1 -1", Shape.POINTS),
        ("0.7 0.6 0.1 0.12 0 0 0 0 0 0", Shape.POINTS),
        ("0.7 0.6 0.1 0.12 0.68 0.57 2 0.72 0.57 1 0 0 0", Shape.POINTS),
        ("0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6", Shape.UNDECIDED),
        ("0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6", Shape.UNDECIDED),
        ("0.8 0.8 0.9 0.8 0.9 0.9 0.8 0.9", Shape.POLYGON),
        ("0.1 0.1 0.3 0.1 0.3 0.3", Shape.POLYGON),
        ("0.1 0.1 0.3 0.1 0.3 0.3 0.5", None),
        ("10 10 30 10 30 30", None),
    ],
)
def test_what_a_line_says_of_itself(numbers: str, shape: Shape | None) -> None:
    assert find_shape([float(number) for number in numbers.split()]) == shape


@given(
    st.lists(st.tuples(st.floats(0.667, 1), st.floats(0, 1)), min_size=3, max_size=12),
    st.sampled_from((0.05, 0.2)),
)
def test_a_polygon_on_the_right_is_never_a_box_with_points(points: list[tuple[float, float]], width: float) -> None:
    """Its second vertex would be a width that reaches over the edge; so the lines of a set tell what all are."""
    numbers = [value for x, y in points for value in (0.75 + (x - 0.667) * width, y)]
    assert find_shape(numbers, AUTO) in (Shape.POLYGON, Shape.UNDECIDED)


@pytest.mark.parametrize(
    "more",
    [
        "0.68 0.576 0.72 0.576 0.7 0.6 0.685 0.624 0.715 0.624",
        "0.68 0.576 2 0.72 0.576 2 0.7 0.6 0 0.685 0.624 1 0 0 0",
        " ".join(["-1.000000"] * 10),
        CORNERS,
        "0.87",
    ],
)
def test_a_box_with_more_beside_it(more: str, tmp_path: Path) -> None:
    found, problems = read_set(write_files(tmp_path / "raw", yolo(f"{FACE} {more}", FACE, "")))
    assert found == {"0.jpg": near(BOX), "1.jpg": near(BOX), "2.jpg": []}
    assert [problem.action for problem in problems] == ["accepted"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["0 0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6"], "may be a box and points, or a polygon .*--columns box, box.points"),
        ([f"{FACE} {CORNERS}", "0 0.8 0.8 0.9 0.8 0.9 0.9"], "some are a box and points .* and some a polygon"),
        ([f"{FACE} 1", f"{FACE} 0"], "must be a confidence, but may be a flag, a track or an angle"),
        ([f"{FACE} 45", f"{FACE} 90"], "must be a confidence, but may be a flag, a track or an angle"),
        (
            [f"{FACE} 0.5", f"{FACE} 90"],
            "some are a box and a confidence .* and some a box and a number that is ",
        ),
        (
            [f"{FACE} 0.5", f"{FACE} -0.3"],
            "some are a box and a confidence .* and some a box and a number that is no co",
        ),
        (
            [f"{FACE} 0.5", f"{FACE} 0"],
            "some are a box and a confidence .* and some a box and a number that is ",
        ),
        (
            ["\n".join(f"0 0.{n}5 0.5 0.02 0.02 {angle}" for n, angle in enumerate((0.3, 0.7, 0.1)))],
            r"must be a confidence, but may be a flag, a track or an angle \(labels/0.txt: 0.3, 0.7, 0.1\)",
        ),
        (["0 100 80 40 20"], "1 of 1 are not, .*not fractions of the image .* these may be pixels"),
        (["0 0.5 0.5 0.2", "0 0.5"], "2 of 2 are not, .*not five fields .* --columns"),
        (["face 0.5 0.5 0.2 0.2"], "must begin with the id of its class"),
        (["3 0.5 0.5 0.2 0.2"], "class id without a name .* must belong together"),
        ([f"{FACE} 0.1 0.2 0.3"], "numbers that are no box .* --columns"),
        (
            ["Car 0.00 0 -1.58 20 30 80 90 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59", FACE, "", "x"],
            "KITTI.* --format kitti",
        ),
        (["face 20.48 30.1 80.0 60.5"], "--format oidv4 reads"),
        (["0 0.5 0.5 0 0.2", "0 0.5 0.5 0 0"], "2 of 2 are not, .*box without area"),
        (["0 1.5 0.5 0.2 0.2"], "1 of 1 are not, .*box outside the image"),
    ],
)
def test_lines_that_nobody_can_read_for_certain_are_refused(texts: list[str], message: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo(*texts))
    with pytest.raises(UserError, match=message) as refused:
        read_set(root)
    assert "\n" not in str(refused.value)


def test_corners_in_place_of_a_center_and_a_size_are_refused(tmp_path: Path) -> None:
    corners = [(0.1 * n, 0.5, 0.1 * n + 0.1, 0.7) for n in range(9)]
    root = write_files(tmp_path / "raw", yolo(*(f"0 {a} {b} {c} {d}" for a, b, c, d in corners)))
    with pytest.raises(UserError, match=r"must be cx cy w h, but 9 of 9 could be two corners, .*and 3 reach over"):
        read_set(root)
    annotations = [CAR | {"bbox": [200 * a, 160 * b, 200 * c, 160 * d]} for a, b, c, d in corners]
    with pytest.raises(UserError, match=r"must be x y w h, .* could be two corners"):
        read_set(write_files(tmp_path / "coco", coco_set(*annotations)))
    areas = [entry | {"area": 20 * 32} for entry in annotations[1:5]]  # well inside of the image
    with pytest.raises(UserError, match="by their areas 4 are two corners"):
        read_set(write_files(tmp_path / "areas", coco_set(*areas)))


@pytest.mark.parametrize("texts", [["0 0.3 0.4 0.5 0.6"], ["0 0.5 0.5 0.6 0.7"] * 4, ["0 0.1 0.2 0.18 0.31"] * 3])
def test_boxes_that_could_all_be_corners_are_asked_for(texts: list[str], tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo(*texts))
    with pytest.raises(UserError, match=r"could be two corners, x1 y1 x2 y2: .* --columns box or corners"):
        read_set(root)
    a, b, c, d = (float(field) for field in texts[0].split()[1:])
    assert read_set(root, columns="box")[0]["0.jpg"] == near([("face", a, b, c, d)])
    as_corners = read_set(root, columns="corners")[0]["0.jpg"]
    assert as_corners == near([("face", (a + c) / 2, (b + d) / 2, c - a, d - b)])
    write_files(root, {"images/9.jpg": "", "labels/9.txt": FACE})  # which can be none
    assert len(read_set(root)[0]) == len(texts) + 1


def test_a_corner_and_a_size_in_place_of_a_center_and_a_size_are_refused(tmp_path: Path) -> None:
    texts = [f"0 {0.05 * n} 0.3 0.3 0.2" for n in range(8)]
    with pytest.raises(UserError, match=r"but 3 of 8 reach over the edge .* x and y may be those of a corner"):
        read_set(write_files(tmp_path / "raw", yolo(*texts)))
    assert len(read_set(tmp_path / "raw", columns="box")[0]) == 8


def test_a_person_says_what_stands_in_the_lines(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo("0 0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.7"))
    assert read_set(root, columns="box+points")[0] == {"0.jpg": near([("face", 0.5, 0.5, 0.4, 0.4)])}
    assert read_set(root, columns="polygon")[0] == {"0.jpg": near([("face", 0.5, 0.55, 0.2, 0.3)])}
    with pytest.raises(UserError, match="numbers that are no box"):
        read_set(root, columns="box")
    flags = write_files(tmp_path / "flags", yolo(f"{FACE} 1"))
    assert read_set(flags, columns="box")[0] == {"0.jpg": near(BOX)}


def test_lines_that_say_what_the_others_are(tmp_path: Path) -> None:
    """A set of polygons, of which one could be a box with points; and the reverse."""
    polygons = write_files(
        tmp_path / "polygons", yolo("0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6", "0 0.8 0.8 0.9 0.8 0.9 0.9")
    )
    assert read_set(polygons)[0]["0.jpg"] == near([("face", 0.5, 0.5, 0.2, 0.2)])
    points = write_files(tmp_path / "points", yolo("0 0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6", f"{FACE} -1 -1 -1 -1"))
    assert read_set(points)[0]["0.jpg"] == near([("face", 0.5, 0.5, 0.4, 0.4)])


def test_an_image_whose_label_is_not_understood_is_no_background(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo(FACE, f"{FACE}\n0 nan 0.5 0.2 0.2", FACE, "", "0 0.5 0.5 0 0"))
    found, problems = read_set(root)
    assert sorted(found) == ["0.jpg", "2.jpg", "3.jpg"]
    assert {(problem.path, problem.kind) for problem in problems if problem.action == "skipped_with_image"} == {
        ("labels/1.txt", "not a finite number"),
        ("labels/4.txt", "box without area"),
    }


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_texts_of_other_systems(encoding: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo(FACE))
    (root / "labels" / "0.txt").write_bytes(f"{FACE}\r\n".encode(encoding))
    assert read_set(root)[0] == {"0.jpg": near(BOX)}


# Which class an id is


def test_ids_without_names_are_refused(tmp_path: Path) -> None:
    files = yolo(FACE)
    del files["classes.txt"]
    root = write_files(tmp_path / "raw", files)
    for class_map in ([], ["person=human"]):
        with pytest.raises(UserError, match=r"ids must have names.*write one, or say what is what with --class-map 0="):
            read_set(root, *class_map)
    assert read_set(root, "0=face")[0] == {"0.jpg": near(BOX)}


def test_each_folder_has_its_own_list(tmp_path: Path) -> None:
    files = {"1/a.jpg": "", "1/a.txt": "1 0.5 0.5 0.2 0.1", "1/classes.txt": "car\ncarplate\n"}
    files |= {"2/b.jpg": "", "2/b.txt": "0 0.5 0.5 0.2 0.1", "2/classes.txt": "carplate\ncar\n"}
    plate = near([("carplate", 0.5, 0.5, 0.2, 0.1)])
    assert read_set(write_files(tmp_path / "raw", files))[0] == {"1/a.jpg": plate, "2/b.jpg": plate}
    files["2/classes.txt"] = "carplate\n"  # are the cars of that folder labelled?
    with pytest.raises(UserError, match=r"must name the same of .* 1/classes.txt names car, carplate and 2/.* --add"):
        read_set(write_files(tmp_path / "other", files))
    files["2/classes.txt"] = "carplate\ncar\n"
    with pytest.raises(UserError, match=r"class ids in 2 must have one list of names"):
        read_set(write_files(tmp_path / "third", files | {"data.yaml": "names: [car, carplate]"}))


@pytest.mark.parametrize(
    "files",
    [
        {"data.yaml": "names: [face, car]\nlabelled: {a/: [car]}\n", "labels/a/0.txt": FACE, "images/a/0.jpg": ""},
        {"data.yaml": "names: [face]", "ignore/0.txt": FACE, "labels/0.txt": FACE, "images/0.jpg": ""},
    ],
)
def test_a_dataset_that_says_more_than_raw_labels_can_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be a raw set, but is a dataset with .*: train on it"):
        read_set(write_files(tmp_path / "raw", files))


def test_a_blank_line_keeps_its_number(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo("2 0.7 0.6 0.1 0.12", "1 0.7 0.6 0.1 0.12", FACE, names="car\n\nface\n"))
    found, _ = read_set(root)
    assert found == {"0.jpg": near(BOX), "2.jpg": near([("car", *BOX[0][1:])])}


def test_blanks_and_forms_of_class_names(tmp_path: Path) -> None:
    name = "fa\u00e7ade, left=1"
    decomposed = unicodedata.normalize("NFD", name)
    root = write_files(tmp_path / "raw", yolo(FACE, names=f"  {decomposed.replace(' ', '  ')} \n"))
    with pytest.raises(UserError, match=r"say what is what with --class-map 'fa\u00e7ade\\, left\\=1=CLASS'"):
        read_set(root)
    assert read_set(root, "fa\u00e7ade\\, left\\=1=face")[0] == {"0.jpg": near(BOX)}


# Which image labels belong to


@pytest.mark.parametrize("encode", [lambda name: unicodedata.normalize("NFD", name), quote])
def test_names_that_are_the_same_text(encode: Any, tmp_path: Path) -> None:
    name = "Capture d'\u00e9cran"
    yolo_set = {"classes.txt": "face", "images/b.jpg": "", "labels/b.txt": ""}
    yolo_set |= {f"images/{name}.jpg": "", f"labels/{encode(name)}.txt": FACE}
    assert read_set(write_files(tmp_path / "yolo", yolo_set))[0] == {f"{name}.jpg": near(BOX), "b.jpg": []}
    competition = {
        f"images/{name}.jpg": "",
        f"labels/{encode(name)}_face..txt": FACE,
        f"labels/{encode(name)}_car..txt": "",
    }
    assert read_set(write_files(tmp_path / "competition", competition))[0] == {f"{name}.jpg": near(BOX)}
    content = {
        "images": [{"id": 1, "file_name": encode(f"{name}.jpg"), "width": 200, "height": 160}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [130, 86.4, 20, 19.2]}],
        "categories": [{"id": 1, "name": "face"}],
    }
    coco_set = {f"images/{name}.jpg": "", "x.json": json.dumps(content)}
    assert read_set(write_files(tmp_path / "coco", coco_set))[0] == {f"{name}.jpg": near(BOX)}


COCO_TWO = {
    "images": [{"id": n, "file_name": f"{s}/0.jpg", "width": 200, "height": 160} for n, s in enumerate("AB")],
    "annotations": [{"image_id": n, "category_id": 1, "bbox": [10 + n, 10, 20, 20]} for n in range(2)],
    "categories": [{"id": 1, "name": "car"}],
}
VOC_BOX = (
    "<annotation><object><name>car</name><bndbox><xmin>{}</xmin><ymin>10</ymin><xmax>30</xmax><ymax>30</ymax></bndbox>"
    "</object></annotation>"
)


@pytest.mark.parametrize(
    "labels",
    [
        {"classes.txt": "car", "labels/A/0.txt": "0 0.25 0.25 0.1 0.1", "labels/B/0.txt": "0 0.75 0.75 0.1 0.1"},
        {"Annotations/A/0.xml": VOC_BOX.format(10), "Annotations/B/0.xml": VOC_BOX.format(20)},
        {"annotations/all.json": json.dumps(COCO_TWO)},
        {f"labels/{s}/0_car..txt": f"0 0.{n}5 0.25 0.1 0.1" for s, n in (("A", 2), ("B", 7))},
    ],
    ids=["yolo", "voc", "coco", "competition"],
)
@pytest.mark.parametrize("first_is_labelled", [True, False])
def test_labels_of_an_image_that_is_missing_are_not_its_namesakes(
    labels: dict[str, str], first_is_labelled: bool, tmp_path: Path
) -> None:
    """Of two sequences with the same names, the images of the second are missing; the first may have no labels."""
    files = {path: text for path, text in labels.items() if first_is_labelled or "/A/" not in path}
    root = write_files(tmp_path / "raw", {"images/A/0.jpg": "", "images/A/1.jpg": "", **files})
    if not first_is_labelled and "annotations/all.json" not in labels:
        with pytest.raises(UserError, match=r"must hold|of 1 label files"):
            read_set(root)
        return
    found, problems = read_set(root, unlabelled="skip")
    assert [len(boxes) for boxes in found.values()] == [1]
    assert "label without image" in {problem.kind for problem in problems}


def test_two_label_files_for_one_image_leave_it_out(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", yolo(FACE, FACE) | {"0.txt": "0 0.2 0.2 0.1 0.1"})
    found, problems = read_set(root)
    assert found == {"1.jpg": near(BOX)}
    assert sorted(problem.path for problem in problems) == ["0.txt", "images/0.jpg", "labels/0.txt"]


def test_a_label_file_that_is_named_almost_as_its_image_makes_no_background(tmp_path: Path) -> None:
    files = yolo(FACE, FACE) | {"images/IMG 1 (2).jpg": "", "labels/img_1_2.txt": FACE}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    assert sorted(found) == ["0.jpg", "1.jpg"]
    assert {(problem.path, problem.kind) for problem in problems} == {
        ("images/IMG 1 (2).jpg", "image without label"),
        ("labels/img_1_2.txt", "label without image"),
    }


@pytest.mark.parametrize("stranger", ["labels/y0.txt", "labels/y0.xml", "labels/y0.json", "Labels/Y/y0.TXT"])
def test_label_files_of_other_images_make_no_backgrounds(stranger: str, tmp_path: Path) -> None:
    """One label file that belongs to nothing is enough: it may be that of any image without labels."""
    root = write_files(tmp_path / "raw", yolo(*[FACE] * 9) | {"images/x.jpg": "", stranger: FACE})
    with pytest.raises(UserError, match=rf"1 of 10 have no image, such as {stranger}, while 1 .* such as images/x.jpg"):
        read_set(root)
    assert len(read_set(root, unlabelled="background")[0]) == 10
    assert len(read_set(root, unlabelled="skip")[0]) == 9
    files = {f"images/x{n}.jpg": "" for n in range(3)} | {f"labels/y{n}.txt": FACE for n in range(3)}
    root = write_files(tmp_path / "most", yolo(FACE) | files)
    with pytest.raises(UserError, match=r"3 of 4 have no image, .* or leave these images out with --unlabelled skip"):
        read_set(root, unlabelled="background")
    assert list(read_set(root, unlabelled="skip")[0]) == ["0.jpg"]


@pytest.mark.parametrize("labels", ["labels/{}.txt", "labels/{}_face..txt"])
def test_a_set_that_is_labelled_in_part_has_no_backgrounds(labels: str, tmp_path: Path) -> None:
    files = {"classes.txt": "face\n"} if labels.endswith("{}.txt") else {}
    files |= {f"images/{n}.jpg": "" for n in range(20)} | {labels.format(n): "0 0.5 0.5 0.2 0.2" for n in range(17)}
    root = write_files(tmp_path / "raw", files)
    with pytest.raises(
        UserError, match=r"at most 10% .* but 3 of 20 are, such as images/17.jpg: .* --unlabelled backg"
    ):
        read_set(root)
    assert [len(read_set(root, unlabelled=text)[0]) for text in ("background", "skip")] == [20, 17]
    write_files(root, {labels.format(17): "0 0.5 0.5 0.2 0.2"})
    found, problems = read_set(root)
    assert len(found) == 20
    assert [problem.action for problem in problems] == ["as_background"] * 2


# Files by type, not by name


def test_images_and_labels_may_have_any_name(tmp_path: Path) -> None:
    names = ("license_plate_0", "LICENSE", "readme", "changelog-1", "train", "val", "classes", "requirements", "notes")
    files = {f"images/{name}.jpg": "" for name in names} | {f"labels/{name}.txt": FACE for name in names}
    files |= {"data.yaml": "names: [face]", "train.txt": "images/train.jpg\n", "README.md": "x", "LICENSE": "x"}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    assert found == {f"{name}.jpg": near(BOX) for name in names}
    assert problems == []


def test_a_json_file_may_have_any_name(tmp_path: Path) -> None:
    content = COCO_TWO | {"images": [{"id": 0, "file_name": "0.jpg", "width": 200, "height": 160}]}
    for name in ("license_plates.json", "notes.json", "readme.json", "package.json"):
        root = write_files(tmp_path / name, {"images/0.jpg": "", name: json.dumps(content)})
        assert read_set(root)[0] == {"0.jpg": near([("car", 0.1, 0.125, 0.1, 0.125)])}


# COCO and VOC


def coco_set(*annotations: dict[str, Any], **parts: Any) -> dict[str, str]:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 200, "height": 160} for n in range(3)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "car"}], **parts}
    return {"instances.json": json.dumps(content), **{f"images/{n}.jpg": "" for n in range(3)}}


RUNS = [3230, *[70, 90] * 59, 70, 19260]
CAR = {"image_id": 0, "category_id": 3}
XYWH = [20, 30, 60, 70]
CAR_BOX = [("car", 0.25, 0.40625, 0.3, 0.4375)]


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": XYWH},
        {"bbox": [str(value) for value in XYWH]},
        {"bbox": XYWH, "image_id": "0", "category_id": "3"},
        {"segmentation": [[20, 30, 80, 30, 80, 100, 20, 100]]},
        {"bbox": [], "segmentation": [[20, 30, 80, 30, 80, 100], [20, 60, 50, 100, 60, 60]]},
        {"segmentation": {"counts": RUNS, "size": [160, 200]}},
        {"bbox": XYWH, "iscrowd": 1, "segmentation": {"counts": RUNS, "size": [160, 200]}},
    ],
)
def test_annotations_that_can_be_read(annotation: dict[str, Any], tmp_path: Path) -> None:
    found, _ = read_set(write_files(tmp_path / "raw", coco_set(CAR | annotation)))
    assert found["0.jpg"] == near(CAR_BOX)


def test_a_crowd_among_objects_is_a_region_to_ignore(tmp_path: Path) -> None:
    crowd = CAR | {"bbox": XYWH, "iscrowd": 1, "segmentation": {"counts": RUNS, "size": [160, 200]}}
    ignored = CAR | {"bbox": XYWH, "ignore": 1, "image_id": 1}
    found, _ = read_set(write_files(tmp_path / "raw", coco_set(crowd, ignored, CAR | {"bbox": XYWH, "image_id": 2})))
    assert (found["0.jpg"], found["1.jpg"], found["2.jpg"]) == (
        near([("~car", *CAR_BOX[0][1:])]), near([("~car", *CAR_BOX[0][1:])]), near(CAR_BOX)
    )  # fmt: skip


def test_files_with_other_categories_say_nothing_of_their_classes(tmp_path: Path) -> None:
    """One file labels cars, the other plates; one image is in both."""
    files = {f"images/{n}.jpg": "" for n in range(3)}
    for name, numbers in (("car", (0, 1)), ("carplate", (1, 2))):
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "width": 200, "height": 160} for n in numbers],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": XYWH}],
            "categories": [{"id": 1, "name": name}],
        }
        files[f"{name}s.json"] = json.dumps(content)
    found, _ = read_set(write_files(tmp_path / "raw", files))
    whole = (0.5, 0.5, 1, 1)
    assert found["0.jpg"] == near([("~carplate", *whole)])
    assert sorted(found["1.jpg"]) == near([CAR_BOX[0], ("carplate", *CAR_BOX[0][1:])])
    assert found["2.jpg"] == near([("~car", *whole)])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"categories": [{"id": 3, "name": "car"}, {"id": "3", "name": "face"}]}, "3 is car and face"),
        ({"annotations": [CAR | {"bbox": None}] * 2 + [CAR | {"bbox": XYWH}]}, "2 of 3 are not, .*not four numbers"),
    ],
)
def test_coco_files_that_are_refused(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", coco_set(**parts))
    with pytest.raises(UserError, match=message):
        read_set(root)


def test_an_id_of_two_images_is_that_of_none(tmp_path: Path) -> None:
    images = [{"id": n // 2, "file_name": f"{n}.jpg", "width": 200, "height": 160} for n in range(3)]
    root = write_files(
        tmp_path / "raw", coco_set(CAR | {"bbox": XYWH}, CAR | {"bbox": XYWH, "image_id": 1}, images=images)
    )
    found, problems = read_set(root, unlabelled="skip")
    assert found == {"2.jpg": near(CAR_BOX)}
    assert "image id that several images have" in {problem.kind for problem in problems}


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_the_box_of_a_mask_is_that_of_pycocotools(runs: list[int], high: int, wide: int) -> None:
    mask = pytest.importorskip("pycocotools.mask")
    import numpy as np

    bits = np.repeat(np.arange(len(runs)) % 2, runs)[: high * wide]
    pixels = np.asfortranarray(np.pad(bits, (0, high * wide - len(bits))).reshape(wide, high).T.astype(np.uint8))
    packed = mask.encode(pixels)
    expected = mask.toBbox(packed).tolist() if pixels.any() else None
    assert find_segmentation_box({"counts": packed["counts"].decode(), "size": [high, wide]}) == expected
    flat = pixels.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *edges, len(flat)]).tolist()
    assert find_segmentation_box({"counts": counts, "size": [high, wide]}) == expected


def test_several_boxes_in_one_object(tmp_path: Path) -> None:
    frame = "<bndbox><xmin>{}</xmin><ymin>30</ymin><xmax>{}</xmax><ymax>100</ymax></bndbox>"
    size = "<size><width>200</width><height>160</height></size>"
    frames = frame.format(20, 80) + frame.format(100, 160)
    text = f"<annotation>{size}<object><name> car\n </name>{frames}</object></annotation>"
    found, _ = read_set(write_files(tmp_path / "raw", {"a.jpg": "", "a.xml": text}))
    assert found == {"a.jpg": near([CAR_BOX[0], ("car", 0.65, 0.40625, 0.3, 0.4375)])}


def test_kittis_regions_are_ignored_for_every_class(tmp_path: Path) -> None:
    row = "{} 0.00 0 -1.58 20 30 80 100 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"
    text = row.format("Car") + "DontCare -1 -1 -10 100 30 160 100 -1 -1 -1 -1000 -1000 -1000 -10\n"
    found, _ = read_set(write_files(tmp_path / "raw", {"image_2/0.jpg": "", "label_2/0.txt": text}), "Car=car")
    regions = [(f"~{name}", 0.65, 0.40625, 0.3, 0.4375) for name in CLASSES]
    assert found == {"image_2/0.jpg": near([*CAR_BOX, *regions])}
