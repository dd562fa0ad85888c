"""COCO's annotations are the same as columns and one by one, and those that people have are read as columns."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.normalization.formats import json_lists
from depers.normalization.formats.coco import CocoBox, CocoFile
from depers.normalization.formats.coco_tables import AnnotationTable, make_table, read_parts, read_tables
from depers.normalization.rules import RawBox

NAMES = ("car", "person")
CATEGORIES = [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}, {"id": 7, "name": "car"}]
PLACES = {3: 0, 1: 1, 7: 0}
PLAIN = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 30.5, 5], "iscrowd": 0}

numbers = st.integers(-9, 99) | st.floats(-1e308, 1e308) | st.sampled_from([10**400, 1e299])
annotations = st.fixed_dictionaries(
    {"image_id": st.sampled_from([7, "7", 8, "a.jpg", 7.0, None]), "category_id": st.sampled_from([1, 3, "3", 7, 4])},
    optional={
        "bbox": st.lists(numbers, min_size=4, max_size=4) | st.sampled_from([None, [], [1, 2, 3], ["1", 2, 3, 4]]),
        "iscrowd": st.sampled_from([0, 1, False, True, "0", "1", None, 0.0]),
        "ignore": st.sampled_from([0, 1]),
        "area": numbers | st.sampled_from(["12", None]),
        "segmentation": st.sampled_from([[], None, [[1, 2, 3, 4, 5, 6]], {"counts": [1, 1], "size": [1, 2]}]),
        "score": st.sampled_from([1, 0.5, None]),
        "attributes": st.sampled_from([{}, {"rotation": 0.0}, {"rotation": 90}, {"occluded": False}, None]),
    },
)


def open_coco(items: list[dict[str, Any]]) -> tuple[CocoFile, bytes]:
    data = json.dumps({"annotations": items, "categories": CATEGORIES}).encode()
    return CocoFile("x.json", lambda: io.BytesIO(data)), data


def to_boxes(table: AnnotationTable, first_number: int) -> list[CocoBox]:
    columns = zip(table.image_ids, table.classes.tolist(), table.boxes.tolist(), table.ignored.tolist(), strict=True)
    return [
        CocoBox(image_id, RawBox(number, NAMES[place], *box, ignored), None)
        for number, (image_id, place, box, ignored) in enumerate(columns, first_number)
    ]


@given(st.lists(annotations | st.just(PLAIN), max_size=6))
def test_columns_say_what_one_by_one_is_said(items: list[dict[str, Any]]) -> None:
    table = make_table(items, PLACES)
    file, _ = open_coco(items)
    expected = [*file.annotations()]
    if table is not None:
        assert to_boxes(table, 1) == [box._replace(is_crowd_mask=False) for box in expected]
        assert table.crowd_masks == sum(box.is_crowd_mask for box in expected)
        assert (table.box_areas, table.corner_areas) == (file.box_areas, file.corner_areas)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"segmentation": [[1, 2, 3, 4, 5, 6]], "area": 3.5},
        {"area": 152.5, "ignore": 1, "extra": {"any": ["thing"]}},
        {"category_id": "3", "image_id": "7", "iscrowd": "1"},
        {"attributes": {"occluded": False, "rotation": 0.0}},
        {"score": 1.0, "iscrowd": 1, "segmentation": {"counts": "0a", "size": [2, 2]}},
    ],
)
def test_what_people_have_is_read_as_columns(more: dict[str, Any]) -> None:
    assert make_table([PLAIN, PLAIN | more], PLACES) is not None


@given(st.lists(annotations | st.just(PLAIN), max_size=20), st.integers(1, 500))
def test_a_file_is_read_in_its_order(items: list[dict[str, Any]], block: int) -> None:
    """Also where a piece is none that Python's reader takes, or has a box that is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lists, "_BLOCK", block)
        file, data = open_coco(items)
        expected = [*file.annotations()]
        parts = read_parts(file, lambda pieces: read_tables(lambda: io.BytesIO(data), pieces, file.categories))
        found: list[CocoBox] = []
        for part in parts:
            found += to_boxes(part, len(found) + 1) if isinstance(part, AnnotationTable) else part
    assert [b._replace(is_crowd_mask=False) for b in found] == [b._replace(is_crowd_mask=False) for b in expected]
