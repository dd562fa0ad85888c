"""Two sets that label one class each make a detector of both: neither is taught as the other's background."""

import json
from pathlib import Path

import pytest
import yaml
from predictions import predict_images
from runs import run_depers
from training_sets import write_dataset

from depers.commands.demo import HYPERPARAMETERS
from depers.training.images.data import Splits, read_splits
from depers.training.images.image_cache import fit_size, read_scaled
from depers.training.loop import train
from depers.training.options import Options
from depers.training.processes.checkpoints import CheckpointWriter
from depers.training.processes.process_group import ProcessGroup

NAMES = ["human", "car"]
SIZE = (256, 160)
CONFIDENT = 0.35


@pytest.mark.slow
def test_what_a_set_does_not_label_is_still_found_there(tmp_path: Path, data: Path) -> None:
    main = write_dataset(tmp_path / "both", 1, 30, NAMES, SIZE, 50_000)
    humans = write_dataset(tmp_path / "humans", 60, 1, ["human"], SIZE, 0)
    cars = write_dataset(tmp_path / "cars", 60, 1, ["car"], SIZE, 1000)
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump(HYPERPARAMETERS))
    splits = read_splits(str(main), [(str(humans), 1.0), (str(cars), 1.0)])
    all_ids = frozenset({0, 1})
    as_background = splits._replace(train=[example._replace(labelled=all_ids) for example in splits.train])
    recalls = {}
    for name, arm in (("joined", splits), ("as background", as_background)):
        recalls[name] = measure_recall(arm, tmp_path / name, data / "weights" / "yolov5n.pt", tmp_path / "hyp.yaml")
    # Average precision, which sees ranks alone, hardly differs: what half of the images call background is found with
    # half the confidence. 0.42 and 0.11 after 12 epochs.
    assert recalls["joined"] > recalls["as background"] + 0.1, recalls


@pytest.mark.slow
def test_joined_sets_go_through_the_whole_mission(tmp_path: Path, data: Path) -> None:
    """normalize → extract → synthesize → train → evaluate, each as the command that a user gives."""
    for number, name in enumerate(NAMES):
        write_dataset(tmp_path / f"{name}s", 16, 4, [name], SIZE, 1000 * number)
    joined, extracted, made, run = (str(tmp_path / name) for name in ("joined", "extracted", "made", "run"))
    classes = [f"--classes={name}" for name in NAMES]
    small = ["--imgsz", "128", "--batch-size", "8", "--device", "cpu"]
    for argv in (
        ["normalize", str(tmp_path / "humans"), joined, "--add", str(tmp_path / "cars"), *classes],
        ["extract", joined, extracted, "--max-coverage", "0.9"],
        ["synthesize", extracted, made, "--count", "16"],
        ["train", made, run, *small, "--steps", "4", "--epochs", "2", "--weights", str(data / "weights/yolov5n.pt")],
        ["evaluate", made, str(tmp_path / "evaluation"), "--weights", f"{run}/weights/last.pt", *small],
        ["experiment", joined, str(tmp_path / "experiment"), *small[:4], "--steps", "2", "--seeds", "1"]
        + ["--validations", "1", "--sizes", "8", "--train-with", "device=cpu", "--extract-with", "max_coverage=0.9"],
    ):
        code, output = run_depers(*argv)
        assert code == 0, output
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    counts = {name: row["images"] for name, row in metrics["classes"].items()}
    assert counts and all(0 < count < metrics["all"]["images"] for count in counts.values())


def measure_recall(splits: Splits, out: Path, weights: Path, hyperparameters: Path) -> float:
    """Return the share of labels that are found above a confidence after a short training, in images that show both."""
    options = Options(
        "datasets",  # which are given as splits
        str(out),
        weights=str(weights),
        imgsz=256,
        epochs=10,
        batch_size=8,
        nominal_batch=8,
        optimizer="AdamW",
        learning_rate=0.002,
        warmup_epochs=1.0,
        hyperparameters=str(hyperparameters),
        device="cpu",
    )
    writer = CheckpointWriter(str(out))
    train(options, splits, ProcessGroup(), None, writer)
    writer.close()
    checkpoint = (out / "weights" / "last.pt").read_bytes()
    images = [read_scaled(example, fit_size(example.size_wh, 256)) for example in splits.val]
    results, _ = predict_images(checkpoint, images, splits.val, len(splits.names), 8, 256)
    matches = [result.match() for result in results]
    hits = sum(int(match.correct[match.confidences > CONFIDENT, 0].sum()) for match in matches)
    return hits / sum(len(match.label_ids) for match in matches)
