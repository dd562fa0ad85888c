"""What those who follow a training are told: lines, and how far an epoch is."""

from depers.training.callbacks import TrainingCallback, format_epoch
from depers.training.ray_train import EpochProgress, ProgressActor

ROW = {
    "epoch": 3.0, "box": 0.1, "obj": 0.02, "cls": 0.03, "precision": 0.5, "recall": 0.4, "map50": 0.1,
    "map50_95": 0.05, "images_per_s": 40.04, "seconds": 3.4,
}  # fmt: skip


def test_an_epoch_is_one_line() -> None:
    line = "epoch   3  box 0.1000  obj 0.0200  cls 0.0300  P 0.500  R 0.400  mAP@.5 0.100  mAP@.5:.95 0.050"
    assert format_epoch(ROW) == f"{line}  40.0 images/s  3 s"


def test_messages_are_taken_once_and_the_newest_progress_stays() -> None:
    actor = ProgressActor()
    actor.on_message("a line")
    actor.on_batch_end(1, 1, 9, [])
    actor.on_batch_end(1, 2, 9, [0.1, 0.2, 0.3])
    actor.on_epoch_end(ROW)
    progress = EpochProgress(1, 2, 9, [0.1, 0.2, 0.3])
    assert actor.take_messages() == (["a line", format_epoch(ROW)], progress)
    assert actor.take_messages() == ([], progress)


def test_a_callback_may_take_no_notice() -> None:
    callback = TrainingCallback()
    callback.on_message("a line")
    callback.on_batch_end(1, 1, 9, [])
    callback.on_epoch_end(ROW)
