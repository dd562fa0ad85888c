"""Sixteen bits, of which an image uses a part, are seen by the detector; the file keeps them as they are."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from depers.imaging import sixteen_bit
from depers.imaging.decoding import decode, decode_frames
from depers.redaction.files import redact_file
from depers.street_scenes.scenes import draw_scene

SCENE = draw_scene(1, 7, (320, 192)).image


def encode(pixels: NDArray[np.uint16], form: str) -> bytes:
    buffer = io.BytesIO()
    if form == "tiff":
        pages = [sixteen_bit.Page(page, "RGB;16", None) for page in (pixels, pixels[::-1])]
        return sixteen_bit.encode_tiff(pages)
    if form == "gray":
        Image.fromarray(pixels[..., 1]).save(buffer, "PNG")
    else:
        alpha = np.full_like(pixels[..., :1], 65535)
        channels = np.concatenate([pixels, alpha], 2) if form == "rgba" else pixels
        return sixteen_bit.encode_png(channels, None, b"")
    return buffer.getvalue()


def find_expected(form: str) -> NDArray[np.uint8]:
    return np.repeat(SCENE[..., 1:2], 3, 2) if form == "gray" else SCENE


@pytest.mark.parametrize("form", ["rgb", "rgba", "gray", "tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_an_image_of_fewer_bits_looks_as_in_eight(bits: int, form: str) -> None:
    pixels = (SCENE.astype(np.float64) / 255 * (2**bits - 1)).round().astype(np.uint16)
    pixels[:3, 3] = 65535  # hot pixels do not make the rest black
    for number, rgb in enumerate(decode_frames(encode(pixels, form))):
        expected = find_expected(form).astype(int)[:: 1 - 2 * number]
        low, high = np.percentile(expected, (0.1, 99.9))
        difference = rgb - (expected - low) / (high - low) * 255
        assert np.abs(difference).mean() < 3 and rgb.min() == 0 and rgb.max() == 255


def test_an_offset_goes_and_a_flat_image_stays() -> None:
    pixels = (30_000 + SCENE.astype(np.uint16)).astype(np.uint16)
    rgb = decode(encode(pixels, "rgb")).rgb()
    assert (rgb.min(), rgb.max()) == (0, 255)
    flat = np.full((8, 8), 40_000, np.uint16)
    assert (sixteen_bit.stretch(flat, "I;16") == 40_000 >> 8).all()


@pytest.mark.parametrize("mode", ["pixelate", "blur", "fill", "inpaint"])
def test_paint_keeps_to_the_bits_of_the_image_and_the_rest_as_it_is(mode: str) -> None:
    pixels = (SCENE.astype(np.uint16) * 4).astype(np.uint16)  # 10 bits
    box = np.array([[100, 50, 160, 120]], np.float32)
    after = decode(redact_file(encode(pixels, "rgb"), [box], mode=mode).data).pixels
    inside = np.zeros(pixels.shape[:2], bool)
    inside[50:120, 100:160] = True
    assert (after[~inside] == pixels[~inside]).all() and (after[inside] != pixels[inside]).any(1).mean() > 0.9
    assert after[inside].max() < 1500  # so that whoever looks again sees the rest, too
