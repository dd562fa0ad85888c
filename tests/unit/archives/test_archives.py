"""Archives read in chunks and put together again: what is whole comes back in order, what is not is told."""

import io
import random
import struct
import tarfile
import zipfile

import pytest
from archive_files import (
    COMPRESS,
    CONTENT,
    NAMES,
    RULES,
    image,
    make_tar,
    make_zip,
    members,
    read,
    rebuild,
    untar,
    unzip,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from depers.archives import base as archives
from depers.archives.base import MemberRules


@pytest.mark.parametrize("layout", COMPRESS)
def test_tar_keeps_order_names_and_doubles(layout: str) -> None:
    data = make_tar(CONTENT, layout)
    chunks, end = read("tar", data)
    assert not end.reason and len(chunks) == 3 and end.members == len(NAMES)
    result = rebuild("tar", data)
    assert untar(result) == CONTENT
    assert rebuild("tar", data) == result and b"joe" not in result
    assert result[:2] == {"gz": b"\x1f\x8b", "bz2": b"BZ", "xz": b"\xfd7"}.get(layout, b"d/")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_keeps_order_names_and_doubles(method: int) -> None:
    data = make_zip(CONTENT, method)
    result = rebuild("zip", data)
    assert unzip(result) == CONTENT
    assert rebuild("zip", data) == result and b"joe" not in result


def test_what_else_is_in_an_archive_follows_the_rules() -> None:
    content = [("a.jpg", image(1)), ("n.txt", b"note"), ("n.csv", b"1,2"), ("in.zip", make_zip(CONTENT[:1]))]
    content += [("/abs.jpg", image(2)), ("../up.jpg", image(3)), ("big.jpg", image(4) + bytes(1 << 20))]
    expected = {"a.jpg": "", "n.txt": "passed_through", "n.csv": "skipped", "in.zip": "skipped", "/abs.jpg": "failed"}
    expected |= {"../up.jpg": "failed", "big.jpg": "failed"}
    for kind, data in (("tar", make_tar(content)), ("zip", make_zip(content))):
        chunks, end = read(kind, data)
        found = {member.name: member for member in members(chunks)}
        assert {name: member.status for name, member in found.items()} == expected and not end.reason
        assert all(bool(one.reason) == (one.status in ("failed", "skipped")) for one in found.values())
        assert {name for name, one in found.items() if one.data is not None} == {"a.jpg", "n.txt"}
        result = rebuild(kind, data)
        assert [name for name, _ in (untar if kind == "tar" else unzip)(result)] == ["a.jpg", "n.txt"]


def test_links_and_devices_are_left_out_and_folders_stay() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("s", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("c", tarfile.CHRTYPE),
        ):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
    chunks, end = read("tar", buffer.getvalue())
    assert [one.status for one in members(chunks)] == ["folder", "skipped", "skipped", "skipped"] and not end.reason
    with tarfile.open(fileobj=io.BytesIO(rebuild("tar", buffer.getvalue()))) as archive:
        assert [(one.name, one.isdir()) for one in archive] == [("d", True)]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
    assert members(read("zip", data.getvalue())[0])[0].status == "skipped"


def test_encrypted_and_overlapping_members_of_a_zip_fail() -> None:
    data = bytearray(make_zip(CONTENT[:2], zipfile.ZIP_STORED))
    directory = data.index(b"PK\1\2")
    data[directory + 8] |= 1
    assert [(one.status, one.reason) for one in members(read("zip", bytes(data))[0])] == [
        ("failed", "encrypted"),
        ("", ""),
    ]
    data = bytearray(make_zip(CONTENT[:2], zipfile.ZIP_STORED))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 4)
    data[second + 42 : second + 46] = struct.pack("<L", 4)  # its header is said to lie within the first member
    assert {one.reason for one in members(read("zip", bytes(data))[0])} == {"shares its bytes with another member"}


def test_a_truncated_tar_gives_what_is_whole() -> None:
    data = make_tar(CONTENT)
    chunks, end = read("tar", data[: len(data) // 2])
    *whole, last = members(chunks)
    assert all(one.data == dict(CONTENT[2:] + CONTENT[:1])[one.name] for one in whole if one.name != "d/IMG.001.jpg")
    assert len(whole) > 30 and last.status == "failed" and last.reason.startswith("lost") and end.reason
    assert len(untar(rebuild("tar", data[: len(data) // 2]))) == len(whole)


def test_a_tar_without_its_end_mark_is_incomplete() -> None:
    data = make_tar([("a.jpg", image(0)[:512])])
    end = data.index(image(0)[:512]) + 512
    assert read("tar", data[:end])[1].reason.startswith("ends after 1 members without its end mark")
    assert not read("tar", data[: end + 1024])[1].reason


def test_a_damaged_header_loses_one_member_alone() -> None:
    data = bytearray(make_tar([(f"{number}.jpg", image(number)) for number in range(9)]))
    start = data.rindex(b"4.jpg")  # before it, the name comes in a pax header
    data[start : start + 512] = bytes(range(256)) * 2
    chunks, end = read("tar", bytes(data))
    assert [one.name for one in members(chunks)] == [f"{number}.jpg" for number in range(9) if number != 4]
    assert end.reason == "1 damaged headers: what they described is lost"


@pytest.mark.parametrize("layout", ["gz", "xz"])
def test_a_truncated_compressed_tar_gives_what_is_whole(layout: str) -> None:
    data = make_tar(CONTENT, layout)
    chunks, end = read("tar", data[: len(data) * 3 // 4])
    assert "cut off" in end.reason and (layout == "xz" or len(members(chunks)) > 30)


def test_a_zip_without_its_directory_gives_what_is_whole() -> None:
    data = make_zip(CONTENT)
    chunks, end = read("zip", data[: len(data) // 2])
    *whole, last = members(chunks)
    assert [(one.name, one.data) for one in whole] == CONTENT[: len(whole)] and len(whole) > 30
    assert last.status == "failed" and "directory cannot be read" in end.reason


def test_a_zip_with_members_that_its_directory_does_not_list_is_incomplete() -> None:
    whole = make_zip({"a.jpg": image(1), "b.jpg": image(2)})
    shortened = io.BytesIO(whole)
    with zipfile.ZipFile(shortened, "a") as archive:
        del archive.filelist[0]
        archive.comment = b"a.jpg was removed"
    streamed = io.BytesIO()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"{number}.jpg", "w", force_zip64=True) as file:
                file.write(image(number))
    for data in (whole + make_zip({"c.jpg": image(3)}), shortened.getvalue()):
        _, end = read("zip", data)
        assert end.reason.startswith("holds members that its directory does not list")
    for data in (whole, b"#!/bin/sh\n" * 100 + whole, whole + bytes(50), streamed.getvalue()):
        assert not read("zip", data)[1].reason


def test_a_bad_checksum_costs_one_member_of_a_zip() -> None:
    data = bytearray(make_zip(CONTENT[:5], zipfile.ZIP_STORED))
    data[data.index(CONTENT[2][1]) + 500] ^= 1
    assert [one.status for one in members(read("zip", bytes(data))[0])] == ["", "", "failed", "", ""]


@pytest.mark.parametrize("kind", ["tar", "zip", "parquet"])
@pytest.mark.parametrize("data", [b"", b"junk", random.Random(1).randbytes(20_000), image(1)])
def test_what_is_no_archive_has_no_members(kind: str, data: bytes) -> None:
    chunks, end = read(kind, data)
    assert not chunks and end.reason


def test_long_headers_that_claim_too_much_are_refused() -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    data = header.tobuf(tarfile.GNU_FORMAT) + make_tar(CONTENT[:2])
    chunks, end = read("tar", data)
    assert [one.name for one in members(chunks)] == NAMES[:2] and end.reason


def test_a_bomb_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from depers.archives import tar

    monkeypatch.setattr(tar, "_FREE_BYTES", 1 << 20)
    data = make_tar([("a.jpg", image(0)), ("zero.jpg", b"\xff\xd8\xff" + bytes(20 << 20))], "gz")
    chunks, end = read("tar", data, MemberRules((), 1 << 30))
    assert members(chunks)[0].data == image(0) and "unpacks to more than 200 times its size" in end.reason


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), st.binary()), max_size=8)
)
def test_any_names_and_contents_come_back(content: list[tuple[str, bytes]]) -> None:
    safe = [
        (name + ".jpg", data) for name, data in content if ".." not in name and name[0] not in "/\\" and ":" not in name
    ]
    safe = [(name, data) for name, data in safe if "\\" not in name]
    kept = [
        one for one in safe if archives.read_member(0, *(one[0], len(one[1])), io.BytesIO(one[1]), RULES).status == ""
    ]
    assert untar(rebuild("tar", make_tar(safe))) == kept
    assert unzip(rebuild("zip", make_zip(safe))) == kept
