"""Claims: whose work an OUT holds, with what it is made, and who may go on with it."""

from pathlib import Path

import pytest

from depers import storage
from depers.errors import UserError
from depers.runtime import claims, units


def claim(out: Path | str, options: dict[str, object], **more: object) -> None:
    with claims.hold(str(out), options, **more):  # type: ignore[arg-type]
        pass


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    claim(tmp_path / "out", {"mode": "blur"})
    claim(tmp_path / "out", {"mode": "blur"})
    with pytest.raises(UserError, match="holds a run with mode 'blur', but now it is 'fill': choose another folder"):
        claim(tmp_path / "out", {"mode": "fill"})
    assert files(tmp_path) == ["out/_depers/job.json"]


def test_no_message_tells_a_secret(tmp_path: Path) -> None:
    claim(tmp_path, {"names_key": "first"}, secrets=["names_key"])
    claim(tmp_path, {"names_key": "first"}, secrets=["names_key"])
    with pytest.raises(UserError, match="another run has begun here meanwhile: run the same command again") as caught:
        claim(tmp_path, {"names_key": "second"}, secrets=["names_key"])
    assert "first" not in str(caught.value) and "second" not in str(caught.value)


@pytest.mark.parametrize("note", [b"", b"{", b"\xff\xfe", b"[]", b"null"])
def test_a_damaged_note_is_said_in_one_line(tmp_path: Path, note: bytes) -> None:
    storage.write_bytes(f"{tmp_path}/out/_depers/{units.JOB}", note)
    with pytest.raises(UserError, match=r"job\.json: must be (a JSON object|JSON) that an earlier run wrote, but is"):
        claim(tmp_path / "out", {"mode": "blur"})


def test_tables_of_another_version_are_refused(tmp_path: Path) -> None:
    claim(tmp_path, {"mode": "blur"})
    assert claims.read_job(str(tmp_path)) == {"mode": "blur", "tables": claims.VERSION}
    (tmp_path / "_depers/job.json").write_text('{"mode": "blur"}')  # as the first version was noted
    for use in (lambda: claims.read_job(str(tmp_path)), lambda: claim(tmp_path, {"mode": "blur"})):
        with pytest.raises(UserError, match="must hold tables of version 4, but their version is 1: choose another"):
            use()


def test_a_note_beside_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    more = {"note": f"{tmp_path}/options.json", "empty": False}
    for _ in range(2):
        claim(tmp_path, {"freeze": (1, 2)}, **more)
    with pytest.raises(UserError, match=r"holds a run with freeze \[1, 2\], but now it is \[\]"):
        claim(tmp_path, {"freeze": ()}, **more)
    assert files(tmp_path) == ["notes.txt", "options.json"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match="must be absent, an empty folder or an earlier run to resume"):
        claim(tmp_path, {})
    assert files(tmp_path) == ["thesis.txt"]
    (tmp_path / "thesis.txt").unlink()
    claim(tmp_path, {})


def test_records_beside_out_leave_nothing_in_it(tmp_path: Path) -> None:
    out, records = tmp_path / "out", f"{tmp_path}/out-records"
    claim(out, {"mode": "blur"}, records=records)
    assert files(tmp_path) == ["out-records/job.json"]
    (out / "a.jpg").parent.mkdir()
    (out / "a.jpg").touch()
    claim(out, {"mode": "blur"}, records=records)
    with pytest.raises(UserError, match=r"holds other files, and its records are not at .*/other: name them"):
        claim(out, {"mode": "blur"}, records=f"{tmp_path}/other")
    assert files(tmp_path) == ["out-records/job.json", "out/a.jpg"]


def test_what_an_earlier_version_left_in_out_is_refused(tmp_path: Path) -> None:
    storage.write_bytes(f"{tmp_path}/out/_depers/job.json", b"{}")
    with pytest.raises(UserError, match=r"an earlier version of depers.*choose another OUT, and do not publish"):
        claim(tmp_path / "out", {}, records=f"{tmp_path}/out-records")


@pytest.mark.parametrize(
    ("out", "records"),
    [
        ("/data/safe", "/data/safe-records"),
        ("/data/safe/", "/data/safe-records"),
        ("s3://bucket/safe", "s3://bucket/safe-records"),
        ("s3://bucket/a/b/", "s3://bucket/a/b-records"),
        ("s3://bucket", None),
        ("s3://bucket/", None),
        ("/", None),
        ("/data/..", None),
    ],
)
def test_where_records_of_a_redacted_archive_lie(out: str, records: str | None) -> None:
    assert units.locate_beside(out) == records
