"""What a training leaves: everything to go on with, and ordinary YOLOv5 weights, written behind its back.

A thread writes while the next epoch runs. What cannot be written is tried again, for as long as the training lasts
and some minutes more; of a file that is overtaken by its successor, only the newest is written. What cannot be made is
left out. A file is whole or absent (`storage.write_bytes`), the state comes after the weights that belong to it, and
what is there to be looked at after both.
"""

import io
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from depers import storage
from depers.detection import yolo
from depers.detection.checkpoint_files import CheckpointError, CheckpointFile
from depers.errors import UserError, one_line
from depers.training.processes.outputs import STATE

_PAUSES = (0.5, 30.0)  # seconds between attempts, first and longest

log = logging.getLogger(__name__)
Content = bytes | Callable[[], bytes]


class CheckpointWriter:
    """Writes files below `root` in the background."""

    def __init__(self, root: str, patience: float = 600.0, warn: Callable[[str], None] = log.warning) -> None:
        """Start the thread. `patience`: seconds for which `close` still tries to write what cannot be written.

        `warn` takes lines for people about what is late or left out.
        """
        self._root, self._patience, self._warn = root, patience, warn
        self._pending: dict[str, Content] = {}
        self._optional: set[str] = set()
        self._condition = threading.Condition()
        self._deadline: float | None = None  # when to give up, once closed
        self._failures: dict[str, str] = {}
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, files: Mapping[str, Content], optional: Mapping[str, Content] | None = None) -> None:
        """Hand over files by name below the root, in the order to write them; functions run in the background.

        Where one of the `optional` ones, which are written last, cannot be made, a warning says so and the training
        goes on. Raise UserError where one of the other files of an earlier call could not be made.
        """
        with self._condition:
            self._raise_failure()
            for name, content in {**files, **(optional or {})}.items():
                self._pending.pop(name, None)  # the newest goes to the end
                self._pending[name] = content
            self._optional |= set(optional or ())
            self._condition.notify()

    def close(self) -> None:
        """Wait until all is written. Raise UserError where that fails for longer than the patience."""
        with self._condition:
            self._deadline = time.monotonic() + self._patience
            self._condition.notify()
        self._thread.join()
        self._raise_failure()
        if needed := [name for name in self._pending if name not in self._optional]:
            raise UserError(f"{storage.join(self._root, needed[0])}: has not been written")

    def _raise_failure(self) -> None:
        for message in self._failures.values():
            raise UserError(message)

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._pending:
                    if self._deadline is not None:
                        return
                    self._condition.wait()
                name, content = self._choose()
            try:
                data = content if isinstance(content, bytes) else content()
            except Exception as error:  # of a plot, or of memory: whatever it is, the other files are not lost with it
                self._skip(name, content, error)
                continue
            if not self._write(name, content, data):
                return

    def _choose(self) -> tuple[str, Content]:
        """Return the file to write next: the first one that is needed, else the first of all."""
        name = next((name for name in self._pending if name not in self._optional), next(iter(self._pending)))
        return name, self._pending[name]

    def _skip(self, name: str, content: Content, error: Exception) -> None:
        """Leave out a file that cannot be made: say so, and where it is needed, have the next call raise it."""
        message = f"{storage.join(self._root, name)}: cannot be made ({type(error).__name__}: {one_line(error)})"
        with self._condition:
            if self._pending.get(name) is content:
                del self._pending[name]
            if name not in self._optional:
                self._failures[name] = message
        self._tell(message if name in self._failures else f"{message}; the training goes on without it")

    def _write(self, name: str, content: Content, data: bytes) -> bool:
        """Write one file, or learn that it is overtaken, or less needed than another; return False if time is up."""
        uri, pause = storage.join(self._root, name), _PAUSES[0]
        while True:
            try:
                storage.write_bytes(uri, data)
                failure = None
            except Exception as error:  # storage fails in as many ways as there are layers below it
                failure = error
            with self._condition:
                is_overtaken = self._pending.get(name) is not content
                if failure is None or is_overtaken:
                    if not is_overtaken:
                        del self._pending[name]
                    return True
                if name in self._optional and not self._optional.issuperset(self._pending):
                    return True
                is_over = self._deadline is not None and time.monotonic() > self._deadline
                message = f"{uri}: cannot be written ({type(failure).__name__}: {one_line(failure)})"
                if is_over and name not in self._optional:
                    self._failures[name] = message
            self._tell(message if is_over else f"{message}; trying again in {pause:.1f} s")
            if is_over:
                return False
            with self._condition:
                if self._pending.get(name) is content:
                    self._condition.wait(pause)
                if self._pending.get(name) is not content:  # overtaken meanwhile
                    return True
            pause = min(2 * pause, _PAUSES[1])

    def _tell(self, message: str) -> None:
        """Tell people. Not with the lock: what takes the message may be a tracker, which is slow, or fails."""
        try:
            self._warn(message)
        except Exception:  # the files are written whoever listens
            log.exception("%s", message)


def copy_to_cpu(item: Any) -> Any:
    """Copy nested tensors to the CPU, where training no longer changes them."""
    if isinstance(item, torch.Tensor):
        return item.detach().to("cpu", copy=True)
    if isinstance(item, Mapping):
        return {key: copy_to_cpu(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(copy_to_cpu(value) for value in item)
    return item


def serialize_weights(model: Any, epoch: int) -> bytes:
    """Return a model as the content of an ordinary YOLOv5 weights file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        # Laid out as YOLOv5 expects weights: its layer fusion cannot read channels_last.
        yolo.save(deepcopy(model).to(memory_format=torch.contiguous_format), path, epoch)
        return path.read_bytes()


def serialize_state(state: Mapping[str, Any]) -> bytes:
    """Return a state as a file's content."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_state(root: str) -> dict[str, Any] | None:
    """Read the state that a training below `root` has left last, on the CPU; None if there is none.

    It is numbers and texts; nothing that the file names is called. Raise UserError where it is something else.
    """
    uri = storage.join(root, STATE)
    if not storage.exists(uri):
        return None
    try:
        file = CheckpointFile(storage.read_bytes(uri))
        state = file.read_plain(file.content)
    except CheckpointError as error:
        raise UserError(f"{uri}: must be the state of a training, but {one_line(error)}") from None
    if not isinstance(state, dict):
        raise UserError(f"{uri}: must be the state of a training, but is a {type(state).__name__}")
    return state


def check_state(root: str, state: Mapping[str, Any], fresh: Mapping[str, Any], shapes: Sequence[torch.Size]) -> None:
    """Raise UserError where a state that was read has other keys, kinds or shapes than the `fresh` one of a training.

    `shapes` are those of the optimizer's parameters. A fresh state has no moments of them, no rows, and no random
    numbers of the GPUs that another machine may have.
    """
    path = _find_difference(state, fresh, "")
    if not path:
        rows, moments, generators = state["rows"], state["optimizer"]["state"], state["random"]["cuda"]
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and all(isinstance(value, float) for value in row.values()) for row in rows
        ):
            path = "rows"
        elif not isinstance(moments, dict) or not all(_is_moment(key, moments[key], shapes) for key in moments):
            path = "optimizer.state"
        elif not isinstance(generators, list) or not all(isinstance(item, torch.Tensor) for item in generators):
            path = "random.cuda"
    if path:
        uri = storage.join(root, STATE)
        raise UserError(f"{uri}: must be the state of this training, but its {path} is not")


_WITHOUT_FRESH = ("rows", "optimizer.state", "random.cuda")


def _find_difference(value: Any, fresh: Any, path: str) -> str:
    """Return where a value has other keys, kinds or shapes than the `fresh` one; empty where it has not."""
    if path in _WITHOUT_FRESH:
        return ""
    if isinstance(fresh, Mapping) and isinstance(value, Mapping) and value.keys() == fresh.keys():
        pairs = [(value[key], fresh[key], f"{path}.{key}".lstrip(".")) for key in fresh]
    elif isinstance(fresh, (list, tuple)) and type(value) is type(fresh) and len(value) == len(fresh):
        pairs = [(value[index], fresh[index], f"{path}.{index}") for index in range(len(fresh))]
    elif isinstance(fresh, torch.Tensor) and isinstance(value, torch.Tensor):
        return "" if value.shape == fresh.shape and value.dtype == fresh.dtype else path
    elif _is_number(fresh):
        is_no_count = isinstance(fresh, int) and (not isinstance(value, int) or value < 0)
        return path if is_no_count or not _is_number(value) else ""
    else:
        is_plain = fresh is None or isinstance(fresh, (bool, str))
        return "" if is_plain and type(value) is type(fresh) else path or "content"
    return next(filter(None, (_find_difference(*pair) for pair in pairs)), "")


def _is_moment(key: Any, values: Any, shapes: Sequence[torch.Size]) -> bool:
    """Return whether values are what an optimizer keeps of its parameter `key`: tensors of its shape, or counts."""
    return (
        _is_number(key)
        and 0 <= key < len(shapes)
        and isinstance(values, dict)
        and all(
            value is None or _is_number(value) or (isinstance(value, torch.Tensor) and value.shape in (shapes[key], ()))
            for value in values.values()
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def get_random_state() -> dict[str, Any]:
    """Return the state of torch's random numbers on this process's devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take up what `get_random_state` has returned, on as many devices as there still are. Raise UserError."""
    try:
        torch.set_rng_state(state["cpu"])
        if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
    except (RuntimeError, TypeError) as error:
        raise UserError(f"{STATE}: must hold states of random numbers, but {one_line(error, 120)}") from None
