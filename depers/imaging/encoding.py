"""Arrays → image bytes: the image's own format, with its color profile and without any other metadata."""

import io
from typing import Any

import numpy as np
from PIL import Image, features

from depers.imaging import sixteen_bit
from depers.imaging.decoding import DecodedImage, Pixels
from depers.imaging.formats import jpeg_segments, jpeg_tables
from depers.imaging.headers import ImageError
from depers.imaging.metadata import exif


def encode(image: DecodedImage, pixels: Pixels, exif_tags: exif.Tags | None = None) -> bytes:
    """Return `pixels` (of the image's shape and dtype) in the image's own format, with its color profile only.

    `exif_tags` are to be written as well, where the format has room for them. JPEG keeps quantization
    tables and chroma subsampling. Raises ImageError.
    """
    block = exif.build(exif_tags or {})
    try:
        if image.format == "JPEG":
            tables, sampling = image.jpeg_tables or {}, image.jpeg_sampling
            data = jpeg_tables.encode(pixels, image.mode, tables, sampling)
            return jpeg_segments.rebuild(data, block, image.icc_profile)
        if image.mode in ("RGB;16", "RGBA;16"):
            if image.format == "TIFF":
                return sixteen_bit.encode_tiff([sixteen_bit.Page(pixels, image.mode, image.icc_profile)])
            return sixteen_bit.encode_png(pixels, image.icc_profile, block)
        pillow_image = to_pillow(image, pixels)
        options = choose_encoder_options(image.format, image.lossless)
        if image.icc_profile:
            options["icc_profile"] = image.icc_profile
        if block:
            options["exif"] = block
            if image.format == "TIFF":
                options["compression"] = None  # libtiff writes no directories within directories for Pillow
        if image.format == "BMP" and image.mode not in ("1", "P", "L", "RGB", "RGBA"):
            pillow_image = pillow_image.convert("RGB")
        buffer = io.BytesIO()
        pillow_image.save(buffer, image.format, **options)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {image.format} ({error})") from None
    return buffer.getvalue()


def choose_encoder_options(name: str, lossless: bool) -> dict[str, Any]:
    """Return how Pillow is to write a format."""
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 3},
        "WEBP": {"quality": 50 if lossless else 90, "lossless": lossless, "method": 2, "exact": True},
        "TIFF": {"compression": "tiff_deflate" if features.check("libtiff") else None},
        "AVIF": {"quality": 85, "speed": 9},
        "HEIF": {"quality": 80, "enc_params": {"preset": "ultrafast"}},  # the default is slower tenfold
    }
    return options.get(name, {})


def to_pillow(image: DecodedImage, pixels: Pixels) -> Image.Image:
    """Return the pixels as Pillow's image, with a palette of the colors that occur."""
    pixels = np.ascontiguousarray(pixels)
    size_wh = (pixels.shape[1], pixels.shape[0])
    if image.mode == "I;16":
        return Image.frombytes("I;16", size_wh, pixels.astype("<u2").tobytes())
    if image.mode == "1":
        return Image.fromarray(pixels * np.uint8(255), "L").convert("1", dither=Image.Dither.NONE)
    if image.palette is None:
        return Image.fromarray(pixels, image.mode)
    indices_in_use, indices = np.unique(pixels, return_inverse=True)
    pillow_image = Image.frombytes("P", size_wh, indices.astype(np.uint8).tobytes())
    pillow_image.putpalette(image.palette[indices_in_use, :3].tobytes())
    if image.palette.shape[1] == 4 and (alpha := image.palette[indices_in_use, 3]).min() < 255:
        pillow_image.info["transparency"] = int(alpha.argmin()) if image.format == "GIF" else alpha.tobytes()
    return pillow_image
