"""Files of several frames or pages, redacted frame by frame: GIF, WebP, PNG, TIFF, AVIF and HEIF."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depers.imaging import sixteen_bit as deep
from depers.imaging.decoding import Picture, frames, keeps_pixels
from depers.imaging.encoding import as_image, encoder_options
from depers.imaging.formats.isobmff import without_times
from depers.imaging.headers import ImageError, format_of, open_header
from depers.imaging.metadata import exif

RedactPicture = Callable[[Picture, NDArray[np.float32], str], Picture]
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")


def redact(
    data: bytes,
    boxes_xyxy_by_frame: Sequence[NDArray[np.float32]],
    mode: str,
    kept: dict[int, dict[int, Any]],
    max_megapixels: float,
    redact_picture: RedactPicture,
) -> tuple[bytes, str, str, tuple[int, int], int]:
    """The file with each frame redacted by its boxes: bytes, method, format, size of the first frame, frames.

    Durations, loops and the colour profile are kept. Raises ImageError.
    """
    image = open_header(data, max_megapixels)
    name = format_of(image)
    pictures = [
        redact_picture(picture, boxes, mode)
        for picture, boxes in zip(frames(data, max_megapixels), boxes_xyxy_by_frame, strict=True)
    ]
    timing = _timing(image) | {"duration": [round(picture.duration_ms) for picture in pictures]}
    lossless = name != "GIF" and keeps_pixels(data, name)
    try:
        if name == "TIFF" and any(picture.mode.endswith(";16") and picture.pixels.ndim == 3 for picture in pictures):
            written = deep.tiff([_page(picture) for picture in pictures])
        else:
            written = _written(pictures, name, timing if name in _ANIMATED else {}, exif.build(kept), lossless)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {name} ({error})") from None
    return written, "lossless" if lossless else "re-encoded", name, pictures[0].size_wh, len(pictures)


def _timing(image: Image.Image) -> dict[str, Any]:
    """Loops, and whether the first frame is no part of the animation."""
    timing: dict[str, Any] = {"loop": image.info["loop"]} if "loop" in image.info else {}
    if getattr(image, "default_image", False) or image.info.get("default_image"):
        timing["default_image"] = True
    return timing


def _written(pictures: list[Picture], name: str, timing: dict[str, Any], block: bytes, lossless: bool) -> bytes:
    options = encoder_options(name, lossless) | timing
    if pictures[0].icc_profile:
        options["icc_profile"] = pictures[0].icc_profile
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
    first, *others = _images(pictures, name)  # a list: some of Pillow's writers go through it twice
    buffer = io.BytesIO()
    first.save(buffer, name, save_all=True, append_images=others, **options)
    return without_times(buffer.getvalue()) if name in ("AVIF", "HEIF") else buffer.getvalue()


def _page(picture: Picture) -> deep.Page:
    if picture.palette is None:
        return deep.Page(picture.pixels, picture.mode, picture.icc_profile)
    colours = picture.palette[picture.pixels]
    return deep.Page(colours, "RGB" if colours.shape[2] == 3 else "RGBA", picture.icc_profile)


def _images(pictures: list[Picture], name: str) -> Iterator[Image.Image]:
    for picture in pictures:
        if name == "GIF" and picture.palette is None:
            yield _with_palette(picture)
        else:
            yield as_image(picture, picture.pixels)


def _with_palette(picture: Picture) -> Image.Image:
    """A frame with a palette of its own: exact where 255 colours and transparency suffice."""
    image = as_image(picture, picture.pixels).convert("RGBA")
    pixels = np.ascontiguousarray(image)
    opaque = pixels[..., 3] >= 128
    packed = np.where(opaque, pixels[..., :3].astype(np.uint32) @ np.array([65536, 256, 1], np.uint32), 0xFFFFFFFF)
    colours, indices = np.unique(packed, return_inverse=True)
    if len(colours) <= 256:
        palette = np.stack([colours >> 16 & 255, colours >> 8 & 255, colours & 255], axis=1).astype(np.uint8)
        reduced = Image.frombytes("P", image.size, indices.astype(np.uint8).tobytes())
        reduced.putpalette(palette.tobytes())
        if colours[-1] == 0xFFFFFFFF:
            reduced.info["transparency"] = len(colours) - 1
        return reduced
    reduced = image.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    if not opaque.all():
        indices = np.where(opaque, np.asarray(reduced), 255).astype(np.uint8)
        palette_bytes = (reduced.getpalette("RGB") or [])[: 255 * 3]
        reduced = Image.frombytes("P", image.size, indices.tobytes())
        reduced.putpalette(palette_bytes + [0] * (768 - len(palette_bytes)))
        reduced.info["transparency"] = 255
    return reduced
