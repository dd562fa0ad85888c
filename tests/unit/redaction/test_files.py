"""Whole files: what lies under a box leaves no trace in the bytes, what lies outside stays, in every format."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from depers.imaging import decoding
from depers.imaging.decoding import decode, decode_frames
from depers.imaging.formats import png, turbojpeg
from depers.imaging.headers import ImageError, learn_heif, read_header, turn_boxes_back, turn_upright
from depers.imaging.metadata.residue import find_residue
from depers.redaction import files
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file

BOX = (60, 40, 130, 100)
SIZE_WH = (200, 150)
CASES = {
    "jpeg 4:4:4": ("JPEG", "RGB", {"subsampling": 0}),
    "jpeg 4:2:0": ("JPEG", "RGB", {"subsampling": 2, "quality": 90}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg gray": ("JPEG", "L", {}),
    "jpeg cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "png alpha": ("PNG", "RGBA", {}),
    "png gray alpha": ("PNG", "LA", {}),
    "png palette": ("PNG", "P", {}),
    "png bilevel": ("PNG", "1", {}),
    "webp lossless": ("WEBP", "RGBA", {"lossless": True}),
    "tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "tiff cmyk": ("TIFF", "CMYK", {}),
    "bmp": ("BMP", "RGB", {}),
    "bmp palette": ("BMP", "P", {}),
    "gif": ("GIF", "P", {}),
}


def scene(content: int, size_wh: tuple[int, int] = SIZE_WH, box: tuple[int, int, int, int] = BOX) -> Image.Image:
    """An image that is the same for every `content` but under the box, by 16-pixel blocks."""
    width, height = size_wh
    rows, columns = np.indices((height, width))
    pixels = np.stack([rows, columns, (rows * columns) % 200], axis=2).astype(np.uint8)
    x0, y0, x1, y1 = (box[0] // 16 * 16, box[1] // 16 * 16, -(-box[2] // 16) * 16, -(-box[3] // 16) * 16)
    x0, y0, x1, y1 = max(x0, box[0] if content < 0 else x0), y0, x1, y1
    rng = np.random.default_rng(content)
    secret = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
    pixels[y0:y1, x0:x1] = secret[: min(y1, height) - y0, : min(x1, width) - x0]
    return Image.fromarray(pixels)


def whole_mcus(box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    x0, y0, x1, y1 = box
    return np.array([[x0 // 16 * 16, y0 // 16 * 16, -(-x1 // 16) * 16, -(-y1 // 16) * 16]], np.float32)


def saved(image: Image.Image, kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    palette: dict[str, object] = {"palette": Image.Palette.WEB} if mode == "P" else {}
    if mode in ("1", "P"):
        palette["dither"] = Image.Dither.NONE
    image.convert(mode, **palette).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_files_that_differ_under_a_box_alone_come_out_as_the_same_bytes(case: str, mode: str) -> None:
    """The strongest that can be said: whoever has the result knows nothing of what was there."""
    kind, pixel_mode, options = CASES[case]
    first, second = (saved(scene(content), kind, pixel_mode, **options) for content in (1, 2))
    assert first != second
    box = whole_mcus(BOX)
    results = [redact_file(data, [box], mode=mode) for data in (first, second)]
    assert results[0] == results[1]
    assert find_residue(results[0].data) == []


@pytest.mark.parametrize("mode", MODES)
def test_so_do_jpegs_that_are_encoded_again(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders smear chroma over the edge of an MCU; a box takes that with it."""
    monkeypatch.setattr(turbojpeg, "load_library", lambda: None)
    files = [saved(scene(content), "JPEG", subsampling=2, quality=90) for content in (1, 2)]
    results = [redact_file(data, [whole_mcus(BOX)], mode=mode) for data in files]
    assert results[0].method.startswith("re-encoded: ")
    assert results[0] == results[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_so_do_palettes_with_colors_of_their_own(kind: str, mode: str) -> None:
    files = []
    for content in (1, 2):
        rng = np.random.default_rng(content)
        pixels = np.random.default_rng(9).integers(0, 16, (SIZE_WH[1], SIZE_WH[0]), np.uint8)
        pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = rng.integers(16, 256, (BOX[3] - BOX[1], BOX[2] - BOX[0]), np.uint8)
        image = Image.fromarray(pixels, "P")
        outside = [value for index in range(16) for value in (index * 16, 255 - index * 16, 128)]
        image.putpalette(outside + rng.integers(0, 256, 240 * 3).tolist())
        buffer = io.BytesIO()
        image.save(buffer, kind)
        files.append(buffer.getvalue())
    first, second = (redact_file(data, [np.array([BOX], np.float32)], mode=mode) for data in files)
    assert first == second


@pytest.mark.parametrize("case", CASES)
def test_outside_the_box_nothing_changes_and_the_file_is_what_it_was(case: str) -> None:
    kind, pixel_mode, options = CASES[case]
    data = saved(scene(1), kind, pixel_mode, **options)
    result = redact_file(data, [np.array([BOX], np.float32)])
    assert (result.format, result.size_wh, result.frames) == (kind, SIZE_WH, 1)
    assert result.method == "lossless"
    source, target = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(result.data))
    assert (target.format, target.mode, target.size) == (source.format, source.mode, source.size)
    rim = 18 if kind == "JPEG" else 0  # its MCUs, and the two pixels by which decoders smear chroma
    outside = np.ones((SIZE_WH[1], SIZE_WH[0]), bool)
    outside[BOX[1] - rim : BOX[3] + rim, BOX[0] - rim : BOX[2] + rim] = False
    first, second = (np.asarray(image.convert("RGBA")) for image in (source, target))
    assert (first[outside] == second[outside]).all()
    inside = np.asarray(target.convert("RGB"))[44:96, 64:126]
    assert np.abs(np.diff(inside.astype(int), axis=1)).mean() < 12  # noise there was 85 and more


@pytest.mark.parametrize("mode", MODES)
def test_sixteen_bits_per_channel_are_kept(mode: str) -> None:
    import cv2

    pixels = np.random.default_rng(0).integers(0, 65536, (60, 80, 4), np.uint16)
    pixels[..., 3] |= 1  # not fully transparent anywhere
    for suffix in (".png", ".tif"):
        for channels in (3, 4):
            data = cv2.imencode(suffix, pixels[..., :channels])[1].tobytes()
            result = redact_file(data, [np.array([[20, 10, 60, 40]], np.float32)], mode=mode)
            redacted = cv2.imdecode(np.frombuffer(result.data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert redacted.dtype == np.uint16
            assert result.method == "lossless"
            outside = np.ones((60, 80), bool)
            outside[10:40, 20:60] = False
            assert (redacted[outside] == pixels[..., :channels][outside]).all()
            assert (redacted[~outside] != pixels[..., :channels][~outside]).any(axis=1).all()
            assert find_residue(result.data) == []


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_boxes_are_those_of_the_upright_image(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    gray = Image.new("RGB", SIZE_WH, (90, 120, 150))
    pixels = np.array(gray)
    pixels[32:48, 144:176] = (250, 20, 20)  # stored; where it is upright is what `upright` says
    data = saved(Image.fromarray(pixels), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    [source] = decode_frames(data)
    rows, columns = np.nonzero(source[..., 0].astype(int) - source[..., 1] > 100)
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    result = redact_file(data, [box], mode="fill")
    [redacted] = decode_frames(result.data)
    assert result.size_wh == (source.shape[1], source.shape[0])
    assert redacted.shape == source.shape
    assert not (redacted[..., 0].astype(int) - redacted[..., 1] > 100).any()
    outside = np.ones(source.shape[:2], bool)
    outside[max(0, rows.min() - 20) : rows.max() + 20, max(0, columns.min() - 20) : columns.max() + 20] = False
    assert np.abs(redacted[outside].astype(int) - source[outside]).max() <= 1
    tags = Image.open(io.BytesIO(result.data)).getexif()
    assert dict(tags) == ({0x0112: orientation} if kind == "JPEG" and orientation > 1 else {}) or kind == "TIFF"
    assert find_residue(result.data) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_boxes_undo_upright(orientation: int) -> None:
    stored = np.zeros((30, 50), np.uint8)
    stored[5:12, 20:41] = 1
    rows, columns = np.nonzero(turn_upright(stored, orientation))
    box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
    size_wh = (30, 50) if orientation >= 5 else (50, 30)
    assert turn_boxes_back(box, size_wh, orientation).tolist() == [[20, 5, 41, 12]]


def frames_of(kind: str, size_wh: tuple[int, int] = (64, 48), count: int = 4) -> list[Image.Image]:
    mode = "RGBA" if kind != "TIFF" else "RGB"
    return [
        scene(10 + index, size_wh, (16, 16, 32, 32)).rotate(90 * (index % 2)).convert(mode) for index in range(count)
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_every_frame_is_redacted_by_its_own_boxes(kind: str, mode: str) -> None:
    images = frames_of(kind)
    extra = {"lossless": True} if kind == "WEBP" else {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    if kind != "TIFF":
        extra |= {"duration": [100, 200, 300, 400]}
    if kind in ("GIF", "WEBP", "PNG"):
        extra |= {"loop": 3}
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], **extra)
    data = buffer.getvalue()
    sources = list(decode_frames(data))
    assert len(read_header(data).pages) == len(sources) == 4
    boxes = [np.array([[8 * i, 4, 8 * i + 24, 40]], np.float32) for i in range(3)] + [np.empty((0, 4), np.float32)]
    result = redact_file(data, boxes, mode=mode)
    results = list(decode_frames(result.data))
    assert result.frames == len(read_header(result.data).pages) == 4
    for index, (first, second) in enumerate(zip(sources, results, strict=True)):
        outside = np.ones(first.shape[:2], bool)
        if index < 3:
            rim = 24 if kind == "AVIF" else 0
            outside[max(0, 4 - rim) : 40 + rim, max(0, 8 * index - rim) : 8 * index + 24 + rim] = False
            texture = [
                np.abs(np.diff(x[6:38, 8 * index + 2 : 8 * index + 22].astype(int), axis=1)).mean()
                for x in (first, second)
            ]
            assert texture[1] < 0.5 * texture[0]
        difference = np.abs(first.astype(int) - second)[outside]
        assert not len(difference) or difference.mean() < (12 if kind == "AVIF" else 4 if kind == "GIF" else 0.001), (
            index
        )
    opened, original = (Image.open(io.BytesIO(x)) for x in (result.data, data))
    assert opened.info.get("loop") == original.info.get("loop")
    if kind != "TIFF":
        for index in range(4):
            opened.seek(index)
            opened.load()
            assert opened.info["duration"] == [100, 200, 300, 400][index]
    assert find_residue(result.data) == []


def test_reduced_pages_of_a_tiff_are_left_out() -> None:
    import tifffile

    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(rng.integers(0, 256, (60, 80, 3), np.uint8), photometric="rgb", description="SECRET")
        writer.write(rng.integers(0, 256, (15, 20, 3), np.uint8), photometric="rgb", subfiletype=1)
        writer.write(rng.integers(0, 256, (60, 80), np.uint8), photometric="minisblack")
    data = buffer.getvalue()
    assert {"a reduced image or mask", "TIFF tag 270"} <= set(find_residue(data))
    assert [frame.shape for frame in decode_frames(data)] == [(60, 80, 3), (60, 80, 3)]
    result = redact_file(data, [np.empty((0, 4), np.float32)] * 2)
    assert len(read_header(result.data).pages) == 2
    assert find_residue(result.data) == []
    assert b"SECRET" not in result.data


def test_what_is_transparent_keeps_no_colors() -> None:
    """Cutting out is no redaction: the colors of fully transparent pixels can be made visible again."""
    pixels = np.random.default_rng(0).integers(1, 256, (60, 80, 4), np.uint8)
    pixels[:, 40:, 3] = 0
    pixels[:, :40, 3] = 255
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        data = saved(Image.fromarray(pixels), kind, "RGBA", **options)
        assert np.asarray(Image.open(io.BytesIO(data)))[:, 40:, :3].all()
        for mode in MODES:
            result = redact_file(data, [np.array([[10, 10, 60, 50]], np.float32)], mode=mode)
            redacted = np.asarray(Image.open(io.BytesIO(result.data)).convert("RGBA"))
            assert not redacted[redacted[..., 3] == 0].any()
            assert (redacted[:, :10] == pixels[:, :10]).all()


def test_no_color_of_the_palette_is_left_over() -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:30, 20:40] = np.arange(400).reshape(20, 20) % 200 + 10
    image = Image.fromarray(pixels, "P")
    image.putpalette([value for index in range(256) for value in (index, 255 - index, 77)])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        data = saved(image.copy(), kind, "P") if kind != "GIF" else _gif(image)
        result = redact_file(data, [np.array([[20, 10, 40, 30]], np.float32)])
        opened = Image.open(io.BytesIO(result.data))
        colors = {tuple(color) for color in np.asarray(opened.convert("RGB")).reshape(-1, 3).tolist()}
        assert colors == {(0, 255, 77)}, kind
        palette = np.array(opened.getpalette()).reshape(-1, 3)
        assert not ((palette[:, 2] == 77) & (palette[:, 0] > 0)).any(), kind


def _gif(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "GIF")
    return buffer.getvalue()


def test_heic_is_read_and_written() -> None:
    pytest.importorskip("pillow_heif")
    learn_heif()
    data = saved(scene(1), "HEIF", enc_params={"preset": "ultrafast"})
    result = redact_file(data, [np.array([BOX], np.float32)])
    assert (result.format, result.method, result.size_wh) == ("HEIF", "re-encoded", SIZE_WH)
    [source], [redacted] = decode_frames(data), decode_frames(result.data)
    assert np.abs(source[:30].astype(int) - redacted[:30]).mean() < 6
    assert np.abs(np.diff(redacted[44:96, 64:126].astype(int), axis=1)).mean() < 5
    assert find_residue(result.data) == []


def test_heic_without_its_extra_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from depers.imaging import headers

    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    monkeypatch.setattr(headers, "find_spec", lambda name: None)
    monkeypatch.setattr(headers.Image, "open", lambda stream: (_ for _ in ()).throw(OSError("cannot identify")))
    with pytest.raises(ImageError, match="the extra `heif`, which installs pillow-heif"):
        decode(data)


def test_a_profile_keeps_its_colors_and_loses_its_texts() -> None:
    source = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    kinds = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
    for kind, options in kinds.items():
        data = saved(scene(1), kind, icc_profile=source.tobytes(), **options)
        assert "color profile with texts" in find_residue(data)
        result = redact_file(data, [np.array([BOX], np.float32)])
        profile_bytes = Image.open(io.BytesIO(result.data)).info["icc_profile"]
        assert not any(name in profile_bytes for name in (b"sRGB", b"lcms", b"APPL", b"MSFT"))
        sanitized = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
        lab = ImageCms.createProfile("LAB")
        pixels = scene(3).convert("RGB")
        first, second = (
            np.asarray(ImageCms.applyTransform(pixels, ImageCms.buildTransform(profile, lab, "RGB", "LAB")))
            for profile in (ImageCms.ImageCmsProfile(io.BytesIO(source.tobytes())), sanitized)
        )
        assert (first == second).all()
        assert find_residue(result.data) == []


def test_a_png_keeps_its_gamma() -> None:
    plain = saved(scene(1), "PNG")
    gamma = png.make_chunk(b"gAMA", (100_000).to_bytes(4, "big"))
    data = png.insert(plain, gamma)
    result = redact_file(data, [np.array([BOX], np.float32)])
    assert Image.open(io.BytesIO(result.data)).info["gamma"] == 1.0
    assert result.data.count(b"gAMA") == 1
    assert png.copy_color_chunks(png.insert(plain, png.make_chunk(b"cHRM", b"too short"))) == b""


@pytest.mark.parametrize(
    ("boxes", "reason"), [([], "holds 1 frames, but got boxes for 0"), ([np.empty((0, 4))] * 2, "got boxes for 2")]
)
def test_boxes_must_be_those_of_every_frame(boxes: list[NDArray[np.float32]], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        redact_file(saved(scene(1), "PNG"), boxes)


def test_frames_outside_the_screen_of_a_gif_count() -> None:
    """Pillow makes room for a frame wherever it says to lie, before anyone has asked for it."""
    images = [Image.new("P", (20, 20), index) for index in (0, 1)]
    data = bytearray(gif_bytes := _gif(images[0]))
    last = bytes(data).rindex(b",")
    second = bytearray(gif_bytes[last:-1])
    second[1:5] = (0xFF, 0xFF, 0xFF, 0xFF)
    with pytest.raises(ImageError, match="at most 80 megapixels, but its frames reach over 4297"):
        decode(bytes(data[:-1]) + bytes(second) + b";")


def test_the_limit_counts_all_frames() -> None:
    images = [Image.new("RGB", (300, 300), color) for color in ("red", "green", "blue")]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
    with pytest.raises(ImageError, match=r"at most 0\.2 megapixels, but declares 300x300 in 3 frames"):
        list(decode_frames(buffer.getvalue(), 0.2))
    assert len(list(decode_frames(buffer.getvalue(), 0.3))) == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_header_spares_reading_it_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, buffer = frames_of(kind), io.BytesIO()
    options = {"save_all": True, "append_images": images[1:]} if kind == "GIF" else {}
    images[0].convert("RGB").save(buffer, kind, **options)
    data = buffer.getvalue()
    header = read_header(data)
    boxes = [np.array([[8, 4, 40, 40]], np.float32)] * len(header.pages)
    expected = redact_file(data, boxes)
    for module in (files, decoding):
        monkeypatch.setattr(module, "read_header", lambda *arguments: pytest.fail("read again"))
    assert redact_file(data, boxes, header=header) == expected
