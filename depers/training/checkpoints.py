"""What a training leaves: everything to go on with, and ordinary YOLOv5 weights, written behind its back.

A thread writes while the next epoch runs. What cannot be written is tried again, for as long as the training lasts
and some minutes more; of a file that is overtaken by its successor, only the newest is written. A file is whole or
absent (`storage.write_bytes`), and the state comes after the weights that belong to it.
"""

import io
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from depers import storage
from depers.detection import yolo
from depers.errors import UserError

STATE = "state/last.pt"
"""The file to go on from, below OUT."""
BEST, LAST = "weights/best.pt", "weights/last.pt"
"""The weights, below OUT."""
_PAUSES = (0.5, 30.0)  # seconds between attempts, first and longest

log = logging.getLogger(__name__)
Content = bytes | Callable[[], bytes]


class CheckpointWriter:
    """Writes files below `root` in the background."""

    def __init__(self, root: str, patience: float = 600.0) -> None:
        """Start the thread. `patience`: seconds for which `close` still tries to write what cannot be written."""
        self._root, self._patience = root, patience
        self._pending: dict[str, Content] = {}
        self._changed = threading.Condition()
        self._deadline: float | None = None  # when to give up, once closed
        self._failure = ""
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, files: Mapping[str, Content]) -> None:
        """Hand over files by name below the root, in the order to write them; functions run in the background."""
        with self._changed:
            for name, content in files.items():
                self._pending.pop(name, None)  # the newest goes to the end
                self._pending[name] = content
            self._changed.notify()

    def close(self) -> None:
        """Wait until all is written. Raises UserError where that fails for longer than the patience."""
        with self._changed:
            self._deadline = time.monotonic() + self._patience
            self._changed.notify()
        self._thread.join()
        if self._failure:
            raise UserError(self._failure)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._pending:
                    if self._deadline is not None:
                        return
                    self._changed.wait()
                name, content = next(iter(self._pending.items()))
            try:
                data = content if isinstance(content, bytes) else content()
            except Exception as error:  # as if the training itself had failed
                self._failure = f"{name}: cannot be made ({type(error).__name__}: {error})"
                return
            if not self._write(name, content, data):
                return

    def _write(self, name: str, content: Content, data: bytes) -> bool:
        """Write one file, or learn that it is overtaken; return False where the time is up."""
        uri, pause = storage.join(self._root, name), _PAUSES[0]
        while True:
            try:
                storage.write_bytes(uri, data)
                failure = None
            except Exception as error:  # storage fails in as many ways as there are layers below it
                failure = error
            with self._changed:
                is_overtaken = self._pending.get(name) is not content
                if failure is None or is_overtaken:
                    if not is_overtaken:
                        del self._pending[name]
                    return True
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._failure = f"{uri}: cannot be written ({type(failure).__name__}: {failure})"
                    return False
                log.warning("%s: cannot be written (%s); trying again in %.1f s", uri, failure, pause)
                self._changed.wait(pause)
            pause = min(2 * pause, _PAUSES[1])


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
    """Read the state that a training below `root` has left last, on the CPU; None if there is none."""
    uri = storage.join(root, STATE)
    if not storage.exists(uri):
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
    return state


def get_random_state() -> dict[str, Any]:
    """Return the state of torch's random numbers on this process's devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take up what `get_random_state` has returned, on as many devices as there still are."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
