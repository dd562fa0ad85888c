"""What a listing holds: each real folder once, regular files, and a row for what is none or lies elsewhere."""

import os
import socket
from pathlib import Path

import pytest

from depers import storage
from depers.storage import Entry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in/sub/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/below").mkdir(parents=True)
    for path in ("in/a.jpg", "in/sub/deep/b.jpg", "elsewhere/c.jpg", "elsewhere/below/d.jpg", "e.jpg"):
        (tmp_path / path).write_bytes(b"image")
    return tmp_path / "in"


def listed(root: Path, follow_links: bool = False, out: str | None = None) -> tuple[list[str], dict[str, str]]:
    """The paths that are files, and the reasons of those that are skipped."""
    entries = storage.list_files(str(root), follow_links, out)
    assert len({entry.path for entry in entries}) == len(entries)
    assert {entry.status for entry in entries} <= {"", "skipped"}
    return [e.path for e in entries if not e.status], {e.path: e.reason for e in entries if e.status}


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize("target", [".", "..", "sub", "sub/..", "/", "loop"])
def test_a_loop_is_listed_once_and_said(root: Path, target: str, follow_links: bool) -> None:
    for name in ("loop", "sub/loop", "sub/deep/loop"):
        (root / name).symlink_to(target if target == "loop" else (root / target).resolve())
    files, reasons = listed(root, follow_links)
    if target == "loop":  # leads to itself, so nowhere
        assert files == ["a.jpg", "loop", "sub/deep/b.jpg", "sub/deep/loop", "sub/loop"] and not reasons
    else:
        assert files == ["a.jpg", "sub/deep/b.jpg"] and list(reasons) == ["loop", "sub/deep/loop", "sub/loop"]
        assert all(reason.startswith("a link to a folder") or "listed already" in reason for reason in reasons.values())


@pytest.mark.parametrize("follow_links", [False, True])
def test_folders_that_link_to_each_other(root: Path, follow_links: bool) -> None:
    (root / "sub/deep/up").symlink_to("..")
    (root / "sub/other").symlink_to("deep")
    (root / "one").symlink_to("sub")
    files, reasons = listed(root, follow_links)
    assert files == ["a.jpg", "sub/deep/b.jpg"] and list(reasons) == ["one", "sub/deep/up", "sub/other"]


def test_links_out_are_followed_only_where_asked(root: Path) -> None:
    elsewhere = root.parent / "elsewhere"
    (root / "file.jpg").symlink_to(root.parent / "e.jpg")
    (root / "photos").symlink_to(elsewhere)
    (root / "twice").symlink_to(elsewhere / "below")
    (root / "inside.jpg").symlink_to(root / "a.jpg")
    files, reasons = listed(root)
    assert files == ["a.jpg", "inside.jpg", "sub/deep/b.jpg"]
    assert reasons.keys() == {"file.jpg", "photos", "twice"}
    assert set(reasons.values()) == {"a link that leads out of the folder, which only --follow-links allows"}
    (elsewhere / "back").symlink_to(root / "sub")
    files, reasons = listed(root, follow_links=True)
    found = ["photos/below/d.jpg", "photos/c.jpg"]
    assert files == ["a.jpg", "file.jpg", "inside.jpg", *found, "sub/deep/b.jpg"]
    assert reasons == {
        "photos/back": "a folder that is listed already: sub",
        "twice": "a folder that is listed already: photos/below",
    }


def test_out_is_no_input_whatever_leads_to_it(root: Path) -> None:
    (root / "parent").symlink_to(root.parent / "elsewhere")
    files, reasons = listed(root, follow_links=True, out=str(root.parent / "elsewhere/below"))
    assert "parent/c.jpg" in files and "parent/below/d.jpg" not in files
    assert reasons == {"parent/below": "a folder that is listed already: OUT"}


def test_what_is_no_file_is_said(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "pipe.jpg")
    (root / "device.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        for follow_links in (False, True):
            files, reasons = listed(root, follow_links)
            assert files == ["a.jpg", "sub/deep/b.jpg"]
            assert list(reasons) == ["device.jpg", "pipe.jpg", "socket.jpg"]
            assert reasons["pipe.jpg"] == reasons["socket.jpg"] == "neither a file nor a folder"


def test_a_dangling_link_is_an_input(root: Path) -> None:
    (root / "dangling.jpg").symlink_to(root / "gone.jpg")
    assert Entry("dangling.jpg", -1, "") in storage.list_files(str(root))


def test_an_input_that_is_a_link_itself(root: Path) -> None:
    (root.parent / "named").symlink_to(root)
    (root / "inside.jpg").symlink_to("a.jpg")
    assert listed(root.parent / "named") == (["a.jpg", "inside.jpg", "sub/deep/b.jpg"], {})


@pytest.mark.parametrize("name", [f".depers-{'0a' * 16}.partial", f".depers-{'0' * 32}é.partial", ".depers-lease.json"])
def test_what_is_called_as_files_of_depers_has_a_row(root: Path, s3_bucket: str, name: str) -> None:
    for uri in (str(root), s3_bucket):
        storage.write_bytes(f"{uri}/{name}", b"image")
        storage.write_bytes(f"{uri}/sub/{name}", b"image")
        skipped = {entry.path: entry.reason for entry in storage.list_files(uri) if entry.status}
        assert list(skipped) == [name, f"sub/{name}"] and "depers gives to files of its own" in skipped[name]


def test_keys_that_no_folder_could_hold(s3_bucket: str) -> None:
    import boto3

    name = s3_bucket.removeprefix("s3://")
    keys = {"in/": b"", "in/folder/": b"", "in/file/": b"x", "in//a": b"x", "in/../b": b"x", "in/c +%20d": b"x"}
    for key, body in keys.items():
        boto3.client("s3").put_object(Bucket=name, Key=key, Body=body)
    entries = storage.list_files(f"{s3_bucket}/in")
    assert [entry.path for entry in entries] == ["../b", "/a", "c +%20d", "file/"]
    assert [storage.read_entry(f"{s3_bucket}/in", entry, 10, lambda _: True) for entry in entries] == [b"x"] * 4
