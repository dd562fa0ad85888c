"""Reports: pages are self-contained, escaped and deterministic; images land where they should."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.reports.drawing import color, contact_sheet, draw_boxes, fit
from depers.reports.page import gallery, image, paragraph, render, table

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Collects text and attributes, and fails where tags do not nest."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def flat(value: int, size_wh: tuple[int, int]) -> np.ndarray:
    return np.full((size_wh[1], size_wh[0], 3), value, np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.text(), st.text())
def test_everything_is_escaped(title: str, cell: str, caption: str) -> None:
    content = table([title], [[cell]]) + paragraph(cell) + gallery([image(flat(0, (2, 2)), caption)])
    reader = Reader(render(title, cell, [(caption, content)]))
    assert set(reader.seen) == {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "h1", "p", "section", "h2"),
        *("div", "table", "thead", "tbody", "tr", "th", "td", "figure", "img"),
        *(("figcaption",) if caption else ()),
    }


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '" onload="x', "a&b", "caf\udce9.jpg"])
def test_hostile_names_stay_text(hostile: str) -> None:
    reader = Reader(
        render(hostile, hostile, [(hostile, table([hostile], [[hostile]]) + image(flat(9, (4, 4)), hostile))])
    )
    assert "script" not in reader.seen
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    shown = hostile.encode("utf-8", "replace").decode()
    assert reader.texts.count(shown) == 7  # title, h1, lead, h2, header, cell and caption
    assert ("alt", shown) in reader.attributes


def test_what_is_not_made_by_these_functions_is_text() -> None:
    made = render("t", "l", [("h", "<b>"), ("i", gallery(["<b>"]))])
    assert "<b>" not in made and made.count("&lt;b&gt;") == 2


def test_a_page_loads_nothing_and_is_the_same_every_time() -> None:
    def make() -> str:
        return render("Title", "lead", [("Images", gallery([image(flat(77, (30, 20)), "one")]))])

    assert make() == make()
    sources = re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", make())
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source, _ in sources)
    assert "http" not in make()


def test_image_holds_a_reduced_jpeg() -> None:
    data = re.search(r"base64,([^\"]*)", image(flat(120, (400, 100)), max_side=200))
    assert data
    decoded = simplejpeg.decode_jpeg(base64.b64decode(data[1]))
    assert decoded.shape == (50, 200, 3)
    assert np.abs(decoded.astype(int) - 120).max() <= 1


@pytest.mark.parametrize(
    ("size_wh", "box_wh", "expected"),
    [((100, 50), (200, 200), (100, 50)), ((100, 50), (50, 50), (50, 25)), ((50, 100), (50, 50), (25, 50)),
     ((1000, 1), (10, 10), (10, 1))],
)  # fmt: skip
def test_fit(size_wh: tuple[int, int], box_wh: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit(flat(1, size_wh), box_wh).shape == (expected[1], expected[0], 3)


def test_contact_sheet_places_every_image() -> None:
    images = [flat(10 * index, (64, 48)) for index in range(1, 6)]
    sheet = contact_sheet(images, [f"n{index}" for index in range(5)], columns=2, cell_wh=(64, 48))
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * (48 + 8 + 22) + 8, 2 * (64 + 8) + 8, 3)
    for index in range(5):
        row, column = divmod(index, 2)
        center = sheet[8 + 24 + row * 78, 8 + 32 + column * 72]
        assert center.tolist() == [10 * (index + 1)] * 3


def test_long_captions_keep_their_ends_inside_the_cell() -> None:
    def ink(caption: str) -> np.ndarray:
        sheet = contact_sheet([flat(200, (60, 20))] * 2, ["", caption], cell_wh=(60, 20))
        return np.flatnonzero((sheet[8 + 20 : -8] != sheet[0, 0]).any((0, 2)))

    columns = ink("a very long name of a photograph 0001.jpg")
    assert columns.min() >= 8 + 68 - 1
    assert columns.max() <= 8 + 68 + 60
    assert not np.array_equal(columns, ink("a very long name of a photograph 7777.png"))


@pytest.mark.parametrize(("count", "captions", "columns"), [(0, None, 4), (2, ["one"], 4), (2, None, 0)])
def test_contact_sheet_refuses(count: int, captions: list[str] | None, columns: int) -> None:
    with pytest.raises(ValueError, match="must"):
        contact_sheet([flat(0, (4, 4))] * count, captions, columns)


def test_draw_boxes_outlines_in_color_and_leaves_the_rest() -> None:
    image = flat(100, (200, 100))
    drawn = draw_boxes(image, [[20, 30, 60, 70], [-50, -50, 500, 500]], ["", ""], [(255, 0, 0), (0, 0, 255)])
    assert (image == 100).all()
    assert drawn[30, 40].tolist() == drawn[69, 40].tolist() == drawn[50, 20].tolist() == [255, 0, 0]
    assert drawn[0, 0].tolist() == drawn[99, 199].tolist() == [0, 0, 255]
    changed = (drawn != 100).any(2)
    assert not changed[31:69, 21:59].any()
    assert not changed[1:30, 1:-1].any()


def test_draw_boxes_writes_texts_inside_the_image() -> None:
    drawn = draw_boxes(flat(100, (200, 100)), [[180, 0, 200, 20]], ["human 0.97"], [color("human")])
    assert (drawn > 220).all(2).any()
    with pytest.raises(ValueError, match="argument"):
        draw_boxes(flat(0, (9, 9)), [[0, 0, 4, 4]], [], [])


def test_classes_have_colors_of_their_own() -> None:
    names = ("car", "head", "face", "human", "carplate")
    assert len({color(name) for name in names}) == len(names)
    assert color("person") == color("person")


def test_headings_are_where_their_numbers_are() -> None:
    made = table(("class", "boxes", "why"), [["car", 1, "x"], ["face", 2.5, 3]])
    assert made.count('<th scope="col" class="number">') == 1 and '<th scope="col" class="number">boxes' in made
