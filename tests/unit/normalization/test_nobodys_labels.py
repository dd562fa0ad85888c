"""Labels that are nobody's, of nothing, or about more than one object: never a background, never an object."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from label_sets import read_set, write_files

from depers.errors import UserError

NAMES = [f"i{number}" for number in range(4)]
BOXES = [(20, 30, 60, 70), (100, 60, 40, 20), (10, 10, 40, 50), (110, 60, 80, 90)]
IMAGES = {f"images/{name}.jpg": "" for name in NAMES}
Content = dict[str, Any]


def coco(change: Callable[[Content], Content]) -> dict[str, str]:
    content = {
        "images": [{"id": n, "file_name": f"{name}.jpg", "width": 200, "height": 160} for n, name in enumerate(NAMES)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 2, "bbox": [*box]} for n, box in enumerate(BOXES)],
        "categories": [{"id": 0, "name": "car"}, {"id": 1, "name": "face"}],
    }
    return {**IMAGES, "annotations/instances.json": json.dumps(change(content))}


def each(**values: Any) -> Callable[[Content], Content]:
    """Give every second annotation further keys, or other values: what a function makes of those that it has."""

    def change(content: Content) -> Content:
        for item in content["annotations"][::2]:
            item |= {key: value(item) if callable(value) else value for key, value in values.items()}
        return content

    return change


def of_all(key: str, value: Callable[[Any], Any]) -> Callable[[Content], Content]:
    def change(content: Content) -> Content:
        return {**content, "annotations": [{**item, key: value(item[key])} for item in content["annotations"]]}

    return change


def test_as_it_is_it_is_read(tmp_path: Path) -> None:
    found, problems = read_set(write_files(tmp_path / "raw", coco(dict)))
    assert ([len(boxes) for boxes in found.values()], problems) == ([1] * 4, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: {k: v for k, v in content.items() if k != "annotations"}, "but has none at its top"),
        (lambda content: {**content, "annotations": None}, "but has none at its top"),
        (lambda content: {**content, "annotations": {"0": content["annotations"]}}, "list of annotations"),
        (lambda content: {**content, "annotations": [], "labels": content["annotations"]}, "none of 4 images has one"),
        (of_all("image_id", lambda number: f"i{number}.jpg"), "none is, such as 'i0.jpg'"),
        (of_all("image_id", lambda number: f"{number:06d}"), "none is, such as '000000'"),
        (of_all("image_id", lambda number: number + 1), "4 is none, and image 0 has no annotation"),
        (of_all("image_id", lambda number: number - 1), "-1 is none, and image 3 has no annotation"),
        (of_all("category_id", lambda number: 2 - number), "2 is none, and no annotation is of car"),
        (of_all("bbox", lambda xywh: [xywh[0] + xywh[2] / 2, xywh[1] + xywh[3] / 2, 160, 40]), "those of a center"),
        (lambda content: {**content, "images": [{**i, "neg_category_ids": [1]} for i in content["images"]]}, "LVIS"),
        (lambda content: {**content, "categories": [{"id": 0, "name": "background"}, {"id": 1, "name": "car"}]},
         "background: a box must be of an object, but 2 are"),
    ],
)  # fmt: skip
def test_coco_whose_labels_are_elsewhere_or_nobodys_is_refused(
    change: Callable[[Content], Content], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        read_set(write_files(tmp_path / "raw", coco(change)))
    if "background" not in message and "none of 4" not in message:  # though somebody says what was looked for
        with pytest.raises(UserError, match=message):
            read_set(tmp_path / "raw", "car=car")


def test_an_image_without_a_box_beside_labels_of_no_image_is_no_background(tmp_path: Path) -> None:
    found, problems = read_set(write_files(tmp_path / "raw", coco(of_all("image_id", lambda n: 77 if n == 1 else n))))
    assert set(found) == {"i0.jpg", "i2.jpg", "i3.jpg"}
    assert "image without a box beside labels of no image" in {problem.kind for problem in problems}


@pytest.mark.parametrize(
    "remarks",
    [
        {"isgroupof": 1}, {"ignore": "True"}, {"difficult": 1}, {"attributes": {"Difficult": True}},
        {"attributes": {"is_crowd": "yes", "occluded": False}}, {"is_group_of": True},
    ],
)  # fmt: skip
def test_what_a_tool_calls_a_group_or_difficult_is_a_region(remarks: Content, tmp_path: Path) -> None:
    found, _ = read_set(write_files(tmp_path / "raw", coco(each(**remarks))))
    assert [boxes[0][0] for boxes in found.values()] == ["~car", "face", "~car", "face"]


@pytest.mark.parametrize(
    "remarks", [{"attributes": {"occluded": True}}, {"difficult": "Unspecified"}, {"isgroupof": 0}]
)
def test_other_remarks_change_nothing(remarks: Content, tmp_path: Path) -> None:
    found, _ = read_set(write_files(tmp_path / "raw", coco(each(**remarks))))
    assert [boxes[0][0] for boxes in found.values()] == ["car", "face", "car", "face"]


@pytest.mark.parametrize(
    "remarks", [{"score": "0.87"}, {"prob": 0.4}, {"attributes": {"score": 0}}, {"Confidence": 0.5}]
)
def test_a_score_by_any_name_is_that_of_a_detection(remarks: Content, tmp_path: Path) -> None:
    found, problems = read_set(write_files(tmp_path / "raw", coco(each(**remarks))))
    assert set(found) == {"i1.jpg", "i3.jpg"}
    assert {problem.kind for problem in problems} >= {"detection, not a label"}


def voc(*objects: str) -> str:
    return f"<annotation><size><width>200</width><height>160</height></size>{''.join(objects)}</annotation>"


def voc_object(name: str = "car", more: str = "") -> str:
    edges = "<xmin>90</xmin><ymin>72</ymin><xmax>110</xmax><ymax>88</ymax>"
    return f"<object><name>{name}</name>{more}<bndbox>{edges}</bndbox></object>"


def read_voc_pair(xml: str, tmp_path: Path) -> dict[str, list[str]]:
    files = {"a.jpg": "", "a.xml": xml, "b.jpg": "", "b.xml": voc(voc_object())}
    found, _ = read_set(write_files(tmp_path / "raw", files))
    return {name: [box[0] for box in boxes] for name, boxes in found.items()}


@pytest.mark.parametrize(
    "more", [f"<group>{voc_object()}</group>", voc_object().replace("object>", "Object>"), "<bndbox></bndbox>"]
)
def test_voc_of_which_some_objects_are_elsewhere_is_not_read_in_part(more: str, tmp_path: Path) -> None:
    assert read_voc_pair(voc(voc_object(), more), tmp_path) == {"b.jpg": ["car"]}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("<difficult>true</difficult>", ["~car"]),
        ("<difficult>Unspecified</difficult>", ["car"]),
        ("<ignore>1</ignore>", ["~car"]),
        ("<attributes><attribute><name>difficult</name><value>True</value></attribute></attributes>", ["~car"]),
        ("<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>", ["car"]),
        ("<confidence>0.7</confidence>", None),
    ],
)
def test_remarks_of_voc(more: str, expected: list[str] | None, tmp_path: Path) -> None:
    assert read_voc_pair(voc(voc_object(more=more)), tmp_path).get("a.jpg") == expected


@pytest.mark.parametrize("name", ["ignore", "DontCare", "__ignore__", "ignored regions", "dont_care", "crowd"])
def test_a_class_that_is_none_is_a_region_of_every_class(name: str, tmp_path: Path) -> None:
    found = read_voc_pair(voc(voc_object(name), voc_object()), tmp_path)["a.jpg"]
    assert sorted(found) == sorted(["car", *(f"~{known}" for known in ("car", "head", "face", "human", "carplate"))])
    found = [box[0] for box in read_set(tmp_path / "raw", f"{name}=face")[0]["a.jpg"]]
    assert sorted(found) == ["car", "face"]


def test_a_set_without_a_box_is_refused_unless_somebody_says_what_was_looked_for(tmp_path: Path) -> None:
    yolo = {"a.jpg": "", "a.txt": "", "b.jpg": "", "b.txt": "", "classes.txt": "car\n"}
    for name, files in {"yolo": yolo, "voc": {"a.jpg": "", "a.xml": voc()}}.items():
        root = write_files(tmp_path / name, files)
        with pytest.raises(UserError, match=r"none of . images has one.*--class-map car=CLASS"):
            read_set(root)
    assert read_set(tmp_path / "yolo", "car=car")[0] == {"a.jpg": [], "b.jpg": []}


def test_boxes_that_are_called_background_are_those_of_another_list(tmp_path: Path) -> None:
    files = {"a.jpg": "", "a.txt": "0 0.5 0.5 0.1 0.1\n", "classes.txt": "__background__\ncar\n"}
    with pytest.raises(UserError, match="__background__: a box must be of an object, but 1 are of this class"):
        read_set(write_files(tmp_path / "raw", files))


def test_corners_in_a_list_of_wider_are_refused(tmp_path: Path) -> None:
    lines = [f"i{n}.jpg\n1\n{x} {y} {x + w} {y + h} 0 0 0 0 0 0\n" for n, (x, y, w, h) in enumerate(BOXES)]
    with pytest.raises(UserError, match="4 of 4 could be two corners, x1 y1 x2 y2: convert them"):
        read_set(write_files(tmp_path / "raw", {**IMAGES, "wider_face_train_bbx_gt.txt": "".join(lines)}))


def test_a_set_whose_every_label_is_of_an_image_that_is_not_there_says_so(tmp_path: Path) -> None:
    content = coco(dict)
    content["annotations/instances.json"] = content["annotations/instances.json"].replace(".jpg", ".png")
    with pytest.raises(UserError, match=r"labels must be those of its images, but none is, such as .*: i0\.png"):
        read_set(write_files(tmp_path / "raw", content))
