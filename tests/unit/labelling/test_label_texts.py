"""What is written about an image: people's labels as they are, and beside them what detectors add or leave open."""

import numpy as np
import pytest

from depers.commands.label import Options, parse_confidences
from depers.datasets.data_yaml import Dataset
from depers.datasets.labels import Labels
from depers.detection.detections import Detections
from depers.errors import UserError
from depers.labelling.decisions import Rules
from depers.labelling.steps import LabellingJob, make_texts

NAMES = ("car", "head", "human")
CAR, HEAD, HUMAN = range(3)
DATASET = Dataset("", NAMES, "images/train", None, (("heads/", frozenset({HEAD})),))
JOB = LabellingJob(DATASET, {"train": "images/train"}, "out", Rules({HUMAN: 0.5, HEAD: 0.5}, {HUMAN: 1, HEAD: 1}, 0.1))
NONE, SIZE = Labels.of([], []), (100, 100)
FOUND = Detections(
    np.array([[0, 0, 50, 100], [50, 0, 100, 50], [0, 0, 20, 20]], np.float32),
    np.array([0.9, 0.2, 0.9], np.float32),
    np.array([HUMAN, HUMAN, HEAD]),
    np.zeros(3, np.int64),
)
WHOLE = "0.500000 0.500000 1.000000 1.000000\n"


def test_detectors_add_what_people_did_not_label() -> None:
    text = "1 0.9 0.9 0.1 0.1"  # without an end of line, with fewer decimals than depers writes
    texts = make_texts(JOB, "heads/a.jpg", text, NONE, FOUND, SIZE)
    assert texts.labels == f"{text}\n2 0.250000 0.500000 0.500000 1.000000\n"
    assert texts.ignored == "2 0.750000 0.250000 0.500000 0.500000\n"
    assert texts.class_ids == {HUMAN}  # people labelled the heads


def test_images_that_are_labelled_stay_as_they_are() -> None:
    texts = make_texts(JOB, "others/a.jpg", "2 0.5 0.5 1 1\n", NONE, FOUND, SIZE)
    assert texts == ("2 0.5 0.5 1 1\n", "", frozenset(), None)


def test_a_region_as_large_as_the_image_gives_way() -> None:
    ignored = Labels.of([HUMAN, CAR], [[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1]])
    texts = make_texts(JOB, "others/a.jpg", "", ignored, FOUND, SIZE)
    assert texts.labels == "2 0.250000 0.500000 0.500000 1.000000\n"
    assert texts.ignored == f"0 {WHOLE}2 0.750000 0.250000 0.500000 0.500000\n"  # nobody asked for cars


def test_where_nothing_was_looked_for_nothing_is_background() -> None:
    texts = make_texts(JOB, "heads/a.jpg", "1 0.9 0.9 0.1 0.1\n", NONE, None, SIZE)
    assert texts == ("1 0.9 0.9 0.1 0.1\n", f"2 {WHOLE}", frozenset(), None)


def test_each_class_needs_a_confidence() -> None:
    assert parse_confidences(["head=0.6", "0.4"], ("head", "human")) == {"head": 0.6, "human": 0.4}
    with pytest.raises(UserError, match="for human too"):
        parse_confidences(["head=0.5"], ("head", "human"))


def test_no_more_weights_can_agree_than_there_are() -> None:
    with pytest.raises(UserError, match="at most the number of --weights, 1, but got 2"):
        Options("dataset", "out", weights=("a.pt",), agreement=2)
