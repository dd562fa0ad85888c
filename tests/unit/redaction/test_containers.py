"""Files that hold several images: each is redacted or the file fails, and none goes out as its thumbnail."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from depers.imaging.formats import png
from depers.imaging.headers import ImageError, learn_heif, open_image, read_header
from depers.imaging.metadata.residue import find_residue
from depers.redaction.files import redact_file

SMALL, LARGE = np.zeros((12, 16, 3), np.uint8), np.full((48, 64, 3), 200, np.uint8)
NO_BOX = np.empty((0, 4), np.float32)


def layer(first: np.ndarray, below: list[tuple[np.ndarray, int]], kind: int = 1, extra: Any = ()) -> bytes:  # type: ignore[type-arg]
    """A TIFF whose first directory has others below it, each with a subfile type."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(first, photometric="rgb", subfiletype=kind, subifds=len(below), extratags=extra, metadata=None)
        for pixels, subfile_type in below:
            writer.write(pixels, photometric="rgb", subfiletype=subfile_type, metadata=None)
    return buffer.getvalue()


def chain(*pages: tuple[np.ndarray, int]) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for pixels, subfile_type in pages:
            writer.write(pixels, photometric="rgb", subfiletype=subfile_type, metadata=None, contiguous=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (layer(SMALL, [(LARGE, 0)]), "an image of 64x48 in a sub-directory"),
        (layer(SMALL, [(LARGE, 0)], kind=0), "an image of 64x48 in a sub-directory"),
        (layer(SMALL, [(SMALL, 1), (LARGE, 0)]), "an image of 64x48 in a sub-directory"),
        (layer(SMALL, [(LARGE, 1)], kind=0), "a reduced copy of 64x48, larger than its pages"),
        (layer(LARGE, [(LARGE, 0)], kind=0), "an image of 64x48 in a sub-directory"),
        (layer(LARGE, [], kind=0, extra=[(50706, 1, 4, b"\1\4\0\0", True)]), "a raw file (DNG"),
        (chain((SMALL, 0), (LARGE, 1)), "a reduced copy of 64x48, larger than its pages"),
        (chain((LARGE, 0))[:8] + b"CR\2\0" + chain((LARGE, 0))[12:], "a raw file (CR2)"),
        (chain((LARGE, 0))[:8] + b"IIII" + chain((LARGE, 0))[12:], "a raw file (IIQ)"),
    ],
)
def test_a_raw_file_is_no_thumbnail(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=r"must hold nothing but pages, but holds ") as error:
        read_header(data)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("data", "size_wh", "pages"),
    [
        (layer(LARGE, [(SMALL, 1), (SMALL, 1)], kind=0), (64, 48), (0,)),
        (chain((SMALL, 1), (LARGE, 0)), (64, 48), (1,)),
        (chain((LARGE, 0), (SMALL, 1), (SMALL, 0)), (64, 48), (0, 2)),
        (chain((LARGE, 1)), (64, 48), (0,)),
    ],
)
def test_copies_go_and_pages_stay(data: bytes, size_wh: tuple[int, int], pages: tuple[int, ...]) -> None:
    header = read_header(data)
    assert (header.size_wh, header.pages) == (size_wh, pages)
    result = redact_file(data, [NO_BOX] * len(pages))
    with Image.open(io.BytesIO(result.data)) as image:
        assert image.size == size_wh and image.n_frames == len(pages)  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(image), LARGE)
    assert find_residue(result.data) == []


def save(pixels: np.ndarray, form: str, **options: Any) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("quality", [40, 75, 95])
def test_a_jpeg_in_a_tiff_keeps_no_trace_around_the_box(quality: int) -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (24, 32, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    results = []
    for _ in range(2):
        pixels[91:124, 101:147] = rng.integers(0, 256, (33, 46, 3), np.uint8)
        data = save(pixels, "TIFF", compression="jpeg", quality=quality)
        results.append(redact_file(data, [np.array([[101, 91, 147, 124]], np.float32)]).data)
    assert results[0] == results[1]


@pytest.mark.parametrize("kind", [0x020001, 0x020002, 0x020003])
def test_a_jpeg_of_several_views_fails(kind: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(LARGE).save(buffer, "MPO", save_all=True, append_images=[Image.fromarray(LARGE)])
    data = buffer.getvalue()
    assert read_header(data).pages == (0,)  # the second is a copy, or nobody says what it is
    entry = data.index(struct.pack("<HHI", 0xB002, 7, 32))
    (offset,) = struct.unpack_from("<I", data, entry + 8)
    second = data.index(b"MPF\0") + 4 + offset + 16
    with pytest.raises(ImageError, match="must hold one image, but holds 2 of one rank"):
        read_header(data[:second] + struct.pack("<I", kind) + data[second + 4 :])


NOISE = np.random.default_rng(1).integers(0, 256, (300, 400), np.uint8).tobytes()


def point(tag: int, kind: int) -> bytes:
    """A TIFF of 16x12 whose first directory points to one of 400x300, by a tag of a type."""

    def directory(width: int, height: int, offset: int, pointer: bytes = b"") -> bytes:
        entries = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, offset)]
        entries += [(277, 3, 1), (278, 4, height), (279, 4, width * height)]
        packed = [struct.pack("<HHII", number, code, 1, value) for number, code, value in entries]
        packed += [struct.pack("<HHI4s", tag, kind, 1, pointer)] if pointer else []
        return struct.pack("<H", len(packed)) + b"".join(sorted(packed, key=lambda entry: entry[1::-1])) + bytes(4)

    pixels, below = 8 + 126, 8 + 126 + 192
    end = below + 114 + len(NOISE)
    pointer = struct.pack("<I", end if kind in (16, 18) else below)
    data = b"II*\0" + struct.pack("<I", 8) + directory(16, 12, pixels, pointer) + bytes(192)
    return data + directory(400, 300, below + 114) + NOISE + struct.pack("<Q", below)


@pytest.mark.parametrize("kind", [3, 4, 13, 16, 18])
@pytest.mark.parametrize(("tag", "reason"), [(330, "in a sub-directory"), (34665, "in a directory of metadata")])
def test_an_image_below_another_is_found_whatever_points_to_it(tag: int, kind: int, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read_header(point(tag, kind))


@pytest.mark.parametrize("big", [False, True])
def test_bytes_that_no_page_has_fail_a_tiff(big: bool) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, SMALL, photometric="rgb", metadata=None, subfiletype=1, bigtiff=big)
    assert read_header(buffer.getvalue()).size_wh == (16, 12)
    with pytest.raises(ImageError, match=r"bytes of .* that no page has"):
        read_header(buffer.getvalue() + NOISE)


def webp_with(chunk: bytes) -> bytes:
    data = save(SMALL, "WEBP")
    inner = data[8:] + b"JUNK" + struct.pack("<I", len(chunk)) + chunk + bytes(len(chunk) % 2)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


@pytest.mark.parametrize(
    "add",
    [
        lambda image: save(SMALL, "JPEG") + image,
        lambda image: save(SMALL, "JPEG") + b"\0\0\0\x18ftypmp42" + bytes(16) + image,
        lambda image: save(SMALL, "PNG") + image,
        lambda image: save(SMALL, "GIF") + image,
        lambda image: save(SMALL, "BMP") + image,
        webp_with,
    ],
    ids=["two JPEGs", "film behind", "PNG", "GIF", "BMP", "WebP"],
)
def test_what_follows_an_image_goes(add: Callable[[bytes], bytes]) -> None:
    hidden = save(np.frombuffer(NOISE, np.uint8).reshape(100, 400, 3), "JPEG")
    result = redact_file(add(hidden), [NO_BOX]).data
    assert len(result) < 1000 and hidden[-500:-400] not in result


def test_thumbnails_of_a_heic_go() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    learn_heif()
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(LARGE)).save(buffer, thumbnails=[32])
    assert b"thmb" in buffer.getvalue() and b"thmb" not in redact_file(buffer.getvalue(), [NO_BOX]).data


def test_an_animated_png_of_16_bits_fails() -> None:
    row = b"\0" + bytes(range(96))
    frame = struct.pack(">IIIIHHBB", 16, 12, 0, 0, 1, 10, 0, 0)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 16, 12, 16, 2, 0, 0, 0)), (b"acTL", struct.pack(">II", 2, 0)),
        (b"fcTL", struct.pack(">I", 0) + frame), (b"IDAT", zlib.compress(row * 12)),
        (b"fcTL", struct.pack(">I", 1) + frame), (b"fdAT", struct.pack(">I", 2) + zlib.compress(row * 12)),
        (b"IEND", b""),
    ]  # fmt: skip
    with pytest.raises(ImageError, match="must have 8 bits per channel, being animated, but has 16"):
        read_header(png.SIGNATURE + b"".join(png.make_chunk(name, content) for name, content in chunks))


def test_a_heic_with_an_animation_fails() -> None:
    learn_heif()
    buffer = io.BytesIO()
    Image.fromarray(LARGE).save(buffer, "HEIF")
    track = struct.pack(">I4sI4s", 16, b"moov", 8, b"trak")
    with pytest.raises(ImageError, match="holds a film or an animation"):
        read_header(buffer.getvalue() + track)


def test_the_primary_image_of_a_heic_stays_it() -> None:
    learn_heif()
    images = [Image.new("RGB", (64 + 16 * index, 48), "red") for index in range(3)]
    buffer = io.BytesIO()
    images[0].save(buffer, "HEIF", save_all=True, append_images=images[1:], primary_index=1)
    assert read_header(buffer.getvalue()).primary == 1
    result = open_image(redact_file(buffer.getvalue(), [NO_BOX] * 3).data)
    assert (result.tell(), result.size, result.n_frames) == (1, (80, 48), 3)  # type: ignore[attr-defined]


def add_texts(add: Callable[[PngImagePlugin.PngInfo], None]) -> bytes:
    info = PngImagePlugin.PngInfo()
    add(info)
    return save(LARGE, "PNG", pnginfo=info)


@pytest.mark.parametrize(
    "data",
    [
        add_texts(lambda info: info.add_text("workflow", "x" * 70_000_000)),
        add_texts(lambda info: info.add_text("prompt", "x" * 3_000_000, zip=True)),
        add_texts(lambda info: info.add_itxt("prompt", "x" * 3_000_000, zip=True)),
        add_texts(lambda info: info.add_text("Raw profile type exif", "x" * 30_000_000, zip=True)),
        add_texts(lambda info: [info.add_text(f"{n}", "x" * 900_000) for n in range(80)] and None),
    ],
    ids=["long", "packed", "international", "no profile", "many"],
)
def test_a_png_with_long_texts_is_an_image(data: bytes) -> None:
    result = redact_file(data, [NO_BOX])
    assert result.method == "lossless" and len(result.data) < 1000


def test_what_street_imagery_needs_is_kept_where_it_is_asked_for() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2024:05:20 10:11:12", 0x9291: "43", 0xA431: "SN1"})
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 12: "K", 13: 12.5, 14: "T", 15: 257.4, 31: 3.25})
    packet = (
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description GPano:ProjectionType='equirectangular' Author='Joe'"
        b" GPano:StitchingSoftware='Joe'><GPano:FullPanoWidthPixels>64</GPano:FullPanoWidthPixels>"
        b"<GPano:PoseHeadingDegrees>Joe</GPano:PoseHeadingDegrees></rdf:Description></x:xmpmeta>"
    )
    data = save(LARGE, "JPEG", exif=exif, xmp=packet)
    groups = ("date", "gps", "panorama")
    result = redact_file(data, [NO_BOX], keep_metadata=groups).data
    assert find_residue(result, groups) == [] and find_residue(result, ("date", "gps")) == ["XMP"]
    assert b"Joe" not in result and b"SN1" not in result
    with Image.open(io.BytesIO(result)) as image:
        assert image.getexif().get_ifd(0x8769) == {0x9003: "2024:05:20 10:11:12", 0x9291: "43"}
        gps = image.getexif().get_ifd(0x8825)
        assert gps[0] == b"\2\3\0\0" and {number: gps[number] for number in (13, 15, 31)} == {
            13: 12.5,
            15: 257.4,
            31: 3.25,
        }
        xmp = image.info["xmp"]
        assert b'GPano:FullPanoWidthPixels="64"' in xmp and b'GPano:ProjectionType="equirectangular"' in xmp
        assert b"PoseHeading" not in xmp
    assert b"GPano" not in redact_file(data, [NO_BOX], keep_metadata=("date",)).data
