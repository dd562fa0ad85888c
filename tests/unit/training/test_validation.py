"""Validation while a model trains."""

from pathlib import Path

import numpy as np
import torch
from predictions import predict_images
from training_sets import write_dataset

from depers.detection import yolo
from depers.training import validation
from depers.training.images.augmentation import letterbox_sample
from depers.training.images.batches import attach_labels, collate
from depers.training.images.data import read_splits
from depers.training.images.examples import Example
from depers.training.images.image_cache import fit_size, read_scaled
from depers.training.loss import Loss
from depers.training.processes.checkpoints import serialize_weights


def test_validation_losses_are_those_of_the_package(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", val_count=3, size_wh=(96, 64))
    splits = read_splits(str(root))
    torch.manual_seed(0)
    checkpoint = serialize_weights(yolo.build("yolov5n", splits.names), 0)
    model = yolo.load("last.pt", checkpoint)
    model.hyp = yolo.read_hyperparameters() | {"label_smoothing": 0.0}  # type: ignore[assignment]
    canvases = validation.choose_canvases(splits.val, 96, 32)
    images = [read_scaled(example, fit_size(example.size_wh, 96)) for example in splits.val]
    loss = Loss(model, splits.names)
    results, losses = predict_images(checkpoint, images, splits.val, len(splits.names), 3, 96, "float32", loss)
    samples = [
        letterbox_sample(attach_labels(*pair), canvas)
        for pair, canvas in zip(zip(images, splits.val, strict=True), canvases, strict=True)
    ]
    batch = collate(samples, [np.zeros(len(splits.names), np.bool_)] * 3)
    inputs = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        _, levels = model(inputs)
        expected = yolo.load_training_parts().ComputeLoss(model)(levels, torch.from_numpy(batch.targets))[1]
    np.testing.assert_allclose(losses / 3, expected, rtol=1e-3)
    assert len(results) == 3 and (losses > 0).all()


def test_coverage_counts_what_redaction_would_cover() -> None:
    """Of two labels, one is covered by two boxes together; how far down one may look, false boxes decide."""
    none = np.zeros(0, np.int64)
    example = Example("", (100, 100), none, np.zeros((0, 4)), frozenset({0, 1}))
    boxes = np.array([[80, 80, 90, 90], [10, 10, 20, 30], [20, 10, 30, 30], [40, 40, 60, 60]], np.float32)
    labels = np.array([[10, 10, 30, 30], [40, 40, 60, 60]], np.float32)
    result = validation.ValidationResult(
        0, boxes, np.array([0.9, 0.8, 0.7, 0.3], np.float32), np.zeros(4, np.int64), labels, np.zeros(2, np.int64)
    )
    recalls = [validation.measure_coverage([result], [example], 2, count) for count in (0.5, 1.0, 2.0, 3.0)]
    # False are the first, which lies elsewhere, and the third: the second has taken their label already.
    assert recalls == [0.0, 0.0, 1.0, 1.0]
    surer = result._replace(confidences=np.array([0.9, 0.8, 0.1, 0.3], np.float32))
    assert validation.measure_coverage([surer], [example], 2, 1.0) == 0.5
    assert validation.measure_coverage([], [], 2, 1.0) == 0.0
