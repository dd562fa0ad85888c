"""What a training tells those who follow it. No torch here: the process that prints does not train."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depers.errors import UserError, typed_reason

if TYPE_CHECKING:
    from depers.evaluation.metrics import MatchedImage


class TrainingCallback:
    """Methods that the training loop calls on rank 0 while it trains; these do nothing."""

    def on_start(self, options: Mapping[str, Any]) -> None:
        """Take the options by name as a process begins to train, also where it goes on with what another began."""

    def on_end(self, problem: str) -> None:
        """Take note that the process trains no more: all is done, or there is a `problem`."""

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


class GuardedCallbacks(TrainingCallback):
    """Passes on what the loop says to a callback, and to a user's own, which may fail without failing the training."""

    def __init__(self, callback: TrainingCallback, user_callback: TrainingCallback) -> None:
        self._callback, self._user_callback = callback, user_callback

    def __getattribute__(self, name: str) -> Any:
        """Return a method that calls both callbacks' methods of that name."""
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        return lambda *arguments: self._tell(name, arguments)

    def _tell(self, name: str, arguments: tuple[Any, ...]) -> None:
        getattr(self._callback, name)(*arguments)
        try:
            getattr(self._user_callback, name)(*arguments)
        except Exception as error:  # of a tracking server that is away: it learns less, and nothing else is lost
            self._callback.on_message(f"--callback: {name} failed ({typed_reason(error)})")


def parse_callback(text: str) -> tuple[str, str]:
    """Return the module, or the path of a Python file, and the name in it of `MODULE:NAME`. Raise UserError."""
    module, colon, name = text.rpartition(":")
    if not (module and colon and name.isidentifier()):
        raise UserError(f"--callback must be MODULE:NAME or FILE.py:NAME, but got {text!r}")
    return module, name


def load_callback(text: str) -> TrainingCallback:
    """Return a new object of the class `MODULE:NAME` or `FILE.py:NAME`. Raise UserError where there is none."""
    module_name, name = parse_callback(text)
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        make: Callable[[], Any] = getattr(module, name)
        callback = make()
    except Exception as error:  # the user's own code
        raise UserError(f"--callback {text}: cannot be made ({typed_reason(error)})") from None
    if not isinstance(callback, TrainingCallback):
        kind = f"{TrainingCallback.__module__}.{TrainingCallback.__name__}"
        raise UserError(f"--callback {text}: must be a class of {kind}, but makes a {type(callback).__name__}")
    return callback


def format_epoch(row: Mapping[str, float]) -> str:
    """Return the line that people see of an epoch, by its row of results.csv."""
    text = f"epoch {row['epoch']:3.0f}  box {row['box']:.4f}  obj {row['obj']:.4f}  cls {row['cls']:.4f}"
    if not math.isnan(row["map50"]):
        text += f"  P {row['precision']:.3f}  R {row['recall']:.3f}"
        text += f"  mAP@.5 {row['map50']:.3f}  mAP@.5:.95 {row['map50_95']:.3f}"
    return f"{text}  {row['images_per_s']:.1f} images/s  {row['seconds']:.0f} s"
