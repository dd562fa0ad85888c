"""What many images look like at a glance: read and decoded where there are cores, a task for some at a time.

An image that ends its process, or takes too long, is passed over, and costs itself alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from depers.imaging.likeness import SIDE, Likeness, read_likeness
from depers.runtime.file_guard import FileGuard
from depers.runtime.tasks import run_file_tasks
from depers.storage.overlapped import read_ahead

_IMAGES = 64  # per task

SHAPE = np.dtype([("width", "<i4"), ("height", "<i4"), ("orientation", "<i4")])
"""Of an image: its upright size in pixels and EXIF's number, which is 0 where it was not looked at, or not decoded."""
Part = tuple[int, NDArray[np.void], NDArray[np.uint64], NDArray[np.uint8]]
"""Of images from a place on: their `SHAPE`s, digests and thumbnails (N, SIDE, SIDE)."""


def look_at(uris: Sequence[str]) -> Iterator[Part]:
    """Yield what the images look like, some at a time, as it comes."""
    yield from run_file_tasks(
        look_at_some, ((start, uris[start : start + _IMAGES]) for start in range(0, len(uris), _IMAGES))
    )


def read_likenesses(uris: Sequence[str]) -> list[Likeness | None]:
    """Return what the images look like; None for those that cannot be read or decoded."""
    likenesses: list[Likeness | None] = [None] * len(uris)
    for start, shapes, digests, thumbnails in look_at(uris):
        for offset, (width, height, orientation) in enumerate(shapes.tolist()):
            if orientation:
                size_wh, digest = (width, height), int(digests[offset])
                likenesses[start + offset] = Likeness(digest, thumbnails[offset], size_wh, orientation)
    return likenesses


def look_at_some(start: int, uris: Sequence[str], guard: FileGuard | None = None) -> Part:
    """Return `start`, and of each image its `SHAPE`, the digest of its pixels, and its thumbnail."""
    guard = guard or FileGuard()
    shapes, digests = np.zeros(len(uris), SHAPE), np.zeros(len(uris), np.uint64)
    thumbnails = np.zeros((len(uris), SIDE, SIDE), np.uint8)
    for offset, read in enumerate(read_ahead(uris)):
        if guard.find_reason(offset):
            continue
        with guard.watch(offset):
            try:
                likeness = read_likeness(read())
            except Exception:  # whatever it is, who writes the image meets it, too, and says so
                continue
        digests[offset], thumbnails[offset] = likeness.digest, likeness.thumbnail
        shapes[offset] = (*likeness.size_wh, likeness.orientation)
    return start, shapes, digests, thumbnails
