"""What a training leaves: everything to go on with, and ordinary YOLOv5 weights, written behind its back.

A thread writes while the next epoch runs. What cannot be written is tried again, for as long as the training lasts
and some minutes more; of a file that is overtaken by its successor, only the newest is written. A file is whole or
absent (`storage.write_bytes`), and the state comes after the weights that belong to it.
"""

import io
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from depers import storage
from depers.errors import UserError

STATE = "state/last.pt"
"""The file to go on from, below OUT."""
_PAUSES = (0.5, 30.0)  # seconds between attempts, first and longest

log = logging.getLogger(__name__)
Content = bytes | Callable[[], bytes]


class Writer:
    """Writes files below `root` in the background."""

    def __init__(self, root: str, patience: float = 600.0) -> None:
        """`patience`: seconds for which `close` still tries to write what cannot be written."""
        self._root, self._patience = root, patience
        self._pending: dict[str, Content] = {}
        self._changed = threading.Condition()
        self._ends: float | None = None  # when to give up, once closed
        self._failure = ""
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def put(self, files: Mapping[str, Content]) -> None:
        """Files by name below the root, in the order to write them; a function is called in the background."""
        with self._changed:
            for name, content in files.items():
                self._pending.pop(name, None)  # the newest goes to the end
                self._pending[name] = content
            self._changed.notify()

    def close(self) -> None:
        """Waits until all is written. Raises UserError where that fails for longer than the patience."""
        with self._changed:
            self._ends = time.monotonic() + self._patience
            self._changed.notify()
        self._thread.join()
        if self._failure:
            raise UserError(self._failure)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._pending:
                    if self._ends is not None:
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
        """Writes one file, or learns that it is overtaken; False where the time is up."""
        uri, pause = storage.join(self._root, name), _PAUSES[0]
        while True:
            try:
                storage.write_bytes(uri, data)
                failed = None
            except Exception as error:  # storage fails in as many ways as there are layers below it
                failed = error
            with self._changed:
                overtaken = self._pending.get(name) is not content
                if failed is None or overtaken:
                    if not overtaken:
                        del self._pending[name]
                    return True
                if self._ends is not None and time.monotonic() > self._ends:
                    self._failure = f"{uri}: cannot be written ({type(failed).__name__}: {failed})"
                    return False
                log.warning("%s: cannot be written (%s); trying again in %.1f s", uri, failed, pause)
                self._changed.wait(pause)
            pause = min(2 * pause, _PAUSES[1])


def snapshot(item: Any) -> Any:
    """A copy of nested tensors on the CPU, which training no longer changes."""
    if isinstance(item, torch.Tensor):
        return item.detach().to("cpu", copy=True)
    if isinstance(item, Mapping):
        return {key: snapshot(value) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(snapshot(value) for value in item)
    return item


def to_bytes(state: Mapping[str, Any]) -> bytes:
    """A state as a file's content."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def read_state(root: str) -> dict[str, Any] | None:
    """The state that a training below `root` has left last, on the CPU, if any."""
    uri = storage.join(root, STATE)
    if not storage.exists(uri):
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(storage.read_bytes(uri)), map_location="cpu", weights_only=True)
    return state


def random_state() -> dict[str, Any]:
    """The state of torch's random numbers on this process's devices."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Takes up what `random_state` gave, on as many devices as there still are."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
