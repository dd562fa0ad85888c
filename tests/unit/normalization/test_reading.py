"""Readers of YOLO text, VOC and COCO: tables of what is written, what is wrong with it, and where."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.errors import UserError
from depers.normalization.formats.coco import CocoFile, looks_like_coco
from depers.normalization.formats.voc import read_voc
from depers.normalization.formats.yolo import read_plain_yolo, read_yolo
from depers.normalization.rules import LabelError, RawBox


@pytest.mark.parametrize(
    ("line", "boxes", "kind", "action"),
    [
        ("1 0.5 0.5 0.2 0.2", [("b", 0.5, 0.5, 0.2, 0.2)], "", ""),
        ("  1\t0.5 5e-1 .2 0.2  ", [("b", 0.5, 0.5, 0.2, 0.2)], "", ""),
        ("1.0 0.5 0.5 -0.3 1.9", [("b", 0.5, 0.5, -0.3, 1.9)], "", ""),
        ("1 100 80 40 20", [], "not fractions of the image", "skipped_with_image"),
        ("1 nan 0.5 0.2 0.2", [], "not a finite number", "skipped_with_image"),
        ("1 0.5 0.5 inf 0.2", [], "not a finite number", "skipped_with_image"),
        ("1 0,5 0.5 0.2 0.2", [], "not a finite number", "skipped_with_image"),
        ("car 0.5 0.5 0.2 0.2", [], "not a finite number", "skipped_with_image"),
        ("1 0.5 0.5 0.2", [], "not five fields", "skipped_with_image"),
        ("1 0.5 0.5 0.2 0.2 0.9", [("b", 0.5, 0.5, 0.2, 0.2)], "", ""),
        ("1 0.5 0.5 0.2 0.2 -0.9", [("b", 0.5, 0.5, 0.2, 0.2)], "", ""),  # its set is asked what it is
        ("1 0.5 0.5 0.2 0.2 0.9 0.8 0.7", [], "numbers that are no box", "skipped_with_image"),
        ("2 0.5 0.5 0.2 0.2", [], "class id without a name", "skipped_with_image"),
        ("-1 0.5 0.5 0.2 0.2", [], "class id without a name", "skipped_with_image"),
        ("0.5 0.5 0.5 0.2 0.2", [], "class id without a name", "skipped_with_image"),
        ("0 0 0 0.5 0 0.25 1", [("a", 0.25, 0.5, 0.5, 1)], "polygon", "bounding_box"),
    ],
)
def test_read_yolo(line: str, boxes: list[tuple[Any, ...]], kind: str, action: str) -> None:
    found = read_yolo("labels/x.txt", f"\n{line}".encode(), ("a", "b")).labels
    assert found.boxes == [RawBox(2, *box) for box in boxes]
    assert [problem[:4] for problem in found.problems] == ([("labels/x.txt", 2, kind, action)] if kind else [])
    assert found.declared_wh is None


def test_read_yolo_of_a_files_own_class_and_of_ids_without_names() -> None:
    text = b"\xef\xbb\xbf0 0.5 0.5 0.2 0.2\r\n\r\n4 0.1 0.1 0.1 0.1\r\n"
    found = read_yolo("x", text, None, "face").labels
    assert [(box.line, box.class_name) for box in found.boxes] == [(1, "face"), (3, "face")]
    assert [problem[1:4] for problem in found.problems] == [
        (0, "byte order mark", "mended"),
        (0, "Windows line ends", "mended"),
        (3, "class id is not 0", "accepted"),
    ]
    assert [box.class_name for box in read_yolo("x", text).labels.boxes] == ["0", "4"]


@given(
    st.one_of(
        st.text(alphabet="01.,-e naif_\n\r\tx", max_size=80),
        st.lists(
            st.lists(st.sampled_from(["0", "1", "2", "1.5", "-1", "0.25", "1e9", "1e999", "-", ""]), max_size=6)
        ).map(lambda rows: "\n".join(" ".join(row) for row in rows)),
        st.lists(st.tuples(*[st.integers(0, 2)] * 2, *[st.floats(0, 1)] * 3)).map(
            lambda rows: "".join(" ".join(map(str, row)) + "\n" for row in rows)
        ),
    ),
    st.sampled_from([(None, ""), (("a", "b"), ""), (("a", "", "c"), ""), (None, "car")]),
)
def test_plain_texts_are_read_as_all_others(text: str, names: tuple[tuple[str, ...] | None, str]) -> None:
    found, undecided, shapes = read_yolo("it", text.encode(), *names)
    plain = read_plain_yolo(text.encode(), *names)
    if plain is not None:
        rows = zip(plain.classes.tolist(), plain.boxes.tolist(), strict=True)
        boxes = [RawBox(number, plain.names[place], *box) for number, (place, box) in enumerate(rows, 1)]
        assert (found.boxes, found.problems, undecided, shapes) == (boxes, [], [], {})


@pytest.mark.parametrize("field", ["1.5", "2147483648", "-1", "1e308"])
def test_an_id_that_is_none_is_seen_at_once(field: str) -> None:
    """It was looked for among all numbers below 2³¹, one by one, a minute for each line."""
    found = read_yolo("it", f"{field} 0.5 0.5 0.1 0.1\n".encode() * 1000).labels
    assert not found.boxes and {problem.kind for problem in found.problems} == {"class id without a name"}


def test_what_tools_write_is_plain() -> None:
    for text in ("", "0 0.5 0.5 0.1 0.1\n", "1 0.5 0.5 0.1 0.1\n0 .5 5e-1 0.1 0.1", "1.0 0.5 0.5 1 1\n"):
        assert read_plain_yolo(text.encode(), ("a", "b")) is not None, text
    assert read_plain_yolo(b"0 0.5 0.5 0.1 0.1\n", ("a", "b"), columns="corners") is None


@given(st.text(alphabet="01.,-e naif_\n\r\tx", max_size=80))
def test_every_line_of_yolo_text_is_a_box_or_a_problem(text: str) -> None:
    found, undecided, _ = read_yolo("it", text.encode(), None, "car")
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    assert len(found.boxes) + len(undecided) + sum(
        problem.action == "skipped_with_image" for problem in found.problems
    ) == len(lines)


def voc(objects: str, head: str = "<size><width>60</width><height>40</height></size>") -> bytes:
    return f"<annotation>{head}{objects}</annotation>".encode()


def voc_object(name: str, *edges: object) -> str:
    inner = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{inner}</bndbox></object>"


def test_read_voc() -> None:
    objects = (
        voc_object("car", 10, 20, 30, " 40.5 ") + voc_object("é dog", -3, 0, 70, 10) + voc_object("car", 9, 9, 1, 9)
    )
    found = read_voc("a.xml", b"\xef\xbb\xbf" + voc(objects))
    assert found.boxes == [
        RawBox(1, "car", 20, 30.25, 20, 20.5),
        RawBox(2, "é dog", 33.5, 5, 73, 10),
        RawBox(3, "car", 5, 9, -8, 0),
    ]
    assert (found.declared_wh, found.problems) == ((60, 40), [])


def test_read_voc_of_the_challenge_counts_pixels_from_one() -> None:
    head = "<source><database>The VOC2007 Database</database></source>"
    assert read_voc("a.xml", voc(voc_object("car", 1, 1, 60, 40), head)).boxes == [RawBox(1, "car", 30, 20, 60, 40)]


@pytest.mark.parametrize("head", ["", "<size/>", "<size><width>60</width><height>x</height></size>"])
def test_read_voc_without_a_size(head: str) -> None:
    assert read_voc("a.xml", voc("", head)).declared_wh == (0, 0)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (voc_object("car", 1, 1, "nan", 2), "not a finite number"),
        (voc_object("car", 1, 1, "12px", 2), "not a finite number"),
        ("<object><name>car</name></object>", "object without a box"),
        ("<object><name>car</name><name>bus</name><bndbox/></object>", "object with several names"),
        (voc_object(" ", 1, 1, 2, 2), "object without a name"),
    ],
)
def test_read_voc_drops_an_object(text: str, kind: str) -> None:
    found = read_voc("a.xml", voc(voc_object("car", 1, 1, 2, 2) + text))
    assert len(found.boxes) == 1
    assert [problem[:4] for problem in found.problems] == [("a.xml", 2, kind, "skipped_with_image")]


BOMB = b"""<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><annotation>&b;</annotation>"""
OUTSIDE = b"""<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]><annotation>&a;</annotation>"""


@pytest.mark.parametrize(
    ("data", "kind", "found"),
    [
        (b"", "broken XML", "line 1, column 0"),
        (b"<annotation>\n <object>\n</annotation>", "broken XML", "line 3, column 2"),
        (b"<html/>", "no VOC annotation", "must be <annotation>, but is <html>"),
        (BOMB, "unsafe XML", "DTDForbidden"),
        (OUTSIDE, "unsafe XML", "DTDForbidden"),
        (b'<?xml version="1.0" encoding="nonsense"?><annotation/>', "broken XML", "nonsense"),
    ],
)
def test_read_voc_refuses(data: bytes, kind: str, found: str) -> None:
    with pytest.raises(LabelError) as refused:
        read_voc("a.xml", data)
    assert refused.value.kind == kind
    assert found in refused.value.detail


IMAGES = [{"id": 7, "file_name": "a.jpg", "width": 60, "height": 40}, {"id": "b", "file_name": "b/b.jpg"}]
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}]


def coco(annotations: list[Any], **parts: Any) -> CocoFile:
    text = json.dumps({"annotations": annotations, "images": IMAGES, "categories": CATEGORIES} | parts)
    return CocoFile("x.json", lambda: io.BytesIO(text.encode()))


def test_read_coco() -> None:
    file = coco([{"image_id": 7, "category_id": 3, "bbox": [10, 20.5, 30, 4]}])
    assert [tuple(image) for image in file.images()] == [(7, "a.jpg", (60, 40)), ("b", "b/b.jpg", (0, 0))]
    assert [tuple(found) for found in file.annotations()] == [(7, RawBox(1, "car", 25, 22.5, 30, 4), None, False)]


def test_read_coco_ignores_a_crowd() -> None:
    crowd = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "iscrowd": 1}
    assert [found.box for found in coco([crowd]).annotations()] == [RawBox(1, "car", 2.5, 4, 3, 4, True)]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"bbox": [1, 2, 3]}, "not four numbers"),
        ({"bbox": None}, "not four numbers"),
        ({"bbox": [1, 2, "3px", 4]}, "not a finite number"),
        ({"bbox": [1, 2, True, 4]}, "not a finite number"),
        ({"bbox": [], "segmentation": [[1, 2, 3]]}, "not four numbers"),
        ({"bbox": [1, 2, 3, None]}, "not a finite number"),
        ({"category_id": 2}, "class id without a name"),
        ({"category_id": None}, "class id without a name"),
    ],
)
def test_read_coco_drops_an_annotation(wrong: dict[str, Any], kind: str) -> None:
    right = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}
    first, second = coco([right, right | wrong]).annotations()
    assert first.box is not None and second.box is None and second.problem is not None
    assert second.problem[:4] == ("x.json", 2, kind, "skipped_with_image")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", r"x.json: must be JSON, but at its end \(byte 0\)"),
        (b'{"categories": [\n{"id": 1, "name": "a"}', r"x.json: must be JSON, but at its end \(byte 39\)"),
        (b'{"categories": [{]}', r"must be JSON, but from byte 0 to 19, lines 1 to 1, it is not \(.*\[\{\]\}"),
        (b'{"categories": [{"id": NaN, "name": "a"}]}', r"must be JSON, .*NaN"),
        (b'{"categories": [{"id": 1, "name": "\xff"}]}', r"must be JSON, .*UTF8"),
        (b'{"categories": [3]}', r"categories must be objects, but one is '3'"),
        (b'{"categories": [{"id": 1}]}', r"a category's name must be text, but is None"),
        (b"[]", r"must be COCO, with categories .* but there are none"),
    ],
)
def test_read_coco_refuses(text: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CocoFile("x.json", lambda: io.BytesIO(text))


def test_read_coco_refuses_an_image_without_a_file() -> None:
    with pytest.raises(UserError, match=r"x.json: an image's file_name must be text, but is 3"):
        list(coco([], images=[{"id": 1, "file_name": 3}]).images())


def test_read_coco_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.json: not readable \(Is a directory\)"):
        CocoFile("x.json", lambda: tmp_path.open("rb"))


def test_read_coco_with_a_byte_order_mark() -> None:
    text = json.dumps({"categories": CATEGORIES}).encode("utf-8-sig")
    assert looks_like_coco(text[:-1] + b', "images": [')
    assert CocoFile("x.json", lambda: io.BytesIO(text)).categories == {3: "car", 1: "person"}


@pytest.mark.parametrize(
    "head", [b"", b"[]", b'{"_via_settings": {}}', b'"images"', b'{"items": [{"annotations": []}]}']
)
def test_other_json_is_no_coco(head: bytes) -> None:
    assert not looks_like_coco(head)
