"""Arrays → image bytes: the image's own format, with its color profile and without any other metadata."""

import io
from typing import Any

import numpy as np
from PIL import Image, features

from depers.imaging import sixteen_bit
from depers.imaging.decoding import DecodedImage, ImageError, Pixels
from depers.imaging.formats import jpeg_segments, jpeg_tables
from depers.imaging.metadata import exif


def encode(image: DecodedImage, pixels: Pixels, kept: dict[int, dict[int, Any]] | None = None) -> bytes:
    """`pixels` (of the image's shape and dtype) in the image's own format, with its color profile only.

    `kept` are EXIF tags by directory to be written as well, where the format has room for them. JPEG
    keeps quantization tables and chroma subsampling. Raises ImageError.
    """
    block = exif.build(kept or {})
    try:
        if image.format == "JPEG":
            tables, sampling = image.jpeg_tables or {}, image.jpeg_sampling
            data = jpeg_tables.encode(pixels, image.mode, tables, sampling)
            return jpeg_segments.rebuilt(data, block, image.icc_profile)
        if image.mode in ("RGB;16", "RGBA;16"):
            if image.format == "TIFF":
                return sixteen_bit.tiff([sixteen_bit.Page(pixels, image.mode, image.icc_profile)])
            return sixteen_bit.png(pixels, image.icc_profile, block)
        pil_image = as_pil(image, pixels)
        options = encoder_options(image.format, image.lossless)
        if image.icc_profile:
            options["icc_profile"] = image.icc_profile
        if block:
            options["exif"] = block
            if image.format == "TIFF":
                options["compression"] = None  # libtiff writes no directories within directories for Pillow
        if image.format == "BMP" and image.mode not in ("1", "P", "L", "RGB", "RGBA"):
            pil_image = pil_image.convert("RGB")
        buffer = io.BytesIO()
        pil_image.save(buffer, image.format, **options)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {image.format} ({error})") from None
    return buffer.getvalue()


def encoder_options(name: str, lossless: bool) -> dict[str, Any]:
    """How Pillow is to write a format."""
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 3},
        "WEBP": {"quality": 50 if lossless else 90, "lossless": lossless, "method": 2, "exact": True},
        "TIFF": {"compression": "tiff_deflate" if features.check("libtiff") else None},
        "AVIF": {"quality": 85, "speed": 9},
        "HEIF": {"quality": 80, "enc_params": {"preset": "ultrafast"}},  # the default is slower tenfold
    }
    return options.get(name, {})


def as_pil(image: DecodedImage, pixels: Pixels) -> Image.Image:
    """The pixels as Pillow's image, with a palette of the colors that occur."""
    pixels = np.ascontiguousarray(pixels)
    size_wh = (pixels.shape[1], pixels.shape[0])
    if image.mode == "I;16":
        return Image.frombytes("I;16", size_wh, pixels.astype("<u2").tobytes())
    if image.mode == "1":
        return Image.fromarray(pixels * np.uint8(255), "L").convert("1", dither=Image.Dither.NONE)
    if image.palette is None:
        return Image.fromarray(pixels, image.mode)
    used, indices = np.unique(pixels, return_inverse=True)
    pil_image = Image.frombytes("P", size_wh, indices.astype(np.uint8).tobytes())
    pil_image.putpalette(image.palette[used, :3].tobytes())
    if image.palette.shape[1] == 4 and (alpha := image.palette[used, 3]).min() < 255:
        pil_image.info["transparency"] = int(alpha.argmin()) if image.format == "GIF" else alpha.tobytes()
    return pil_image
