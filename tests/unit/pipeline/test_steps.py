"""What the detector is given to look at: as large as it needs, decoded no larger than that takes."""

import numpy as np
import pytest
import simplejpeg

from depers.imaging.decoding import decode
from depers.imaging.headers import read_header
from depers.pipeline import steps
from depers.street_scenes.scenes import draw_scene


@pytest.mark.parametrize(
    ("size_wh", "least", "decoded_wh"),
    [
        ((1920, 1080), 640, (960, 540)), ((1279, 720), 640, (1279, 720)), ((1281, 721), 640, (641, 361)),
        ((4000, 3000), 640, (1000, 750)), ((1000, 3000), 320, (125, 375)), ((6000, 4000), 64, (750, 500)),
        ((1920, 1080), None, (1920, 1080)),
    ],
)  # fmt: skip
def test_jpegs_are_decoded_at_a_fraction(
    size_wh: tuple[int, int], least: int | None, decoded_wh: tuple[int, int]
) -> None:
    rgb = draw_scene(1, 7, (320, 192)).image
    whole = np.asarray(np.tile(rgb, (size_wh[1] // 192 + 1, size_wh[0] // 320 + 1, 1))[: size_wh[1], : size_wh[0]])
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(whole), 90, "RGB", "420")
    header = read_header(data)
    found, image = steps._decode_for_detection(data, header, least)
    assert header.upright_wh == size_wh and (found.shape[1], found.shape[0]) == decoded_wh
    assert (image is None) == (decoded_wh != size_wh)
    mean = decode(data).rgb().mean(axis=(0, 1))
    np.testing.assert_allclose(found.mean(axis=(0, 1)), mean, atol=1.5)
