"""Two sets that label different classes, joined, through the mission: neither is taught as the other's background."""

from pathlib import Path

import numpy as np
import pytest
from training_sets import write_dataset

from depers.commands import extract, normalize, synthesize
from depers.datasets.data_yaml import read_dataset
from depers.datasets.labels import label_path
from depers.training.images.batches import Batches
from depers.training.images.data import Splits, read_splits
from depers.training.images.image_cache import fit_size, read_scaled

NAMES = ("human", "car")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """People labelled in one set and cars in the other, joined, taken apart, and made into more."""
    root = tmp_path_factory.mktemp("partial")
    for number, name in enumerate(NAMES):
        write_dataset(root / f"{name}s", 8, 1, [name], (256, 160), 1000 * number)
    joined, extracted, synthetic = (str(root / name) for name in ("joined", "extracted", "synthetic"))
    normalize.run(normalize.Options(str(root / "humans"), joined, classes=NAMES, add=(str(root / "cars"),)))
    result = extract.run(extract.Options(joined, extracted, nest=("human=car",), max_coverage=0.9, keep_labels=False))
    assert result.sprites and min(result.backgrounds_by_class.values()) > 0
    assert sum(result.backgrounds_by_class.values()) == result.backgrounds
    synthesize.run(synthesize.Options(extracted, synthetic, count=12, per_background=1))
    return root / "synthetic"


def test_synthetic_images_are_labelled_for_what_their_backgrounds_are(synthetic: Path) -> None:
    splits = read_splits(str(synthetic))
    made = [example for example in splits.train if "/synthetic/images/train/synthetic/" in example.path]
    assert len(made) == 12 and {example.labelled for example in made} == {frozenset({0}), frozenset({1})}
    assert {class_id for example in made for class_id in example.class_ids.tolist()} == {0, 1}
    for example in splits.train:
        if "/synthetic/images/train/synthetic/" not in example.path:
            assert example.labelled == ({0} if "/humans/" in example.path else {1})
    pasted = [example for example in made if len(example.ignored_ids)]
    assert pasted  # what comes from the other set may hold what that does not label
    for example in pasted:
        assert set(example.ignored_ids.tolist()) == set(example.labelled)
        foreign = example.boxes_xywh[~np.isin(example.class_ids, list(example.labelled))]
        assert len(foreign)
        for center in foreign[:, :2]:
            assert (np.abs(center - example.ignored_xywh[:, :2]) <= example.ignored_xywh[:, 2:] / 2).all(1).any()


def test_they_are_trained_on(synthetic: Path) -> None:
    import torch

    from depers.detection import yolo
    from depers.training.loss import Loss

    splits = read_splits(str(synthetic))
    hyp = yolo.read_hyperparameters("scratch-low")
    model = yolo.build("yolov5n", list(splits.names))
    model.hyp = hyp  # type: ignore[assignment]
    images = [read_scaled(example, fit_size(example.size_wh, 96)) for example in splits.train]
    batches = Batches(splits, images.__getitem__, hyp, imgsz=96, stride=32, batch_size=8, seed=0, rectangular=False)
    loss, ignored = Loss(model, splits.names), 0
    for number in range(2):
        batch = batches.make_batch(batches.plan(number))
        ignored += len(batch.ignored)
        pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
        arrays = (torch.from_numpy(array) for array in (batch.targets, batch.unlabelled, batch.ignored))
        value, _ = loss(model(pixels), *arrays)
        value.backward()
        assert torch.isfinite(value)
    assert ignored and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_yolov5_reads_the_dataset_as_if_nothing_were_beside_it(synthetic: Path) -> None:
    dataset = read_dataset(synthetic)
    assert dataset.additional_train == (str(synthetic / "images" / "train"),)
    [image, *_] = sorted((synthetic / "images").rglob("*.jpg"))
    assert Path(label_path(str(image))).is_file()
    assert isinstance(read_splits(str(synthetic)), Splits)
