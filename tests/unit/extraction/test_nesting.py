"""Which boxes travel together: nesting by class and containment, marks, and the exact share that is covered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.boxes import covered_share
from depers.datasets.labels import CLASSES
from depers.datasets.sprite_bank import sprite_id
from depers.errors import UserError
from depers.extraction.nesting import NESTING, NestedSprite, find_holders, group_boxes, parse_nesting

CAR, HEAD, FACE, HUMAN, PLATE = range(5)
NESTS = parse_nesting(NESTING, CLASSES)
Box = tuple[float, float, float, float]


def sprites(*labels: tuple[int, Box], margin: float = 0.1, size_wh: tuple[int, int] = (400, 300)) -> list[NestedSprite]:
    ids = np.array([class_id for class_id, _ in labels], np.int64)
    return group_boxes(ids, np.array([box for _, box in labels], np.float32).reshape(-1, 4), size_wh, NESTS, margin)


def test_the_default_nesting() -> None:
    assert {HUMAN: {HEAD, FACE}, HEAD: {FACE}, CAR: {PLATE}} == NESTS
    assert parse_nesting(NESTING, ("cat", "car")) == {1: frozenset()}
    assert parse_nesting((), CLASSES) == {}
    assert parse_nesting(("a=b", "b=c", "c=d"), ("d", "c", "b", "a"))[3] == {0, 1, 2}  # over several steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (("car",), "--nest must be OUTER=INNER,…, but got 'car'"),
        (("car=",), "--nest must be OUTER=INNER,…, but got 'car='"),
        (("bus=carplate",), r"--nest bus=carplate: must name classes of the dataset \(car, head, .*\), not 'bus'"),
        (("car=carplate,wheel",), "not 'wheel'"),
        (("car=car",), "must not put a class inside itself, but does 'car'"),
        (("car=head", "head=human", "human=car"), "inside itself"),
    ],
)
def test_wrong_nesting_is_refused(text: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_nesting(text, CLASSES)


def test_human_head_and_face_are_one_sprite_with_all_their_labels() -> None:
    [human, car] = sprites(
        (FACE, (110, 55, 130, 75)),
        (HUMAN, (100, 50, 150, 200)),
        (CAR, (200, 100, 350, 200)),
        (HEAD, (105, 50, 135, 85)),
        (PLATE, (260, 170, 300, 185)),
    )
    assert human.members == (1, 0, 3) and car.members == (2, 4)
    assert human.frame == (85, 35, 165, 219) and car.frame == (185, 85, 369, 221)
    assert not human.truncated and human.hidden == 0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([(HEAD, (0, 0, 9, 9))], [None]),  # without a human it is its own
        ([(HUMAN, (0, 0, 50, 99)), (HEAD, (10, 0, 20, 10))], [None, 0]),
        ([(HUMAN, (0, 0, 50, 99)), (HEAD, (42, 0, 52, 10))], [None, 0]),  # 80 % of it
        ([(HUMAN, (0, 0, 50, 99)), (HEAD, (43, 0, 53, 10))], [None, None]),
        ([(CAR, (0, 0, 50, 99)), (HEAD, (10, 0, 20, 10))], [None, None]),  # not of that class
        ([(HEAD, (0, 0, 50, 99)), (HUMAN, (10, 0, 20, 10))], [None, None]),  # not that way round
        ([(HUMAN, (0, 0, 9, 9)), (HEAD, (0, 0, 9, 9))], [None, 0]),  # a head is all that is seen of them
        ([(HUMAN, (0, 0, 90, 90)), (HUMAN, (0, 0, 30, 60)), (HEAD, (5, 0, 15, 10))], [None, None, 1]),  # the nearest
        ([(HUMAN, (0, 0, 50, 99)), (HEAD, (10, 0, 30, 20)), (FACE, (12, 2, 28, 18))], [None, 0, 1]),
        ([(HUMAN, (0, 0, 50, 99)), (FACE, (12, 2, 28, 18))], [None, 0]),  # also without a head
        ([], []),
    ],
)
def test_parents(labels: list[tuple[int, Box]], expected: list[int | None]) -> None:
    ids = np.array([class_id for class_id, _ in labels], np.int64)
    boxes = np.array([box for _, box in labels], np.float32).reshape(-1, 4)
    assert find_holders(ids, boxes, NESTS) == expected


def test_what_stands_before_a_car_is_its_own_sprite_and_labelled_in_both() -> None:
    car, human = sprites((CAR, (50, 50, 250, 150)), (HUMAN, (100, 60, 140, 150)), (HEAD, (110, 60, 130, 80)))
    assert car.members == (0, 1, 2)  # who pastes the car pastes them too
    assert human.members == (1, 2)
    assert car.hidden == pytest.approx(0.18) and human.hidden == 1


@pytest.mark.parametrize(
    ("box", "cut"),
    [((2, 50, 60, 90), True), ((5, 50, 60, 90), False), ((9, 250, 60, 300), True), ((300, 9, 397.9, 90), False)],
)
def test_what_the_frame_cuts_is_marked(box: Box, cut: bool) -> None:
    assert sprites((CAR, box))[0].truncated == cut


def test_margins() -> None:
    for margin, expected in ((0.0, (101, 101, 111, 111)), (0.1, (97, 97, 121, 121)), (1.0, (91, 91, 123, 123))):
        assert sprites((CAR, (101, 101, 111, 111)), margin=margin)[0].frame == expected
    assert sprites((CAR, (10, 10, 390, 290)), margin=1.0)[0].frame == (0, 0, 400, 300)
    assert sprites((CAR, (100.6, 100.2, 300.1, 200)), margin=1.0)[0].frame == (68, 68, 340, 236)
    assert sprites((CAR, (385, 285, 399, 299)), margin=0.1)[0].frame == (376, 276, 400, 300)


corners = st.tuples(*[st.integers(-3, 12)] * 4)


@given(corners, st.lists(corners, max_size=6))
def test_covered_is_what_counting_pixels_gives(box: tuple[int, ...], others: list[tuple[int, ...]]) -> None:
    x0, y0, x1, y1 = box
    mask = np.zeros((20, 20), np.bool_)
    for left, top, right, bottom in others:
        mask[max(top + 4, 0) : max(bottom + 4, 0), max(left + 4, 0) : max(right + 4, 0)] = True
    pixels = mask[y0 + 4 : max(y1 + 4, y0 + 4), x0 + 4 : max(x1 + 4, x0 + 4)]
    expected = pixels.mean() if pixels.size else 0
    assert covered_share(box, np.array(others, np.float32).reshape(-1, 4)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 4), corners), max_size=12))
def test_every_box_is_in_a_sprite(labels: list[tuple[int, tuple[int, ...]]]) -> None:
    whole = [(class_id, box) for class_id, box in labels if box[0] < box[2] and box[1] < box[3]]
    nested = sprites(*whole)  # type: ignore[arg-type]
    assert {member for sprite in nested for member in sprite.members} == set(range(len(whole)))
    assert all(len(set(sprite.members)) == len(sprite.members) for sprite in nested)
    assert all(sprite.members[0] == sprite.outer for sprite in nested)


def test_a_sprite_is_named_by_source_class_and_box() -> None:
    names = {
        sprite_id(source, class_id, box)
        for source in ("a.jpg", "b.jpg")
        for class_id in (0, 1)
        for box in ((0, 0, 1, 1), (0, 0, 1, 2))
    }
    assert len(names) == 8
    assert sprite_id("a.jpg", 0, (0, 0, 1, 1)) == sprite_id("a.jpg", 0, (0.001, 0, 1, 1))
