"""What tests of redaction have in common: drawn JPEGs, boxes, and what lossless means."""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.decoding import decode, decode_frames
from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.imaging.metadata.residue import find_residue
from depers.redaction.files import redact_file
from depers.redaction.paint import SMOOTH

SAMPLINGS = {"444": "1x1", "422": "2x1", "420": "2x2", "411": "4x1", "440": "1x2"}
BOXES = np.array([[50, 60, 120.5, 130], [100, 100, 150, 160], [320, 200, 333, 217]], np.float32)


def make_pixels(size_wh: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Return soft noise, uint8 RGB (H, W, 3)."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (max(1, size_wh[1] // 8), max(1, size_wh[0] // 8), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(size_wh, Image.Resampling.BICUBIC))


def coefficients(data: bytes) -> list[NDArray[np.int16]]:
    """Return the quantized coefficients of every component, int16 (rows, columns, 64)."""
    copies: list[NDArray[np.int16]] = []

    def collect(components: list[turbojpeg.Coefficients]) -> None:
        copies.extend(blocks[:height].copy() for blocks, height in components)

    rows = [v for _, v in jpeg_segments.read_frame_header(data).sampling]
    turbojpeg.transform(data, collect, rows, progressive=False, optimize=False)
    return copies


def assert_lossless(data: bytes, boxes: NDArray[np.float32], mode: str) -> bytes:
    """Redact a JPEG, check that only touched MCUs have changed, and return the result."""
    result = redact_file(data, [boxes], mode=mode)
    assert result.method == "lossless"
    source, target = jpeg_segments.read_frame_header(data), jpeg_segments.read_frame_header(result.data)
    assert (source.marker, source.sampling, source.size_wh) == (target.marker, target.sampling, target.size_wh)
    assert [source.tables[i] for i in source.table_of] == [target.tables[i] for i in target.table_of]
    width, height = source.mcu_wh
    touched = np.zeros((-(-source.size_wh[1] // height), -(-source.size_wh[0] // width)), bool)
    for x0, y0, x1, y1 in boxes:
        touched[int(y0 // height) : int(-(-y1 // height)), int(x0 // width) : int(-(-x1 // width))] = True
    pairs = list(zip(coefficients(data), coefficients(result.data), strict=True))
    for (first, second), (h, v) in zip(pairs, source.sampling, strict=True):
        h, v = (1, 1) if len(pairs) == 1 else (h, v)
        inside = touched.repeat(v, axis=0).repeat(h, axis=1)[: first.shape[0], : first.shape[1]]
        assert (first[~inside] == second[~inside]).all()
        if mode not in SMOOTH:
            assert not second[inside][:, 1:].any()  # flat blocks
    assert find_residue(result.data) == []
    assert decode(result.data).size_wh == decode(data).size_wh  # Pillow's and simplejpeg's libjpeg take it
    assert cv2.imdecode(np.frombuffer(result.data, np.uint8), cv2.IMREAD_COLOR) is not None
    return result.data


def box_per_frame(data: bytes) -> list[NDArray[np.float32]]:
    """Return one box for each frame, in the same place of each."""
    return [
        np.array([[0.2, 0.2, 0.6, 0.5]], np.float32) * np.array([w, h] * 2, np.float32)
        for h, w, _ in (frame.shape for frame in decode_frames(data))
    ]
