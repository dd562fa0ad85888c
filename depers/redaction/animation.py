"""Files of several frames or pages, redacted frame by frame: GIF, WebP, PNG, TIFF, AVIF and HEIF."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging import sixteen_bit
from depers.imaging.decoding import DecodedImage, frames, keeps_pixels
from depers.imaging.encoding import as_pil, encoder_options
from depers.imaging.formats.isobmff import without_times
from depers.imaging.headers import ImageError, format_of, open_header
from depers.imaging.metadata import exif

RedactImage = Callable[[DecodedImage, NDArray[np.float32], str], DecodedImage]
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")


def redact(
    data: bytes,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    mode: str,
    kept: dict[int, dict[int, Any]],
    max_megapixels: float,
    redact_image: RedactImage,
) -> tuple[bytes, str, str, tuple[int, int], int]:
    """The file with each frame redacted by its boxes: bytes, method, format, size of the first frame, frames.

    Durations, loops and the color profile are kept. Raises ImageError.
    """
    header = open_header(data, max_megapixels)
    name = format_of(header)
    images = [
        redact_image(image, boxes, mode)
        for image, boxes in zip(frames(data, max_megapixels), boxes_xyxy_by_frame, strict=True)
    ]
    timing = _timing(header) | {"duration": [round(image.duration_ms) for image in images]}
    lossless = name != "GIF" and keeps_pixels(data, name)
    try:
        if name == "TIFF" and any(image.mode.endswith(";16") and image.pixels.ndim == 3 for image in images):
            written = sixteen_bit.tiff([_page(image) for image in images])
        else:
            written = _written(images, name, timing if name in _ANIMATED else {}, exif.build(kept), lossless)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {name} ({error})") from None
    return written, "lossless" if lossless else "re-encoded", name, images[0].size_wh, len(images)


def _timing(image: Image.Image) -> dict[str, Any]:
    """Loops, and whether the first frame is no part of the animation."""
    timing: dict[str, Any] = {"loop": image.info["loop"]} if "loop" in image.info else {}
    if getattr(image, "default_image", False) or image.info.get("default_image"):
        timing["default_image"] = True
    return timing


def _written(images: list[DecodedImage], name: str, timing: dict[str, Any], block: bytes, lossless: bool) -> bytes:
    options = encoder_options(name, lossless) | timing
    if images[0].icc_profile:
        options["icc_profile"] = images[0].icc_profile
    if block:
        options["exif"] = block
        if name == "TIFF":
            options["compression"] = None  # as in `encoding.encode`
    if name == "WEBP":
        options["minimize_size"] = False
    if name == "PNG":
        options |= {"disposal": 0, "blend": 0}
    if name == "GIF":
        options |= {"disposal": 2, "optimize": False}
    first, *others = _images(images, name)  # a list: some of Pillow's writers go through it twice
    buffer = io.BytesIO()
    first.save(buffer, name, save_all=True, append_images=others, **options)
    return without_times(buffer.getvalue()) if name in ("AVIF", "HEIF") else buffer.getvalue()


def _page(image: DecodedImage) -> sixteen_bit.Page:
    if image.palette is None:
        return sixteen_bit.Page(image.pixels, image.mode, image.icc_profile)
    colors = image.palette[image.pixels]
    return sixteen_bit.Page(colors, "RGB" if colors.shape[2] == 3 else "RGBA", image.icc_profile)


def _images(images: list[DecodedImage], name: str) -> Iterator[Image.Image]:
    for image in images:
        if name == "GIF" and image.palette is None:
            yield _with_palette(image)
        else:
            yield as_pil(image, image.pixels)


def _with_palette(image: DecodedImage) -> Image.Image:
    """A frame with a palette of its own: exact where 255 colors and transparency suffice."""
    rgba = as_pil(image, image.pixels).convert("RGBA")
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
