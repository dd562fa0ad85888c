"""Image bytes → arrays: upright pixels of every frame; `encoding` is the way back.

Orientation is applied to the pixels, so the image looks the same without its EXIF; the color profile is kept. What
cannot be decoded whole is an ImageError, never a best effort.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageFile

from depers.imaging import sixteen_bit
from depers.imaging.headers import (
    MAX_MEGAPIXELS,
    ImageError,
    ImageHeader,
    find_rim,
    open_image,
    read_header,
    read_orientation,
    read_profile,
    turn_upright,
)

Pixels = NDArray[Any]
_MODES = ("1", "P", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "RGB;16", "RGBA;16")
_MAX_HALVINGS = 3  # of a JPEG's blocks of 8, of which one pixel is left
_BILEVEL = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: upright `pixels` (H, W) or (H, W, C), uint8 or uint16, in `mode`'s channel order.

    Modes are Pillow's, and RGB;16 and RGBA;16. In modes P and 1 pixels are indices into `palette`, uint8 (N, 3 or 4).
    `lossless` says whether the file kept every pixel, and is to be written so; `duration_ms` how long a frame is shown.
    """

    pixels: Pixels
    mode: str
    format: str
    icc_profile: bytes | None
    jpeg_tables: dict[int, list[int]] | None = None
    jpeg_sampling: str = ""
    palette: NDArray[np.uint8] | None = None
    lossless: bool = True
    duration_ms: float = 0
    rim: int = 0
    """As `ImageHeader.rim`, of this frame."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Return width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def rgb(self) -> NDArray[np.uint8]:
        """Return the image as uint8 RGB (H, W, 3): what the detector sees.

        Colors are seen as they are stored, whatever their opacity, for so anybody can take them from the file; what is
        fully transparent, of which no color is kept, is white. The range of 16 bits is stretched, since most images use
        a part of it.
        """
        if self.mode == "RGB":
            return self.pixels
        pixels, mode = self.pixels, self.mode
        if self.palette is not None:
            pixels = self.palette[pixels]
            mode = "RGBA" if pixels.shape[2] == 4 else "RGB"
        elif pixels.dtype == np.uint16:
            pixels = sixteen_bit.stretch(pixels, mode)
            mode = {"I;16": "L"}.get(mode, mode.removesuffix(";16"))
        image = Image.fromarray(pixels, mode)
        rgb = np.asarray(image.convert("RGB"))
        if mode in ("LA", "RGBA"):
            opacity = (pixels if self.palette is not None else self.pixels)[..., -1:]
            rgb = np.where(opacity > 0, rgb, np.uint8(255))
        return rgb


def decode(data: bytes, max_megapixels: float = MAX_MEGAPIXELS, header: ImageHeader | None = None) -> DecodedImage:
    """Return the whole image, upright; `header` spares reading it again, and has kept to its own limit.

    Raises ImageError where it is not an allowed image, not whole or not the only one.
    """
    header = header or read_header(data, max_megapixels)
    if len(header.pages) > 1:
        raise ImageError(f"must hold one frame, but holds {len(header.pages)}")
    [image] = decode_pages(data, max_megapixels, header)
    return image


def decode_reduced(data: bytes, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the whole image, upright, as uint8 RGB (H, W, 3), resized to `size_wh`.

    Where the image is at least twice as large, a JPEG is decoded at a half, a quarter or an eighth of its size, as
    libjpeg does from the lowest frequencies alone: pixels differ a little from what `decode` and `resize_rgb` give.
    Raises ImageError, as `decode`.
    """
    header = read_header(data)
    target_wh = size_wh[::-1] if header.orientation >= 5 else size_wh  # as the pixels are stored
    ratio = min(side // max(target, 1) for side, target in zip(header.size_wh, target_wh, strict=True))
    halvings = min(max(ratio, 1).bit_length() - 1, _MAX_HALVINGS)
    if halvings and header.format == "JPEG" and header.mode == "RGB" and len(header.pages) == 1:
        with suppress(ValueError):  # also libjpeg's mere warnings: `decode` tells them from damage
            return turn_upright(_reduce_jpeg(data, header.size_wh, target_wh, halvings), header.orientation)
    return resize_rgb(decode(data, header=header).rgb(), size_wh)


def _reduce_jpeg(data: bytes, size_wh: tuple[int, int], target_wh: tuple[int, int], halvings: int) -> NDArray[np.uint8]:
    """Return a color JPEG of `size_wh` decoded at 1 / 2^halvings and resized to `target_wh`. Raises ValueError."""
    width, height = (-(-side // 2**halvings) for side in size_wh)
    reduced = simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, strict=True)
    # The last pixels may stand for more than the image has: the scale is the whole image's, not the quotient of sizes.
    scales = (target * 2**halvings / side for target, side in zip(target_wh, size_wh, strict=True))
    resized = cv2.resize(reduced, None, fx=next(scales), fy=next(scales), interpolation=cv2.INTER_AREA)
    return np.asarray(resized)[: target_wh[1], : target_wh[0]]


def decode_frames(
    data: bytes, max_megapixels: float = MAX_MEGAPIXELS, header: ImageHeader | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame or page as upright uint8 RGB (H, W, 3), as `DecodedImage.rgb`. Raises ImageError."""
    for image in decode_pages(data, max_megapixels, header):
        yield image.rgb()


def decode_pages(
    data: bytes, max_megapixels: float = MAX_MEGAPIXELS, header: ImageHeader | None = None
) -> Iterator[DecodedImage]:
    """Yield every frame or page, whole and upright; `header` spares reading it again. Raises ImageError.

    The limit holds for all together; pages of a TIFF may differ in size.
    """
    header = header or read_header(data, max_megapixels)
    with _decoding():
        if header.format == "JPEG":
            yield _decode_jpeg(data, header)
            return
        image, budget = open_image(data), max_megapixels * 1e6
        for index in header.pages:
            if header.pages != (0,):
                image.seek(index)
                budget -= image.width * image.height
                if budget < 0:
                    raise ImageError(f"must have at most {max_megapixels:g} megapixels, but its pages have more")
            yield _decode_frame(data, image, header)


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too large for this machine's memory") from None
    except Exception as error:
        raise ImageError(f"cannot be decoded ({str(error) or type(error).__name__})") from None


def _decode_frame(data: bytes, image: Image.Image, header: ImageHeader) -> DecodedImage:
    """Return the frame that `image` stands at."""
    if sixteen_bit.has_sixteen_bit_channels(data, image):
        orientation, profile = read_orientation(image), read_profile(image)
        pixels, mode = sixteen_bit.read(data, image)
        return DecodedImage(turn_upright(pixels, orientation), mode, header.format, profile)
    transparent = "transparency" in image.info
    mode = {"PA": "RGBA", "I;16B": "I;16", "I;16L": "I;16", "RGBX": "RGB", "La": "LA", "RGBa": "RGBA"}.get(
        image.mode, image.mode
    )
    if transparent and mode in ("1", "L", "RGB"):  # one color means transparent, which no pixel could say afterwards
        mode = "RGBA" if mode == "RGB" else "LA"
    if mode not in _MODES:
        raise ImageError(f"pixel mode must be one of {', '.join(_MODES)}, but is {image.mode}")
    loaded = _load(image, mode)
    palette = None
    if mode == "P":
        palette = _palette(loaded)
        pixels = np.asarray(loaded)
        pixels = pixels if pixels.max() < len(palette) else np.minimum(pixels, len(palette) - 1)
    elif mode == "1":
        palette, pixels = _BILEVEL, np.asarray(loaded).astype(np.uint8)
    else:
        pixels = np.asarray(loaded)
    return DecodedImage(
        pixels=turn_upright(pixels, read_orientation(image)),
        mode=mode,
        format=header.format,
        icc_profile=read_profile(image),
        palette=palette,
        lossless=header.lossless,
        duration_ms=float(image.info.get("duration") or 0),
        rim=find_rim(image, header.format) if header.format == "TIFF" else header.rim,
    )


def _palette(image: Image.Image) -> NDArray[np.uint8]:
    """Return the palette, uint8 (N, 3), or (N, 4) where entries are transparent."""
    colors = np.array(image.getpalette("RGB") or [0, 0, 0], np.uint8).reshape(-1, 3)
    transparency = image.info.get("transparency")
    if transparency is None and "A" not in (image.palette.mode if image.palette else ""):
        return colors
    if isinstance(transparency, bytes):
        alpha = np.full(len(colors), 255, np.uint8)
        alpha[: len(transparency)] = np.frombuffer(transparency, np.uint8)[: len(colors)]
    elif transparency is None:
        return np.array(image.getpalette("RGBA") or [0, 0, 0, 255], np.uint8).reshape(-1, 4)
    else:
        alpha = np.where(np.arange(len(colors)) == transparency, 0, 255).astype(np.uint8)
    return np.concatenate([colors, alpha[:, None]], axis=1)


def _load(image: Image.Image, mode: str) -> Image.Image:
    """Return the decoded image, converted; a truncated file is an error."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _decode_jpeg(data: bytes, header: ImageHeader) -> DecodedImage:
    mode = header.mode
    if mode in ("RGB", "L"):
        try:
            pixels = simplejpeg.decode_jpeg(data, "RGB" if mode == "RGB" else "GRAY", strict=True)
        except ValueError:  # also libjpeg's mere warnings: Pillow decodes those, and refuses what is not whole
            pixels = np.asarray(_load(open_image(data), mode))
        pixels = pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    elif mode == "CMYK":
        pixels = np.asarray(_load(open_image(data), mode))
    else:
        raise ImageError(f"pixel mode must be one of L, RGB, CMYK, but is {mode}")
    return DecodedImage(
        pixels=turn_upright(pixels, header.orientation),
        mode=mode,
        format="JPEG",
        icc_profile=header.icc_profile,
        jpeg_tables=header.jpeg_tables,
        jpeg_sampling=header.jpeg_sampling,
        lossless=False,
        rim=header.rim,
    )


def resize_rgb(rgb: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Return RGB resized: area means when shrinking, linear when growing (as YOLOv5 loads its images)."""
    if (rgb.shape[1], rgb.shape[0]) == size_wh:
        return rgb
    shrinks = size_wh[0] < rgb.shape[1] or size_wh[1] < rgb.shape[0]
    resized: NDArray[np.uint8] = cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized
