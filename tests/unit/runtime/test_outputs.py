"""The gate of a listing: what can have no output fails by name, two inputs with one output end the run."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers import storage
from depers.errors import UserError
from depers.runtime import outputs, units
from depers.storage import Entry

KEYS = st.lists(st.sampled_from(["", ".", "..", "a", "A", "b.jpg", "é", "c" * 256]), max_size=4).map("/".join)


def entries(*keys: str) -> list[Entry]:
    return [Entry(path, 1, "tag") for path in sorted(keys)]


def failures(checked: list[Entry]) -> dict[str, str]:
    assert {entry.status for entry in checked} <= {"", "failed"}
    return {entry.path: entry.reason for entry in checked if entry.status}


@given(st.sets(KEYS, max_size=8))
def test_what_passes_can_be_written_whatever_the_keys(tmp_path_factory: pytest.TempPathFactory, keys: set[str]) -> None:
    out = tmp_path_factory.mktemp("out")
    checked = outputs.check_outputs(str(out), entries(*keys))
    assert {entry.path for entry in checked} == keys
    passing = [entry.path for entry in checked if not entry.status]
    for path in passing:
        storage.write_below(str(out), path, path.encode())
    assert {path: (out / path).read_bytes() for path in passing} == {path: path.encode() for path in passing}
    for path in keys - set(passing):
        storage.delete_below(str(out), path)
    assert [entry.path for entry in storage.list_files(str(out))] == sorted(passing)


def test_a_file_with_the_name_of_a_folder_fails_and_the_run_goes_on(tmp_path: Path) -> None:
    listing = entries("a", "a/b", "a/b/c.jpg", "d", "d.jpg")
    reasons = failures(outputs.check_outputs(str(tmp_path), listing))
    assert reasons.keys() == {"a", "a/b"} and all(
        "inputs lie below one of that name" in text for text in reasons.values()
    )
    assert not failures(outputs.check_outputs("s3://bucket/out", listing))


def test_on_s3_any_key_has_a_place_that_s3_can_hold() -> None:
    listing = entries("a//x", "../x", ".", "a", "a/b", "é" * 511, "\udce9")
    assert failures(outputs.check_outputs("s3://bucket/out", listing)).keys() == {"é" * 511, "\udce9"}
    assert failures(outputs.check_inputs("s3://bucket/in", listing)).keys() == {"é" * 511, "\udce9"}
    assert not failures(outputs.check_inputs("/in", listing))


@pytest.mark.parametrize(
    ("keys", "traits", "name"),
    [
        (("a/x.jpg", "A/X.jpg"), (True, False, False), "a/x.jpg"),
        (("ß.jpg", "SS.jpg"), (True, False, False), "ss.jpg"),
        (("a.jpg", "a\u200c.jpg"), (True, True, False), "a.jpg"),
        (("\u00e9.jpg", "e\u0301.jpg"), (False, True, False), "e\u0301.jpg"),
        (("\u00c9.jpg", "e\u0301.jpg"), (True, True, False), "e\u0301.jpg"),
        (("a./b", "a/b"), (False, False, True), "a/b"),
    ],
)
def test_two_inputs_with_one_output_are_an_error(keys: tuple[str, str], traits: tuple[bool, ...], name: str) -> None:
    listing = entries(*keys)
    with pytest.raises(UserError, match=rf"^/out: two inputs must have two names, but for .* call both {name}$"):
        outputs.check_outputs("/out", listing, outputs.make_fold(*traits))
    assert not failures(outputs.check_outputs("/out", listing, str))


def test_a_file_and_a_folder_that_differ_in_case() -> None:
    checked = outputs.check_outputs("/out", entries("A", "a/b"), outputs.make_fold(True, False, False))
    assert failures(checked).keys() == {"A"}


def test_what_is_renamed_within_what_out_tells_apart_is_the_same_file() -> None:
    namer = outputs.make_namer(["a/b.jpg", "c.jpg"], outputs.make_fold(True, True, False))
    assert [namer(path) for path in ("A/B.JPG", "c.jpg", "d.jpg")] == ["a/b.jpg", "c.jpg", "d.jpg"]
    assert outputs.make_namer(["a.jpg"], None)("A.jpg") == "A.jpg"


def test_names_that_tables_cannot_tell_apart() -> None:
    with pytest.raises(UserError, match=r"tables would call both \\xe9\.jpg$"):
        outputs.check_inputs("/in", entries("\udce9.jpg", "\\xe9.jpg"))
    assert not failures(outputs.check_inputs("/in", entries("\udce9.jpg", "é.jpg")))


def test_what_a_file_system_tells_apart_is_tried_out(tmp_path: Path) -> None:
    assert outputs.probe_names(str(tmp_path / "out")) is None
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    assert outputs.probe_names(str(tmp_path / "file")) is None


def test_what_has_no_place_is_opened_as_no_archive() -> None:
    listing = [
        Entry("../a.tar", 1, "", "failed", "why"),
        Entry("b.zip", 0, "", "skipped", "why"),
        Entry("c.zip", 1, ""),
    ]
    assert [(unit.archive, len(unit.entries)) for unit in units.cut(listing)] == [(None, 2), ("zip", 1)]


def test_new_names_are_places_of_one_result_each(tmp_path: Path) -> None:
    def check(*keys: str, **new_names: str) -> list[Entry]:
        names = {key.replace("_", "."): name for key, name in new_names.items()}
        return outputs.check_renamed(str(tmp_path / "out"), entries(*keys), lambda path: names.get(path, path))

    assert not failures(check("a.jpg", "b.jpg", a_jpg="b/a.jpg", b_jpg="a.jpg"))
    assert failures(check("a.jpg", "b.jpg", a_jpg="../a.jpg")).keys() == {"a.jpg"}
    for new_names, message in [
        ({"a_jpg": "b.jpg"}, "'a.jpg' and 'b.jpg' their result would be called b.jpg"),
        ({"a_jpg": "a.zip"}, "must keep the suffix of archives, but 'a.jpg' would be 'a.zip'"),
        ({"a_jpg": ".depers-lease.json"}, "must be none of depers's own"),
        ({"a_jpg": "_Depers/a.jpg"}, "must be none of depers's own"),
    ]:
        with pytest.raises(UserError, match=message):
            check("a.jpg", "b.jpg", **new_names)
    skipped = [Entry("a.jpg", 0, "", "skipped"), Entry("b.jpg", 1, "")]
    with pytest.raises(UserError, match="would be called"):  # else the result of one were removed for the other
        outputs.check_renamed(str(tmp_path / "out"), skipped, lambda path: "c.jpg")
