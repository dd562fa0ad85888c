"""Decoding and encoding: upright, same format, no metadata, nothing half decoded."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from depers.imaging import decoding, sixteen_bit
from depers.imaging.decoding import decode, decode_reduced, resize_rgb
from depers.imaging.encoding import encode
from depers.imaging.formats import png
from depers.imaging.formats.jpeg_tables import find_standard_quality
from depers.imaging.headers import ImageError, read_header
from depers.imaging.metadata import icc

KINDS = (
    "JPEG RGB, JPEG L, JPEG CMYK, PNG RGB, PNG RGBA, PNG LA, PNG P, PNG 1, WEBP RGB, WEBP RGBA, TIFF RGB, TIFF CMYK, "
    "BMP RGB, BMP P"
)


def image_bytes(kind: str, mode: str = "RGB", size_wh: tuple[int, int] = (64, 48), **options: object) -> bytes:
    rng = np.random.default_rng(0)
    base = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8)).resize(size_wh, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    base.convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [tuple(case.split()) for case in KINDS.split(", ")],
)
def test_same_format_out_and_nearly_the_same_pixels(kind: str, mode: str) -> None:
    data = image_bytes(kind, mode)
    image = decode(data)
    encoded = encode(image, image.pixels)
    assert Image.open(io.BytesIO(encoded)).format == kind
    assert np.abs(decode(encoded).rgb().astype(int) - image.rgb().astype(int)).mean() < 3
    assert image.rgb().shape == (48, 64, 3)
    assert image.size_wh == (64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = image_bytes("PNG", exif=exif)
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = decode(data)
    assert (image.pixels == expected).all()
    rewritten = Image.open(io.BytesIO(encode(image, image.pixels)))
    assert not rewritten.getexif()


def test_metadata_goes_and_the_color_profile_stays() -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET description"
    profile = icc.sanitize(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), "RGB")
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        extra = {"comment": b"SECRET comment"} if kind == "JPEG" else {}
        data = image_bytes(kind, exif=exif, icc_profile=profile, **extra)
        assert b"SECRET" in data
        image = decode(data + b"SECRET trailer")
        encoded = encode(image, image.pixels)
        assert b"SECRET" not in encoded, kind
        assert Image.open(io.BytesIO(encoded)).info["icc_profile"] == profile, kind


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_keeps_tables_and_sampling(quality: int, subsampling: int) -> None:
    data = image_bytes("JPEG", quality=quality, subsampling=subsampling)
    image = decode(data)
    assert find_standard_quality(image.jpeg_tables or {}) == quality
    rewritten = Image.open(io.BytesIO(encode(image, image.pixels)))
    assert rewritten.quantization == Image.open(io.BytesIO(data)).quantization  # type: ignore[attr-defined]
    assert decode(encode(image, image.pixels)).jpeg_sampling == image.jpeg_sampling


def test_sixteen_bit_gray_keeps_its_depth() -> None:
    gray = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG")
    image = decode(buffer.getvalue())
    assert (decode(encode(image, image.pixels)).pixels == gray).all()
    assert image.rgb().dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just some text", "not an image"),
        (image_bytes("JPEG", size_wh=(640, 480))[:-2000], "cannot be decoded"),
        (image_bytes("PNG", size_wh=(640, 480))[:-2000], "cannot be decoded"),
        (image_bytes("ICO"), "format must be one of JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF, HEIF, but is ICO"),
        (image_bytes("TIFF", "F"), "pixel mode must be one of"),
    ],
)
def test_what_is_not_whole_fails_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(data)


@given(
    size_wh=st.tuples(st.integers(160, 400), st.integers(160, 400)),
    ratio=st.floats(0.5, 20),
    orientation=st.integers(1, 8),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
)
def test_a_jpeg_decoded_no_larger_than_needed_is_nearly_the_same(
    size_wh: tuple[int, int], ratio: float, orientation: int, subsampling: int, progressive: bool
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 90, "subsampling": subsampling, "progressive": progressive, "exif": exif}
    data = image_bytes("JPEG", size_wh=size_wh, **options)
    whole = decode(data).rgb()
    target_wh = max(round(whole.shape[1] / ratio), 1), max(round(whole.shape[0] / ratio), 1)
    expected, reduced = resize_rgb(whole, target_wh), decode_reduced(data, target_wh)
    assert reduced.shape == expected.shape and reduced.dtype == np.uint8 and reduced.flags.c_contiguous
    luma_difference = (reduced.astype(float) - expected) @ [0.299, 0.587, 0.114]  # chroma may be smoothed
    assert np.abs(luma_difference).mean() < 5


def test_a_turned_jpeg_may_change_its_shape() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = image_bytes("JPEG", size_wh=(200, 200), exif=exif)
    expected = resize_rgb(decode(data).rgb(), (60, 40)).astype(int)
    assert np.abs(decode_reduced(data, (60, 40)) - expected).mean() < 5


def test_edges_stay_where_they_are_when_a_jpeg_is_decoded_at_an_eighth() -> None:
    image = Image.new("RGB", (1607, 1007))  # one pixel short of a block
    image.paste((255, 255, 255), (0, 0, 1200, 700))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    expected = resize_rgb(decode(buffer.getvalue()).rgb(), (200, 125)).astype(int)
    reduced = decode_reduced(buffer.getvalue(), (200, 125)).astype(int)
    for axis in (0, 1):  # sums of white along rows and columns: where the edge lies, to a part of a pixel
        distances = np.abs(reduced[..., 0].sum(axis) - expected[..., 0].sum(axis)) / 255
        assert np.median(distances) < 0.05


@pytest.mark.parametrize(("kind", "mode"), [tuple(case.split()) for case in KINDS.split(", ")])
def test_other_images_are_decoded_whole_and_then_resized(kind: str, mode: str) -> None:
    data = image_bytes(kind, mode, size_wh=(80, 60))
    expected = resize_rgb(decode(data).rgb(), (20, 15))
    difference = np.abs(decode_reduced(data, (20, 15)).astype(int) - expected)
    assert difference.max() <= (8 if (kind, mode) == ("JPEG", "RGB") else 0)


def test_what_is_not_whole_fails_at_a_smaller_size_too() -> None:
    data = image_bytes("JPEG", size_wh=(640, 480))
    with pytest.raises(ImageError):
        decode_reduced(data[: len(data) // 2], (80, 60))


def test_several_frames_fail() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for kind in ("WEBP", "PNG", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="one frame, but holds 2"):
            decode(buffer.getvalue())


def test_too_many_pixels_fail_before_decoding() -> None:
    with pytest.raises(ImageError, match=r"at most 0\.001 megapixels, but declares 64x48"):
        decode(image_bytes("PNG"), max_megapixels=0.001)


def test_a_header_read_under_another_limit_is_enough() -> None:
    data = image_bytes("PNG")
    header = read_header(data, 1)
    assert (decode(data, 0.001, header).pixels == decode(data).pixels).all()
    with pytest.raises(ImageError, match=r"must have at most 0\.001 megapixels, but declares 64x48"):
        decode(data, 0.001)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_header_travels_and_spares_reading_it_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = image_bytes(kind)
    header = pickle.loads(pickle.dumps(read_header(data)))
    monkeypatch.setattr(decoding, "read_header", lambda *arguments: pytest.fail("read again"))
    image = decode(data, header=header)
    assert (image.size_wh, image.mode, image.format) == (header.upright_wh, header.mode, kind)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_of_a_png_gives_the_orientation_wherever_it_stands(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunk = png.make_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    plain = image_bytes("PNG")
    for data in (png.insert(plain, chunk), plain[:-12] + chunk + plain[-12:]):
        header = read_header(data)
        assert header.orientation == orientation
        assert header.upright_wh == decode(data).size_wh == ((48, 64) if orientation > 4 else (64, 48))


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "RGBA;16"])
def test_the_detector_sees_colors_that_are_nearly_transparent(kind: str) -> None:
    colors = np.kron(np.random.default_rng(3).integers(0, 200, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    opacity = np.full((32, 32, 1), 1, np.uint8)
    opacity[:8] = 0
    image = Image.fromarray(np.concatenate([colors, opacity], axis=2), "RGBA")
    expected = colors.copy()
    buffer = io.BytesIO()
    if kind == "LA":
        image = image.convert("LA")
        expected = np.repeat(np.asarray(image)[..., :1], 3, axis=2)
    if kind == "P":
        image = image.quantize(64)
        expected = np.asarray(image.convert("RGBA"))[..., :3]
    if kind == "RGBA;16":
        pixels = np.concatenate([colors, opacity], axis=2).astype(np.uint16)
        data = sixteen_bit.encode_png(pixels * np.array([256, 256, 256, 1], np.uint16), None, b"")
    else:
        image.save(buffer, "PNG")
        data = buffer.getvalue()
    rgb = decode(data).rgb().astype(int)
    assert (rgb[:8] == 255).all()
    assert np.corrcoef(rgb[8:].ravel(), expected[8:].ravel())[0, 1] > 0.99
