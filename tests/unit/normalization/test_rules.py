"""The rules for boxes and their frames: tables, and turned images whose boxes must stay on what they mark."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from depers.datasets.labels import format_yolo, parse_yolo
from depers.imaging.decoding import decode
from depers.normalization.rules import LabelBox, LabelBoxes, LabelError, find_frame, mend, turn_upright

Numbers = tuple[float, float, float, float]


@pytest.mark.parametrize(
    ("numbers", "boxes", "kind", "action"),
    [
        ((0.5, 0.5, 0.2, 0.2), [[0.5, 0.5, 0.2, 0.2]], "", ""),
        ((0.5, 0.5, 1, 1.000002), [[0.5, 0.5, 1, 1]], "", ""),
        ((0, 0.5, 0.2, 0.2), [[0.05, 0.5, 0.1, 0.2]], "box outside the image", "clipped"),
        ((0.5, 0.5, 3, 3), [[0.5, 0.5, 1, 1]], "box outside the image", "clipped"),
        ((1.5, 0.5, 0.2, 0.2), [], "box outside the image", "skipped_with_image"),
        ((320, 240, 64, 48), [], "box outside the image", "skipped_with_image"),
        ((0.5, 0.5, 0, 0.2), [], "box without area", "skipped_with_image"),
        ((0.5, 0.5, -0.2, 0.2), [], "box without area", "skipped_with_image"),
        ((0.5, 0.5, 0.2, 1e-9), [], "box without area", "skipped_with_image"),
        ((1e308, 0.5, 1e308, 0.2), [], "box outside the image", "skipped_with_image"),
    ],
)
def test_mend_one_box(numbers: Numbers, boxes: list[list[float]], kind: str, action: str) -> None:
    labels, ignored, problems = mend(LabelBoxes.of([LabelBox("labels/a.txt", 7, 2, *numbers)]))
    assert not len(ignored.class_ids)
    assert labels.class_ids.tolist() == [2] * len(boxes)
    np.testing.assert_allclose(labels.boxes_xywh, np.array(boxes).reshape(-1, 4), atol=2e-6)
    assert [problem[:4] for problem in problems] == ([("labels/a.txt", 7, kind, action)] if kind else [])


def test_mend_drops_what_is_there_twice_but_not_another_class() -> None:
    box = (0.5, 0.5, 0.2, 0.2)
    boxes = [LabelBox("a", 1, 0, *box), LabelBox("b", 1, 0, 0.5000001, 0.5, 0.2, 0.2), LabelBox("b", 2, 1, *box)]
    labels, _, problems = mend(LabelBoxes.of(boxes))
    assert labels.class_ids.tolist() == [0, 1]
    assert [problem[:4] for problem in problems] == [("b", 1, "duplicate", "dropped")]


def test_what_is_ignored_is_no_label_but_a_region() -> None:
    box = (0.5, 0.5, 0.2, 0.2)
    boxes = [LabelBox("a", 1, 0, *box), LabelBox("a", 2, 0, *box, True), LabelBox("a", 3, 0, *box, True)]
    boxes.append(LabelBox("a", 4, 1, 1.0, 0.5, 0.2, 0.2, True))
    labels, ignored, problems = mend(LabelBoxes.of(boxes))
    assert (labels.class_ids.tolist(), ignored.class_ids.tolist()) == ([0], [0, 1])
    assert ignored.boxes_xywh.tolist() == [list(box), [0.95, 0.5, 0.1, 0.2]]
    assert [problem[:4] for problem in problems] == [
        ("a", 3, "duplicate", "dropped"),
        ("a", 4, "box outside the image", "clipped"),
    ]


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=6), st.integers(1, 8), st.sampled_from([1, 640])
)
def test_mend_gives_valid_labels_whatever_the_numbers(rows: list[Numbers], orientation: int, size: int) -> None:
    boxes = LabelBoxes.of([LabelBox("a", n, 0, *row) for n, row in enumerate(rows)])
    labels, _, problems = mend(boxes, (size, size), orientation)
    parsed_labels = parse_yolo(format_yolo(labels), 1, "it")  # index.parquet has these numbers without reading the text
    assert parsed_labels.class_ids.tolist() == labels.class_ids.tolist()
    assert parsed_labels.boxes_xywh.tolist() == labels.boxes_xywh.tolist()
    assert len(labels.class_ids) + sum(
        problem.action in ("dropped", "skipped_with_image") for problem in problems
    ) == len(rows)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_images_do(orientation: int) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[4:12, 30:54] = 255
    cx, cy, w, h = 42 / 60, 8 / 40, 24 / 60, 8 / 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", exif=exif)
    upright = decode(buffer.getvalue()).rgb()
    height, width = upright.shape[:2]
    cx, cy, w, h = turn_upright(cx, cy, w, h, orientation)
    x0, y0, x1, y1 = (
        round(v) for v in ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
    )
    assert (upright[y0:y1, x0:x1] == 255).all()
    assert upright.astype(int).sum() == 255 * 3 * (y1 - y0) * (x1 - x0)


@pytest.mark.parametrize(
    ("declared", "upright", "orientation", "rule", "size", "turned", "actions"),
    [
        (None, (60, 40), 1, "auto", (1, 1), False, []),
        ((60, 40), (60, 40), 1, "auto", (60, 40), False, []),
        ((60, 40), (60, 40), 1, "stored", (60, 40), False, []),
        ((30, 20), (60, 40), 1, "auto", (30, 20), False, ["scaled"]),
        ((500, 375), (500, 374), 1, "auto", (500, 375), False, ["scaled"]),
        ((0, 0), (60, 40), 1, "auto", (60, 40), False, ["taken_from_image"]),
        ((0, 0), (60, 40), 6, "auto", (60, 40), False, ["taken_as_upright", "taken_from_image"]),
        ((0, 0), (60, 40), 6, "stored", (40, 60), True, ["turned_upright", "taken_from_image"]),
        (None, (60, 40), 6, "auto", (1, 1), False, ["taken_as_upright"]),
        (None, (60, 40), 6, "stored", (1, 1), True, ["turned_upright"]),
        ((60, 40), (60, 40), 6, "auto", (60, 40), False, ["taken_as_upright"]),
        ((40, 60), (60, 40), 6, "auto", (40, 60), True, ["turned_upright"]),
        ((20, 30), (60, 40), 8, "auto", (20, 30), True, ["turned_upright", "scaled"]),
        ((60, 40), (60, 40), 3, "auto", (60, 40), False, ["taken_as_upright"]),
        ((60, 40), (60, 40), 3, "stored", (60, 40), True, ["turned_upright"]),
    ],
)
def test_frame(
    declared: tuple[int, int] | None,
    upright: tuple[int, int],
    orientation: int,
    rule: str,
    size: tuple[float, float],
    turned: bool,
    actions: list[str],
) -> None:
    found = find_frame("a.jpg", declared, upright, orientation, rule)
    assert found.size_wh == size
    assert found.orientation == (orientation if turned else 1)
    assert [problem.action for problem in found.problems] == actions


@pytest.mark.parametrize(
    ("declared", "orientation", "rule"), [((40, 60), 1, "auto"), ((60, 60), 6, "auto"), ((40, 60), 6, "upright")]
)
def test_the_size_of_another_image_is_refused(declared: tuple[int, int], orientation: int, rule: str) -> None:
    with pytest.raises(LabelError) as refused:
        find_frame("a.jpg", declared, (60, 40), orientation, rule)
    assert refused.value.kind == "wrong image size"
    assert refused.value.detail == f"{declared[0]}x{declared[1]}, the image is 60x40"
