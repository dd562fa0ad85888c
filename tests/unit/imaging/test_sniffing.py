"""What a file is and what becomes of it: images whatever their names, nothing else unless it is named."""

import pytest

from depers.archives import base
from depers.imaging import sniffing

JPEG, PNG, TEXT = b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"hello, world, these are some words"
BITMAP = b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(20)


@pytest.mark.parametrize(
    ("name", "head", "keep", "expected"),
    [
        ("a.jpg", JPEG, (), None),
        ("a", JPEG, (), None),
        ("a.txt", PNG, ("*.txt",), None),
        ("a.bin", BITMAP, ("*",), None),
        ("a.bin", b"RIFF\0\0\0\0WEBPVP8 ", (), None),
        ("a.bin", b"\0\0\0\x18ftypheic", ("*",), None),
        ("a.mp4", b"\0\0\0\x18ftypisom", (), "skipped"),
        ("a.jpg", TEXT, (), None),
        ("a.JPG", b"", (), None),
        ("a.txt", b"BM is how this text begins", ("*.txt",), "passed_through"),
        ("a.txt", TEXT, (), "skipped"),
        ("d/a.txt", TEXT, ("*.txt",), "passed_through"),
        ("d/a.txt", TEXT, ("d/*",), "passed_through"),
        ("d/a.txt", TEXT, ("e/*", "*.json"), "skipped"),
        ("d/a.json", b"{}", ("*.json",), "passed_through"),
        ("a.zip", b"PK\3\4", ("*",), "skipped"),
        ("a.bin", b"PK\3\4", ("*",), "skipped"),
        ("a.tar", b"", ("*",), "skipped"),
        ("a.bin", bytes(257) + b"ustar\0", ("*",), "skipped"),
        ("a.jpg", b"\x1f\x8b\x08", ("*",), "skipped"),
    ],
)
def test_what_becomes_of_a_file(name: str, head: bytes, keep: tuple[str, ...], expected: str | None) -> None:
    status, reason = sniffing.classify(name, head, keep)
    assert status == expected
    assert bool(reason) == (expected == "skipped")


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (JPEG, "JPEG"),
        (PNG, "PNG"),
        (b"GIF89a", "GIF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (BITMAP, "BMP"),
        (b"BM" + bytes(12) + b"\x38\0\0\0" + bytes(20), "BMP"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
        (b"RIFF\0\0\0\0WAVEfmt ", ""),
        (b"\0\0\0\x18ftypavif", "AVIF"),
        (b"\0\0\0\x18ftyphevx", "HEIF"),
        (b"\0\0\0\x18ftypisom", ""),
        (b"8BPS", "PSD"),
        (TEXT, ""),
        (b"", ""),
    ],
)
def test_formats_are_told_by_their_first_bytes(head: bytes, expected: str) -> None:
    assert sniffing.sniff_format(head) == expected
    assert sniffing.is_image(head) == bool(expected)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.jpg", True), ("./a/b.jpg", True), ("a..b/c..jpg", True), ("C.jpg", True), ("a:b.jpg", True),
        ("/etc/a.jpg", False), ("../a.jpg", False), ("a/../../b.jpg", False), ("a\\..\\b.jpg", False),
        ("C:\\a.jpg", False), ("\\\\host\\a.jpg", False), ("", False), ("a\0.jpg", False), ("..", False),
    ],
)  # fmt: skip
def test_names_that_reach_outside(name: str, safe: bool) -> None:
    assert (not base.explain_unsafe_name(name)) is safe
