"""Regions: boxes that overlap or touch are one, and a box that paints nothing is an error."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from depers.imaging.headers import ImageError
from depers.redaction import regions
from depers.redaction.files import redact_file


@pytest.mark.parametrize(
    ("boxes", "unit_wh", "expected"),
    [
        ([], (1, 1), []),
        ([[5, 5, 5, 9]], (1, 1), []),  # empty
        ([[0.4, 0.6, 9.2, 9.1]], (1, 1), [(0, 0, 10, 10)]),
        ([[-20, -5, 3, 300]], (1, 1), [(0, 0, 3, 80)]),
        ([[17, 9, 30, 30]], (16, 8), [(1, 1, 2, 4)]),
        ([[0, 0, 10, 10], [10, 10, 20, 20], [40, 40, 50, 50]], (1, 1), [(0, 0, 20, 20), (40, 40, 50, 50)]),  # touching
        ([[0, 0, 50, 50], [10, 10, 20, 20]], (1, 1), [(0, 0, 50, 50)]),  # nested
        ([[0, 0, 10, 10], [8, 8, 30, 30], [28, 0, 40, 10]], (1, 1), [(0, 0, 40, 30)]),  # a chain
    ],
)
def test_regions_of_boxes(
    boxes: list[list[float]], unit_wh: tuple[int, int], expected: list[tuple[int, int, int, int]]
) -> None:
    result = regions.find_regions(np.array(boxes, np.float32).reshape(-1, 4), (100, 80), unit_wh)
    assert [region.bounds for region in result] == expected


def test_boxes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        regions.find_regions(np.array([[0, 0, np.nan, 5]], np.float32), (100, 80))


boxes_lists = st.lists(st.tuples(*[st.floats(-10, 120, width=32)] * 4), max_size=12)


@settings(deadline=None, max_examples=80)
@given(boxes_lists)
def test_regions_cover_every_box_and_do_not_depend_on_the_order(corners: list[tuple[float, ...]]) -> None:
    boxes = np.array([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners], np.float32).reshape(
        -1, 4
    )
    result = regions.find_regions(boxes, (100, 80))
    shuffled = boxes[np.random.default_rng(0).permutation(len(boxes))]
    assert regions.find_regions(shuffled, (100, 80)) == result
    covered = np.zeros((80, 100), int)
    for region in result:
        inside = np.zeros((80, 100), bool)
        for x0, y0, x1, y1 in region.parts:
            inside[y0:y1, x0:x1] = True
        covered += inside
    assert covered.max(initial=0) <= 1  # regions do not overlap
    for x0, y0, x1, y1 in np.clip(boxes, 0, [100, 80, 100, 80]):
        if x1 > x0 and y1 > y0:
            assert covered[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))].all()


@pytest.mark.parametrize(
    "box",
    [
        [50, 10, 40, 20], [40, 20, 50, 10], [40, 10, 40, 20], [-9, -9, 0, 5], [100, 10, 110, 20], [10, 80, 20, 90],
        [np.nan, 10, 40, 20], [10, 10, np.inf, 20],
    ],
)  # fmt: skip
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF"])
def test_a_box_that_paints_nothing_is_an_error(box: list[float], file_format: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((100, 80), 50).convert("P" if file_format == "GIF" else "RGB").save(buffer, file_format)
    boxes = np.array([[0.2, 0.2, 0.4, 0.4], [99.9, -5, 200, 0.1], box], np.float32)  # the others paint a pixel each
    assert redact_file(buffer.getvalue(), [boxes[:2]]).data
    with pytest.raises(ImageError, match=r"has a box .* that covers none of its 100 × 80 pixels"):
        redact_file(buffer.getvalue(), [boxes])
