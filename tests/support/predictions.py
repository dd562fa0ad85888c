"""Validation of images that are in memory."""

from collections.abc import Sequence

from torch import Tensor

from depers.training import validation
from depers.training.images.augmentation import RGB
from depers.training.images.examples import Example
from depers.training.loss import Loss
from depers.training.validation import ValidationBatches, ValidationResult


def predict_images(
    checkpoint: bytes,
    images: Sequence[RGB],
    examples: Sequence[Example],
    class_count: int,
    batch_size: int,
    imgsz: int,
    precision: str = "auto",
    loss: Loss | None = None,
) -> tuple[list[ValidationResult], Tensor]:
    """Detect in scaled images as a training validates."""
    canvases = validation.choose_canvases(examples, imgsz, 32)
    batches = ValidationBatches(images.__getitem__, examples, canvases, class_count)
    planned = ((members, batches.make_batch(members)) for members in batches.plan(range(len(images)), batch_size))
    sizes_wh = [(image.shape[1], image.shape[0]) for image in images]
    return validation.predict(checkpoint, planned, examples, sizes_wh, canvases, imgsz, "cpu", precision, loss)
