"""An image's header: its format, size, frames, orientation and color profile, before any pixel is decoded."""

import importlib
import io
import warnings
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from depers.imaging import sniffing
from depers.imaging.formats import gif, isobmff, jpeg_segments, jpeg_tables, png, tiff
from depers.imaging.metadata import icc

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF")
MAX_MEGAPIXELS = 80.0
_MP_ENTRIES = 0xB002  # the list of a JPEG's images
_SMEAR = 2  # pixels beyond a block, to which decoders spread its colors
_RIMS = {"WEBP": 18, "AVIF": 24, "HEIF": 24}  # beyond that, what changes is noise of the whole image
_WIDEST_RIM = 64  # of a coding that is not known here
FRAME_PIXELS = 40_000
"""The least that a frame counts towards the limit: tens of thousands of one-pixel frames are a bomb too."""
_MOST_SCANS = 500  # of a JPEG, as libjpeg-turbo advises for files from strangers; encoders write a dozen
_FREE_SCANS, _SCANNED_PIXELS = 64, 2e9  # what even a large image may have; and in all scans together

# Our own limit is checked on every header; Pillow's would only warn, as it does of oddities in metadata.
Image.MAX_IMAGE_PIXELS = None
PngImagePlugin.MAX_TEXT_CHUNK = icc.MAX_BYTES  # of a color profile, too; texts are left out before
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """Why an image cannot be processed, in one line."""


@dataclass(frozen=True)
class ImageHeader:
    """The header of an image, read once and handed on to all that is done with the image; it can be pickled.

    `format` is one of FORMATS; a JPEG with further images behind it (MPO) is a JPEG, of which the first counts.
    `mode` (Pillow's), `size_wh` of the pixels as they are stored, `orientation` (EXIF's, 1…8) and `raw_profile` are
    those of the first frame. `pages` are the indices of the frames that are images of their own. `lossless` says
    whether files of this kind keep every pixel.
    """

    format: str
    mode: str
    size_wh: tuple[int, int]
    orientation: int
    pages: tuple[int, ...]
    lossless: bool
    raw_profile: bytes | None = None
    jpeg_tables: dict[int, list[int]] | None = None
    """Quantization tables of a JPEG in row order, by their numbers."""
    jpeg_sampling: str = ""
    """The name of a JPEG's chroma subsampling."""
    loop: int | None = None
    """How often an animation is repeated, 0 for ever, where the file says so."""
    default_image: bool = False
    """Whether the first frame is no part of the animation."""
    primary: int = 0
    """The frame that viewers show of a HEIC with several images."""
    rim: int = 0
    """How many pixels around a box may show traces of it, by the block size of the coding; 0 where it is lossless."""

    @property
    def upright_wh(self) -> tuple[int, int]:
        """Return width and height of the upright image in pixels."""
        return self.size_wh[::-1] if self.orientation >= 5 else self.size_wh

    @property
    def pixels(self) -> int:
        """Return how many pixels the first frame has."""
        return self.size_wh[0] * self.size_wh[1]

    @cached_property
    def icc_profile(self) -> bytes | None:
        """Return the color profile, without its texts, where it is one and belongs to pixels of this kind."""
        return icc.sanitize(self.raw_profile, self.mode) if self.raw_profile else None


def read_header(data: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> ImageHeader:
    """Return what the image's header says, checked, no pixel decoded. Raises ImageError.

    The limit holds for all frames together.
    """
    if not data:
        raise ImageError("the file is empty")
    if sniffing.sniff_format(data[: sniffing.HEAD]) == "GIF":  # to count frames, Pillow makes room for all of them
        width, height = gif.measure_canvas(data)
        if (pixels := width * height) > max_megapixels * 1e6:
            raise ImageError(
                f"must have at most {max_megapixels:g} megapixels, but its frames reach over {pixels / 1e6:.0f}"
            )
    image = open_image(data)
    try:
        frames = int(getattr(image, "n_frames", 1))
    except Exception as error:  # as in `open_image`
        raise _unidentified(error) from None
    name = "JPEG" if image.format == "MPO" else str(image.format)
    if name not in FORMATS:
        raise ImageError(f"format must be one of {', '.join(FORMATS)}, but is {image.format}")
    if image.width < 1 or image.height < 1:
        raise ImageError(f"must have pixels, but declares {image.width}x{image.height}")
    if name == "HEIF" and _holds_film(data):
        raise ImageError("must hold images alone, but holds a film or an animation, which cannot be redacted")
    if name == "JPEG":
        frames = 1
        _refuse_equal_images(image)
        _refuse_scans(data, image.width * image.height)
    if name == "PNG" and frames > 1 and png.is_sixteen_bit(data):
        raise ImageError("must have 8 bits per channel, being animated, but has 16")
    pixels = image.width * image.height
    if (max(pixels, FRAME_PIXELS) * frames if frames > 1 else pixels) > max_megapixels * 1e6:
        size = f"{image.width}x{image.height}" + (f" in {frames} frames" if frames > 1 else "")
        raise ImageError(f"must have at most {max_megapixels:g} megapixels, but declares {size}")
    try:
        return _header(data, image, name, frames)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"has frames that cannot be counted ({type(error).__name__}: {error})") from None


def _holds_film(data: bytes) -> bool:
    """Return whether a HEIF has tracks beside its images (ISO/IEC 23008-12, chapter 7): no reader of ours sees them."""
    try:
        return any(box.kind == b"moov" for box in isobmff.walk(data))
    except ValueError:
        return b"moov" in data and b"trak" in data


def _refuse_equal_images(image: Image.Image) -> None:
    """Raise ImageError for a JPEG of several images of one rank (CIPA DC-007): views or parts, of which none may go."""
    entries = (getattr(image, "mpinfo", None) or {}).get(_MP_ENTRIES, ())
    kinds = [entry["Attribute"]["MPType"] for entry in entries[1:]]
    if several := [kind for kind in kinds if kind.startswith("Multi-Frame")]:
        raise ImageError(f"must hold one image, but holds {len(several) + 1} of one rank ({several[0]})")


def _refuse_scans(data: bytes, pixels: int) -> None:
    """Raise ImageError for a JPEG of which decoding would take minutes: each scan goes through the whole image."""
    most = int(min(_MOST_SCANS, max(_FREE_SCANS, _SCANNED_PIXELS / max(1, pixels))))
    if data.count(jpeg_segments.SCAN) > most and (scans := jpeg_segments.count_scans(data)) > most:
        raise ImageError(f"must have at most {most} scans, being of {pixels / 1e6:.3g} megapixels, but has {scans}")


def _header(data: bytes, image: Image.Image, name: str, frames: int) -> ImageHeader:
    pages = _pages(data, image, frames) if name == "TIFF" else tuple(range(frames))
    is_lossless_webp = name == "WEBP" and b"VP8L" in data and b"VP8 " not in data
    header = ImageHeader(
        format=name,
        mode=image.mode,
        size_wh=image.size,
        orientation=1 if _is_png_without_exif(data, image) else read_orientation(image),
        pages=pages,
        lossless=name in ("PNG", "TIFF", "BMP", "GIF") or is_lossless_webp,
        raw_profile=image.info.get("icc_profile"),
        loop=image.info.get("loop"),
        primary=image.tell() if name == "HEIF" else 0,
        rim=0 if is_lossless_webp else find_rim(image, name),
        default_image=bool(getattr(image, "default_image", False) or image.info.get("default_image")),
    )
    if name != "JPEG":
        return header
    jpeg: Any = image
    tables = {number: list(table) for number, table in jpeg.quantization.items()}
    return replace(header, jpeg_tables=tables, jpeg_sampling=jpeg_tables.name_sampling(jpeg.layer))


def find_rim(image: Image.Image, name: str) -> int:
    """Return `ImageHeader.rim` of the frame that `image` stands at, by its coding, in whatever container that is."""
    if name == "TIFF":
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        compression = int(tags.get(tiff.COMPRESSION, 1))
        if tiff.is_lossless(compression):
            return 0
        return 8 * max(tags.get(tiff.SUBSAMPLING, (2, 2))) + _SMEAR if compression in tiff.JPEG else _WIDEST_RIM
    if name == "JPEG":
        layers = getattr(image, "layer", ()) or ((0, 2, 2, 0),)
        return 8 * max(max(h, v) for _, h, v, _ in layers) + _SMEAR
    return _RIMS.get(name, 0)


def _is_png_without_exif(data: bytes, image: Image.Image) -> bool:
    """Return whether there is no EXIF block to look for: Pillow would decode a PNG to find one behind its pixels."""
    return image.format == "PNG" and "exif" not in image.info and not any(name in data for name in png.EXIF_NAMES)


def open_image(data: bytes) -> Image.Image:
    """Return the file as Pillow opens it, neither checked nor decoded. Raises ImageError."""
    heif = sniffing.sniff_format(data[: sniffing.HEAD]) == "HEIF"
    if heif:
        learn_heif()
    try:
        return Image.open(io.BytesIO(png.remove_texts(data)))
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them raise
        if heif and not find_spec("pillow_heif"):
            raise ImageError("HEIC needs the extra `heif`, which installs pillow-heif") from None
        raise _unidentified(error) from None


def _unidentified(error: Exception) -> ImageError:
    reason = str(error).split("<_io")[0].strip() or type(error).__name__
    return ImageError(f"not an image that can be identified ({reason})")


@lru_cache(maxsize=1)
def learn_heif() -> None:
    """Let Pillow read and write HEIF where the extra `heif` is installed."""
    if find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)


def _pages(data: bytes, image: Image.Image, frames: int) -> tuple[int, ...]:
    """Return the indices of a TIFF's pages that are neither reduced copies nor masks; leave `image` at the first.

    They are counted as Pillow does, which decodes them: of a damaged file, `tiff.walk` may see others. Raise ImageError
    where another image lies in the file, of which a page may be but a small copy.
    """
    sizes, copies = [], []
    for index in range(frames):
        image.seek(index)
        sizes.append(image.size)
        copies.append(tiff.is_reduced_or_mask(int(image.tag_v2.get(tiff.SUBFILE_TYPE, 0))))  # type: ignore[attr-defined]
    pages = tuple(index for index in range(frames) if not copies[index]) or (0,)
    image.seek(pages[0])
    if reason := tiff.explain_unreachable(data, [sizes[index] for index in pages]):
        raise ImageError(f"must hold nothing but pages, but holds {reason}")
    return pages


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1…8, of the frame that `image` stands at.

    It is 1 where there is none, where it cannot be read or where the decoder applied it.
    """
    if image.format == "HEIF":
        return 1
    try:
        for name in ("xmp", "XML:com.adobe.xmp"):  # Pillow would look there too; viewers do not
            image.info.pop(name, None)
        value = image.getexif().get(tiff.ORIENTATION, 1)
    except Exception:  # damaged EXIF: viewers ignore it too
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_profile(image: Image.Image) -> bytes | None:
    """Return the sanitized color profile of the frame that `image` stands at, as `ImageHeader.icc_profile`."""
    profile = image.info.get("icc_profile")
    return icc.sanitize(profile, image.mode) if profile else None


def turn_upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return the pixels with an EXIF orientation (TIFF 6.0, tag 274) applied."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turn_boxes_back(boxes_xyxy: NDArray[np.float32], size_wh: tuple[int, int], orientation: int) -> NDArray[np.float32]:
    """Return boxes of the upright image of `size_wh` as boxes of the pixels as they are stored."""
    x0, y0, x1, y1 = boxes_xyxy.T
    width, height = size_wh
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    if orientation in (5, 6, 7, 8):
        x0, y0, x1, y1 = y0, x0, y1, x1
    return np.stack([x0, y0, x1, y1], axis=1).astype(np.float32)
