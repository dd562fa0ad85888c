"""What those who follow a training are told: lines, and how far an epoch is."""

from pathlib import Path

import pytest

from depers.errors import UserError
from depers.training.callbacks import GuardedCallbacks, TrainingCallback, format_epoch, load_callback
from depers.training.processes.ray_train import EpochProgress, ProgressActor

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


class Follower(TrainingCallback):
    """Notes what it is told, and fails at the end of an epoch."""

    def __init__(self) -> None:
        self.lines: list[object] = []

    def on_message(self, text: str) -> None:
        self.lines.append(text)

    def on_end(self, problem: str) -> None:
        self.lines.append(problem)


def test_a_follower_of_the_users_may_fail(tmp_path: Path) -> None:
    file = tmp_path / "follow.py"
    file.write_text(
        "from depers.training.callbacks import TrainingCallback\n"
        "class Follow(TrainingCallback):\n"
        "    def on_epoch_end(self, row):\n        raise OSError('no tracking server')\n"
        "    def on_end(self, problem):\n        open(__file__ + '.end', 'w').write(problem)\n"
    )
    follower = Follower()
    callback = GuardedCallbacks(follower, load_callback(f"{file}:Follow"))
    callback.on_start({"epochs": 3})
    callback.on_epoch_end(ROW)
    callback.on_end("out of memory")
    assert follower.lines == ["--callback: on_epoch_end failed (OSError: no tracking server)", "out of memory"]
    assert (tmp_path / "follow.py.end").read_text() == "out of memory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("follow", "--callback must be MODULE:NAME or FILE.py:NAME, but got 'follow'"),
        ("nowhere.to.be_found:Follow", "cannot be made .ModuleNotFoundError"),
        (
            "pathlib:Path",
            "must be a class of depers.training.callbacks.TrainingCallback, but makes a PosixPath",
        ),
    ],
)
def test_followers_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_callback(text)
