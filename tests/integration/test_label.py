"""`depers label` for real: a joined set, of which each half labels one class, gets what the other half labels."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from training_sets import write_dataset

from depers.commands import evaluate, label, normalize
from depers.datasets.data_yaml import labelled_classes, read_dataset, without_machine_labels
from depers.errors import UserError

NAMES = ("human", "car")
pytestmark = pytest.mark.usefixtures("ray_local")


def _set_aside_for_calibration(dataset: Path, name: str) -> None:
    """A calibration image that is called as a training image is."""
    [image, *_] = sorted((dataset / "images/train" / name).iterdir())
    for path in (image, dataset / "labels/train" / name / f"{image.stem}.txt"):
        target = dataset / str(path.relative_to(dataset)).replace("/train/", "/calibration/")
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    text = (dataset / "data.yaml").read_text()
    (dataset / "data.yaml").write_text(f"{text}calibration: images/calibration\n")


def test_detectors_label_what_people_did_not(tmp_path: Path, untrained: Callable[..., str]) -> None:
    for number, name in enumerate(NAMES):
        write_dataset(tmp_path / f"{name}s", 6, 1, [name], (256, 160), 1000 * number)
    joined, out = tmp_path / "joined", tmp_path / "labelled"
    added = (str(tmp_path / "cars"),)
    normalize.run(normalize.Options(str(tmp_path / "humans"), str(joined), classes=NAMES, add=added, keep_splits=True))
    _set_aside_for_calibration(joined, "cars")
    options = label.Options(
        str(joined), str(out), weights=(untrained("human"),), confidence=("0.0201",), ignore_confidence=0.02, imgsz=128
    )
    result = label.run(options)
    assert result.images == 12 and result.labels["human"] and not result.failures.count
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    dataset = read_dataset(out)
    assert labelled_classes(dataset, "cars/1.jpg") == {0, 1} and dataset.machine_labelled == (("cars/", {0}),)
    assert labelled_classes(without_machine_labels(dataset), "cars/1.jpg") == {1}
    for split in ("train", "val"):
        for path in (joined / "labels" / split).rglob("*.txt"):
            place = path.relative_to(joined)
            new = (out / place).read_text()
            assert new.startswith(path.read_text())
            is_same = new == path.read_text()
            assert is_same or (split == "train" and place.parts[2] == "cars")
            image = next((joined / "images" / split).rglob(f"{path.stem}.*"))
            assert (out / image.relative_to(joined)).read_bytes() == image.read_bytes()
    for split in ("val", "calibration"):  # what measures is not labelled by what is measured
        for path in (out / "labels" / split / "cars").glob("*.txt"):
            region = (out / "ignore" / path.relative_to(out / "labels")).read_text()
            assert region == "0 0.500000 0.500000 1.000000 1.000000\n"
            assert path.read_bytes() == (joined / path.relative_to(out)).read_bytes()
    assert len(list((out / "images/calibration/cars").iterdir())) == 1
    table = pq.read_table(out / "machine_labels.parquet")
    uses = [box["use"] for boxes in table["boxes"].to_pylist() for box in boxes]
    assert uses.count("label") == result.labels["human"] and uses.count("ignore") == result.ignored["human"]
    assert set(table["status"].to_pylist()) == {"used", "skipped"}

    again = label.run(options)
    assert again.speed.images == 0 and again.labels == result.labels
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files

    measured = evaluate.run(evaluate.Options(str(out), str(tmp_path / "e"), options.weights, split="train", imgsz=64))
    people = sum(len(path.read_text().splitlines()) for path in (joined / "labels/train/humans").glob("*.txt"))
    assert people == measured.figures["classes"]["human"]["labels"]

    first, second, *_ = sorted((joined / "images/train/cars").iterdir())
    first.write_bytes(b"no image")
    second.rename(second.with_suffix(".jpeg"))
    changed = label.run(options)
    assert changed.failures.count == 1
    names = {path.name for path in (out / "images/train/cars").iterdir()}
    assert first.name not in names | {second.name} and second.with_suffix(".jpeg").name in names
    assert second.name not in names and not (out / "labels/train/cars" / f"{first.stem}.txt").exists()

    with pytest.raises(UserError, match="people have labelled all: there is nothing to add"):
        label.run(label.Options(str(tmp_path / "humans"), str(tmp_path / "none"), weights=options.weights))
    with pytest.raises(UserError, match="has machine_labelled: label the dataset that it was made of"):
        label.run(label.Options(str(out), str(tmp_path / "other"), weights=options.weights))
