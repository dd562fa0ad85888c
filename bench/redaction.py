"""CPU time of redacting 12-megapixel JPEGs (5 boxes), against OpenCV's decode + blur + encode, in the same rounds.

    python bench/redaction.py [--repeats 9] [--photo PATH]

The step alone: what detection has decoded is given to it, of which the lossless way needs nothing. Also checks that the
coefficients outside the touched MCUs are identical, and shows how long the whole-image peers take.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # as in Ray's workers; threads that wait for each other would count as work

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file
from depers.street_scenes import scenes

SIZE_WH = (4000, 3000)
BOXES = np.array(
    [[400, 1500, 520, 1660], [1210, 1380, 1490, 1900], [2300, 1600, 2900, 2050], [3100, 900, 3160, 980]]
    + [[1800, 1700, 2010, 1790]],
    np.float32,
)


def draw_photo(quality: int = 92) -> bytes:
    """Draw a street of 12 megapixels with the grain of a sensor; return it as a JPEG, 4:2:0."""
    scene = scenes.draw_scene(0, 1, (1920, 1440)).image
    large = cv2.resize(scene, SIZE_WH, interpolation=cv2.INTER_CUBIC).astype(np.float32)
    grain = np.random.default_rng(1).normal(0, 4, large.shape).astype(np.float32)
    pixels = np.clip(large + cv2.GaussianBlur(grain, (3, 3), 0.8), 0, 255).astype(np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels, quality, "RGB", "420"))


def blur_with_opencv(data: bytes, boxes: NDArray[np.float32]) -> bytes:
    """Decode, blur and encode, as most anonymizers do."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    for x0, y0, x1, y1 in boxes.astype(int).tolist():
        side = max(x1 - x0, y1 - y0) // 4 | 1
        image[y0:y1, x0:x1] = cv2.GaussianBlur(image[y0:y1, x0:x1], (side, side), 0)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def read_coefficients(data: bytes) -> list[NDArray[np.int16]]:
    """Return the quantized coefficients of every component, int16 (rows, columns, 64)."""
    components: list[NDArray[np.int16]] = []

    def collect(planes: list[turbojpeg.Coefficients]) -> None:
        components.extend(blocks[:height].copy() for blocks, height in planes)

    rows = [v for _, v in jpeg_segments.read_frame_header(data).sampling]
    turbojpeg.transform(data, collect, rows, progressive=False, optimize=False)
    return components


def count_changes_outside(data: bytes, redacted: bytes, boxes: NDArray[np.float32]) -> int:
    """Return how many coefficients differ outside the MCUs that the boxes touch."""
    frame = jpeg_segments.read_frame_header(data)
    width, height = frame.mcu_wh
    touched = np.zeros((-(-frame.size_wh[1] // height), -(-frame.size_wh[0] // width)), bool)
    for x0, y0, x1, y1 in boxes:
        touched[int(y0 // height) : int(-(-y1 // height)), int(x0 // width) : int(-(-x1 // width))] = True
    count = 0
    for blocks, redacted_blocks, (h, v) in zip(
        read_coefficients(data), read_coefficients(redacted), frame.sampling, strict=True
    ):
        outside = ~touched.repeat(v, axis=0).repeat(h, axis=1)[: blocks.shape[0], : blocks.shape[1]]
        count += int((blocks[outside] != redacted_blocks[outside]).sum())
    return count


def measure_cpu_ms(function: Callable[[], object]) -> float:
    """Return the CPU milliseconds of this process, all threads, that a call takes."""
    started = time.process_time()
    function()
    return (time.process_time() - started) * 1000


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--photo", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    data = arguments.photo.read_bytes() if arguments.photo else draw_photo()
    size_wh = jpeg_segments.read_frame_header(data).size_wh
    boxes = BOXES * np.array(size_wh * 2, np.float32) / np.array(SIZE_WH * 2, np.float32)
    ways: dict[str, Callable[[], object]] = {
        f"depers {mode}": lambda mode=mode: redact_file(data, [boxes], mode=mode)  # type: ignore[misc]
        for mode in MODES
    }
    ways |= {
        "depers, no boxes": lambda: redact_file(data, [boxes[:0]]),
        "OpenCV": lambda: blur_with_opencv(data, boxes),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            times[name].append(measure_cpu_ms(way))
    print(f"{size_wh[0]}x{size_wh[1]}, {len(data)} bytes, {len(boxes)} boxes; load {os.getloadavg()[0]:.1f}")
    peer = statistics.median(times["OpenCV"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<20}{middle:>8.1f} ms CPU   {middle / peer:.2f} × OpenCV decode + blur + encode")
    for mode in MODES:
        result = redact_file(data, [boxes], mode=mode)
        count = count_changes_outside(data, result.data, boxes)
        print(f"{mode}: {result.method}, {count} coefficients changed outside the touched MCUs")


if __name__ == "__main__":
    main()
