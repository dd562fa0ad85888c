"""Boxes + the bytes of an image → the bytes of a redacted image of the same format, without metadata."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from depers.imaging import sixteen_bit
from depers.imaging.decoding import DecodedImage, Pixels, decode
from depers.imaging.encoding import encode
from depers.imaging.formats import jpeg_segments, png
from depers.imaging.headers import MAX_MEGAPIXELS, ImageError, ImageHeader, open_image, read_header
from depers.imaging.metadata import exif, panorama
from depers.redaction import animation, lossless_jpeg
from depers.redaction.colors import MODES, color, plan_mosaics, take_samples
from depers.redaction.paint import Paint
from depers.redaction.regions import (
    Rectangle,
    Region,
    check_painted,
    find_regions,
    grow_bounds,
    mark_free,
    stack_parts,
)

_RING = 8  # pixels around a box that give it its colors
_LEAST_CELL = 4  # pixels, of what is inpainted
_BAND = 256  # rows painted at a time, which bounds the memory of a blur


class Redacted(NamedTuple):
    """A redacted file, and how it came about.

    `method` is "lossless" where nothing but the redacted regions was changed (in a JPEG the coefficients, elsewhere the
    pixels), "re-encoded" where the format has no such way, "re-encoded: REASON" where this file did not allow it.
    """

    data: bytes
    method: str
    format: str
    size_wh: tuple[int, int]
    frames: int


def redact_file(
    data: bytes,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    *,
    mode: str = "pixelate",
    keep_metadata: Sequence[str] = (),
    max_megapixels: float = MAX_MEGAPIXELS,
    header: ImageHeader | None = None,
    decoded: DecodedImage | None = None,
) -> Redacted:
    """Return the file anew: every box unrecognizable, and nothing in it but image, orientation and color profile.

    Boxes are float32 (N, 4) in pixels of the upright image, already grown by their margin, one array per frame or
    page; each must paint a pixel, and a file without boxes is rewritten all the same. `keep_metadata` names groups of
    `exif.GROUPS` to keep.
    `header` spares reading it again, `decoded` decoding an image again that is not redacted losslessly.
    Raises ImageError.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, but got {mode!r}")
    header = header or read_header(data, max_megapixels)
    if len(boxes_xyxy_by_frame) != len(header.pages):
        raise ImageError(f"holds {len(header.pages)} frames, but got boxes for {len(boxes_xyxy_by_frame)}")
    exif_tags = exif.read_tags(open_image(data), keep_metadata) if keep_metadata else {}
    result = _redact(data, header, boxes_xyxy_by_frame, mode, exif_tags, max_megapixels, decoded)
    if result.format == "JPEG" and exif.PANORAMA in keep_metadata and (packet := panorama.read(data)):
        return result._replace(data=jpeg_segments.insert_document(result.data, panorama.PREFIX + packet))
    if result.format == "PNG" and b"iCCP" not in result.data[:100]:  # a profile takes precedence
        chunks = png.copy_color_chunks(data)
        return result._replace(data=png.insert(result.data, chunks))
    return result


def _redact(
    data: bytes,
    header: ImageHeader,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    mode: str,
    exif_tags: exif.Tags,
    max_megapixels: float,
    decoded: DecodedImage | None,
) -> Redacted:
    """Redact a file by the way that its format allows."""
    count, name = len(boxes_xyxy_by_frame), header.format
    if count > 1:
        redacted, size_wh = animation.redact_frames(
            data, header, boxes_xyxy_by_frame, mode, exif_tags, max_megapixels, redact_image
        )
        return Redacted(redacted, _method(animation.keeps_pixels(header)), name, size_wh, count)
    method = _method(header.lossless)
    if name == "JPEG":
        check_painted(boxes_xyxy_by_frame[0], header.upright_wh)
        try:
            redacted = lossless_jpeg.redact_jpeg(data, header, boxes_xyxy_by_frame[0], mode, exif_tags)
            return Redacted(redacted, _method(True), name, header.upright_wh, 1)
        except lossless_jpeg.NotLosslessError as error:
            method = f"re-encoded: {error}"
    image = decoded or decode(data, max_megapixels, header)
    result = redact_image(image, boxes_xyxy_by_frame[0], mode)
    return Redacted(encode(result, result.pixels, exif_tags), method, name, image.size_wh, 1)


def _method(lossless: bool) -> str:
    return "lossless" if lossless else "re-encoded"


def redact_image(image: DecodedImage, boxes_xyxy: NDArray[np.float32], mode: str) -> DecodedImage:
    """Return the image with every box redacted, and without colors where it is fully transparent.

    Where its coding loses detail, what was under a box has left traces around it: there, boxes grow by its rim. Raise
    ImageError for a box that would paint nothing.
    """
    check_painted(boxes_xyxy, image.size_wh)
    boxes_xyxy = boxes_xyxy + np.array([-1, -1, 1, 1], np.float32) * image.rim
    if image.mode == "P":
        image = _remove_colors_of_boxes(image, boxes_xyxy)
    palette, pixels = image.palette, redact_pixels(image.pixels, boxes_xyxy, mode, image.palette, image.mode)
    if palette is not None and palette.shape[1] == 4:
        palette = palette * (palette[:, 3:] > 0)
    elif image.mode in ("LA", "RGBA", "RGBA;16") and not pixels[..., -1].all():
        pixels[pixels[..., -1] == 0] = 0
    return replace(image, pixels=pixels, palette=palette)


def _remove_colors_of_boxes(image: DecodedImage, boxes_xyxy: NDArray[np.float32]) -> DecodedImage:
    """Return a palette image whose palette holds only what occurs outside the boxes; inside, any of it."""
    assert image.palette is not None
    pixels, outside = image.pixels.copy(), np.ones(image.pixels.shape, bool)
    for region in find_regions(boxes_xyxy, image.size_wh):
        for x0, y0, x1, y1 in region.parts:
            outside[y0:y1, x0:x1] = False
    used_indices = np.unique(pixels[outside])
    if not len(used_indices):
        gray = np.full((1, image.palette.shape[1]), [128, 128, 128, 255][: image.palette.shape[1]], np.uint8)
        return replace(image, pixels=np.zeros_like(pixels), palette=gray)
    pixels[~outside] = used_indices[0]
    pixels = np.searchsorted(used_indices, pixels).astype(np.uint8)
    return replace(image, pixels=pixels, palette=image.palette[used_indices])


def redact_pixels(
    pixels: Pixels,
    boxes_xyxy: NDArray[np.float32],
    mode: str = "pixelate",
    palette: NDArray[np.uint8] | None = None,
    pixel_mode: str = "",
) -> Pixels:
    """Return a copy of `pixels` (H, W) or (H, W, C), uint8 or uint16, of whose boxes nothing is left.

    `pixelate` replaces each box by at most 6 cells across in the colors around it, `blur` by the same interpolated
    smoothly, `fill` by mid gray, `inpaint` boxes that overlap, as one, by a smooth surface between what is around them.
    `pixels` may be indices into a `palette` (N, 3 or 4).
    """
    redacted = pixels.copy()
    size_wh = (pixels.shape[1], pixels.shape[0])
    regions = find_regions(boxes_xyxy, size_wh)
    parts = stack_parts(regions)
    span = _measure_span(pixels, parts) if regions else 0
    for region in regions:
        for (x0, y0, x1, y1), paint in _paint(pixels, parts, region, mode, span, palette, pixel_mode):
            for top in range(y0, y1, _BAND):
                bottom = min(y1, top + _BAND)
                redacted[top:bottom, x0:x1] = _to_pixels(paint.block(x0, top, x1, bottom), pixels, palette)
    return redacted


def _measure_span(pixels: Pixels, parts: NDArray[np.int64]) -> float:
    """Return the range of values that paint may have: that of the pixels outside the `parts`, in whole bits.

    Of 16 bits an image may use 10: in paint over all of them, those would be lost to whoever looks at it again.
    """
    top = int(np.iinfo(pixels.dtype).max)
    if pixels.dtype != np.uint16:
        return top
    outside = np.ones(pixels.shape[:2], bool)
    for x0, y0, x1, y1 in parts.tolist():
        outside[y0:y1, x0:x1] = False
    values = pixels[..., :3][outside] if pixels.ndim == 3 else pixels[outside]
    return (1 << max(8, sixteen_bit.find_range(values)[1].bit_length())) - 1 if len(values) else top


def _paint(
    pixels: Pixels,
    parts: NDArray[np.int64],
    region: Region,
    mode: str,
    span: float,
    palette: NDArray[np.uint8] | None,
    pixel_mode: str,
) -> Iterator[tuple[Rectangle, Paint]]:
    """Yield the boxes of a region and their paint, its colors taken from the pixels around."""
    x0, y0, x1, y1 = window = grow_bounds(region.bounds, (pixels.shape[1], pixels.shape[0]), _RING)
    patch = pixels[y0:y1, x0:x1]
    patch = patch[:, :, None] if patch.ndim == 2 else patch
    span, top = (255.0, 255.0) if palette is not None else (float(span), float(np.iinfo(pixels.dtype).max))
    channels = patch.shape[2] if palette is None else palette.shape[1]
    opacity = channels in (2, 4) and pixel_mode != "CMYK"
    mosaics = plan_mosaics(region, mode, _LEAST_CELL)
    if mode == "fill":
        gray = np.full(channels, (span + 1) / 2)
        if opacity or pixel_mode == "CMYK":
            gray[-1] = top if opacity else 0
        for mosaic in mosaics:
            yield mosaic.bounds, Paint(np.tile(gray, mosaic.shape + (1,)), mosaic, mode, span, ())
        return
    free = mark_free(parts, window)
    if opacity:
        visible = free & (patch[:, :, -1] > 0 if palette is None else (palette[:, -1] > 0)[patch[:, :, 0]])
        free = visible if visible.any() else free
    samples = take_samples(patch, free, (x0, y0), mosaics, (_RING, _RING), palette)
    noisy = range(channels - 1) if opacity else range(channels)
    for mosaic in mosaics:
        values = color(mosaic, samples, mode, span / 2)
        if opacity and values[:, :, -1].any():
            values[:, :, -1] = top  # an interpolated opacity would look like an outline
        paint = Paint(values, mosaic, mode, span, noisy)
        for part in mosaic.parts:
            yield part, paint


def _to_pixels(band: NDArray[np.float32], pixels: Pixels, palette: NDArray[np.uint8] | None) -> Pixels:
    """Return painted colors (H, W, C) in the form of the image's `pixels`."""
    if palette is not None:
        return _nearest(band, palette)
    values = np.clip(np.round(band), 0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return values if pixels.ndim == 3 else values[:, :, 0]


def _nearest(colors: NDArray[np.float32], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the index of the nearest palette entry for each color (H, W, C)."""
    distinct, positions = np.unique(np.round(colors).reshape(-1, colors.shape[2]), axis=0, return_inverse=True)
    squares = ((distinct[:, None] - palette[None].astype(np.float32)) ** 2).sum(axis=2)
    return np.asarray(squares.argmin(axis=1).astype(np.uint8)[positions].reshape(colors.shape[:2]))
