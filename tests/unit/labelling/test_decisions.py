"""What several detectors teach about one image: agreement, doubt, and what people have labelled already."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.boxes import intersection_over_union
from depers.commands.label import parse_contexts
from depers.detection.detections import Detections
from depers.errors import UserError
from depers.labelling.decisions import Objects, Rules, decide

HUMAN, CAR = 3, 0
RULES = Rules({HUMAN: 0.5, CAR: 0.4}, {HUMAN: 2, CAR: 1}, 0.1)
BOX, NEAR, FAR = (10, 10, 50, 50), (12, 10, 52, 50), (100, 100, 150, 150)


def detect(*rows: tuple[tuple[int, int, int, int], float, int, int]) -> Detections:
    """Detections from box, confidence, class id, and number of the weights."""
    boxes, confidences, class_ids, models = zip(*rows, strict=True) if rows else ([], [], [], [])
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(confidences, np.float32),
        np.array(class_ids, np.int64),
        np.array(models, np.int64),
    )


def run(found: Detections, *known: tuple[tuple[int, int, int, int], int]) -> Objects:
    boxes = np.array([box for box, _ in known], np.float32).reshape(-1, 4)
    return decide(found, boxes, np.array([class_id for _, class_id in known], np.int64), RULES)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([(BOX, 0.9, CAR, 0)], [(BOX, 1, True)]),
        ([(BOX, 0.39, CAR, 0)], [(BOX, 1, False)]),  # neither certain nor unlikely
        ([(BOX, 0.09, CAR, 0)], []),
        ([(BOX, 0.9, HUMAN, 0)], [(BOX, 1, False)]),  # the other does not see it
        ([(BOX, 0.9, HUMAN, 0), (NEAR, 0.8, HUMAN, 0)], [(BOX, 1, False)]),  # seen twice by the same
        ([(BOX, 0.6, HUMAN, 0), (NEAR, 0.8, HUMAN, 1)], [(NEAR, 2, True)]),  # the more certain box counts
        ([(BOX, 0.6, HUMAN, 0), (FAR, 0.8, HUMAN, 1)], [(FAR, 1, False), (BOX, 1, False)]),
        ([(BOX, 0.9, CAR, 0), (NEAR, 0.8, HUMAN, 1)], [(BOX, 1, True), (NEAR, 1, False)]),  # classes do not meet
        ([(BOX, 0.9, 1, 0)], []),  # a class that is not to be labelled
    ],
)
def test_a_label_needs_confidence_and_agreement(rows: list, expected: list) -> None:
    objects = run(detect(*rows))
    assert [
        (tuple(box), votes, is_label)
        for box, votes, is_label in zip(
            objects.boxes_xyxy.astype(int).tolist(), objects.votes.tolist(), objects.is_label.tolist(), strict=True
        )
    ] == expected


VEHICLE, PLATE = 5, 4
WITHIN = Rules({PLATE: 0.4}, {PLATE: 1}, 0.1, contexts={PLATE: VEHICLE})
ON_BOX, BESIDE_BOX = (20, 40, 40, 54), (45, 10, 61, 20)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(ON_BOX, 0.9, PLATE, 0)], []),  # no vehicle anywhere: a sign, and background
        ([(ON_BOX, 0.9, PLATE, 0), (BOX, 0.1, VEHICLE, 1)], [True]),
        ([(ON_BOX, 0.2, PLATE, 0), (BOX, 0.9, VEHICLE, 1)], [False]),
        ([(ON_BOX, 0.9, PLATE, 0), (BOX, 0.09, VEHICLE, 1)], []),
        ([(BESIDE_BOX, 0.9, PLATE, 0), (BOX, 0.9, VEHICLE, 1)], []),  # its center lies outside
        ([(ON_BOX, 0.9, PLATE, 0), (BOX, 0.9, CAR, 1)], []),  # another class is no context
    ],
)
def test_a_box_counts_within_its_context(rows: list, expected: list) -> None:
    objects = decide(detect(*rows), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), WITHIN)
    assert objects.is_label.tolist() == expected and set(objects.class_ids.tolist()) <= {PLATE}


def test_a_context_may_be_what_people_labelled() -> None:
    rules = Rules({1: 0.4}, {1: 1}, 0.1, contexts={1: HUMAN})
    known = np.array([BOX], np.float32), np.array([HUMAN], np.int64)
    assert len(decide(detect((ON_BOX, 0.9, 1, 0)), *known, rules).class_ids) == 1
    assert len(decide(detect((FAR, 0.9, 1, 0)), *known, rules).class_ids) == 0


@pytest.mark.parametrize("text", ["head", "head=", "face=human", "head=truck", "head=head"])
def test_a_wrong_context_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--within must be CLASS=CONTEXT, once for a class that is labelled \(head\)"):
        parse_contexts([text], ["head"], ["head", "human"])
    assert parse_contexts(["head=human"], ["head"], ["head", "human"]) == {"head": "human"}


def test_what_people_labelled_is_not_found_again() -> None:
    found = detect((NEAR, 0.9, CAR, 0), (FAR, 0.9, CAR, 0))
    assert run(found, (BOX, CAR)).boxes_xyxy.tolist() == [list(FAR)]
    assert len(run(found, (BOX, HUMAN)).votes) == 2


boxes = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 60), st.integers(1, 60)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
rows = st.tuples(
    boxes, st.integers(1, 100).map(lambda percent: percent / 100), st.sampled_from([HUMAN, CAR, 1]), st.integers(0, 1)
)


@given(st.lists(rows, max_size=12))
def test_each_object_comes_once(found: list) -> None:
    objects = run(detect(*found))
    assert (np.diff(objects.confidences) <= 0).all()
    assert set(objects.class_ids.tolist()) <= {HUMAN, CAR} and (objects.confidences >= np.float32(0.1)).all()
    assert ((objects.votes >= 1) & (objects.votes <= 2)).all()
    overlaps = intersection_over_union(objects.boxes_xyxy, objects.boxes_xyxy)
    is_same_class = objects.class_ids[:, None] == objects.class_ids[None]
    np.fill_diagonal(overlaps, 0)
    assert not (is_same_class & (overlaps >= np.float32(RULES.iou_threshold))).any()
