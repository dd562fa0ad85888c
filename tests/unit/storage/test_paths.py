"""The gate for paths that come from data: nothing outside the root is written or deleted, whatever they are."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from depers import storage
from depers.errors import UserError
from depers.storage import UnsafePathError, paths

HOSTILE = [
    "", "/", ".", "..", "a/..", "a/.", "n/.", "../victim.txt", "a/../../victim.txt", "/etc/passwd", "//a", "a//x", "a/",
    "./a", "a\0b", "\ud800", "../../../../../../tmp/x", "link/x.jpg", "link/sub/x.jpg", "file/x.jpg", "_depers/../../v",
]  # fmt: skip
PARTS = st.sampled_from(["", ".", "..", "...", "a", "b.jpg", "link", "file", "\\", "..\\..", "~", "C:", "a" * 260])
NAMES = st.one_of(
    st.lists(st.one_of(PARTS, st.text(max_size=5)), max_size=6).map("/".join),
    st.text(st.characters(categories=None), max_size=12),  # also surrogates and zero bytes
    st.binary(max_size=12).map(lambda data: data.decode("utf-8", "surrogateescape")),
)


def watched(folder: Path, out: Path) -> dict[str, object]:
    """Everything below a folder but OUT, with its times of change: creating and deleting would change a folder's."""
    states: dict[str, object] = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == out:
            folders.clear()
            continue
        states[place] = Path(place).stat().st_mtime_ns
        for name in names:
            path = Path(place, name)
            states[str(path)] = (path.lstat().st_mtime_ns, path.read_bytes())
    return states


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files to harm, in which, two floors down, OUT will be."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "deep/er").mkdir(parents=True)
    for path in ("victim.txt", "deep/victim.txt", "deep/er/victim.txt", "x.jpg"):
        (folder / path).write_text("the user's")
    (folder / "sub").mkdir()
    (folder / "sub/victim.txt").write_text("the user's")
    (folder / "named").symlink_to("deep/er/out")
    return folder


def lay_traps(place: Path) -> Path:
    """A new OUT, with a link that leads out of it and a file in the place of a folder."""
    out = place / "deep/er/out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    (out / "link").symlink_to(place)
    (out / "file").write_text("an output")
    (out / "b.jpg").symlink_to(place / "x.jpg")
    (out / "~").symlink_to(place / "sub")
    (out / "C:").symlink_to("../nowhere")
    return out


def write_in_parts(root: str, path: str) -> None:
    with storage.open_writer_below(root, path) as file:
        file.write(b"hostile")


def passes_link(root: str, path: str) -> bool:
    """Whether a part of the path is a link: what the program or its user names is resolved as the system does."""
    parts = path.split("/")
    with suppress(OSError, ValueError):
        return any(Path(root, *parts[: count + 1]).is_symlink() for count in range(len(parts)))
    return False


WAYS: list[Callable[[str, str], object]] = [
    lambda root, path: storage.write_below(root, path, b"hostile"),
    write_in_parts,
    storage.delete_below,
    storage.remove_empty_folders,
    lambda root, path: (
        storage.write_bytes(storage.join(root, path), b"hostile") if not passes_link(root, path) else None
    ),
    lambda root, path: storage.delete(storage.join(root, path)) if not passes_link(root, path) else None,
]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NAMES)
def test_nothing_outside_is_written_or_deleted(place: Path, path: str) -> None:
    out = lay_traps(place)
    before = watched(place, out)
    for root in (out, place / "named"):
        for way in WAYS:
            with suppress(OSError, ValueError):
                way(str(root), path)
    assert watched(place, out) == before
    assert not list(out.rglob("*.partial"))


for _path in HOSTILE:
    test_nothing_outside_is_written_or_deleted = example(_path)(test_nothing_outside_is_written_or_deleted)


@pytest.mark.parametrize("path", HOSTILE)
def test_each_hostile_path_is_refused_by_name(place: Path, path: str) -> None:
    out = str(lay_traps(place))
    with pytest.raises(OSError) as error:
        storage.write_below(out, path, b"hostile")
    kinds = OSError if path.startswith(("link/", "file/")) else UnsafePathError
    assert isinstance(error.value, kinds)


@pytest.mark.parametrize(
    "path", ["a.jpg", "...", "..a/b..", ".hidden", "a\\..\\b", "x\ny", "\n", "a\n/b", "~/x", "C:/x", "é/\udce9"]
)
def test_plain_paths_are_written(tmp_path: Path, path: str) -> None:
    storage.write_below(str(tmp_path), path, b"image")
    assert [entry.path for entry in storage.list_files(str(tmp_path))] == [path]
    storage.delete_below(str(tmp_path), path)
    assert not storage.list_files(str(tmp_path))


def test_a_path_outside_is_the_users_to_put_right_and_a_file_that_fails() -> None:
    with pytest.raises(UserError, match=r"^'\.\./x' below /out: a path must not have the part '\.\.'$"):
        storage.join("/out", "../x")
    assert issubclass(UnsafePathError, OSError)


@pytest.mark.parametrize(
    ("root", "path", "reason"),
    [
        ("s3://b/out", "a//../b/.", ""),
        ("s3://b", "/a", ""),
        ("s3://b/out", "", "must have 1 to 1024 bytes, but has 0"),
        ("s3://b/out", "é" * 511, "must have 1 to 1024 bytes, but has 1026"),
        ("s3://b/out", "é" * 510, ""),
        ("s3://b/out", "\udce9.jpg", "must be UTF-8"),
        ("/out", "\udce9.jpg", ""),
        ("/out", "é" * 128, "must have at most 255 bytes, but has 256"),
        ("/out", "/".join(["a" * 200] * 20), ""),
        ("/out", "/".join(["a" * 200] * 21), "must have at most 4095 bytes with its folder, but has 4225"),
    ],
)
def test_what_a_place_can_hold(root: str, path: str, reason: str) -> None:
    explanation = paths.explain_no_target(root, path)
    assert reason in explanation and bool(reason) == bool(explanation)
