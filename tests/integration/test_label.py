"""`depers label` for real: a joined set, of which each half labels one class, gets what the other half labels."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from training_sets import write_dataset

from depers.commands import label, normalize
from depers.datasets.data_yaml import labelled_classes, read_dataset, without_machine_labels
from depers.errors import UserError

NAMES = ("human", "car")
pytestmark = pytest.mark.usefixtures("ray_local")


def test_detectors_label_what_people_did_not(tmp_path: Path, untrained: Callable[..., str]) -> None:
    for number, name in enumerate(NAMES):
        write_dataset(tmp_path / f"{name}s", 6, 1, [name], (256, 160), 1000 * number)
    joined, out = tmp_path / "joined", tmp_path / "labelled"
    added = (str(tmp_path / "cars"),)
    normalize.run(normalize.Options(str(tmp_path / "humans"), str(joined), classes=NAMES, add=added, keep_splits=True))
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
    for path in (out / "labels" / "val" / "cars").glob("*.txt"):  # what measures is not labelled by what is measured
        region = (out / "ignore" / path.relative_to(out / "labels")).read_text()
        assert region == "0 0.500000 0.500000 1.000000 1.000000\n"
    table = pq.read_table(out / "machine_labels.parquet")
    uses = [box["use"] for boxes in table["boxes"].to_pylist() for box in boxes]
    assert uses.count("label") == result.labels["human"] and uses.count("ignore") == result.ignored["human"]
    assert set(table["status"].to_pylist()) == {"used", "skipped"}

    again = label.run(options)
    assert again.speed.images == 0 and again.labels == result.labels
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files

    with pytest.raises(UserError, match="has machine_labelled: label the dataset that it was made of"):
        label.run(label.Options(str(out), str(tmp_path / "other"), weights=options.weights))
