"""Files of several frames or pages, redacted frame by frame: GIF, WebP, PNG, TIFF, AVIF and HEIF."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging import sixteen_bit
from depers.imaging.decoding import DecodedImage, decode_pages
from depers.imaging.encoding import choose_encoder_options, to_pillow
from depers.imaging.formats.isobmff import remove_times
from depers.imaging.headers import ImageError, ImageHeader
from depers.imaging.metadata import exif

RedactImage = Callable[[DecodedImage, NDArray[np.float32], str], DecodedImage]
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")


def redact_frames(
    data: bytes,
    header: ImageHeader,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    mode: str,
    exif_tags: exif.Tags,
    max_megapixels: float,
    redact_image: RedactImage,
) -> tuple[bytes, tuple[int, int]]:
    """Return the file with each frame redacted by its boxes, and the size of the first frame.

    Durations, loops and the color profile are kept. Raises ImageError.
    """
    images = [
        redact_image(image, boxes, mode)
        for image, boxes in zip(decode_pages(data, max_megapixels, header), boxes_xyxy_by_frame, strict=True)
    ]
    name = header.format
    try:
        if name == "TIFF" and any(image.mode.endswith(";16") and image.pixels.ndim == 3 for image in images):
            redacted = sixteen_bit.encode_tiff([_page(image) for image in images])
        else:
            redacted = _encode(images, header, exif.build(exif_tags))
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {name} ({error})") from None
    return redacted, images[0].size_wh


def keeps_pixels(header: ImageHeader) -> bool:
    """Return whether a file of several frames is written without loss: those of a GIF get palettes of their own."""
    return header.lossless and header.format != "GIF"


def _timing(header: ImageHeader, images: list[DecodedImage]) -> dict[str, Any]:
    """Return the durations, the loops, and whether the first frame is no part of the animation, for Pillow."""
    timing: dict[str, Any] = {"duration": [round(image.duration_ms) for image in images]}
    if header.loop is not None:
        timing["loop"] = header.loop
    if header.default_image:
        timing["default_image"] = True
    return timing


def _encode(images: list[DecodedImage], header: ImageHeader, exif_block: bytes) -> bytes:
    name = header.format
    options = choose_encoder_options(name, keeps_pixels(header))
    if name in _ANIMATED:
        options |= _timing(header, images)
    if images[0].icc_profile:
        options["icc_profile"] = images[0].icc_profile
    if exif_block:
        options["exif"] = exif_block
        if name == "TIFF":
            options["compression"] = None  # as in `encoding.encode`
    if name == "WEBP":
        options["minimize_size"] = False
    if name == "HEIF":
        options["primary_index"] = header.pages.index(header.primary)
    if name == "PNG":
        options |= {"disposal": 0, "blend": 0}
    if name == "GIF":
        options |= {"disposal": 2, "optimize": False}
    first, *further = _to_pillow(images, name)  # a list: some of Pillow's writers go through it twice
    buffer = io.BytesIO()
    first.save(buffer, name, save_all=True, append_images=further, **options)
    return remove_times(buffer.getvalue()) if name in ("AVIF", "HEIF") else buffer.getvalue()


def _page(image: DecodedImage) -> sixteen_bit.Page:
    if image.palette is None:
        return sixteen_bit.Page(image.pixels, image.mode, image.icc_profile)
    colors = image.palette[image.pixels]
    return sixteen_bit.Page(colors, "RGB" if colors.shape[2] == 3 else "RGBA", image.icc_profile)


def _to_pillow(images: list[DecodedImage], name: str) -> Iterator[Image.Image]:
    for image in images:
        if name == "GIF" and image.palette is None:
            yield _add_palette(image)
        else:
            yield to_pillow(image, image.pixels)


def _add_palette(image: DecodedImage) -> Image.Image:
    """Return a frame with a palette of its own: exact where 255 colors and transparency suffice."""
    rgba = to_pillow(image, image.pixels).convert("RGBA")
    pixels = np.ascontiguousarray(rgba)
    opaque = pixels[..., 3] >= 128
    packed = np.where(opaque, pixels[..., :3].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32), 0xFFFFFFFF)
    colors, indices = np.unique(packed, return_inverse=True)
    if len(colors) <= 256:
        palette = np.stack([colors >> 16 & 255, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8)
        reduced = Image.frombytes("P", rgba.size, indices.astype(np.uint8).tobytes())
        reduced.putpalette(palette.tobytes())
        if colors[-1] == 0xFFFFFFFF:
            reduced.info["transparency"] = len(colors) - 1
        return reduced
    reduced = rgba.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    if not opaque.all():
        indices = np.where(opaque, np.asarray(reduced), 255).astype(np.uint8)
        palette_bytes = (reduced.getpalette("RGB") or [])[: 255 * 3]
        reduced = Image.frombytes("P", rgba.size, indices.tobytes())
        reduced.putpalette(palette_bytes + [0] * (768 - len(palette_bytes)))
        reduced.info["transparency"] = 255
    return reduced
