"""What comes out depends on nothing that lies under any box: boxes may overlap, touch, or lie in one another."""

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from depers.imaging.decoding import DecodedImage
from depers.imaging.formats import turbojpeg
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file, redact_image

SIZE_WH = (97, 75)
CHANNELS = {"L": 0, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "I;16": 0, "RGB;16": 3, "RGBA;16": 4, "P": 0}
CASES = {
    "touching": [(10, 10, 30, 40), (30, 10, 50, 40), (50, 41, 60, 60)],
    "contained": [(8, 8, 80, 70), (20, 20, 40, 44), (22, 21, 30, 30), (78, 60, 90, 74)],
    "around a gap": [(10, 10, 80, 20), (10, 50, 80, 60), (10, 10, 20, 60), (70, 10, 80, 60)],
    "all of it": [(0, 0, 97, 75), (5, 5, 50, 50)],
    "at the edge": [(-5, -9, 40, 30), (90, 20, 120, 99), (80, 60, 97, 75)],
}

corners = st.tuples(st.integers(-10, 90), st.integers(-10, 70), st.integers(1, 70), st.integers(1, 60))
boxes_lists = st.lists(corners, min_size=1, max_size=7)


def to_boxes(places: list[tuple[int, ...]]) -> NDArray[np.float32]:
    boxes = np.array([(x, y, x + width, y + height) for x, y, width, height in places], np.float32)
    low, high = boxes[:, :2] < SIZE_WH, boxes[:, 2:] > 0
    return boxes[low.all(axis=1) & high.all(axis=1)]


def mark_boxes(boxes: NDArray[np.float32], side: int = 1) -> NDArray[np.bool_]:
    """Return the pixels (H, W) under the boxes, made up to blocks of `side` pixels."""
    inside = np.zeros((SIZE_WH[1], SIZE_WH[0]), bool)
    for x0, y0, x1, y1 in boxes.clip(0):
        rows, columns = (
            slice(int(low // side * side), int(-(-high // side) * side)) for low, high in ((y0, y1), (x0, x1))
        )
        inside[rows, columns] = True
    return inside


def two_images(pixel_mode: str, inside: NDArray[np.bool_], opaque: bool) -> list[DecodedImage]:
    rng = np.random.default_rng(0)
    dtype = np.uint16 if pixel_mode.endswith("16") else np.uint8
    shape = (SIZE_WH[1], SIZE_WH[0], *([CHANNELS[pixel_mode]] if CHANNELS[pixel_mode] else []))
    first = rng.integers(0, 1024 if dtype == np.uint16 else 256, shape, dtype)
    second = first.copy()
    second[inside] = rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype)[inside]
    palette = rng.integers(0, 256, (256, 3 if opaque else 4), np.uint8) if pixel_mode == "P" else None
    for pixels in (first, second):
        if pixel_mode in ("LA", "RGBA", "RGBA;16"):
            pixels[..., -1] = np.iinfo(dtype).max if opaque else pixels[..., -1] * (pixels[..., 0] % 3 > 0)
    return [DecodedImage(pixels, pixel_mode, "PNG", None, palette=palette) for pixels in (first, second)]


def assert_equal_results(boxes: NDArray[np.float32], pixel_mode: str, mode: str, opaque: bool) -> None:
    inside = mark_boxes(boxes)
    images = two_images(pixel_mode, inside, opaque)
    first, second = (redact_image(image, boxes, mode) for image in images)
    assert (first.pixels == second.pixels).all()
    assert pixel_mode != "P" or (first.palette == second.palette).all()
    if pixel_mode not in ("P", "LA", "RGBA", "RGBA;16"):
        assert (first.pixels[~inside] == images[0].pixels[~inside]).all()
    backwards = redact_image(images[0], boxes[::-1], mode)
    assert (backwards.pixels == first.pixels).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pixel_mode", CHANNELS)
@pytest.mark.parametrize("case", CASES)
def test_pixels_of_all_kinds(case: str, pixel_mode: str, mode: str) -> None:
    boxes = np.array(CASES[case], np.float32)
    for opaque in (True, False):
        assert_equal_results(boxes, pixel_mode, mode, opaque)


@settings(deadline=None, max_examples=120)
@given(boxes_lists, st.sampled_from(list(CHANNELS)), st.sampled_from(MODES), st.booleans())
def test_pixels_under_any_boxes(places: list[tuple[int, ...]], pixel_mode: str, mode: str, opaque: bool) -> None:
    assert_equal_results(to_boxes(places), pixel_mode, mode, opaque)


@pytest.mark.parametrize("library", [True, False])
@settings(deadline=None, max_examples=80)
@given(boxes_lists, st.sampled_from(MODES), st.sampled_from([("444", 8), ("420", 16), ("Gray", 8)]))
def test_coefficients_under_any_boxes(
    library: bool, places: list[tuple[int, ...]], mode: str, sampling: tuple[str, int]
) -> None:
    """Boxes of whole MCUs where it is encoded again: there, a box ends with its pixels, and its MCU is all a trace."""
    (name, side), boxes = sampling, to_boxes(places)
    inside = mark_boxes(boxes, side)
    if not library:
        boxes = np.concatenate([np.floor(boxes[:, :2] / side), np.ceil(boxes[:, 2:] / side)], axis=1) * side
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE_WH[1], SIZE_WH[0], 1 if name == "Gray" else 3), np.uint8)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        if not library:
            patch.setattr(turbojpeg, "load_library", lambda: None)
        for seed in (2, 3):
            secret = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)
            data = simplejpeg.encode_jpeg(
                np.where(inside[:, :, None], secret, pixels), 90, "GRAY" if name == "Gray" else "RGB", name
            )
            results += [redact_file(data, [boxes[::order]], mode=mode) for order in (1, -1)]
    assert results[0].method.startswith("lossless" if library else "re-encoded: ")
    assert all(result.data == results[0].data for result in results)
