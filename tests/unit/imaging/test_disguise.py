"""Images in any dress are found in what a user keeps, and ordinary texts and numbers are left alone."""

import base64
import binascii
import email.mime.image
import gzip
import io
import json
import lzma
import pickle
import quopri
import random
import urllib.parse
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from depers.imaging.disguise import search, texts
from depers.imaging.disguise.search import find_image
from depers.imaging.headers import learn_heif

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "HEIF", "ICO", "PPM", "JPEG2000")


def draw(form: str) -> bytes:
    learn_heif()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    return {form: draw(form) for form in FORMATS}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrap(data: bytes, width: int, between: str) -> bytes:
    text = encode(data)
    return between.join(text[start : start + width] for start in range(0, len(text), width)).encode()


def array(pixels: np.ndarray) -> bytes:  # type: ignore[type-arg]
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "as they are": bytes,
    "zlib": zlib.compress,
    "gzip": gzip.compress,
}
"""Where any image is found; what has no signature of its own only as a whole file."""
TEXTS: dict[str, Callable[[bytes], bytes]] = {
    "base64": lambda data: encode(data).encode(),
    "a prefix in base64": lambda data: encode(b"xy" + data).encode(),
    "for URLs": base64.urlsafe_b64encode,
    "MIME": base64.encodebytes,
    "short lines": lambda data: wrap(data, 20, "\n"),
    "LabelMe": lambda data: json.dumps({"imagePath": "a.jpg", "imageData": encode(data)}, indent=2).encode(),
    "escaped slashes": lambda data: json.dumps({"x": encode(data)}).replace("/", "\\/").encode(),
    "escaped line ends": lambda data: json.dumps({"x": base64.encodebytes(data).decode()}).encode(),
    "lines of JSON": lambda data: json.dumps(wrap(data, 60, "\n").decode().split(), indent=4).encode(),
    "HTML": lambda data: b'<img src="data:image/png;base64,' + encode(data).encode() + b'">',
    "octets": lambda data: b'<img src="data:application/octet-stream;base64,' + encode(data).encode() + b'">',
    "percent signs": lambda data: b"<img src='data:image/png," + urllib.parse.quote_from_bytes(data).encode() + b"'>",
    "a form": lambda data: b"a=1&image=" + urllib.parse.quote(encode(data)).encode(),
    "XMP": lambda data: b"<xmpGImg:image>" + wrap(data, 76, "&#xA;") + b"</xmpGImg:image>",
    "XML": lambda data: b"<i><![CDATA[\n" + wrap(data, 72, "\n      ") + b"]]></i>",
    "script": lambda data: b'var a="' + wrap(data, 70, '" +\n   "') + b'";',
    "CSV": lambda data: b"id,image\n1," + encode(data).encode() + b"\n2,\n",
    "mail": lambda data: email.mime.image.MIMEImage(data, "png").as_bytes(),
    "hexadecimal": lambda data: data.hex().encode(),
    "SQL": lambda data: b"INSERT INTO t VALUES ('\\x" + data.hex().upper().encode() + b"')",
    "C": lambda data: ", ".join(f"0x{byte:02x}" for byte in data).encode(),
    "with colons": lambda data: data.hex(":").encode(),
    "numbers": lambda data: json.dumps({"data": list(data)}).encode(),
    "numbers on lines": lambda data: json.dumps({"data": list(data)}, indent=8).encode(),
    "numbers apart": lambda data: " ".join(map(str, data)).encode(),
    "signed numbers": lambda data: json.dumps([byte - 256 if byte > 127 else byte for byte in data]).encode(),
    "numbers by place": lambda data: json.dumps(dict(enumerate(data))).encode(),
    "floating numbers": lambda data: json.dumps([float(byte) for byte in data]).encode(),
    "Python": lambda data: f"1,{data!r}\n".encode(),
    "escapes": lambda data: json.dumps({"s": data.decode("latin-1")}).encode(),
    "characters": lambda data: json.dumps({"s": data.decode("latin-1")}, ensure_ascii=False).encode(),
    "twice": lambda data: encode(encode(data).encode()).encode(),
    "thrice": lambda data: encode(encode(encode(data).encode()).encode()).encode(),
    "packed": lambda data: encode(gzip.compress(data)).encode(),
    "deflated": lambda data: encode(zlib.compress(data)).encode(),
    "base32": base64.b32encode,
    "base85": base64.b85encode,
    "ASCII85": base64.a85encode,
    "two bytes": lambda data: json.dumps({"x": encode(data)}).encode("utf-16"),
    "escaped twice": lambda data: json.dumps({"x": encode(data)}).replace("/", "\\\\\\/").encode(),
    "escaped for HTML": lambda data: ("<img src=" + encode(data).replace("/", "&#x2F;") + ">").encode(),
    "decimal entities": lambda data: encode(data).replace("/", "&#47;").replace("+", "&#43;").encode(),
    "behind Cyrillic": lambda data: ("Улица, дом. " * 300 + encode(data)).encode("utf-16"),
    "deflated without a head": lambda data: encode(zlib.compress(data, wbits=-15)).encode(),
    "JSON in JSON": lambda data: json.dumps({"p": json.dumps({"x": encode(data)})}).encode(),
}
"""Where an image of any format is found."""


@pytest.mark.parametrize("dress", [*BYTES, *TEXTS])
def test_an_image_is_found_in_any_dress(images: dict[str, bytes], dress: str) -> None:
    write = (BYTES | TEXTS)[dress]
    assert [form for form, data in images.items() if not find_image(write(data))] == []


@pytest.mark.parametrize("form", [form for form in FORMATS if form != "ICO"])
def test_an_image_is_found_behind_other_bytes(images: dict[str, bytes], form: str) -> None:
    for data in (b"\1\2\0name" + images[form], pickle.dumps({"a": images[form]})):
        assert find_image(data)
        assert find_image(b"head: " + encode(data).encode())


@pytest.mark.parametrize(
    "data",
    [
        quopri.encodestring(draw("JPEG")),
        b"begin 644 a.jpg\n" + b"".join(binascii.b2a_uu(draw("JPEG")[at : at + 45]) for at in range(0, 450, 45)),
        "".join(f"\\{byte:03o}" for byte in draw("PNG")).encode(),
        "".join(f"{at:08x}  {draw('JPEG')[at : at + 16].hex(' ')}  |....|\n" for at in range(0, 160, 16)).encode(),
        b"%PDF-1.7\n" + bytes(100), b"note: see below\n%PDF-1.4\n" + bytes(100),
        b"PK\3\4" + bytes(60), b"\x1aE\xdf\xa3" + bytes(60), b"\0\0\0\x18ftypisom" + bytes(60),
        b"SQLite format 3\0" + bytes(90) + draw("JPEG"),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(60),
        array(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)),
        array(np.random.default_rng(0).random((40, 40, 3))),
        json.dumps(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).tolist()).encode(),
        ("emotion,pixels,Usage\n0," + " ".join(str(n % 251) for n in range(48 * 48)) + ",Training\n").encode(),
        " ".join(draw("JPEG").hex()[at : at + 8] for at in range(0, 400, 8)).encode(),
        pickle.dumps({"image": np.zeros((64, 64, 3), np.uint8)}), pickle.dumps(Image.new("RGB", (64, 64)), 2),
        b"MATLAB 5.0 MAT-file".ljust(128) + bytes(60), b"ARROW1\0\0" + bytes(60), b"Obj\1" + bytes(60),
        b"ORC\x0a" + bytes(60), lzma.compress(draw("PNG"), lzma.FORMAT_ALONE), b"/* XPM */ static char *a[] = {" * 3,
        (b"G" + bytes(187)) * 5, (bytes(4) + b"G" + bytes(187)) * 5, b"\0\0\0\x08wide" + bytes(60),
        b"OggS\0\2" + bytes(22) + b"\x80theora" + bytes(60), b"YUV4MPEG2 W96 H96\n" + bytes(60),
    ],
)  # fmt: skip
def test_what_may_hold_an_image_is_found(data: bytes) -> None:
    assert find_image(data)


def coco() -> dict[str, object]:
    chance = random.Random(0)
    return {
        "images": [
            {"file_name": f"{n:012}.jpg", "coco_url": f"http://images.cocodataset.org/val2017/{n:012}.jpg", "id": n}
            for n in range(200)
        ],
        "annotations": [
            {
                "segmentation": [[round(chance.random() * 640, 2) for _ in range(80)]],
                "bbox": [chance.randrange(640) for _ in range(4)],
                "counts": [chance.randrange(1, 400) for _ in range(900)],
                "rle": "".join(chr(chance.randrange(48, 112)) for _ in range(700)),
            }
            for _ in range(40)
        ],
        "sha256": [f"{chance.getrandbits(256):064x}" for _ in range(300)],
        "keys": [base64.b64encode(chance.randbytes(90)).decode() for _ in range(300)],
        "embedding": [chance.gauss(0, 1) for _ in range(4000)],
        "tokens": [chance.randrange(50_000) for _ in range(4000)],
    }


@pytest.mark.parametrize("indent", [None, 1])
def test_ordinary_texts_hold_no_image(indent: int | None) -> None:
    assert find_image(json.dumps(coco(), indent=indent).encode()) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"", b"a cat", b"Images begin as GIF89a, BM, II* or MM. " * 9,
        "Straße in Köln, été, 東京\n".encode() * 200,
        b"P5 is a page, P6 640 another\n" * 99, b"data:image/png;base64,", b"<svg xmlns='x'><path d='M0 0'/></svg>" * 9,
        "".join(f"{n % 5} 0.{n:06} 0.5 0.1 0.2\n" for n in range(3000)).encode(),
        "\n".join(f"{n},cat,https://example.org/a/very/long/path/{n}.jpg?size=large" for n in range(2000)).encode(),
        array(np.random.default_rng(0).normal(size=(300, 768)).astype(np.float32)),
        json.dumps([[0, 1] * 4000]).encode(),
    ],
)  # fmt: skip
def test_what_holds_no_image_is_left_alone(data: bytes) -> None:
    assert find_image(data) == ""


def values_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size].ljust(size, b"\0") for start in range(0, len(data), size)]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "write",
    [
        lambda data: [{"md5": value.hex()} for value in values_of(data, 16)],
        lambda data: [{"path": "a", "feed": value.hex(), "n": n} for n, value in enumerate(values_of(data, 32))],
        lambda data: [{"Key4": encode(value)} for value in values_of(data, 30)],
        lambda data: [{"id": int.from_bytes(value, "big")} for value in values_of(data, 7)],
        lambda data: [int.from_bytes(value, "little") for value in values_of(data, 2)],
        lambda data: {"a": base64.b85encode(data[:600]).decode()},
        lambda data: {"a": base64.a85encode(data[:600]).decode()},
    ],
)
def test_an_image_in_values_under_a_name_is_found(
    images: dict[str, bytes], form: str, write: Callable[[bytes], object]
) -> None:
    assert find_image(json.dumps(write(images[form])).encode())


def test_identifiers_and_numbers_under_names_are_left_alone() -> None:
    chance = random.Random(11)
    rows = [
        {"md5": chance.randbytes(16).hex(), "sha256": chance.randbytes(32).hex(), "id": chance.randrange(10**15),
         "key_of_the_image": encode(chance.randbytes(15)), "phone": f"+49 4{chance.randrange(10**9)}"}
        for _ in range(400)
    ]  # fmt: skip
    assert find_image(json.dumps(rows).encode()) == ""
    assert find_image(json.dumps({key: [row[key] for row in rows] for key in rows[0]}).encode()) == ""


def test_an_image_far_behind_is_found() -> None:
    filling = b"word " * (texts._WINDOW // 4)
    for at in (texts._WINDOW - texts._OVERLAP - 99, texts._WINDOW - texts._OVERLAP + 9, texts._WINDOW - 99):
        assert search.find_image(filling[:at] + b'"' + encode(draw("PNG")).encode() + b'"')


@pytest.mark.parametrize("cut", [lambda data: data[:-2] + b"ab", lambda data: data[: len(data) // 2]])
def test_an_image_in_a_damaged_stream_is_found(images: dict[str, bytes], cut: Callable[[bytes], bytes]) -> None:
    assert find_image(cut(zlib.compress(b"labels " * 200 + images["JPEG"] + random.Random(0).randbytes(9000))))


def test_a_jpeg_with_fill_bytes_is_found(images: dict[str, bytes]) -> None:
    data = images["JPEG"]
    assert find_image(b"labels " * 20 + data[:2] + b"\xff\xff" + data[2:])
