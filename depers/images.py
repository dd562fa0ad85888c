"""Image bytes ↔ arrays: upright pixels in, the same format without metadata out.

Orientation is applied to the pixels, so the picture looks the same without its EXIF; the colour profile is kept, all
other metadata is left behind. What cannot be decoded whole is an ImageError, never a best effort.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, JpegImagePlugin, features

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
MAX_MEGAPIXELS = 80
Pixels = NDArray[Any]
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16")
_ORIENTATION = 0x0112


# Our own limit is checked on every header; Pillow's would only warn, as it does of oddities in metadata.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """Why a picture cannot be processed, in one line."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture: upright `pixels` (H, W) or (H, W, C), uint8 or uint16, in Pillow's `mode` channel order."""

    pixels: Pixels
    mode: str
    format: str
    icc_profile: bytes | None
    jpeg_tables: dict[int, list[int]] | None
    jpeg_sampling: str

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def rgb(self) -> NDArray[np.uint8]:
        """The picture as uint8 RGB (H, W, 3), transparency on white: what the detector sees."""
        if self.mode == "RGB":
            return self.pixels
        if self.mode == "I;16":
            gray = (self.pixels >> 8).astype(np.uint8)
            return np.repeat(gray[:, :, None], 3, axis=2)
        image = Image.fromarray(self.pixels, self.mode)
        if self.mode in ("LA", "RGBA"):
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return np.asarray(image.convert("RGB"))


def open_header(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Image.Image:
    """The picture's header, checked, its pixels not yet decoded. Raises ImageError."""
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
        frames = getattr(image, "n_frames", 1)
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them raise
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise ImageError(f"not an image that can be identified ({reason})") from None
    name = "JPEG" if image.format == "MPO" else image.format  # a JPEG with further pictures behind it: the first counts
    if name not in FORMATS:
        raise ImageError(f"format must be one of {', '.join(FORMATS)}, but is {image.format}")
    if frames > 1 and name != "JPEG":
        raise ImageError(f"must hold one frame, but holds {frames}")
    if image.width * image.height > max_megapixels * 1e6:
        size = f"{image.width}x{image.height}"
        raise ImageError(f"must have at most {max_megapixels:g} megapixels, but declares {size}")
    return image


def decode(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """The whole picture, upright. Raises ImageError where it is not an allowed image or not whole."""
    image = open_header(data, max_megapixels)
    try:
        return _decode_jpeg(data, image) if image.format in ("JPEG", "MPO") else _decode_other(image)
    except ImageError:
        raise
    except Exception as error:  # as above
        raise ImageError(f"cannot be decoded ({type(error).__name__}: {error})") from None


def _decode_other(image: Image.Image) -> Picture:
    transparent = "transparency" in image.info
    simpler = {"1": "L", "P": "RGBA" if transparent else "RGB", "PA": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}
    mode = simpler.get(image.mode, image.mode)
    if transparent and mode in ("L", "RGB"):  # one colour means transparent, which no pixel could say afterwards
        mode += "A"
    if mode not in _MODES:
        raise ImageError(f"pixel mode must be one of {', '.join(_MODES)}, but is {image.mode}")
    pixels = np.asarray(_loaded(image, mode))
    return Picture(_upright(pixels, orientation_of(image)), mode, str(image.format), _profile(image), None, "")


def _loaded(image: Image.Image, mode: str) -> Image.Image:
    """The decoded image, converted; a truncated file is an error."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        image.load()
        return image if image.mode == mode else image.convert(mode)
    except MemoryError:
        raise ImageError("too large for this machine's memory") from None
    except Exception as error:
        raise ImageError(f"cannot be decoded ({str(error) or type(error).__name__})") from None


def _decode_jpeg(data: bytes, image: Any) -> Picture:
    sampling = JpegImagePlugin.get_sampling(image)
    sampling_name = {0: "444", 1: "422", 2: "420"}.get(sampling, "444")
    mode = image.mode
    tables = {key: list(table) for key, table in image.quantization.items()}
    orientation, profile = orientation_of(image), _profile(image)
    if mode in ("RGB", "L"):
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", strict=True)
        except ValueError:  # also libjpeg's mere warnings: Pillow decodes those, and refuses what is not whole
            pixels = np.asarray(_loaded(image, mode))
        pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    elif mode == "CMYK":
        pixels = np.asarray(_loaded(image, mode))
    else:
        raise ImageError(f"pixel mode must be one of L, RGB, CMYK, but is {mode}")
    return Picture(_upright(pixels, orientation), mode, "JPEG", profile, tables, sampling_name)


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1…8; 1 where there is none or where it cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF: viewers ignore it too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Applies an EXIF orientation (TIFF 6.0, tag 274) to the pixels."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _profile(image: Image.Image) -> bytes | None:
    """The colour profile where it is one, and belongs to pixels of this kind."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except Exception:
        return None
    return bytes(profile)


def encode(picture: Picture, pixels: Pixels) -> bytes:
    """`pixels` (of the picture's shape and dtype) in the picture's own format, with its colour profile only.

    JPEG keeps quantization tables and chroma subsampling; WebP is written lossless where its source was.
    """
    if picture.format == "JPEG":
        return _encode_jpeg(picture, pixels)
    image = _as_image(pixels, picture.mode)
    options: dict[str, Any] = {"icc_profile": picture.icc_profile} if picture.icc_profile else {}
    if picture.format == "PNG":
        options["compress_level"] = 3
    elif picture.format == "WEBP":
        options |= {"quality": 90, "method": 2, "exact": True}
    elif picture.format == "TIFF":
        options["compression"] = "tiff_deflate" if features.check("libtiff") else None
    elif picture.format == "BMP" and picture.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    try:
        image.save(buffer, picture.format, **options)
    except Exception as error:
        raise ImageError(f"cannot be written as {picture.format} ({error})") from None
    return buffer.getvalue()


def _as_image(pixels: Pixels, mode: str) -> Image.Image:
    pixels = np.ascontiguousarray(pixels)
    if mode == "I;16":
        return Image.frombytes("I;16", (pixels.shape[1], pixels.shape[0]), pixels.astype("<u2").tobytes())
    return Image.fromarray(pixels, mode)


def _encode_jpeg(picture: Picture, pixels: Pixels) -> bytes:
    quality = standard_quality(picture.jpeg_tables or {})
    if quality is None or picture.mode == "CMYK":
        buffer = io.BytesIO()
        options: dict[str, Any] = {"icc_profile": picture.icc_profile} if picture.icc_profile else {}
        if picture.mode != "L":
            options["subsampling"] = {"444": 0, "422": 1, "420": 2}[picture.jpeg_sampling]
        tables = picture.jpeg_tables or {}
        _as_image(pixels, picture.mode).save(buffer, "JPEG", qtables=[tables[k] for k in sorted(tables)], **options)
        return buffer.getvalue()
    if picture.mode == "L":
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels)[:, :, None], quality, "GRAY", "Gray")
    else:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", picture.jpeg_sampling)
    return _with_profile(data, picture.icc_profile)


def _with_profile(jpeg: bytes, profile: bytes | None) -> bytes:
    """Puts an ICC profile into a JPEG as APP2 segments, after its first segment (ICC.1:2010, annex B.4)."""
    if not profile:
        return jpeg
    chunk = 65519
    parts = [profile[i : i + chunk] for i in range(0, len(profile), chunk)]
    if len(parts) > 255:
        raise ImageError(f"colour profile must have at most {255 * chunk} bytes, but has {len(profile)}")
    segments = b"".join(
        b"\xff\xe2" + struct.pack(">H", len(part) + 16) + b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        for number, part in enumerate(parts, 1)
    )
    has_jfif = jpeg[2:4] == b"\xff\xe0"  # JFIF's APP0 must stay the first
    first = 4 + struct.unpack(">H", jpeg[4:6])[0] if has_jfif else 2
    return jpeg[:first] + segments + jpeg[first:]


def standard_quality(tables: dict[int, list[int]]) -> int | None:
    """The libjpeg quality (1…100) whose tables these are (row order, as Pillow gives them), or None."""
    key = tuple(tuple(tables[index]) for index in sorted(tables))
    return _standard_tables().get(key)


@lru_cache(maxsize=1)
def _standard_tables() -> dict[tuple[tuple[int, ...], ...], int]:
    """Tables of every libjpeg quality, for gray and colour files (ITU-T T.81 annex K, scaled as libjpeg does)."""
    pixel, found = np.full((8, 8, 3), 128, np.uint8), {}
    for quality in range(100, 0, -1):
        with Image.open(io.BytesIO(simplejpeg.encode_jpeg(pixel, quality, "RGB", "444"))) as image:
            tables = image.quantization  # type: ignore[attr-defined]
            both = tuple(tuple(tables[index]) for index in sorted(tables))
        found[both], found[both[:1]] = quality, quality
    return found


def resize_rgb(rgb: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB resized: area means when shrinking, linear when growing (as YOLOv5 loads its images)."""
    if (rgb.shape[1], rgb.shape[0]) == size_wh:
        return rgb
    shrinks = size_wh[0] < rgb.shape[1] or size_wh[1] < rgb.shape[0]
    resized: NDArray[np.uint8] = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized


def frame_count(data: bytes) -> int:
    """How many frames or pages a picture has. Raises ImageError."""
    return 1


def decode_frames(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> "Iterator[NDArray[np.uint8]]":
    """Every frame."""
    yield decode(data, max_megapixels).rgb()
