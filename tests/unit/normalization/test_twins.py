"""Twins: images that are the same, or nearly, whatever was done to a copy; others are none."""

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.likeness import read_likeness
from depers.imaging.near_twins import find_near_twins
from depers.pipeline.likenesses import look_at_some

IMAGES = 120


def draw(seed: int) -> NDArray[np.uint8]:
    """A picture of some shapes on a cloudy ground, different for every seed."""
    rng = np.random.default_rng(seed)
    ground = cv2.resize(rng.random((6, 8, 3)).astype(np.float32), (320, 240), interpolation=cv2.INTER_CUBIC)
    image = np.clip(ground * 200, 0, 255).astype(np.uint8)
    for _ in range(12):
        x, y, w, h = rng.integers(0, (280, 200, 90, 90)).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.integers(0, 255, 3).tolist(), -1)
    return image


def encode(image: NDArray[np.uint8], format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def thumbnails() -> NDArray[np.uint8]:
    return np.stack([read_likeness(encode(draw(seed))).thumbnail for seed in range(IMAGES)])


CHANGES: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "compressed again": lambda image: encode(image, quality=20),
    "another format": lambda image: encode(image, "PNG"),
    "smaller": lambda image: encode(cv2.resize(image, (107, 80), interpolation=cv2.INTER_AREA)),
    "larger": lambda image: encode(cv2.resize(image, (700, 525))),
    "stretched": lambda image: encode(cv2.resize(image, (300, 300))),
    "cropped on all sides": lambda image: encode(image[12:-12, 16:-16]),
    "cropped by half of that": lambda image: encode(image[6:-6, 8:-8]),
    "cropped on the left": lambda image: encode(image[:, 16:]),
    "cropped at the top and right": lambda image: encode(image[12:, :-16]),
    "mirrored": lambda image: encode(image[:, ::-1]),
    "mirrored, cropped and compressed": lambda image: encode(image[12:-12, 16:-16][:, ::-1], quality=40),
    "darker": lambda image: encode((image * 0.7 + 5).astype(np.uint8)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_whatever_was_done_to_them(thumbnails: NDArray[np.uint8], change: str) -> None:
    seeds = range(0, IMAGES, 3)
    copies = np.stack([read_likeness(CHANGES[change](draw(seed))).thumbnail for seed in seeds])
    both = np.concatenate([thumbnails, copies])
    twins = find_near_twins(both, np.arange(len(both)))
    copies_found = [seed for index, seed in enumerate(seeds) if twins.get(IMAGES + index) == (seed, seed)]
    assert len(copies_found) >= 0.95 * len(seeds)
    assert len(twins) == 2 * len(copies_found)  # each original and its copy, and no other


def test_others_are_none(thumbnails: NDArray[np.uint8]) -> None:
    assert find_near_twins(thumbnails, np.arange(IMAGES)) == {}
    assert find_near_twins(thumbnails, np.zeros(0, np.int64)) == {}
    flat = np.full((40, 32, 32), 7, np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None]
    assert find_near_twins(flat, np.arange(40)) == {}  # what shows nothing is no twin of anything


def test_each_of_a_burst_is_in_the_group_and_only_what_counts_is_looked_at(thumbnails: NDArray[np.uint8]) -> None:
    burst = np.repeat(thumbnails[:1], 300, axis=0)
    both = np.concatenate([thumbnails, burst])
    twins = find_near_twins(both, np.arange(len(both)))
    assert set(twins) == {0, *range(IMAGES, IMAGES + 300)} and {first for _, first in twins.values()} == {0}
    places = np.array([5, IMAGES + 1, IMAGES + 7, 0])
    assert find_near_twins(both, places) == {1: (2, 1), 2: (1, 1), 3: (1, 1)}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_seen_counts_not_how_it_is_stored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = read_likeness(encode(draw(1), exif=exif))
    with Image.open(io.BytesIO(encode(draw(1), exif=exif))) as image:
        from PIL import ImageOps

        upright = read_likeness(encode(np.asarray(ImageOps.exif_transpose(image)), "PNG"))
    assert turned.size_wh == upright.size_wh and turned.orientation == orientation
    assert np.abs(turned.thumbnail.astype(int) - upright.thumbnail).max() < 12


def test_the_same_pixels_have_one_digest_in_any_file(tmp_path: Path) -> None:
    image = draw(2)
    png, bmp, jpeg = encode(image, "PNG"), encode(image, "BMP"), encode(image, quality=90)
    assert read_likeness(png).digest == read_likeness(bmp).digest != read_likeness(jpeg).digest
    assert read_likeness(jpeg).digest == read_likeness(jpeg + b"trailing").digest
    uris = []
    for name, data in (("a.png", png), ("broken.jpg", b"no image"), ("b.bmp", bmp)):
        (tmp_path / name).write_bytes(data)
        uris.append(str(tmp_path / name))
    start, shapes, digests, _ = look_at_some(64, [*uris, str(tmp_path / "missing.jpg")])
    assert shapes.tolist() == [(320, 240, 1), (0, 0, 0), (320, 240, 1), (0, 0, 0)]
    assert start == 64 and digests[0] == digests[2]
