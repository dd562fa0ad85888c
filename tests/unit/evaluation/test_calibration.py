"""Calibration for privacy: what is covered, what a sample can show, and thresholds.json read back or refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threshold_files import SETTINGS

from depers.detection.thresholds import Thresholds, find_differences, read_thresholds
from depers.errors import UserError
from depers.evaluation.calibration import (
    Calibration,
    calibrate,
    covered_from,
    format_table,
    format_thresholds,
)
from depers.evaluation.recall_bounds import lower_bound
from depers.evaluation.samples import Sample


def test_thresholds_are_read_and_unsupported_classes_left_out(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    content = {"version": 2, "thresholds": {"face": 0.0625, "car": None, "human": 0.3}, "details": {"anything": 1}}
    file.write_text(json.dumps(content | {"settings": SETTINGS.as_dict()}))
    thresholds = read_thresholds(str(file))
    assert thresholds.by_class == {"face": 0.0625, "human": 0.3} and thresholds.settings == SETTINGS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file of thresholds"),
        ("", "must be JSON as `depers evaluate` writes it, but Expecting value"),
        ("\udcff", "must be JSON"),
        ("[0.5]", r"must be an object with version and thresholds, but is \[0.5\]"),
        ('{"version": 2}', "must be an object with version and thresholds"),
        ('{"version": 1, "thresholds": {}}', "version must be 2, but is 1: find them again with `depers evaluate"),
        ('{"thresholds": {}}', "version must be 2, but is null"),
        ('{"version": 2, "thresholds": {}}', "settings must be an object, but is null"),
        ('{"version": 2, "thresholds": {}, "settings": {}}', "settings must say weights, but has null there"),
        ('{"version": 2, "thresholds": {}, "settings": {"weights": [1]}}', "settings must say weights by sha256"),
        (
            '{"version": 2, "thresholds": {"car": 1.5}}',
            "the threshold of car must be between 0 and 1 or null, but is 1.5",
        ),
        ('{"version": 2, "thresholds": {"car": 0}}', "the threshold of car must be between 0 and 1 or null, but is 0"),
        (
            '{"version": 2, "thresholds": {"car": NaN}}',
            "the threshold of car must be between 0 and 1 or null, but is NaN",
        ),
        ('{"version": 2, "thresholds": {"car": true}}', "the threshold of car must .* but is true"),
        ('{"version": 2, "thresholds": {"car": "0.5"}}', 'the threshold of car must .* but is "0.5"'),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "thresholds.json"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"{file}: {message}"):
        read_thresholds(str(file))


LEFT, RIGHT, WHOLE = [0, 0, 50, 100], [50, 0, 100, 100], [0, 0, 100, 100]


@pytest.mark.parametrize(
    ("boxes", "share", "expected"),
    [
        ([], 0.9, 0.0),
        ([(WHOLE, 0.7)], 0.9, 0.7),
        ([([200, 200, 300, 300], 0.7)], 0.9, 0.0),
        ([(LEFT, 0.7), (WHOLE, 0.4)], 0.9, 0.4),
        ([(LEFT, 0.7), (RIGHT, 0.4), (WHOLE, 0.2)], 0.9, 0.4),  # two halves are a whole
        ([(LEFT, 0.7), (LEFT, 0.4)], 0.9, 0.0),  # the same half twice is not
        ([(LEFT, 0.7)], 0.5, 0.7),
        ([([-50, -50, 150, 150], 0.3)], 1.0, 0.3),
        ([([0, 0, 100, 89], 0.7)], 0.9, 0.0),
    ],
)
def test_covered_from(boxes: list[tuple[list[float], float]], share: float, expected: float) -> None:
    xyxy = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    confidences = np.array([confidence for _, confidence in boxes], np.float32)
    found = covered_from(np.array([WHOLE], np.float32), xyxy, confidences, share)
    assert found.tolist() == [pytest.approx(expected)]


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 8), share=st.sampled_from([0.3, 0.6, 0.9, 1.0]))
def test_covered_from_equals_painting(seed: int, count: int, share: float) -> None:
    """On whole pixels, against a mask that is painted box by box."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 12, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 9, (count, 2))], 1).astype(np.float32)
    confidences = np.sort(rng.random(count).astype(np.float32))[::-1]
    label = np.array([[3, 4, 11, 9]], np.float32)
    mask, expected = np.zeros((24, 24), np.bool_), np.float32(0)
    for (x0, y0, x1, y1), confidence in zip(boxes.astype(int), confidences, strict=True):
        mask[y0:y1, x0:x1] = True
        if mask[4:9, 3:11].mean() >= share - 1e-9:
            expected = confidence
            break
    assert covered_from(label, boxes, confidences, share).tolist() == [expected]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({}, ""),
        ({"weights": (("c" * 64, {"person": "human"}), ("b" * 64, {}))}, "weights (SHA-256) aaaaaaaaaaaa + bbb"),
        ({"weights": SETTINGS.weights[:1]}, "weights (SHA-256) aaaaaaaaaaaa + bbbbbbbbbbbb, now aaaaaaaaaaaa"),
        ({"weights": SETTINGS.weights[::-1]}, "weights (SHA-256)"),
        ({"weights": (("a" * 16, {"person": "human"}), ("b" * 16, {}))}, ""),  # as an earlier run notes them
        ({"weights": (("a" * 64, {}), ("b" * 64, {}))}, "class map person=human + none, now none + none"),
        ({"classes": ("face",)}, "classes face, human, now face"),
        ({"classes": ("human", "face")}, ""),
        ({"imgsz": 1280}, "--imgsz 640, now 1280"),
        ({"tile": 640}, "--tile none, now 640"),
        ({"augment": True}, "--augment False, now True"),
        ({"arithmetic": ("float32",)}, "arithmetic bfloat16, now float32 (--precision, --device)"),
        ({"arithmetic": ("bfloat16", "float32")}, "arithmetic bfloat16, now bfloat16 and float32"),
        ({"arithmetic": None}, "arithmetic bfloat16, now that is not known"),
        ({"arithmetic": ()}, ""),  # nothing was computed
        ({"iou_threshold": 0.6}, "--iou-threshold 0.5, now 0.6"),
        ({"margin": 0.0}, "--margin 0.1, now 0"),
        ({"margin": None}, ""),  # what is only detected has none
    ],
)
def test_thresholds_are_those_of_one_detector_as_it_was_set(changes: dict[str, object], difference: str) -> None:
    differences = find_differences(Thresholds("t.json", {"face": 0.5}, SETTINGS), SETTINGS._replace(**changes))
    assert [text[: len(difference)] for text in differences] == ([difference] if difference else [])


BOX = [10.0, 10.0, 50.0, 50.0]


def one_image(confidence: float | None, false: float | None = None, labelled: tuple[int, ...] = (0, 1)) -> Sample:
    """An image with one label of class 0, found at a confidence, and perhaps a false box."""
    boxes = [(BOX, confidence)] * (confidence is not None) + [([200, 200, 250, 250], false)] * (false is not None)
    boxes.sort(key=lambda each: -float(each[1] or 0))
    return Sample(
        "a.jpg",
        (640, 480),
        np.array([box for box, _ in boxes], np.float32).reshape(-1, 4),
        np.array([confidence for _, confidence in boxes], np.float32),
        np.zeros(len(boxes), np.int64),
        np.array([BOX], np.float32),
        np.zeros(1, np.int64),
        frozenset(labelled),
    )


def calibrated(
    samples: list[Sample],
    target: float = 0.9,
    known: tuple[str, ...] = ("face",),
    margin: float = 0.1,
    groups: list[str] | None = None,
) -> Calibration:
    """Of many images with one path, each stands alone here."""
    samples = [sample._replace(path=f"{index}.jpg") for index, sample in enumerate(samples)]
    how = {"margin": margin, "coverage": 0.9, "certainty": 0.95}
    [found] = calibrate(samples, ["face", "car"], known, {"face": target}, **how, groups=groups)  # type: ignore[arg-type]
    return found


def test_a_threshold_is_the_highest_that_shows_the_target() -> None:
    samples = [one_image(0.9 - 0.001 * n, false=0.4 if n % 4 == 0 else None) for n in range(100)]
    found = calibrated(samples)
    wanted = 96  # of 100 images with one label: Clopper and Pearson's
    assert found.threshold == pytest.approx(0.9 - 0.001 * (wanted - 1), abs=3e-6)
    assert found.threshold < samples[wanted - 1].confidences[0]
    assert (found.found, found.labels, found.precision, found.false_per_image) == (96, 100, 1.0, 0.0)
    assert found.bound >= 0.9 and (found.images, found.whole_images, found.whole_bound) == (100, 96, found.bound)
    lower = calibrated([one_image(0.3, false=0.4)] * 100)
    assert (lower.threshold, lower.precision, lower.false_per_image) == (pytest.approx(0.3, abs=3e-6), 0.5, 1.0)


def test_boxes_are_grown_as_anonymization_grows_them() -> None:
    """A box that is a tenth too short on each side covers 64 % of its label, grown by a tenth nearly 93 %."""
    tight = one_image(0.5)._replace(boxes_xyxy=np.array([[14, 14, 46, 46]], np.float32))
    assert calibrated([tight] * 40).found == 40
    bare = calibrated([tight] * 40, margin=0.0)
    assert (bare.found, bare.threshold) == (0, None)


def test_what_cannot_be_supported_is_refused_with_the_reason() -> None:
    assert calibrated([one_image(0.9)] * 28).threshold is None
    reason = "at least 29 images like these with labels of the class are needed to show it, but there are 28"
    assert calibrated([one_image(0.9)] * 28).reason == reason
    assert calibrated([one_image(0.9)] * 29).threshold == pytest.approx(0.9, abs=3e-6)
    poor = calibrated([one_image(0.9)] * 60 + [one_image(None)] * 40)
    assert poor.threshold is None and "60 of 100 labels are found with every box at hand" in poor.reason
    assert calibrated([one_image(0.9)] * 99, known=()).reason == "these weights do not know the class"
    assert calibrated([]).reason.startswith("at least 29 images with a label of the class are needed")
    crowd = one_image(0.9, false=0.95)._replace(
        ignored_xyxy=np.array([[190, 190, 260, 260]], np.float32), ignored_ids=np.zeros(1, np.int64)
    )
    assert calibrated([crowd] * 40)[-2:] == (1.0, 0.0)  # what is found in a crowd is not false
    elsewhere = one_image(0.9, labelled=(1,))
    assert calibrated([elsewhere] * 99).labels == 0  # not labelled for faces: it says nothing about them


def test_calibrations_are_written_as_they_are_read(tmp_path: Path) -> None:
    found = [calibrated([one_image(0.25)] * 40), calibrated([one_image(0.9)] * 3)._replace(name="car")]
    file = tmp_path / "thresholds.json"
    file.write_text(format_thresholds(found, SETTINGS, {"coverage": 0.9}), encoding="utf-8")
    thresholds = read_thresholds(str(file))
    assert thresholds.by_class == {"face": found[0].threshold} and thresholds.settings == SETTINGS
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["thresholds"]["car"] is None and "29 images" in content["details"]["classes"]["car"]["reason"]
    assert content["details"]["coverage"] == 0.9
    lines = format_table(found, 0.95).splitlines()
    assert lines[1].split()[:5] == ["face", "40", "40", "0.9", "0.25"]
    assert "none: at least 29 images" in lines[2]
    assert lines[-1] == "Each bound (at least) holds by itself, with a certainty of 0.95."
    both = format_table([found[0], found[0]], 0.95).splitlines()[-1]
    assert "those of all 2 classes at once with 0.9 or more (--certainty 0.975 makes it 0.95)" in both


def test_labels_of_one_image_or_group_are_no_independent_draws() -> None:
    """A hundred labels show 0.95, ten images of ten do not; nor do a hundred images of ten cameras."""
    ten = one_image(0.9)
    ten = ten._replace(label_boxes_xyxy=np.repeat(ten.label_boxes_xyxy, 10, 0), label_ids=np.zeros(10, np.int64))
    assert calibrated([one_image(0.9)] * 100, 0.95).threshold is not None
    crowded = calibrated([ten] * 10, 0.95)
    assert (crowded.groups, crowded.images, crowded.labels, crowded.threshold) == (10, 10, 100, None)
    assert "at least 59 images like these" in crowded.reason and crowded.reason.endswith("but there are 10")
    cameras = calibrated([one_image(0.9)] * 100, 0.95, groups=[str(n % 10) for n in range(100)])
    assert (cameras.groups, cameras.images, cameras.threshold) == (10, 100, None)
    assert "at least 59 groups like these" in cameras.reason


def test_an_image_with_one_miss_is_not_whole() -> None:
    two = one_image(0.9)
    two = two._replace(
        label_boxes_xyxy=np.array([BOX, [300, 300, 400, 400]], np.float32), label_ids=np.zeros(2, np.int64)
    )
    found = calibrated([two] * 5 + [one_image(0.9)] * 95)
    assert (found.found, found.labels, found.whole_images, found.images) == (100, 105, 95, 100)
    assert found.whole_bound == pytest.approx(lower_bound(np.repeat([1, 0], [5, 95]), np.ones(100, np.int64), 0.95))
