"""Arrays → image bytes: the picture's own format, with its colour profile and without any other metadata."""

import io
from typing import Any

import numpy as np
from PIL import Image, features

from depers.imaging import sixteen_bit as deep
from depers.imaging.decoding import ImageError, Picture, Pixels
from depers.imaging.formats import jpeg_segments
from depers.imaging.formats import jpeg_tables as jpeg_encoding
from depers.imaging.metadata import exif


def encode(picture: Picture, pixels: Pixels, kept: dict[int, dict[int, Any]] | None = None) -> bytes:
    """`pixels` (of the picture's shape and dtype) in the picture's own format, with its colour profile only.

    `kept` are EXIF tags by directory to be written as well, where the format has room for them. JPEG
    keeps quantization tables and chroma subsampling. Raises ImageError.
    """
    block = exif.build(kept or {})
    try:
        if picture.format == "JPEG":
            tables, sampling = picture.jpeg_tables or {}, picture.jpeg_sampling
            data = jpeg_encoding.encode(pixels, picture.mode, tables, sampling)
            return jpeg_segments.rebuilt(data, block, picture.icc_profile)
        if picture.mode in ("RGB;16", "RGBA;16"):
            if picture.format == "TIFF":
                return deep.tiff([deep.Page(pixels, picture.mode, picture.icc_profile)])
            return deep.png(pixels, picture.icc_profile, block)
        image = as_image(picture, pixels)
        options = encoder_options(picture.format, picture.lossless)
        if picture.icc_profile:
            options["icc_profile"] = picture.icc_profile
        if block:
            options["exif"] = block
            if picture.format == "TIFF":
                options["compression"] = None  # libtiff writes no directories within directories for Pillow
        if picture.format == "BMP" and picture.mode not in ("1", "P", "L", "RGB", "RGBA"):
            image = image.convert("RGB")
        buffer = io.BytesIO()
        image.save(buffer, picture.format, **options)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot be written as {picture.format} ({error})") from None
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


def as_image(picture: Picture, pixels: Pixels) -> Image.Image:
    """The pixels as Pillow's image, with a palette of the colours that occur."""
    pixels = np.ascontiguousarray(pixels)
    size_wh = (pixels.shape[1], pixels.shape[0])
    if picture.mode == "I;16":
        return Image.frombytes("I;16", size_wh, pixels.astype("<u2").tobytes())
    if picture.mode == "1":
        return Image.fromarray(pixels * np.uint8(255), "L").convert("1", dither=Image.Dither.NONE)
    if picture.palette is None:
        return Image.fromarray(pixels, picture.mode)
    used, indices = np.unique(pixels, return_inverse=True)
    image = Image.frombytes("P", size_wh, indices.astype(np.uint8).tobytes())
    image.putpalette(picture.palette[used, :3].tobytes())
    if picture.palette.shape[1] == 4 and (alpha := picture.palette[used, 3]).min() < 255:
        image.info["transparency"] = int(alpha.argmin()) if picture.format == "GIF" else alpha.tobytes()
    return image
