"""What a training tells those who follow it. No torch here: the process that prints does not train."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from depers.evaluation.metrics import MatchedImage


class TrainingCallback:
    """Methods that the training loop calls on rank 0 while it trains; these do nothing."""

    def on_message(self, text: str) -> None:
        """Take a line for people."""

    def on_batch_end(self, epoch: int, batch: int, batch_count: int, losses: Sequence[float]) -> None:
        """Take note that batch `batch` of `batch_count` of an epoch is done, both counted from 1.

        `losses` are the means of the losses (box, obj, cls) of the epoch so far; empty where they are not known.
        """

    def on_epoch_end(self, row: Mapping[str, float]) -> None:
        """Take the row of results.csv of an epoch that is done; figures of one that was not validated are NaN."""

    def on_validation(self, epoch: int, matches: "Sequence[MatchedImage]", class_count: int) -> None:
        """Take the matched detections of all validation images, in their order, before an epoch's state is written."""


def format_epoch(row: Mapping[str, float]) -> str:
    """Return the line that people see of an epoch, by its row of results.csv."""
    text = f"epoch {row['epoch']:3.0f}  box {row['box']:.4f}  obj {row['obj']:.4f}  cls {row['cls']:.4f}"
    if not math.isnan(row["map50"]):
        text += f"  P {row['precision']:.3f}  R {row['recall']:.3f}"
        text += f"  mAP@.5 {row['map50']:.3f}  mAP@.5:.95 {row['map50_95']:.3f}"
    return f"{text}  {row['images_per_s']:.1f} images/s  {row['seconds']:.0f} s"
