"""Redaction inside a JPEG: only the coefficients of the touched MCUs change, all others stay as they are.

A redacted block is made from its region's paint: the colors are those of the blocks around the region, whose means are
their DC coefficients, so nothing needs to be decoded.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.imaging.formats.jpeg_segments import Frame
from depers.imaging.formats.turbojpeg import Coefficients
from depers.imaging.headers import orientation_of, profile_of, stored_boxes
from depers.imaging.metadata import exif
from depers.redaction import regions
from depers.redaction.regions import Paint, Region

_SPAN = 255.0
_HUFFMAN = {0xC0: "baseline", 0xC1: "sequential", 0xC2: "progressive"}
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ZIGZAG = np.array(sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8))))
_BAND = 16  # rows of blocks painted at a time
_RING = 1  # MCUs around a region that give it its colors


class NotLosslessError(Exception):
    """Why this JPEG cannot be redacted without encoding it again, in a few words."""


class Lossless(NamedTuple):
    """The new file, and the size of the upright image."""

    data: bytes
    size_wh: tuple[int, int]


def redact(
    data: bytes, image: Image.Image, boxes_xyxy: NDArray[np.float32], mode: str, kept: dict[int, dict[int, Any]]
) -> Lossless:
    """The JPEG with the boxes (upright pixels) redacted; `image` is its header, `kept` EXIF tags by directory.

    Orientation tag, color profile and kind of coding are kept, restart markers are not. Raises NotLosslessError.
    """
    try:
        frame = jpeg_segments.frame(data)
    except ValueError as error:
        raise NotLosslessError(f"it {error}") from None
    if frame.marker in _ARITHMETIC:
        raise NotLosslessError("arithmetic coding")
    if frame.marker not in _HUFFMAN or frame.precision != 8:
        raise NotLosslessError(f"coding 0x{frame.marker:02X} with {frame.precision} bits")
    if len(frame.sampling) not in (1, 3, 4) or frame.size_wh != image.size:
        raise NotLosslessError(f"{len(frame.sampling)} components of {frame.size_wh}")
    orientation = orientation_of(image)
    size_wh = frame.size_wh[::-1] if orientation >= 5 else frame.size_wh
    stored = stored_boxes(boxes_xyxy, size_wh, orientation)
    found = regions.find(stored, frame.size_wh, frame.mcu_wh)
    try:
        transformed = turbojpeg.transform(
            data,
            partial(_edit, found=found, frame=frame, mode=mode),
            [v for _, v in frame.sampling],
            progressive=frame.marker == 0xC2,
            optimize=not frame.standard_codes,
        )
        rebuilt = jpeg_segments.rebuilt(transformed, exif.build(kept, orientation), profile_of(image))
    except turbojpeg.TransformError as error:
        raise NotLosslessError(str(error)) from None
    except ValueError as error:
        raise NotLosslessError(f"it {error}") from None
    return Lossless(rebuilt, size_wh)


def _edit(components: list[Coefficients], found: list[Region], frame: Frame, mode: str) -> None:
    """Redacts the regions (in MCUs) in the coefficients of every component; those of one size together."""
    parts = regions.parts_of(found)
    mcus_wh = tuple(-(-side // unit) for side, unit in zip(frame.size_wh, frame.mcu_wh, strict=True))
    planes: dict[tuple[int, int], list[_Plane]] = {}
    for index, component in enumerate(components):
        scale = (1, 1) if len(components) == 1 else frame.sampling[index]
        table = np.array(frame.tables[frame.table_of[index]], np.float64)
        planes.setdefault(scale, []).append(_Plane(component.blocks, component.height, table, index == 0))
    for region in found:
        x0, y0, x1, y1 = around = regions.ring(region.bounds, (mcus_wh[0], mcus_wh[1]), _RING)
        free, cells = regions.outside(parts, around, region.bounds), regions.grid(region.bounds)
        for (h, v), alike in planes.items():
            rows, columns = slice(y0 * v, min(y1 * v, alike[0].height)), slice(x0 * h, x1 * h)
            means = np.concatenate([one.blocks[rows, columns, :1] * (one.table[0] / 8) for one in alike], axis=2)
            free_blocks = free.repeat(v, axis=0).repeat(h, axis=1)[: means.shape[0], : means.shape[1]]
            noisy = [channel for channel, one in enumerate(alike) if one.luma]
            paint = _paint(region, around, cells, means, free_blocks, (h, v), mode, noisy)
            _write(alike, region, paint, (h, v), mode)


class _Plane(NamedTuple):
    """A component: its coefficients int16 (rows, columns, 64), and its quantization table (64,) in zigzag order.

    `height` is how many rows of blocks show something.
    """

    blocks: NDArray[np.int16]
    height: int
    table: NDArray[np.float64]
    luma: bool


def _paint(
    region: Region,
    around: regions.Rectangle,
    cells: tuple[NDArray[np.int64], NDArray[np.int64]],
    means: NDArray[Any],
    free: NDArray[np.bool_],
    scale: tuple[int, int],
    mode: str,
    noisy: Sequence[int],
) -> Paint:
    """The paint of a region in components of one size, its values about 0; in pixels for a blur, else in blocks."""
    (h, v), (x0, y0, x1, y1), (across, down) = scale, region.bounds, cells
    if mode == "fill":
        values = np.zeros((len(down) - 1, len(across) - 1, means.shape[2]))
    else:
        inner = ((x0 - around[0]) * h, (y0 - around[1]) * v, (x1 - around[0]) * h, (y1 - around[1]) * v)
        values = regions.colors(means, free, inner, (across * h, down * v), 0.0)
    size = 8 if mode == "blur" else 1
    edges = (across * h * size, down * v * size)
    return Paint(values, edges, region.bounds, mode, _SPAN, () if mode == "fill" else noisy)


def _write(alike: Sequence[_Plane], region: Region, paint: Paint, scale: tuple[int, int], mode: str) -> None:
    """Paints the blocks of the region's parts, the rows past the image's height included."""
    (h, v), (left, above) = scale, region.bounds[:2]
    for x0, y0, x1, y1 in region.parts:
        first, last = y0 * v, min(y1 * v, len(alike[0].blocks))
        columns = slice((x0 - left) * h, min((x1 - left) * h, alike[0].blocks.shape[1] - left * h))
        band = _BAND if mode == "blur" else max(last - first, 1)
        for top in range(first, last, band):
            bottom, size = min(top + band, last), 8 if mode == "blur" else 1
            painted = paint.rows((top - above * v) * size, (bottom - above * v) * size)
            for channel, (blocks, _, table, _) in enumerate(alike):
                part = blocks[top:bottom, x0 * h : x1 * h]
                if mode == "blur":
                    part[:] = _quantized(painted[:, :, channel], table)[:, columns]
                else:
                    part[:] = 0
                    step = table[0]
                    part[:, :, 0] = np.clip(
                        np.round(painted[:, columns, channel] * (8 / step)), -1024 // step, 1023 // step
                    )


def _quantized(pixels: NDArray[np.float32], zigzag_table: NDArray[np.float64]) -> NDArray[np.int16]:
    """Pixels (8 R, 8 N) about 0 → quantized DCT coefficients int16 (R, N, 64) in row order."""
    factors = np.empty(64, np.float32)
    factors[_ZIGZAG] = 1 / zigzag_table
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    # The two-dimensional DCT as one matrix on 64 samples, of which a smooth image needs only single precision.
    samples = np.clip(pixels, -128, 127).reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 64)
    coefficients = samples @ (_DCT * factors[:, None]).T
    return np.rint(coefficients, out=coefficients).astype(np.int16).reshape(rows, columns, 64)


def _dct() -> NDArray[np.float32]:
    """The orthonormal DCT-II of 8 × 8 samples (T.81, A.3.3), float32 (64, 64): frequencies by samples."""
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    one = np.cos((2 * n + 1) * k * np.pi / 16) / 2 * np.where(k == 0, np.sqrt(0.5), 1)
    return np.kron(one, one).astype(np.float32)


_DCT = _dct()
