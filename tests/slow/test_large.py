"""Large images stay within the memory that the README states."""

import subprocess
import sys
from pathlib import Path

import pytest

DRAW = """
import sys
import cv2, numpy as np, simplejpeg
width, height, kind, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
tile = cv2.resize(np.random.default_rng(0).integers(0, 255, (128, 128, 3), np.uint8), (1024, 1024))
pixels = np.tile(tile, (height // 1024 + 1, width // 1024 + 1, 1))[:height, :width]
if kind == "PNG":
    data = cv2.imencode(".png", pixels)[1].tobytes()
else:
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 85, "RGB", kind)
open(path, "wb").write(data)
"""
REDACT = """
import re, sys
import numpy as np
from depers.redaction.files import redact_file
def peak():  # of this program alone: what getrusage says outlives exec
    return int(re.search("VmHWM:.* ([0-9]+) kB", open("/proc/self/status").read())[1]) * 1024
width, height, mode, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
data = open(path, "rb").read()
before = peak()
boxes = np.array([[0.1, 0.1, 0.4, 0.6], [0.5, 0.5, 0.9, 0.9]], np.float32) * np.array([width, height] * 2, np.float32)
result = redact_file(data, [boxes], mode=mode, max_megapixels=200)
assert result.method == "lossless" and result.size_wh == (width, height)
print((peak() - before) / (width * height))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size_wh", "mode", "bytes_per_pixel"),
    [("420", (16000, 12500), "pixelate", 3.7), ("420", (30000, 4000), "blur", 3.7)]
    + [("444", (8000, 6000), "fill", 7.0), ("PNG", (8000, 6000), "blur", 11.5)],
)
def test_memory_grows_with_the_pixels_as_stated(
    kind: str, size_wh: tuple[int, int], mode: str, bytes_per_pixel: float, tmp_path: Path
) -> None:
    """Each in a process of its own: a process keeps the highest RSS it ever had."""
    sides = [str(side) for side in size_wh]
    subprocess.run([sys.executable, "-c", DRAW, *sides, kind, tmp_path / "large"], check=True)
    command = [sys.executable, "-c", REDACT, *sides, mode, tmp_path / "large"]
    assert 1 < float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < bytes_per_pixel
