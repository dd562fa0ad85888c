"""Two sets that label one class each make a detector of both: neither is taught as the other's background."""

from pathlib import Path

import pytest
import yaml
from training_sets import write_dataset

from depers.checkpoints import Writer
from depers.collective import Place
from depers.demo import HYPERPARAMETERS
from depers.train import Options, results
from depers.training_data import Splits, read_splits
from depers.training_loop import train

NAMES = ["human", "car"]
SIZE = (256, 160)


@pytest.mark.slow
def test_what_a_set_does_not_label_is_still_found_there(tmp_path: Path, data: Path) -> None:
    both = write_dataset(tmp_path / "both", 1, 30, NAMES, SIZE, 50_000)
    humans = write_dataset(tmp_path / "humans", 60, 1, ["human"], SIZE, 0)
    cars = write_dataset(tmp_path / "cars", 60, 1, ["car"], SIZE, 1000)
    (tmp_path / "hyp.yaml").write_text(yaml.safe_dump(HYPERPARAMETERS))
    joined = read_splits(str(both), [(str(humans), 1.0), (str(cars), 1.0)])
    everything = frozenset({0, 1})
    as_background = joined._replace(train=[example._replace(labelled=everything) for example in joined.train])
    found = {}
    for name, splits in (("joined", joined), ("as background", as_background)):
        found[name] = quality(splits, tmp_path / name, data / "weights" / "yolov5n.pt", tmp_path / "hyp.yaml")
    assert found["joined"] > found["as background"] + 0.02, found  # 0.307 and 0.261 when this was written


def quality(splits: Splits, out: Path, weights: Path, hyperparameters: Path) -> float:
    """mAP@.5 after a short training, on pictures that show and label both."""
    options = Options(
        "",
        str(out),
        weights=str(weights),
        imgsz=256,
        epochs=8,
        batch_size=8,
        nominal_batch=8,
        optimizer="AdamW",
        learning_rate=0.002,
        warmup_epochs=1.0,
        hyperparameters=str(hyperparameters),
        device="cpu",
    )
    writer = Writer(str(out))
    train(options, splits, Place(), None, writer)
    writer.close()
    return results(str(out))[-1]["map50"]
