"""How many threads compute on CPUs, in a training or a detector: all, or one where other processes want the cores.

Threads of one layer wait for the last of them, spinning. Where another process takes a core, all wait for the thread
that has lost it, at every layer, and several threads are slower than one; sleeping instead costs more than it saves.
"""

import time
from collections.abc import Callable

import torch

_WINDOW = 16  # batches between decisions
_TRIAL = 4  # batches for which more threads are tried
_LONGEST = 256  # batches between trials
_CONTENDED = 0.8  # of the processors' time that the threads could have, below which others have it


class ThreadChooser:
    """Counts batches, and now and then changes torch's number of threads; it begins with a pause."""

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        wall: Callable[[], float] = time.perf_counter,
        processor: Callable[[], float] = time.process_time,
        window: int = _WINDOW,
    ) -> None:
        """Take the number of threads where nothing else runs, and the clocks (seconds) of the wall and the process.

        `window` are the batches of a first decision, fewer where batches are long or few.
        """
        self._most, self._set_threads, self._wall, self._processor = most, set_threads, wall, processor
        self._threads, self._batches, self._due = most, 0, window
        self._window, self._pause = window, _WINDOW
        self._single_seconds = 0.0  # per batch with one thread, where several are being tried
        self._start = 0.0, 0.0  # of the batches that are counted; while it pauses, less the time of the clocks

    def count_batch(self) -> None:
        """Take note of a batch that is done; perhaps the next has another number of threads."""
        self._batches += 1
        if self._most == 1 or self._batches < self._due:
            return
        wall, processor = self._wall() - self._start[0], self._processor() - self._start[1]
        seconds = wall / self._batches
        if self._threads == 1:
            self._single_seconds = seconds
            self._change(self._most, min(_TRIAL, max(1, self._window // 2)))
        elif self._single_seconds and seconds >= self._single_seconds:
            self._pause = min(2 * self._pause, _LONGEST)
            self._change(1, self._pause)
        elif not self._single_seconds and processor < _CONTENDED * wall * self._most:
            self._pause = _WINDOW
            self._change(1, self._pause)
        else:
            self._change(self._most, self._window)

    def pause(self) -> None:
        """Leave all threads to what comes between two epochs, which does not count."""
        self._start = self._start[0] - self._wall(), self._start[1] - self._processor()
        self._set_threads(self._most)

    def resume(self) -> None:
        """Go on after a pause."""
        self._start = self._start[0] + self._wall(), self._start[1] + self._processor()
        self._set_threads(self._threads)

    def _change(self, threads: int, batches: int) -> None:
        """Use so many threads for the next `batches`."""
        if threads == self._threads or threads == 1:
            self._single_seconds = 0.0
        self._threads, self._batches, self._due = threads, 0, batches
        self._set_threads(threads)
        self._start = self._wall(), self._processor()
