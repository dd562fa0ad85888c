"""The competition's file: byte-identical round trips, refusals by line, and the score of the defining package."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.boxes import clip, letterbox
from depers.datasets.labels import read_labels
from depers.detection.detections import SCHEMA, to_rows
from depers.detection.detector import DetectorEnsemble
from depers.detection.settings import InferenceSettings, Weights
from depers.detection.tiling import draw_canvas
from depers.errors import UserError
from depers.evaluation.competition_score import score
from depers.evaluation.submission import HEADER, Submission, check_images, format_submission, from_table, parse, read
from depers.imaging.decoding import decode

Labels = dict[str, tuple[np.ndarray, np.ndarray]]


def test_the_sample_is_written_back_as_it_was_read(data: Path) -> None:
    path = data / "submissions/hackathon_sample.csv"
    found = read(str(path), 5)
    assert len(found.rows) == 1426 and set(found.class_ids.tolist()) == {3}
    assert found.image_ids[0] == "24-11-2021_05-31-51_AM.jpg" and found.confidences[0] == 0.825893
    assert found.boxes_xyxy[0].tolist() == [0.03593755, 0.3055557, 0.053645849999999995, 0.3731483]
    assert format_submission(found).encode() == path.read_bytes()


numbers = st.floats(0, 1).flatmap(
    lambda value: st.sampled_from([repr(value), f"{value:.6f}", f"{value:.3e}", "0", "1."])
)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text("aé /#=.\u3042", min_size=1), st.integers(0, 4), st.lists(numbers, min_size=5, max_size=5))
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_file_is_written_back_as_it_was_read(rows: list[tuple[str, int, list[str]]], line_end: str) -> None:
    lines = []
    for name, class_id, (confidence, *sides) in rows:
        x, y = sorted(sides[:2], key=float), sorted(sides[2:], key=float)
        lines.append(";".join([name, str(class_id), confidence, *x, *y]))
    text = "".join(line + line_end for line in [HEADER, *lines])
    assert format_submission(parse(text, 5, "a.csv")) == text


LINE = "a.jpg;1;0.5;0.1;0.2;0.3;0.4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must begin with ImageID;LabelName;.* but the file is empty"),
        ("\n\n", "the file is empty"),
        ("ImageID,LabelName,Conf\n", "line 1: the header must be ImageID;.*, but is 'ImageID,LabelName,Conf'"),
        (LINE, "line 1: the header must be"),
        (f"{HEADER}\n{LINE};7\n", "line 2: must be 7 fields between semicolons, but is 'a.jpg;1;.*;7'"),
        (f"{HEADER}\n{LINE}\n\n{LINE}\n", "line 3: must be 7 fields between semicolons, but is ''"),
        (f"{HEADER}\n{LINE}\na.jpg;1;high;0.1;0.2;0.3;0.4\n", "line 3: Conf must be a number in 0…1, but is 'high'"),
        (f"{HEADER}\na.jpg;1;nan;0.1;0.2;0.3;0.4\n", "line 2: Conf must be a number in 0…1, but is 'nan'"),
        (f"{HEADER}\na.jpg;1;1.01;0.1;0.2;0.3;0.4\n", "line 2: Conf must be a number in 0…1, but is '1.01'"),
        (f"{HEADER}\na.jpg;1;0.5;0.1;0.2;0,3;0.4\n", "line 2: YMin must be a number in 0…1, but is '0,3'"),
        (f"{HEADER}\na.jpg;1;0.5;0.1;inf;0.3;0.4\n", "line 2: XMax must be a number in 0…1, but is 'inf'"),
        (f"{HEADER}\na.jpg;1;0.5;10;20;0.3;0.4\n", "line 2: XMin must be a number in 0…1, but is '10'"),
        (f"{HEADER}\na.jpg;1;0.5;0.3;0.2;0.3;0.4\n", "line 2: XMin must be at most XMax, but they are 0.3 and 0.2"),
        (f"{HEADER}\na.jpg;5;0.5;0.1;0.2;0.3;0.4\n", "line 2: LabelName must be a class id in 0…4, but is '5'"),
        (f"{HEADER}\na.jpg;car;0.5;0.1;0.2;0.3;0.4\n", "line 2: LabelName must be a class id in 0…4, but is 'car'"),
        (f"{HEADER}\n;1;0.5;0.1;0.2;0.3;0.4\n", "line 2: ImageID must be an image's name, but is empty"),
    ],
)
def test_what_is_wrong_is_named_by_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"a.csv.*{message}") as caught:
        parse(text, 5, "a.csv")
    assert "\n" not in str(caught.value)


def test_images_that_the_dataset_lacks_are_refused() -> None:
    found = parse(f"{HEADER}\n{LINE}\n{LINE.replace('a.jpg', 'b.jpg')}\n", 5, "a.csv")
    with pytest.raises(UserError, match=r"a.csv, line 3: ImageID must be one of the 1 images in val, but is 'b.jpg'"):
        check_images(found, {"a.jpg": None}, "a.csv", "val")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file of detections"):
        read(str(tmp_path / "absent.csv"), 5)
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="holds other bytes than UTF-8"):
        read(str(tmp_path / "bytes.csv"), 5)


def test_detections_as_a_submission() -> None:
    box = {"class": "head", "confidence": 0.25, "x_min": 10, "y_min": 20, "x_max": 30, "y_max": 60, "model": "m"}
    row = {"status": "detected", "reason": "", "width": 100, "height": 80}
    boxes = [box, {**box, "confidence": 0.1}, {**box, "confidence": 0.9}, {**box, "class": "lorry"}]
    table = SCHEMA.empty_table().from_pylist(
        [{**row, "path": "b.jpg", "boxes": boxes}, {**row, "path": "a.jpg", "boxes": [box]}], SCHEMA
    )
    assert format_submission(from_table(table, ["car", "head"])).splitlines() == [
        HEADER,
        "a.jpg;1;0.25;0.1;0.3;0.25;0.75",
        "b.jpg;1;0.9;0.1;0.3;0.25;0.75",
        "b.jpg;1;0.25;0.1;0.3;0.25;0.75",
        "b.jpg;1;0.1;0.1;0.3;0.25;0.75",
    ]
    table = SCHEMA.empty_table().from_pylist([{**row, "path": "a;b.jpg", "boxes": []}], SCHEMA)
    with pytest.raises(UserError, match=r"'a;b.jpg': an image's name must hold no semicolon"):
        from_table(table, ["car"])


def theirs(labels: Labels, found: Submission, iou_threshold: float = 0.5) -> tuple[float, dict[str, Any]]:
    """The score of the package, from tables as it wants them."""
    from map_boxes import mean_average_precision_for_boxes

    annotations = [
        (image, str(c), x0, x1, y0, y1)
        for image, each in labels.items()
        for c, (x0, y0, x1, y1) in zip(*each, strict=True)
    ]
    predictions = [
        (image, str(c), confidence, x0, x1, y0, y1)
        for image, c, confidence, (x0, y0, x1, y1) in zip(*found[1:5], strict=True)
    ]
    return mean_average_precision_for_boxes(
        np.array(annotations, object).reshape(-1, 6),
        np.array(predictions, object).reshape(-1, 7),
        iou_threshold,
        verbose=False,
    )


def compare(labels: Labels, found: Submission, iou_threshold: float = 0.5) -> None:
    mean, classes = theirs(labels, found, iou_threshold)
    ours = score(labels, found, iou_threshold)
    assert math.isclose(ours.mean, mean, rel_tol=0, abs_tol=1e-9)
    assert {str(class_id): count for class_id, (_, count) in ours.classes.items()} == {
        k: v[1] for k, v in classes.items()
    }
    for class_id, (average, _) in ours.classes.items():
        assert math.isclose(average, classes[str(class_id)][0], rel_tol=0, abs_tol=1e-9)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 0.7, (count, 2)), rng.uniform(0, 0.3, (count, 2))
    return np.concatenate([corner, corner + size], 1)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(0, 6),
    detected=st.integers(0, 60),
    classes=st.integers(1, 12),
    grid=st.sampled_from([0, 4, 20]),
    iou_threshold=st.sampled_from([0.3, 0.5, 0.9]),
)
def test_score_equals_the_package(
    seed: int, images: int, detected: int, classes: int, grid: int, iou_threshold: float
) -> None:
    """Random sets; on a grid, boxes touch, coincide, have no area, and confidences are equal."""
    rng = np.random.default_rng(seed)

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.round(values * grid) / grid if grid else values

    labels: Labels = {}
    for number in range(images):
        count = int(rng.integers(0, 6))  # 0: an image without a label
        labels[f"{number}.jpg"] = (rng.integers(0, classes, count), rounded(random_boxes(rng, count)))
    everything = np.concatenate([boxes for _, boxes in labels.values()] + [np.zeros((0, 4))])
    boxes = random_boxes(rng, detected)
    if len(everything):
        near = rng.random(detected) < 0.7
        chosen = everything[rng.integers(0, len(everything), detected)]
        boxes[near] = (chosen + rng.normal(0, rng.choice([0, 0.01, 0.05], (detected, 1)), (detected, 4)))[near]
    found = Submission(
        (),
        tuple(f"{number}.jpg" for number in rng.integers(0, images + 1, detected)),
        rng.integers(0, classes + 1, detected),
        rounded(rng.random(detected)),
        rounded(boxes),
    )
    compare(labels, found, iou_threshold)


def one(*boxes: tuple[float, list[float]], image: str = "a.jpg") -> Submission:
    array = np.array([box for _, box in boxes])
    confidences = np.array([confidence for confidence, _ in boxes])
    return Submission((), (image,) * len(boxes), np.zeros(len(boxes), np.int64), confidences, array)


BOX, NEAR, FAR = [0.1, 0.1, 0.5, 0.5], [0.12, 0.1, 0.52, 0.5], [0.6, 0.6, 0.9, 0.9]


@pytest.mark.parametrize(
    ("found", "expected", "uncounted"),
    [
        (one((0.9, BOX)), 1.0, 0),
        (one((0.9, FAR)), 0.0, 0),
        (one((0.2, NEAR), (0.9, BOX)), 0.5, 0),  # the first in the file is right, the surer one false
        (one((0.9, BOX), (0.2, NEAR)), 1.0, 0),
        (one((0.9, BOX), image="empty.jpg"), 0.0, 1),  # an image without labels is not seen
    ],
    ids=["same", "elsewhere", "less sure first", "surer first", "without labels"],
)
def test_score_by_hand(found: Submission, expected: float, uncounted: int) -> None:
    labels = {"a.jpg": (np.array([0]), np.array([BOX])), "empty.jpg": (np.zeros(0, np.int64), np.zeros((0, 4)))}
    compare(labels, found)
    assert score(labels, found) == (pytest.approx(expected), {0: (pytest.approx(expected), 1)}, uncounted)


def test_rounding_decides_as_in_the_package() -> None:
    """Boxes that are half of their label: in float32, as the definition rounds, some reach the threshold, some not."""
    rng = np.random.default_rng(0)
    results = []
    for _ in range(60):
        x, y, width, height = rng.uniform(0.1, 0.4, 4).round(3)
        labels = {"a.jpg": (np.array([0]), np.array([[x, y, x + width, y + height]]))}
        found = one((0.9, [x, y, x + width / 2, y + height]))
        compare(labels, found)
        results.append(score(labels, found).mean)
    assert set(results) == {0.0, 1.0}


def test_score_of_real_predictions_equals_the_package(data: Path) -> None:
    """Persons, cars and all else that YOLOv5n finds in photographs, against their labels."""
    weights = data / "weights/yolov5n.pt"
    how = InferenceSettings(imgsz=320, confidence=0.001, iou_threshold=0.6, multi_label=True, precision="float32")
    detector = DetectorEnsemble([Weights(str(weights), {})], [weights.read_bytes()], (), how)
    labels: Labels = {}
    rows: list[dict[str, object]] = []
    for path in sorted((data / "coco_val/images").iterdir())[:8]:
        image = decode(path.read_bytes())
        given = read_labels(str(data / "coco_val/labels" / f"{path.stem}.txt"), 80)
        half = given.boxes_xywh[:, 2:] / 2
        corners = [given.boxes_xywh[:, :2] - half, given.boxes_xywh[:, :2] + half]
        labels[path.name] = (given.class_ids, np.concatenate(corners, 1))
        frame = letterbox(image.size_wh, 320)
        [found] = detector([draw_canvas(image.rgb(), frame)])
        found = found._replace(boxes_xyxy=clip(frame.invert(found.boxes_xyxy), image.size_wh))
        width, height = image.size_wh
        row = {"path": path.name, "status": "detected", "width": width, "height": height}
        rows.append({**row, "boxes": to_rows(found, detector.class_names, detector.model_names)})
    submission = from_table(SCHEMA.empty_table().from_pylist(rows, SCHEMA), detector.class_names)
    assert len(submission.rows) > 500 and score(labels, submission).mean > 0.2
    compare(labels, submission)
    compare(labels, submission, 0.75)


def test_nothing_to_score() -> None:
    assert score({}, one((0.9, BOX))) == (0.0, {}, 1)
