"""AVIF sequences do not say when they were written, so the same images are the same bytes on any day."""

import io
import struct
import time

import pytest
from PIL import Image

from depers.imaging.formats.isobmff import remove_times


def sequence() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), (shade, 9, 9)) for shade in (9, 99, 200)]
    frames[0].save(buffer, "AVIF", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def test_times_are_gone_and_images_are_not() -> None:
    first = sequence()
    time.sleep(1.1)
    second = sequence()
    assert first != second and remove_times(first) == remove_times(second)
    now = struct.pack(">Q", int(time.time()) + 2_082_844_800)[:6]  # seconds since 1904, but for their end
    assert now in first and now not in remove_times(first)
    image = Image.open(io.BytesIO(remove_times(first)))
    assert image.n_frames == 3  # type: ignore[attr-defined]
    image.seek(2)
    image.load()


def test_boxes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        remove_times(struct.pack(">I4s", 100, b"moov"))
