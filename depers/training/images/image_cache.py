"""The images of a training, decoded and scaled: in memory, in a file on disk, or decoded anew each time.

Which of these is decided from the sizes that the images will really have and from what the container leaves free.
The file on disk is one per node and split, mapped by all workers there: its pages are page cache, which the kernel
takes back when memory runs short.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from depers import resources
from depers.boxes import letterbox
from depers.errors import UserError
from depers.imaging import decoding
from depers.imaging.headers import ImageError
from depers.training.images.augmentation import RGB
from depers.training.images.examples import Example, SizeWH
from depers.training.processes.process_group import ProcessGroup

_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.8  # of what is free; the rest is for the training itself, and for other processes


class CachePlan(NamedTuple):
    """Where images go: `kind` is `ram`, `disk` or `none`; `reason` says why, for people."""

    kind: str
    reason: str


def plan_cache(cache: str, size: int, workers: int, free_memory: int, free_disk: int) -> CachePlan:
    """Decide where `size` bytes of images go on a node where `workers` processes need them. Raises UserError.

    In memory each worker has a copy of its own, on disk they share one. `cache`: the option; `auto` takes the fastest
    that fits.
    """
    fits = {"ram": size * workers <= free_memory * _MEMORY_SHARE, "disk": size <= free_disk * _DISK_SHARE, "none": True}
    copies = f" for each of {workers} workers" if workers > 1 else ""
    needs = f"{resources.format_bytes(size)} of images"
    free = f"{resources.format_bytes(free_memory)} of memory and {resources.format_bytes(free_disk)} of disk are free"
    if cache != "auto":
        if not fits[cache]:
            raise UserError(f"--cache {cache}: {needs}{copies if cache == 'ram' else ''} do not fit: {free}")
        return CachePlan(cache, needs)
    kind = next(kind for kind in ("ram", "disk", "none") if fits[kind])
    return CachePlan(kind, f"{needs}{copies}; {free}")


@lru_cache(1 << 16)
def fit_size(size_wh: SizeWH, imgsz: int) -> SizeWH:
    """Return an image's size with `imgsz` as its longer side, the other rounded up, as YOLOv5 loads it."""
    return letterbox(size_wh, imgsz, half_stride_pad=True).resized_wh


def read_scaled(example: Example, size_wh: SizeWH, reduced: bool = False) -> RGB:
    """Read an image, uint8 RGB, scaled to `size_wh`. Raises UserError where it cannot be decoded.

    With `reduced` a JPEG is decoded no larger than it has to be, which is faster and nearly the same.
    """
    try:
        data = example.read()
        if reduced:
            return decoding.decode_reduced(data, size_wh)
        return decoding.resize_rgb(decoding.decode(data).rgb(), size_wh)
    except (ImageError, OSError) as error:
        raise UserError(f"{example.name}: must be an image that can be decoded, but {error}") from None


class ScaledImages:
    """The images of examples, uint8 RGB scaled to `sizes_wh`, by index; safe to call from several threads."""

    def __init__(
        self,
        examples: Sequence[Example],
        sizes_wh: Sequence[SizeWH],
        kind: str,
        file: str = "",
        reduced: bool = False,
    ) -> None:
        """Take the `kind` of cache, and for `disk` the `file` that `allocate` has made; `reduced` as `read_scaled`.

        Once all workers of the node have the file mapped, it may be unlinked.
        """
        self._examples, self.sizes_wh, self._kind = examples, sizes_wh, kind
        self._reduced = reduced
        self._memory: dict[int, RGB] = {}
        areas = (width * height for width, height in (sizes_wh if kind == "disk" else ()))
        self._offsets = 3 * np.cumsum([0, *areas])
        self._map: Any = np.memmap(file, np.uint8, "r+") if kind == "disk" else None

    def fill(self, indices: Sequence[int], threads: int) -> None:
        """Decode images, and keep them if the kind of cache does. Raises UserError for the first damaged one."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self._fill, indices):
                pass

    def _fill(self, index: int) -> None:
        image = self._read(index)
        if self._kind == "ram":
            self._memory[index] = image
        elif self._kind == "disk":
            self._map[self._locate(index)] = image.ravel()

    def _read(self, index: int) -> RGB:
        return read_scaled(self._examples[index], self.sizes_wh[index], self._reduced)

    def _locate(self, index: int) -> slice:
        """Return where in the file on disk an image is."""
        return slice(*self._offsets[index : index + 2].tolist())

    def __call__(self, index: int) -> RGB:
        """Return image `index`; from a file on disk only after `fill`. Raises UserError if it cannot be decoded."""
        if index in self._memory:
            return self._memory[index]
        width, height = self.sizes_wh[index]
        if self._map is not None:
            pixels = self._map[self._locate(index)]
            return np.asarray(pixels).reshape(height, width, 3)
        image = self._read(index)
        if self._kind == "ram":
            self._memory[index] = image
        return image


def allocate(file: str, size: int) -> None:
    """Make a file and take the room for its `size` bytes at once. Raises UserError where the disk is full."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=Path(file).parent)
    try:
        os.posix_fallocate(descriptor, 0, max(size, 1))
        Path(name).replace(file)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise UserError(f"{file}: cannot take {resources.format_bytes(size)} of disk ({error.strerror})") from None
    finally:
        os.close(descriptor)


def cache_images(
    examples: Sequence[Example],
    sizes_wh: Sequence[SizeWH],
    cache: str,
    group: ProcessGroup,
    file: str,
    threads: int,
    reduced: bool = False,
) -> tuple[ScaledImages, str]:
    """Decode all images of a split once, and keep them where they fit on every node; return them and a line on that.

    `cache`: the option. `file`: what the workers of a node share with `disk`. `reduced`: as `read_scaled`. Raises
    UserError, the same on all workers.
    """
    size = sum(3 * width * height for width, height in sizes_wh)
    problem: UserError | None = None
    free = group.gather((resources.available_memory(), resources.available_disk(Path(file).parent)))
    try:
        plan = plan_cache(cache, size, group.local_world_size, min(free)[0], min(disk for _, disk in free))
        if plan.kind == "disk" and group.local_rank == 0:
            allocate(file, size)
    except UserError as error:
        problem = error
    group.raise_together(problem)
    images = ScaledImages(examples, sizes_wh, plan.kind, file, reduced)
    group.gather(None)  # every worker of the node has the file
    if plan.kind == "disk" and group.local_rank == 0:
        Path(file).unlink()  # it lasts as long as a worker has it
    indices = range(len(examples))
    if plan.kind == "disk":
        indices = indices[group.local_rank :: group.local_world_size]
    elif plan.kind == "none":
        indices = indices[:0]  # a damaged one ends the training when it is met: decoding all would take an epoch
    try:
        images.fill(indices, threads)
    except UserError as error:
        problem = error
    group.raise_together(problem)
    return images, f"images kept: {plan.kind} ({plan.reason})"
