"""Redaction leaves at most 6 cells across a box, and nothing of the original."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.imaging.decoding import DecodedImage, decode
from depers.imaging.encoding import encode
from depers.redaction.colors import CELLS_ACROSS, MODES
from depers.redaction.files import redact_file, redact_pixels


def noise(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(60, 80, 3), (60, 80), (60, 80, 4), (60, 80, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_the_box_changes_and_it_does(mode: str, shape: tuple[int, ...], dtype: type) -> None:
    pixels = noise(shape, dtype)
    copy = pixels.copy()
    redacted = redact_pixels(pixels, np.array([[10.5, 20.2, 50, 44.1]], np.float32), mode)
    assert (pixels == copy).all()
    inside = np.zeros(shape[:2], bool)
    inside[20:45, 10:50] = True
    assert (redacted[~inside] == pixels[~inside]).all()
    assert redacted.dtype == dtype
    assert (redacted[inside] != pixels[inside]).mean() > 0.9


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["pixelate", "blur"]))
def test_at_most_six_cells_across_whatever_the_size(width: int, height: int, mode: str) -> None:
    pixels = noise((height, width))
    redacted = redact_pixels(pixels, np.array([[0, 0, width, height]], np.float32), mode)
    if mode == "pixelate":
        assert len(np.unique(redacted, axis=1).T) <= CELLS_ACROSS
        assert len(np.unique(redacted, axis=0)) <= CELLS_ACROSS
    # Interpolating 6 × 6 colors gives a matrix of rank 6; what is above it is noise and rounding.
    beyond = np.linalg.svd(redacted.astype(float), compute_uv=False)[CELLS_ACROSS:]
    assert (beyond < 4 * (np.sqrt(width) + np.sqrt(height))).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_planted_pattern_leaves_no_trace(mode: str) -> None:
    """A checkerboard under a box: gone from pixels and bytes, after the lossy and the lossless encoders."""
    rows, columns = np.indices((240, 320))
    checker = (((rows + columns) % 2) * 255).astype(np.uint8)
    pixels = np.repeat(np.full((240, 320, 1), 90, np.uint8), 3, axis=2)
    pixels[64:160, 96:224] = checker[64:160, 96:224, None]
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        tables = {0: [2] * 64, 1: [2] * 64} if kind == "JPEG" else None
        image = DecodedImage(pixels, "RGB", kind, None, tables, "420")
        data = encode(image, redact_pixels(pixels, np.array([[96, 64, 224, 160]], np.float32), mode))
        box_pixels = decode(data).pixels[64:160, 96:224].astype(float)
        pattern = checker[64:160, 96:224].astype(float) - 127.5
        assert abs((box_pixels.mean(axis=2) * pattern).mean()) < 0.02 * (pattern**2).mean(), kind
        assert checker[64, 96:224].tobytes() not in data
        assert pixels[64, 96:224].tobytes() not in data


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_each_box_of_a_crowd_has_cells_of_its_own_size(kind: str) -> None:
    """Along a row of boxes that touch, no cell is wider than a sixth of its box, nor is one in a box inside another."""
    x, y = np.meshgrid(np.arange(640), np.arange(480))
    pixels = np.stack([x % 251, y % 241, (x + y) % 239], axis=2).astype(np.uint8)
    boxes = [(left, 192, left + 48, 240) for left in range(48, 576, 48)] + [(240, 48, 432, 432), (304, 96, 352, 144)]
    image = DecodedImage(pixels, "RGB", kind, None, {0: [1] * 64, 1: [1] * 64} if kind == "JPEG" else None, "444")
    data = encode(image, pixels)
    redacted = decode(redact_file(data, [np.array(boxes, np.float32)]).data).pixels
    for x0, y0, x1, _ in [*boxes[:11], boxes[12]]:
        row = redacted[y0 + 4, x0:x1].astype(int)
        edges = np.flatnonzero((np.diff(row, axis=0) != 0).any(axis=1)) + 1
        assert edges.tolist() == list(range(8, 48, 8))
