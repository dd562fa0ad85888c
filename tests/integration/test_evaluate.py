"""`depers evaluate`: what counts as missed and as false, and a real run on a small dataset."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from threshold_files import format_file
from training_sets import write_dataset

from depers import storage
from depers.commands import detect, evaluate
from depers.commands.evaluate import Options
from depers.datasets import seen_images
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import CLASSES
from depers.detection import thresholds as detection_thresholds
from depers.detection.detections import SCHEMA
from depers.errors import UserError
from depers.evaluation import submission
from depers.evaluation.competition_score import score_file
from depers.evaluation.samples import Sample, judge, read_samples, select_worst
from depers.pipeline import run
from depers.storage import tables

CAR, HEAD = 0, 1


def sample(
    found: list[tuple[int, float, list[float]]], labelled: list[tuple[int, list[float]]], path: str = "a.jpg"
) -> Sample:
    return Sample(
        path,
        (640, 480),
        np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
        np.array([confidence for _, confidence, _ in found], np.float32),
        np.array([class_id for class_id, _, _ in found], np.int64),
        np.array([box for _, box in labelled], np.float32).reshape(-1, 4),
        np.array([class_id for class_id, _ in labelled], np.int64),
        frozenset(range(5)),
    )


BOX, NEAR, FAR = [10, 10, 50, 50], [12, 10, 52, 50], [200, 200, 240, 240]


@pytest.mark.parametrize(
    ("found", "labelled", "missed", "shown", "correct"),
    [
        ([], [], [], [], []),
        ([], [(CAR, BOX)], [True], [], []),
        ([(CAR, 0.9, NEAR)], [(CAR, BOX)], [False], [True], [True]),
        ([(CAR, 0.9, FAR)], [(CAR, BOX)], [True], [True], [False]),
        ([(HEAD, 0.9, BOX)], [(CAR, BOX)], [True], [True], [False]),  # another class
        ([(CAR, 0.2, BOX)], [(CAR, BOX)], [True], [False], [False]),  # below the confidence
        ([(CAR, 0.9, BOX), (CAR, 0.8, NEAR)], [(CAR, BOX)], [False], [True, True], [True, False]),  # found twice
    ],
)
def test_judge(
    found: list[tuple[int, float, list[float]]],
    labelled: list[tuple[int, list[float]]],
    missed: list[bool],
    shown: list[bool],
    correct: list[bool],
) -> None:
    result = judge(sample(found, labelled), confidence=0.5)
    assert (result.missed.tolist(), result.confident.tolist(), result.correct.tolist()) == (missed, shown, correct)


def test_worst_has_most_misses_then_most_false_alarms() -> None:
    images = {
        "none missed": sample([(CAR, 0.9, BOX), (CAR, 0.9, FAR)], [(CAR, BOX)]),
        "one missed": sample([], [(CAR, BOX)]),
        "one missed, one false": sample([(CAR, 0.9, FAR)], [(CAR, BOX)]),
        "two missed": sample([], [(CAR, BOX), (HEAD, BOX)]),
    }
    results = [judge(image._replace(path=name), 0.5) for name, image in images.items()]
    names = [result.sample.path for result in select_worst(results, 9)]
    assert names == ["two missed", "one missed, one false", "one missed"]
    assert [result.sample.path for result in select_worst(results, 1)] == ["two missed"]


@pytest.fixture(scope="module")
def weights(untrained: Callable[..., str]) -> str:
    """Knows cars, and humans by another name."""
    return untrained("person", "car") + ":person=human,car=car"


@pytest.mark.usefixtures("ray_local")
def test_evaluation_of_a_small_dataset(tmp_path: Path, weights: str, s3_bucket: str) -> None:
    dataset = write_dataset(tmp_path / "data", count=1, val_count=4)
    images = dataset / "images/val"
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "nothing.jpg").write_bytes((images / "100000.jpg").read_bytes())
    for name in ("broken", "nothing"):
        (dataset / f"labels/val/{name}.txt").write_text("")
    out, file = f"{s3_bucket}/evaluation", str(tmp_path / "submission.csv")
    best = tmp_path / "run/weights/best.pt"  # of a training on this dataset
    best.parent.mkdir(parents=True)
    best.write_bytes(Path(weights.partition(":")[0]).read_bytes())
    seen_images.write_seen(str(tmp_path / "run"), [str(dataset)])
    given = Options(
        str(dataset), out, (f"{best}:person=human,car=car",), submission=file, target_recall=("0.9",), imgsz=128
    )
    result = evaluate.run(given)
    assert result.partial and [failure.path for failure in result.failures.examples] == ["broken.jpg"]
    figures = json.loads(storage.read_bytes(result.metrics))
    assert figures == json.loads(json.dumps(result.figures)) and result.metrics == f"{out}/metrics.json"
    labels = [line.split()[0] for file in (dataset / "labels/val").iterdir() for line in file.read_text().splitlines()]
    counts = {name: labels.count(str(index)) for index, name in enumerate(CLASSES)}
    assert figures["failed"] == 1 and figures["all"]["images"] == 6
    assert {name: row["labels"] for name, row in figures["classes"].items()} == {
        name: counts[name] for name in ("car", "human") if counts[name]
    }
    assert figures["seen_in_training"] == {str(best): {"val": 6}}
    assert result.text.startswith(f"warning: of 6 images, the training of {best} used 6 in val, which taught or chose")
    assert "not detectable with these weights" in result.text and f"head ({counts['head']})" in result.text
    assert result.summary()[-1] == f"report {out}/report.html" and result.thresholds == f"{out}/thresholds.json"
    page = storage.read_bytes(f"{out}/report.html").decode()
    assert figures["sizes"] and {row["name"] for row in figures["sizes"]} <= {"all", *figures["classes"]}
    thresholds = json.loads(storage.read_bytes(f"{out}/thresholds.json"))
    assert thresholds["thresholds"] == dict.fromkeys(CLASSES)  # a handful of labels shows nothing
    assert thresholds["details"]["images"] == 5  # the broken one is withheld anyway
    reason = thresholds["details"]["classes"]["car"]["reason"]
    assert "groups" in reason and "are needed" in reason  # drawn scenes are so alike that some are twins
    found_with = detection_thresholds.read_thresholds(f"{out}/thresholds.json")
    assert found_with.by_class == {} and found_with.settings.classes == ("car", "human")
    arithmetics = tables.read_table(f"{out}/detect-calibration/detections.parquet")["arithmetic"].to_pylist()
    assert found_with.settings.arithmetic == tuple({*arithmetics} - {None})  # of this machine
    same = detect.Options(
        str(images), str(tmp_path / "same"), given.weights, imgsz=128, thresholds=f"{out}/thresholds.json"
    )
    assert detect.run(same).notes == ()
    other = "float32" if found_with.settings.arithmetic == ("bfloat16",) else "bfloat16"
    with pytest.raises(UserError, match=rf"was found with arithmetic {arithmetics[0]}, now {other} \(--precision"):
        detect.run(replace(same, out=str(tmp_path / "other"), precision=other))
    assert "1 images failed" in page and "broken.jpg" in page and "data:image/jpeg" in page

    table = tables.read_table(f"{out}/detect/detections.parquet")
    found = read_samples(table, str(images), read_dataset(dataset))
    assert [one.path for one in found] == table["path"].to_pylist()
    assert sum(len(one.boxes_xyxy) for one in found) == sum(len(row) for row in table["boxes"].to_pylist()) > 0
    assert evaluate.run(given).partial
    assert json.loads(storage.read_bytes(f"{out}/metrics.json")) == figures
    (tmp_path / "run/seen.parquet").unlink()  # what is not known is said, not passed over
    again = evaluate.run(given)
    assert again.figures["seen_in_training"] == {str(best): "not known"}
    assert again.text.startswith(f"not known: whether the training of {best} used any of the 6 images: no ")
    thresholds = json.loads(storage.read_bytes(f"{out}/thresholds.json"))
    assert thresholds["details"]["seen_in_training"] == {str(best): "not known"}

    result = evaluate.run(Options(str(dataset), f"{out}/score", score=file))
    assert not result.partial and result.report is None
    scored = json.loads(storage.read_bytes(f"{out}/score/score.json"))
    assert {name: scored[name] for name in figures["competition"]} == figures["competition"]
    assert f"competition's score (mean): {scored['score']:.6f}" in result.summary()
    with pytest.raises(UserError, match=r"submission.csv, line 2: ImageID must be one of the 1 images in .*train"):
        evaluate.run(Options(str(dataset), f"{out}/score", score=file, split="train"))


def test_classes_that_an_image_is_not_labelled_for_do_not_count(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", count=1, val_count=2)
    text = (dataset / "data.yaml").read_text()
    (dataset / "data.yaml").write_text(text + 'labelled: {"100000": [head]}\n')
    box = {"class": "car", "confidence": 0.5, "x_min": 0, "y_min": 0, "x_max": 9, "y_max": 9, "model": "m", "frame": 0}
    row = {"status": "detected", "reason": "", "width": 192, "height": 192, "boxes": [box, {**box, "class": "head"}]}
    rows = [{**row, "path": "100000.jpg"}, {**row, "path": "100001.jpg"}]
    found = read_samples(
        SCHEMA.empty_table().from_pylist(rows, SCHEMA), str(dataset / "images/val"), read_dataset(dataset)
    )
    assert [one.class_ids.tolist() for one in found] == [[HEAD], [CAR, HEAD]]
    assert [len(one.match().labelled or ()) for one in found] == [1, 5]
    (dataset / "labels/val/100000.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (dataset / "labels/val/100001.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    lines = [
        "100000.jpg;0;0.9;0.4;0.6;0.4;0.6",
        "100001.jpg;0;0.5;0.4;0.6;0.4;0.6",
    ]  # a car where cars are not labelled
    submitted = submission.parse("\n".join([submission.HEADER, *lines]), 5, "a.csv")
    scored = score_file(submitted, "a.csv", str(dataset / "images/val"), read_dataset(dataset))
    assert scored.classes == {CAR: (1.0, 1), HEAD: (0.0, 1)}
    (dataset / "data.yaml").write_text(text)
    everywhere = score_file(submitted, "a.csv", str(dataset / "images/val"), read_dataset(dataset))
    assert everywhere.classes[CAR] == (0.5, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"score": "a.csv"}, "--score reads detections from a file: it must not go with --weights"),
        ({"weights": (), "score": "a.csv", "target_recall": ("0.9",)}, "--score reads detections"),
        ({"coverage": 1.0}, "--coverage must be above 0 and below 1, but got 1"),
        ({"certainty": 0.0}, "--certainty must be above 0 and below 1, but got 0"),
        ({"margin": -0.1}, r"--margin must be between 0 and 2, but got -0\.1"),
        ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Options("data", "out", **({"weights": ("w.pt",)} | values))  # type: ignore[arg-type]


@pytest.mark.usefixtures("ray_local")
def test_weights_that_know_no_class_of_the_dataset_are_refused(tmp_path: Path, weights: str) -> None:
    dataset = write_dataset(tmp_path / "data", count=1, val_count=1)
    unmapped = weights.partition(":")[0]
    (dataset / "data.yaml").write_text((dataset / "data.yaml").read_text().replace("[car,", "[lorry,"))
    with pytest.raises(UserError, match=r"--weights must know a class of the dataset \(lorry, .*but know person, car"):
        evaluate.run(Options(str(dataset), str(tmp_path / "out"), (unmapped,), imgsz=128))


def test_labels_given_twice_count_once(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", count=1, val_count=1)
    [file] = (dataset / "labels/val").iterdir()
    line = "1 0.5 0.5 0.25 0.25\n"
    file.write_text(line * 3)
    row = {"path": "100000.jpg", "status": "detected", "reason": "", "width": 192, "height": 192, "boxes": []}
    [one] = read_samples(
        SCHEMA.empty_table().from_pylist([row], SCHEMA), str(dataset / "images/val"), read_dataset(dataset)
    )
    assert one.label_boxes_xyxy.tolist() == [[72, 72, 120, 120]] and one.label_ids.tolist() == [HEAD]


def test_a_dataset_without_the_split_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", count=1, val_count=1)
    (dataset / "data.yaml").write_text("train: images/train\nnames: [car, head, face, human, carplate]\n")
    with pytest.raises(UserError, match="the dataset must name a val split, but does not"):
        evaluate.run(Options(str(dataset), str(tmp_path / "out"), ("any.pt",)))


@pytest.mark.usefixtures("ray_local")
def test_a_class_without_a_threshold_is_not_looked_for_less(tmp_path: Path) -> None:
    """Where the data could not support one, --confidence stays, however high the other classes' thresholds are."""
    file = tmp_path / "thresholds.json"
    for face, expected in ((0.6, 0.15), (0.05, 0.05)):
        file.write_text(format_file({"face": face, "car": None}))
        options = detect.Options("in", "out", ("w.pt",), thresholds=str(file))
        job = run.make_job(options, SCHEMA, lambda out: partial(detect.write_boxes))
        assert job.settings.confidence == expected and job.thresholds == {"face": face}
