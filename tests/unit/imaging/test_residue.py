"""Nothing but image, orientation and neutral profile survives: planted metadata and damaged files."""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from jpegs import box_per_frame
from PIL import Image, PngImagePlugin, TiffImagePlugin

from depers.imaging.decoding import decode_frames
from depers.imaging.formats import jpeg_segments
from depers.imaging.headers import ImageError, read_header
from depers.imaging.metadata import exif
from depers.imaging.metadata.residue import find_residue
from depers.redaction.files import redact_file

SECRET = b"SECRET-47.3769,8.5417"
IMAGE = np.asarray(Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((96, 64)))
NOTHING = np.empty((0, 4), np.float32)
BOX = np.array([[20, 10, 60, 40]], np.float32)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def full_exif(orientation: int = 6) -> bytes:
    """EXIF with a description, dates, a maker's note, GPS and a thumbnail."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = SECRET.decode()
    block[0x010F], block[0x0110], block[0x0132] = "Camera Works", "Model 3", "2024:05:06 07:08:09"
    block[0x8769] = {0x9003: "2024:05:06 07:08:09", 0x927C: SECRET, 0x829A: TiffImagePlugin.IFDRational(1, 250)}
    block[0x8769] |= {0xA431: SECRET.decode(), 0x9286: b"ASCII\0\0\0" + SECRET}
    block[0x8825] = {1: "N", 2: (47.0, 22.0, 36.84), 3: "E", 4: (8.0, 32.0, 30.12), 0x1B: SECRET}
    return block.tobytes()


def planted_jpegs() -> Iterator[tuple[str, bytes]]:
    plain = bytes(simplejpeg.encode_jpeg(IMAGE, 90, "RGB", "420"))
    head, tail = plain[:20], plain[20:]
    xmp = b"http://ns.adobe.com/xap/1.0/\0"
    cases = {
        "exif": segment(0xE1, full_exif()),
        "exif twice": segment(0xE1, full_exif()) + segment(0xE1, full_exif(3)),
        "xmp": segment(0xE1, xmp + b"<x>" + SECRET),
        "extended xmp": segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 32 + bytes(8) + SECRET),
        "iptc": segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x20" + SECRET),
        "mpf": segment(0xE2, b"MPF\0II*\0" + SECRET),
        "flashpix": segment(0xE2, b"FPXR\0" + SECRET),
        "jfxx thumbnail": segment(0xE0, b"JFXX\0\x10" + plain + SECRET),
        "comment": segment(0xFE, SECRET),
        "adobe": segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + SECRET),
        "maker": segment(0xE5, SECRET) + segment(0xEF, SECRET) + segment(0xEA, SECRET),
        "profile that is none": segment(0xE2, b"ICC_PROFILE\0\1\1" + SECRET),
    }
    for name, content in cases.items():
        yield name, head + content + tail
        if name != "jfxx thumbnail":
            yield f"{name}, first", plain[:2] + content + plain[2:]
    yield "after the end", plain + SECRET
    yield "a second image after the end", plain + plain[:20] + segment(0xFE, SECRET) + tail
    yield "a film after the end", plain + b"\0\0\0\x18ftypmp42" + SECRET
    yield "before the end", plain[:-2] + SECRET + plain[-2:]
    yield "JFIF thumbnail", plain[:2] + segment(0xE0, plain[6:18] + b"\x02\x02" + SECRET[:12]) + tail


def planted_others() -> Iterator[tuple[str, bytes]]:
    image = Image.fromarray(IMAGE)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", SECRET.decode())
    text.add_text("Zipped", SECRET.decode(), zip=True)
    text.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    png = saved(image, "PNG", pnginfo=text, exif=full_exif())
    yield "png text", png
    yield "png after the end", png + SECRET
    private = SECRET + b"x" * 40
    chunk = struct.pack(">I", len(private)) + b"prVt" + private + struct.pack(">I", zlib.crc32(b"prVt" + private))
    plain = saved(image, "PNG")
    yield "png private chunk", plain[:33] + chunk + plain[33:]
    yield "png left over from a larger one", plain + plain[-60:] + SECRET  # as cropping in place leaves it
    gif = saved(image.convert("P"), "GIF", comment=SECRET)
    yield "gif comment", gif
    yield "gif after the end", gif + SECRET
    xmp = b"\x21\xff\x0bXMP DataXMP" + bytes([len(SECRET)]) + SECRET + b"\0"
    yield "gif xmp", gif[:-1] + xmp + gif[-1:]
    for lossless in (False, True):
        webp = saved(image, "WEBP", exif=full_exif(), xmp=SECRET, lossless=lossless)
        yield f"webp {lossless}", webp
        yield f"webp {lossless} after the end", webp + SECRET
        unknown = webp + b"JUNK" + struct.pack("<I", len(SECRET) + 1) + SECRET + b"\0"
        yield f"webp {lossless} chunk", unknown[:4] + struct.pack("<I", len(unknown) - 8) + unknown[8:]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for number in (270, 271, 305, 315, 316, 33432, 37724):
        tags[number] = SECRET.decode() if number != 37724 else SECRET
        tags.tagtype[number] = 2 if number != 37724 else 7
    tags[700], tags.tagtype[700] = SECRET, 1
    yield "tiff tags", saved(image, "TIFF", tiffinfo=tags)
    yield "tiff exif", saved(image, "TIFF", exif=full_exif(1))
    yield "tiff after the end", saved(image, "TIFF") + SECRET * 100
    bmp = saved(image, "BMP")
    yield "bmp after the end", bmp + SECRET
    gap = SECRET + bytes(-len(SECRET) % 4)
    yield "bmp gap", bmp[:10] + struct.pack("<I", 54 + len(gap)) + bmp[14:54] + gap + bmp[54:]
    yield "avif", saved(image, "AVIF", exif=full_exif(1), xmp=SECRET, speed=10)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data"), [*planted_jpegs(), *planted_others()], ids=lambda case: str(case)[:32])
def test_planted_metadata_is_seen_and_removed(name: str, data: bytes) -> None:
    compressed = name in ("png text",)
    assert SECRET in data or compressed or name == "JFIF thumbnail"
    if name != "before the end":  # bytes in a scan are noise to all but the decoder
        assert find_residue(data), name
    for boxes in (NOTHING, BOX):
        try:
            result = redact_file(data, [boxes])
        except ImageError:
            continue
        assert b"SECRET" not in result.data
        assert find_residue(result.data) == []


@pytest.mark.parametrize(("name", "data"), [*planted_jpegs()], ids=lambda case: str(case)[:32])
def test_a_stream_is_rebuilt_from_what_it_needs(name: str, data: bytes) -> None:
    """Whatever the library copies against its orders."""
    if name != "before the end":
        rebuilt = jpeg_segments.rebuild(data, b"", None)
        assert b"SECRET" not in rebuilt
        assert find_residue(rebuilt) == []
        assert (np.asarray(Image.open(io.BytesIO(rebuilt))) == np.asarray(Image.open(io.BytesIO(data)))).all()


def test_a_truncated_or_foreign_file_is_no_clean_one() -> None:
    for data in (b"", b"text", saved(Image.fromarray(IMAGE), "PNG")[:-20], b"\xff\xd8\xff\xe0", b"BM", b"II*\0"):
        assert find_residue(data), data[:10]


def test_kept_groups_and_nothing_else() -> None:
    tags_by_group = {
        "date": ({0x0132}, {0x9003}, set()),
        "camera": ({0x010F, 0x0110}, {0x829A}, set()),
        "gps": (set(), set(), {0, 1, 2, 3, 4}),
    }
    assert {*tags_by_group, exif.PANORAMA} == set(exif.GROUPS)
    image = Image.fromarray(IMAGE)
    for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {}), ("TIFF", {}), ("AVIF", {"speed": 10})):
        data = saved(image, kind, exif=full_exif(1 if kind in ("TIFF", "AVIF") else 6), **options)
        for group, (main, details, gps) in tags_by_group.items():
            result = redact_file(data, [BOX], keep_metadata=[group])
            tags = Image.open(io.BytesIO(result.data)).getexif()
            pointers = {0x0112, 0x8769, 0x8825}
            if kind == "TIFF":
                pointers |= set(range(254, 340)) - {270, 271, 272, 305, 306, 315}
            assert set(tags) - pointers == main, (kind, group)
            assert set(tags.get_ifd(0x8769)) == details, (kind, group)
            assert set(tags.get_ifd(0x8825)) == gps, (kind, group)
            assert b"SECRET" not in result.data
            assert find_residue(result.data, [group]) == []
            assert find_residue(result.data)


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(ValueError, match="must be among date, camera, gps, panorama, but got 'thumbnail'"):
        redact_file(saved(Image.fromarray(IMAGE), "PNG"), [NOTHING], keep_metadata=["thumbnail"])


@pytest.mark.parametrize(
    "folder", ["corrupt", "bombs", "modes", "animated", pytest.param("heic_avif", marks=pytest.mark.slow)]
)
def test_every_bad_image_is_redacted_or_refused_with_a_reason(folder: str, data: Path) -> None:
    for path in sorted((data / "badimages" / folder).rglob("*")):
        content, started = path.read_bytes(), time.process_time()
        try:
            result = redact_file(content, box_per_frame(content))
        except ImageError as error:
            assert str(error), path
        else:
            assert find_residue(result.data) == [], path
            assert result.format == read_header(result.data).format
            list(decode_frames(result.data))
        assert time.process_time() - started < 15, path  # 3 s on a quiet machine
