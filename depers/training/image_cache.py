"""The images of a training, decoded and scaled: kept in memory, in a file on disk, or not at all.

Which of these is decided from the sizes that the images will really have and from what the container leaves free.
The file on disk is one per node and split, mapped by all workers there: its pages are page cache, which the kernel
takes back when memory runs short.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from depers import resources, storage
from depers.boxes import letterbox
from depers.errors import UserError
from depers.imaging import decoding
from depers.imaging.headers import ImageError
from depers.training.augmentation import RGB
from depers.training.process_group import Place

_MEMORY_SHARE, _DISK_SHARE = 0.5, 0.8  # of what is free; the rest is for the training itself, and for others


class Plan(NamedTuple):
    """`kind` is `ram`, `disk` or `none`; `reason` says why, for people."""

    kind: str
    reason: str


def plan(wanted: str, size: int, workers: int, free_memory: int, free_disk: int) -> Plan:
    """Where `size` bytes of images go on a node where `workers` processes need them. Raises UserError.

    In memory each worker has its own copy, on disk they share one. `auto` takes the fastest that fits.
    """
    fits = {"ram": size * workers <= free_memory * _MEMORY_SHARE, "disk": size <= free_disk * _DISK_SHARE, "none": True}
    copies = f" for each of {workers} workers" if workers > 1 else ""
    needs = f"{resources.format_bytes(size)} of images"
    free = f"{resources.format_bytes(free_memory)} of memory and {resources.format_bytes(free_disk)} of disk are free"
    if wanted != "auto":
        if not fits[wanted]:
            raise UserError(f"--cache {wanted}: {needs}{copies if wanted == 'ram' else ''} do not fit: {free}")
        return Plan(wanted, needs)
    kind = next(kind for kind in ("ram", "disk", "none") if fits[kind])
    return Plan(kind, f"{needs}{copies}; {free}")


def scaled_size(size_wh: tuple[int, int], imgsz: int) -> tuple[int, int]:
    """The size of an image whose longer side is `imgsz`, the other rounded up, as YOLOv5 loads it."""
    return letterbox(size_wh, imgsz, half_stride_pad=True).resized_wh


def read_scaled(path: str, size_wh: tuple[int, int]) -> RGB:
    """An image, uint8 RGB, scaled to `size_wh`. Raises UserError where it cannot be decoded."""
    try:
        image = decoding.decode(storage.read_bytes(path)).rgb()
    except (ImageError, OSError) as error:
        raise UserError(f"{path}: must be an image that can be decoded, but {error}") from None
    return decoding.resize_rgb(image, size_wh)


class Images:
    """The images at `paths`, uint8 RGB scaled to `sizes_wh`, by index; safe to call from several threads."""

    def __init__(self, paths: Sequence[str], sizes_wh: Sequence[tuple[int, int]], kind: str, file: str = "") -> None:
        """`file`: for `disk`, what `allocate` made; once all workers of the node have it mapped, it may be unlinked."""
        self._paths, self._sizes_wh, self._kind = paths, sizes_wh, kind
        self._kept: dict[int, RGB] = {}
        self._offsets = np.concatenate([[0], np.cumsum([3 * width * height for width, height in sizes_wh])])
        self._map: Any = np.memmap(file, np.uint8, "r+") if kind == "disk" else None

    def fill(self, members: Sequence[int], threads: int) -> None:
        """Decodes `members`, and keeps them if it is so planned. Raises UserError for the first damaged one."""
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(self._fill, members):
                pass

    def _fill(self, index: int) -> None:
        image = read_scaled(self._paths[index], self._sizes_wh[index])
        if self._kind == "ram":
            self._kept[index] = image
        elif self._kind == "disk":
            self._map[self._offsets[index] : self._offsets[index + 1]] = image.ravel()

    def __call__(self, index: int) -> RGB:
        """Image `index`; from a file on disk only after `fill`. Raises UserError where it cannot be decoded."""
        if index in self._kept:
            return self._kept[index]
        width, height = self._sizes_wh[index]
        if self._map is not None:
            part = self._map[self._offsets[index] : self._offsets[index + 1]]
            return np.asarray(part).reshape(height, width, 3)
        image = read_scaled(self._paths[index], self._sizes_wh[index])
        if self._kind == "ram":
            self._kept[index] = image
        return image


def allocate(file: str, size: int) -> None:
    """Makes a file and takes the room for its `size` bytes at once. Raises UserError where the disk is full."""
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


def prepare(
    paths: Sequence[str], sizes_wh: Sequence[tuple[int, int]], wanted: str, here: Place, disk: str, threads: int
) -> tuple[Images, str]:
    """All images of a split, decoded once and kept where they fit on every node; and a line on that.

    `disk`: the file that the workers of a node share, if they do. Raises UserError, the same on all workers.
    """
    size = sum(3 * width * height for width, height in sizes_wh)
    problem: UserError | None = None
    free = here.gather((resources.available_memory(), resources.available_disk(Path(disk).parent)))
    try:
        planned = plan(wanted, size, here.local_world, min(free)[0], min(room for _, room in free))
        if planned.kind == "disk" and here.local_rank == 0:
            allocate(disk, size)
    except UserError as error:
        problem = error
    here.agree(problem)
    images = Images(paths, sizes_wh, planned.kind, disk)
    here.gather(None)  # every worker of the node has the file
    if planned.kind == "disk" and here.local_rank == 0:
        Path(disk).unlink()  # it lasts as long as a worker has it
    everything = range(len(paths))
    mine = {"ram": everything, "disk": everything[here.local_rank :: here.local_world]}
    try:
        images.fill(mine.get(planned.kind, everything[here.rank :: here.world]), threads)
    except UserError as error:
        problem = error
    here.agree(problem)
    return images, f"images kept: {planned.kind} ({planned.reason})"
