"""Redaction inside a JPEG: only the coefficients of the touched MCUs change, all others stay as they are.

A redacted block is made from its region's paint: the colors are those of the blocks around the region, whose means are
their DC coefficients, so nothing needs to be decoded.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.imaging.formats import jpeg_segments, turbojpeg
from depers.imaging.formats.jpeg_segments import FrameHeader
from depers.imaging.formats.turbojpeg import Coefficients
from depers.imaging.headers import ImageHeader, turn_boxes_back
from depers.imaging.metadata import exif
from depers.redaction.colors import Mosaic, Samples, color, plan_mosaics, take_samples
from depers.redaction.paint import SMOOTH, Paint
from depers.redaction.regions import Rectangle, Region, find_regions, grow_bounds, mark_free, stack_parts

_SPAN = 255.0
_HUFFMAN = {0xC0: "baseline", 0xC1: "sequential", 0xC2: "progressive"}
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_ZIGZAG = np.array(sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8))))
_BAND = 16  # rows of blocks painted at a time
_RING = 1  # MCUs around a box that give it its colors


class NotLosslessError(Exception):
    """Why this JPEG cannot be redacted without encoding it again, in a few words."""


def redact_jpeg(
    data: bytes, header: ImageHeader, boxes_xyxy: NDArray[np.float32], mode: str, exif_tags: exif.Tags
) -> bytes:
    """Return the JPEG with the boxes (upright pixels) redacted, and with the EXIF tags `exif_tags`.

    Orientation tag, color profile and kind of coding are kept, restart markers are not. Raises NotLosslessError.
    """
    try:
        frame = jpeg_segments.read_frame_header(data)
    except ValueError as error:
        raise NotLosslessError(f"it {error}") from None
    if frame.marker in _ARITHMETIC:
        raise NotLosslessError("arithmetic coding")
    if frame.marker not in _HUFFMAN or frame.precision != 8:
        raise NotLosslessError(f"coding 0x{frame.marker:02X} with {frame.precision} bits")
    if len(frame.sampling) not in (1, 3, 4) or frame.size_wh != header.size_wh:
        raise NotLosslessError(f"{len(frame.sampling)} components of {frame.size_wh}")
    stored_boxes_xyxy = turn_boxes_back(boxes_xyxy, header.upright_wh, header.orientation)
    touched_regions = find_regions(stored_boxes_xyxy, frame.size_wh, frame.mcu_wh)
    try:
        transformed = turbojpeg.transform(
            data,
            partial(_edit, touched_regions=touched_regions, frame=frame, mode=mode),
            [v for _, v in frame.sampling],
            progressive=frame.marker == 0xC2,
            optimize=not frame.standard_codes,
        )
        return jpeg_segments.rebuild(transformed, exif.build(exif_tags, header.orientation), header.icc_profile)
    except turbojpeg.TransformError as error:
        raise NotLosslessError(str(error)) from None
    except ValueError as error:
        raise NotLosslessError(f"it {error}") from None


def _edit(components: list[Coefficients], touched_regions: list[Region], frame: FrameHeader, mode: str) -> None:
    """Redact the regions (in MCUs) in the coefficients of every component; those of one size together."""
    parts = stack_parts(touched_regions)
    mcus_wh = tuple(-(-side // unit) for side, unit in zip(frame.size_wh, frame.mcu_wh, strict=True))
    planes: dict[tuple[int, int], list[_CoefficientPlane]] = {}
    for index, component in enumerate(components):
        scale = (1, 1) if len(components) == 1 else frame.sampling[index]
        table = np.array(frame.tables[frame.table_of[index]], np.float64)
        planes.setdefault(scale, []).append(_CoefficientPlane(component.blocks, component.height, table, index == 0))
    for region in touched_regions:
        window = grow_bounds(region.bounds, (mcus_wh[0], mcus_wh[1]), _RING)
        free, mosaics = mark_free(parts, window), plan_mosaics(region, mode, 1)
        for scale, group in planes.items():
            scaled = [mosaic.scale(*scale) for mosaic in mosaics]
            samples = None if mode == "fill" else _take_samples(group, free, window, scaled, scale)
            for mosaic in scaled:
                values = color(mosaic, samples, mode, 0.0) if samples else np.zeros((*mosaic.shape, len(group)))
                _write(group, mosaic, values, mode)


class _CoefficientPlane(NamedTuple):
    """A component: its coefficients int16 (rows, columns, 64), and its quantization table (64,) in zigzag order.

    `height` is how many rows of blocks show something.
    """

    blocks: NDArray[np.int16]
    height: int
    table: NDArray[np.float64]
    luma: bool


def _take_samples(
    group: Sequence[_CoefficientPlane],
    free: NDArray[np.bool_],
    window: Rectangle,
    mosaics: Sequence[Mosaic],
    scale: tuple[int, int],
) -> Samples:
    """Return samples of the blocks around the mosaics; the window and which of its units are `free` are in MCUs."""
    (h, v), (x0, y0, x1, y1) = scale, window
    rows, columns = slice(y0 * v, min(y1 * v, group[0].height)), slice(x0 * h, x1 * h)
    means = np.concatenate([plane.blocks[rows, columns, :1] * (plane.table[0] / 8) for plane in group], axis=2)
    free_blocks = free.repeat(v, axis=0).repeat(h, axis=1)[: means.shape[0], : means.shape[1]]
    return take_samples(means, free_blocks, (x0 * h, y0 * v), mosaics, (_RING * h, _RING * v))


def _write(group: Sequence[_CoefficientPlane], mosaic: Mosaic, values: NDArray[np.float64], mode: str) -> None:
    """Paint the blocks of the mosaic' parts, the rows past the image's height included.

    Paint is in pixels where it is smooth, else in blocks, about 0.
    """
    size = 8 if mode in SMOOTH else 1
    noisy = [] if mode == "fill" else [channel for channel, plane in enumerate(group) if plane.luma]
    paint = Paint(values, mosaic, mode, _SPAN, noisy, size)
    high, wide = group[0].blocks.shape[:2]
    for x0, y0, x1, y1 in mosaic.parts:
        right, last = min(x1, wide), min(y1, high)
        for top in range(y0, last, _BAND if mode in SMOOTH else max(last - y0, 1)):
            bottom = min(top + _BAND, last) if mode in SMOOTH else last
            painted = paint.block(x0 * size, top * size, right * size, bottom * size)
            for channel, (blocks, _, table, _) in enumerate(group):
                part = blocks[top:bottom, x0:right]
                if mode in SMOOTH:
                    part[:] = _quantized(painted[:, :, channel], table)
                else:
                    part[:] = 0
                    step = table[0]
                    part[:, :, 0] = np.clip(np.round(painted[:, :, channel] * (8 / step)), -1024 // step, 1023 // step)


def _quantized(pixels: NDArray[np.float32], zigzag_table: NDArray[np.float64]) -> NDArray[np.int16]:
    """Return the quantized DCT coefficients, int16 (R, N, 64) in row order, of pixels (8 R, 8 N) about 0."""
    factors = np.empty(64, np.float32)
    factors[_ZIGZAG] = 1 / zigzag_table
    rows, columns = pixels.shape[0] // 8, pixels.shape[1] // 8
    # The two-dimensional DCT as one matrix on 64 samples, of which a smooth image needs only single precision.
    samples = np.clip(pixels, -128, 127).reshape(rows, 8, columns, 8).swapaxes(1, 2).reshape(-1, 64)
    coefficients = samples @ (_DCT * factors[:, None]).T
    return np.rint(coefficients, out=coefficients).astype(np.int16).reshape(rows, columns, 64)


def _dct() -> NDArray[np.float32]:
    """Return the orthonormal DCT-II of 8 × 8 samples (T.81, A.3.3), float32 (64, 64): frequencies by samples."""
    k, n = np.arange(8)[:, None], np.arange(8)[None]
    basis = np.cos((2 * n + 1) * k * np.pi / 16) / 2 * np.where(k == 0, np.sqrt(0.5), 1)
    return np.kron(basis, basis).astype(np.float32)


_DCT = _dct()
