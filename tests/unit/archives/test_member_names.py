"""Names of members: they keep their bytes, however they were packed, and none reaches outside."""

import io
import struct
import tarfile
import zipfile
import zlib

import pytest
from archive_files import image, make_zip, members, read, rebuild
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.archives.base import Member

APPLE_DOUBLE = b"\0\5\x16\7" + bytes(100)


def pack(names: list[tuple[bytes, int, bytes]], data: bytes = image(1), has_directory: bool = True) -> bytes:
    """A zip of stored members: their names in bytes, flags and extra fields."""
    body, directory = bytearray(), bytearray()
    for name, flags, extra in names:
        sizes = (flags, 0, 0, 0x21, zlib.crc32(data), len(data), len(data), len(name), len(extra))
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *sizes, 0, 0, 0, 0, len(body)) + name + extra
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, *sizes) + name + extra + data
    if not has_directory:
        return bytes(body)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(names), len(names), len(directory), len(body), 0)
    return bytes(body + directory) + end


def raw_names(data: bytes) -> list[tuple[bytes, bool]]:
    """The bytes of the names in a zip's directory, and whether they are said to be UTF-8; the local headers agree."""
    with zipfile.ZipFile(io.BytesIO(data), metadata_encoding="latin-1") as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
    names = [entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "latin-1") for entry in entries]
    return [(name, bool(entry.flag_bits & 0x800)) for name, entry in zip(names, entries, strict=True)]


def unicode_path(raw: bytes, name: str) -> bytes:
    field = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(field)) + field


STREET = "Übersicht/Straße 1.jpg"
SHIFTED = "写真.jpg".encode("cp932")


@pytest.mark.parametrize("has_directory", [True, False])
@pytest.mark.parametrize(
    ("raw", "flags", "extra", "name"),
    [
        (b"plain.jpg", 0, b"", "plain.jpg"),
        (STREET.encode(), 0x800, b"", STREET),
        (STREET.encode(), 0, b"", STREET),
        (SHIFTED, 0, b"", SHIFTED.decode("utf-8", "surrogateescape")),
        (b"Stra\xe1e.jpg", 0, b"", "Stra\udce1e.jpg"),
    ],
)
def test_zip_names_keep_their_bytes(raw: bytes, flags: int, extra: bytes, name: str, has_directory: bool) -> None:
    data = pack([(raw, flags, extra), (b"last.jpg", 0, b"")], has_directory=has_directory)
    assert [member.name for member in members(read("zip", data)[0])] == [name, "last.jpg"]
    is_utf8 = not raw.isascii() and max(name) < "\udc80"
    assert raw_names(rebuild("zip", data)) == [(raw, is_utf8), (b"last.jpg", False)]


def test_the_unicode_path_counts_where_it_is_about_the_name() -> None:
    raw = "Straße.jpg".encode("cp437")
    for about, name in ((raw, "Straße.jpg"), (b"other.jpg", raw.decode("utf-8", "surrogateescape"))):
        data = pack([(raw, 0, b"\x99\x99\1\0x" + unicode_path(about, "Straße.jpg"))])
        assert [member.name for member in members(read("zip", data)[0])] == [name]


def test_names_that_are_flagged_as_what_they_are_not() -> None:
    data = pack([(b"a.jpg", 0, b""), (b"\xe1.jpg", 0x800, b"")])
    chunks, end = read("zip", data)
    assert [member.name for member in members(chunks)] == ["a.jpg", "\udce1.jpg"] and "damaged" in end.reason


@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=4))
def test_any_name_of_a_zip_comes_back_or_fails(names: list[bytes]) -> None:
    data = pack([(name, 0, b"") for name in names])
    chunks, end = read("zip", data)
    assert not end.reason
    written = [member.name for member in members(chunks) if member.status != "failed"]
    result = rebuild("zip", data, lambda member: member.data if member.status != "failed" else None)
    assert [name for name, _ in raw_names(result)] == [name.encode("utf-8", "surrogateescape") for name in written]
    for member in members(chunks):
        assert "\0" not in member.name or member.status == "failed"


def hostile(kind: str, name: str, is_folder: bool) -> Member:
    if kind == "zip":
        data = make_zip([(f"{name}/" if is_folder else name, b"" if is_folder else image(1))])
    else:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            header = tarfile.TarInfo(name)
            header.type = tarfile.DIRTYPE if is_folder else tarfile.REGTYPE
            header.size = 0 if is_folder else len(image(1))
            archive.addfile(header, None if is_folder else io.BytesIO(image(1)))
        data = buffer.getvalue()
    [member] = members(read(kind, data)[0])
    return member


@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/up", "a\\..\\..\\up", "\\up", "C:/up", "C:\\up"])
def test_a_name_that_reaches_outside_fails_also_of_a_folder(kind: str, name: str, is_folder: bool) -> None:
    member = hostile(kind, name, is_folder)
    assert member.status == "failed" and member.number == 0 and member.reason.startswith("a name must")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_name_of_32_kb_is_a_name(kind: str) -> None:
    name = "ü" * 16_000 + ".jpg"
    assert hostile(kind, name, False)[:2] == (0, name)


def test_resource_forks_are_skipped_whatever_is_kept() -> None:
    content = [("p/a.jpg", image(1)), ("__MACOSX/p/._a.jpg", APPLE_DOUBLE), ("__MACOSX/._n.txt", APPLE_DOUBLE)]
    content += [("._real.jpg", image(2))]
    found = {member.name: (member.status, member.reason) for member in members(read("zip", make_zip(content))[0])}
    fork = ("skipped", "a resource fork of macOS")
    assert found == {"p/a.jpg": ("", ""), content[1][0]: fork, content[2][0]: fork, "._real.jpg": ("", "")}


def test_a_folder_that_holds_bytes_is_accounted_for() -> None:
    chunks, _ = read("zip", pack([(b"a.jpg/", 0, b""), (b"b.jpg", 0, b"")]))
    assert [(one.name, one.status) for one in members(chunks)] == [("a.jpg/", "failed"), ("b.jpg", "")]
