"""WIDER FACE's lists and CrowdHuman's odgt, as they are published; and shapes of LabelMe."""

import json
from pathlib import Path
from typing import Any

import pytest
from label_sets import read_set, write_files

from depers.errors import UserError
from depers.normalization.formats.labelme import read_labelme
from depers.normalization.rules import LabelError

WIDER = """0--Parade/0_Parade_a_1.jpg
2
20 30 60 70 0 0 0 0 0 0\x20
100 60 40 20 2 0 0 1 0 0\x20
0--Parade/0_Parade_b_2.jpg
0
0 0 0 0 0 0 0 0 0 0\x20
1--Handshaking/c.jpg
0
1--Handshaking/d.jpg
1
100 60 40 20 0 0 0 0 0 0
"""
WIDER_IMAGES = {
    f"WIDER_train/images/{name}.jpg": ""
    for name in ("0--Parade/0_Parade_a_1", "0--Parade/0_Parade_b_2", "1--Handshaking/c", "1--Handshaking/d", "x/e")
}
FACE, SECOND = ("face", 0.25, 0.40625, 0.3, 0.4375), ("face", 0.6, 0.4375, 0.2, 0.125)


def test_wider_face(tmp_path: Path) -> None:
    files = {"wider_face_split/wider_face_train_bbx_gt.txt": WIDER, "wider_face_split/readme.txt": "", **WIDER_IMAGES}
    found, problems = read_set(write_files(tmp_path / "raw", files))
    by_name = {name.rpartition("/")[2]: boxes for name, boxes in found.items()}
    assert by_name == {
        "0_Parade_a_1.jpg": [pytest.approx(FACE), pytest.approx(("~face", *SECOND[1:]))],  # the second is invalid
        "0_Parade_b_2.jpg": [],
        "c.jpg": [],
        "d.jpg": [pytest.approx(SECOND)],
    }
    assert [(problem.path, problem.kind) for problem in problems] == [
        ("WIDER_train/images/x/e.jpg", "image that no label file lists")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.jpg\n2\n1 2 30 40 0 0 0 0 0 0\nb.jpg\n1\n",
            r"line 4: must be 10 numbers .* but is 'b.jpg'",
        ),
        ("a.jpg\n1\n1 2 30 40\n", r"line 3: must be 10 numbers for each face of a.jpg"),
        ("a.jpg\n1\n1 2 30 40 0 0 0 0 0 0\n5\n", r"must be an image and the number of its faces, but line 4"),
    ],
)
def test_what_is_not_wider_face_after_all(text: str, message: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "b.jpg": "", "list.txt": text})
    with pytest.raises(UserError, match=message):
        read_set(root)


def person(**more: Any) -> dict[str, Any]:
    boxes = {"fbox": [20, 30, 60, 70], "vbox": [20, 30, 60, 35], "hbox": [40, 30, 20, 20]}
    return {"tag": "person", **boxes, "head_attr": {"ignore": 0, "unsure": 0}, "extra": {"box_id": 0, "occ": 0}, **more}


def crowdhuman(*objects: dict[str, Any]) -> dict[str, str]:
    images = {f"Images/1,{n}.jpg": "" for n in range(2)}
    lines = [json.dumps({"ID": "1,0", "gtboxes": list(objects)}), json.dumps({"ID": "1,1", "gtboxes": []})]
    return {"annotation_train.odgt": "\n".join(lines) + "\n", **images}


def test_crowdhuman(tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", crowdhuman(person()))
    with pytest.raises(UserError, match=r"all are of .*fbox 1.*: say what is what with --class-map"):
        read_set(root)
    found, problems = read_set(root, "vbox=human,hbox=head,fbox=")
    human, head = ("human", 0.25, 0.296875, 0.3, 0.21875), ("head", 0.25, 0.25, 0.1, 0.125)
    assert {name: sorted(boxes) for name, boxes in found.items()} == {
        "1,0.jpg": [pytest.approx(head), pytest.approx(human)],
        "1,1.jpg": [],
    }
    assert problems == []


@pytest.mark.parametrize(
    ("item", "ignored"),
    [
        (person(extra={"ignore": 1}), {"~head", "~human"}),
        (person(head_attr={"unsure": 1}), {"~head", "human"}),
        (person(tag="mask", extra={"ignore": 1}), {"~head", "~human", "~car", "~face", "~carplate"}),
    ],
)
def test_what_crowdhuman_says_to_ignore(item: dict[str, Any], ignored: set[str], tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", crowdhuman(item, person()))
    boxes = read_set(root, "vbox=human,hbox=head,fbox=")[0]["1,0.jpg"]
    assert {name for name, *_ in boxes} == ignored | {"head", "human"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: must be JSON"),
        ('{"ID": "a"}', "line 1: must have an ID and gtboxes"),
        ('{"ID": "a", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3]}]}', "line 1: fbox must be four numbers"),
    ],
)
def test_what_is_not_crowdhuman_after_all(line: str, message: str, tmp_path: Path) -> None:
    root = write_files(tmp_path / "raw", {"a.jpg": "", "annotation_val.odgt": line})
    with pytest.raises(UserError, match=message):
        read_set(root)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"points": [[80, 100], [20, 30]], "shape_type": "rectangle"}, (50, 65, 60, 70)),
        ({"points": [[20, 30], [80, 30], [80, 100], [20, 100]], "shape_type": "rectangle"}, (50, 65, 60, 70)),
        ({"points": [[50, 30], [80, 65], [50, 100], [20, 65]], "shape_type": "rotation"}, (50, 65, 60, 70)),
        ({"points": [[50, 65], [50, 95]], "shape_type": "circle"}, (50, 65, 60, 60)),
        ({"points": [[20, 30], [80, 100], [20, 100]]}, (50, 65, 60, 70)),  # of versions that had polygons alone
        ({"points": [[20, 30], [80, 100]], "shape_type": "line"}, None),
        ({"points": [[20, 30]], "shape_type": "point"}, None),
        ({"points": [[20, 30]], "shape_type": "rectangle"}, None),
        ({"points": [[20, "30"], [80, 100]], "shape_type": "rectangle"}, None),
        ({"points": [[20, float("nan")], [80, 100]], "shape_type": "rectangle"}, None),
        ({"points": [[20, 30], [80, 100]], "shape_type": "rectangle", "score": 0.7}, None),
        ({"points": [[20, 30], [80, 100]], "shape_type": "rectangle", "score": None}, (50, 65, 60, 70)),
        ({"points": [[20, 30], [80, 100]], "shape_type": "rectangle", "label": " "}, None),
    ],
)
def test_shapes_of_labelme(shape: dict[str, Any], box: tuple[float, ...] | None) -> None:
    content = {"imageWidth": 200, "imageHeight": 160, "shapes": [{"label": "car", **shape}]}
    found = read_labelme("a.json", json.dumps(content).encode())
    assert found.declared_wh == (200, 160)
    assert [entry[1:6] for entry in found.boxes] == ([("car", *box)] if box else [])
    assert {problem.action for problem in found.problems} <= {"bounding_box" if box else "skipped_with_image"}


def test_difficult_shapes_are_ignored_and_other_json_is_none_of_labelmes() -> None:
    shape = {"label": "car", "points": [[0, 0], [9, 9]], "shape_type": "rectangle", "difficult": True}
    assert read_labelme("a.json", json.dumps({"shapes": [shape]}).encode()).boxes[0].ignored
    for text in (b"{", b"[]", b"{}", b"\xff"):
        with pytest.raises(LabelError):
            read_labelme("a.json", text)
