"""Labels of strangers that were read wrongly without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
from label_sets import read_set, write_files

from depers.datasets.labels import CLASSES
from depers.errors import UserError
from depers.normalization.sources import LabelSet, find_labelled_classes

LINE = "0 0.5 0.5 0.1 0.1\n"
BOX = [("car", 0.5, 0.5, 0.1, 0.1)]
FRAME = "<bndbox><xmin>90</xmin><ymin>72</ymin><xmax>110</xmax><ymax>88</ymax></bndbox>"
OBJECT = f"<object><name>car</name>{FRAME}</object>"


def coco(*annotations: dict[str, Any], names: tuple[str, ...] = ("a.jpg",)) -> str:
    images = [{"id": number, "file_name": name, "width": 200, "height": 160} for number, name in enumerate(names)]
    entries = [{"category_id": 1, "bbox": [90, 72, 20, 16], "image_id": 0, **entry} for entry in annotations]
    return json.dumps({"images": images, "annotations": entries, "categories": [{"id": 1, "name": "car"}]})


@pytest.mark.parametrize(("flag", "is_set"), [("0", False), ("false", False), (0, False), ("1", True), (True, True)])
def test_flags_of_coco_may_be_text(flag: object, is_set: bool, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "x.json": coco({"iscrowd": flag}, {"bbox": [0, 0, 9, 9]})})
    assert ("~car" in {box[0] for box in read_set(root)[0]["a.jpg"]}) == is_set


def test_fractions_where_pixels_must_be_are_refused(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "x.json": coco({"bbox": [0.2, 0.1, 0.5, 0.5]})})
    with pytest.raises(UserError, match=r"box in one pixel.*fractions of the image"):
        read_set(root)


@pytest.mark.parametrize("strange", [f"<objects>{OBJECT}</objects>", OBJECT.replace("object", "Object"), FRAME])
def test_voc_with_objects_elsewhere_is_no_background(strange: str, tmp_path: Path) -> None:
    strange = f"<annotation>{strange}</annotation>"
    files = {"a.jpg": "", "a.xml": strange, "b.jpg": "", "b.xml": f"<annotation>{OBJECT}</annotation>"}
    assert set(read_set(write_files(tmp_path / "raw", files))[0]) == {"b.jpg"}


@pytest.mark.parametrize(
    "label", ["license-plate-1.jpg.txt", "txt/license-plate-1.txt", "labels/license-plate-1_car..txt"]
)
def test_labels_that_are_called_like_licences(label: str, tmp_path: Path) -> None:
    folder = "img/" if label.startswith("txt/") else ""
    files = {f"{folder}{n}.jpg": "" for n in ("license-plate-1", "c")}
    files |= {label: LINE, label.replace("license-plate-1", "c"): LINE}
    files |= {} if "_car" in label else {"classes.txt": "car\n"}
    found = read_set(write_files(tmp_path / "raw", files))[0]
    assert found == {f"{folder}license-plate-1.jpg": BOX, f"{folder}c.jpg": BOX}


def test_an_image_whose_labels_of_another_format_lie_elsewhere_is_no_background(tmp_path: Path) -> None:
    files = {"images/a.jpg": "", "images/b.jpg": "", "labels/a.txt": LINE, "json/b.json": "{}", "classes.txt": "car\n"}
    assert read_set(write_files(tmp_path / "raw", files))[0] == {"a.jpg": BOX}


def test_folders_of_classes_of_oidv4_are_refused(tmp_path: Path) -> None:
    files = {f"{name}/{name}.jpg": "" for name in ("car", "face")}
    files |= {f"{name}/Label/{name}.txt": f"{name} 20 30 80 90\n" for name in ("car", "face")}
    root = write_files(tmp_path / "raw", files)
    with pytest.raises(UserError, match=r"are car, face: give each folder as a set of its own"):
        read_set(root)
    assert set(read_set(root / "car")[0]) == {"car.jpg"}


@pytest.mark.parametrize("kind", ["coco", "oidv4", "voc", "kitti"])
def test_a_class_map_of_several_sets_does_not_say_what_each_labels(kind: str) -> None:
    one = LabelSet("raw", "", kind, None, {"person": "human", "plate": "carplate"}, [], [], [], {}, {})
    assert find_labelled_classes(one, ["plate"], ["plate"], CLASSES) == ["carplate"]


def test_a_coco_file_beside_its_images_is_not_about_a_namesake_elsewhere(tmp_path: Path) -> None:
    files = {"1/b.jpg": "", "2/a.jpg": "", "1/x.json": coco({}, {"image_id": 1}, names=("a.jpg", "b.jpg"))}
    assert set(read_set(write_files(tmp_path / "raw", files))[0]) == {"1/b.jpg"}


def test_a_confidence_before_the_box_is_refused(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": "0 0.91 0.45 0.5 0.1 0.12\n", "classes.txt": "car\n"}
    with pytest.raises(UserError, match="a confidence must come last"):
        read_set(write_files(tmp_path / "raw", files))


def test_a_comment_in_a_list_of_classes_is_refused(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": LINE, "classes.txt": "# names\ncar\n"}
    with pytest.raises(UserError, match=r"classes\.txt: each line must be the name of a class.*'# names'"):
        read_set(write_files(tmp_path / "raw", files))


@pytest.mark.parametrize("text", ["\n", "\r\n", "\ufeff"])
def test_a_blank_text_says_that_missing_ones_are_not_annotated(text: str, tmp_path: Path) -> None:
    files = {**{f"{name}.jpg": "" for name in "abc"}, "a.txt": LINE, "b.txt": text, "classes.txt": "car\n"}
    assert set(read_set(write_files(tmp_path / "raw", files))[0]) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("name", ["0a1b2c3d-b", "b_jpg.rf.0123456789abcdef0123456789abcdef"])
def test_an_image_whose_labels_a_tool_renamed_is_no_background(name: str, tmp_path: Path) -> None:
    files = {"images/a.jpg": "", "images/b.jpg": "", "labels/a.txt": LINE, f"labels/{name}.txt": LINE}
    assert set(read_set(write_files(tmp_path / "raw", {**files, "classes.txt": "car\n"}))[0]) == {"a.jpg"}


def test_ids_that_count_from_one_are_refused_and_the_hint_works(tmp_path: Path) -> None:
    lines = {"a": "1", "b": "1", "c": "2"}
    files = {f"{name}.jpg": "" for name in lines} | {f"{name}.txt": f"{n}{LINE[1:]}" for name, n in lines.items()}
    with pytest.raises(UserError, match=r"c\.txt, line 1.*begin classes\.txt with a blank line"):
        read_set(write_files(tmp_path / "raw", {**files, "classes.txt": "car\nface\n"}))
    found = read_set(write_files(tmp_path / "raw", {**files, "classes.txt": "\ncar\nface\n"}))[0]
    assert {name: boxes[0][0] for name, boxes in found.items()} == {"a.jpg": "car", "b.jpg": "car", "c.jpg": "face"}


def test_images_that_a_coco_file_beside_yolo_may_list_are_no_backgrounds(tmp_path: Path) -> None:
    files = {"a.jpg": "", "b.jpg": "", "a.txt": LINE, "x.json": coco({}, names=("b.jpg",)), "classes.txt": "car\n"}
    assert set(read_set(write_files(tmp_path / "raw", files), kind="yolo")[0]) == {"a.jpg"}


def test_edges_in_other_folders_than_those_of_oidv4(tmp_path: Path) -> None:
    files = {f"images/{n}/{n}.jpg": "" for n in "ab"} | {f"labels/{n}/{n}.txt": "car 90 72 110 88\n" for n in "ab"}
    assert read_set(write_files(tmp_path / "raw", files), kind="oidv4")[0] == {f"{n}/{n}.jpg": BOX for n in "ab"}


def test_a_class_of_another_case_is_not_left_out_in_silence(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.xml": f"<annotation>{OBJECT}</annotation>", "b.jpg": ""}
    files["b.xml"] = f"<annotation>{OBJECT.replace('>car<', '>Car<')}</annotation>"
    root = write_files(tmp_path / "raw", files)
    with pytest.raises(UserError, match="add Car=CLASS where it is one, Car= where not"):
        read_set(root)
    assert set(read_set(root, "Car=car")[0]) == {"a.jpg", "b.jpg"}


def test_a_line_with_a_comment_is_named(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": f"{LINE.strip()} # car\n", "b.jpg": "", "b.txt": LINE, "classes.txt": "car\n"}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    assert (set(found), [problem.kind for problem in problems]) == ({"b.jpg"}, ["not a finite number"])


def test_a_class_of_which_every_object_is_ignored_is_on_record(tmp_path: Path) -> None:
    box = "<bndbox><xmin>20</xmin><ymin>30</ymin><xmax>80</xmax><ymax>100</ymax></bndbox>"
    item = "<object><name>{}</name><difficult>{}</difficult>" + box + "</object>"
    files = {f"{n}.jpg": "" for n in range(2)}
    files |= {f"{n}.xml": f"<annotation>{item.format('car', 1)}{item.format('face', n)}</annotation>" for n in range(2)}
    _, problems = read_set(write_files(tmp_path / "raw", files))
    texts = [problem.detail for problem in problems if problem.kind == "class whose every object is ignored"]
    assert texts == ["car: all 2 are difficult, or crowds"]
    _, problems = read_set(tmp_path / "raw", classes=("face",))
    texts = [problem.detail for problem in problems if problem.kind == "class that is not asked for"]
    assert texts == ["car: 0 boxes in 0 images, 2 ignored"]


@pytest.mark.parametrize(
    ("strange", "kind"),
    [
        ({"score": 0.87}, "detection, not a label"),
        ({"score": 0}, "detection, not a label"),
        ({"confidence": 0.5}, "detection, not a label"),
        ({"attributes": {"rotation": 12.5}}, "turned box"),
    ],
)
def test_detections_and_turned_boxes_cost_their_image(strange: dict[str, Any], kind: str, tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg")
    plain: dict[str, Any] = {"score": 1.0, "attributes": {"rotation": 0.0, "occluded": False}}
    text = coco(strange, plain | {"image_id": 1}, {"score": None, "image_id": 2}, names=names)
    root = write_files(tmp_path / "raw", {**dict.fromkeys(names, ""), "x.json": text})
    found, problems = read_set(root)
    assert set(found) == {"b.jpg", "c.jpg"}
    assert [(problem.line, problem.kind, problem.action) for problem in problems] == [(1, kind, "skipped_with_image")]
    write_files(root, {"x.json": coco(*[strange] * 3)})
    with pytest.raises(UserError, match=rf"3 of 3 are not, such as .*{kind} .*: (where people .* remove|export them)"):
        read_set(root)


def test_a_box_that_cvat_has_turned_costs_its_image_in_voc_too(tmp_path: Path) -> None:
    attribute = "<attributes><attribute><name>rotation</name><value>{}</value></attribute></attributes>"
    files = {f"{n}.jpg": "" for n in range(3)}
    for number, angle in enumerate(("0.0", "30.5", "x")):
        text = OBJECT.replace("<name>car", f"{attribute.format(angle)}<name>car")
        files[f"{number}.xml"] = f"<annotation>{text}{OBJECT}{OBJECT}</annotation>"
    assert set(read_set(write_files(tmp_path / "raw", files))[0]) == {"0.jpg"}


def test_a_file_of_captions_can_be_left_out(tmp_path: Path) -> None:
    captions = {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": [{"image_id": 0, "caption": "a car"}]}
    files = {"a.jpg": "", "instances.json": coco({}), "captions.json": json.dumps(captions)}
    with pytest.raises(UserError, match=r"captions.json: must be COCO, with categories .* --label-files 'annotations/"):
        read_set(write_files(tmp_path / "raw", files))


SECOND = {"bbox": [10, 20, 30, 40]}


def test_two_versions_of_a_file_are_refused_unless_they_say_the_same(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg")
    same = [{}, SECOND, {"image_id": 1}]
    files = {
        **dict.fromkeys(names, ""),
        "x.json": coco(*same, names=names),
        "x_v2.json": coco(*same[::-1], names=names),
    }
    root = write_files(tmp_path / "raw", files)
    found, problems = read_set(root)
    assert [len(found[name]) for name in names] == [2, 1]
    [problem] = problems
    assert problem[:4] == ("x_v2.json", 0, "boxes of another file", "dropped")
    assert problem.detail == "3 boxes are those of x.json"
    for other in (
        [{}, {"image_id": 1}],
        [{"bbox": [90, 72, 21, 16]}, *same[1:]],
        [*same, {"image_id": 1, "iscrowd": 1}],
    ):
        write_files(root, {"x_v2.json": coco(*other, names=names)})
        with pytest.raises(UserError, match=r"boxes of car must stand in one file, but x.json and x_v2.json are both"):
            read_set(root)
    write_files(root, {"x_v2.json": coco(SECOND, names=("c.jpg",)), "c.jpg": ""})
    assert [len(boxes) for boxes in read_set(root)[0].values()] == [2, 1, 1]


def test_an_image_that_one_file_lists_twice_is_left_out(tmp_path: Path) -> None:
    """Its boxes may be two versions of the same, whatever `--unlabelled` says of images that nothing lists."""
    names = ("a.jpg", "b.jpg", "a.jpg")
    text = coco({}, {"image_id": 1}, {"image_id": 1, **SECOND}, {"image_id": 2}, names=names)
    root = write_files(tmp_path / "raw", {**dict.fromkeys(names, ""), "x.json": text})
    for unlabelled in ("auto", "background"):
        found, problems = read_set(root, unlabelled=unlabelled)
        assert set(found) == {"b.jpg"}
        assert {problem.kind for problem in problems} == {"image that is listed several times"}
    write_files(root, {"x.json": coco({}, {"image_id": 2}, names=names)})
    with pytest.raises(UserError, match=r"2 of 2 are not, .* image that is listed several times"):
        read_set(root)


def test_images_of_an_id_or_a_name_that_several_have_are_never_backgrounds(tmp_path: Path) -> None:
    content = json.loads(coco({}, {"image_id": 2}, names=("1/a.jpg", "b.jpg", "c.jpg")))
    content["images"][1]["id"] = 0  # of two images
    content["images"].append({"id": 7, "file_name": "d.jpg"})  # which of the two
    files = dict.fromkeys(("1/a.jpg", "b.jpg", "c.jpg", "1/d.jpg", "2/d.jpg", "e.jpg"), "")
    root = write_files(tmp_path / "raw", {**files, "x.json": json.dumps(content)})
    assert set(read_set(root, unlabelled="background")[0]) == {"c.jpg", "e.jpg"}


def test_lists_of_images_that_are_not_there_are_on_record(tmp_path: Path) -> None:
    files = {"images/a b.jpg": "", "labels/a b.txt": LINE, "classes.txt": "car\n"}
    files |= {"train.txt": "data\\images\\a b.jpg\n\n", "val.txt": "images/c.jpg\nimages/a b.jpg\nimages/d.jpg\n"}
    _, problems = read_set(write_files(tmp_path / "raw", files))
    [problem] = problems
    assert problem[:4] == ("val.txt", 0, "list of images that are not there", "accepted")
    assert problem.detail == "2 of 3, such as images/c.jpg"
    voc = {"a.jpg": "", "a.xml": f"<annotation>{OBJECT}</annotation>", "ImageSets/Main/car_train.txt": "a  1\nb -1\n"}
    assert read_set(write_files(tmp_path / "voc", voc))[1][0].detail == "1 of 2, such as b -1"


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "images/.thumbnails", ".Trash-1000/files", "__MACOSX/images"])
def test_what_lies_in_hidden_folders_is_no_part_of_the_set(folder: str, tmp_path: Path) -> None:
    files = {"images/a.jpg": "", "labels/a.txt": LINE, "classes.txt": "car\n"}
    files |= {f"{folder}/b.jpg": "", f"{folder}/c.txt": LINE, f"{folder}/classes.txt": "face\n"}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    assert found == {"a.jpg": BOX}
    assert problems == []
