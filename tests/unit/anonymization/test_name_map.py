"""What results are called: rule after rule, with hashes that nobody can try without the key."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depers.anonymization import name_map
from depers.anonymization.name_map import NameMap, find_suffix, parse_rules
from depers.archives import registry
from depers.errors import UserError
from depers.runtime import claims

PATHS = st.text(st.characters(exclude_categories=(), exclude_characters="\0"), min_size=1, max_size=40)


def rename(path: str, *rules: str, key: str = "ab" * 32) -> str:
    return replace(parse_rules(rules), key=key)(path)


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        (["strip:a/"], "a/b/c.jpg", "b/c.jpg"),
        (["strip:a/"], "ba/c.jpg", "ba/c.jpg"),
        ([r"replace:/(\d+)-x/n\1/"], "07-x.jpg", "n07.jpg"),
        (["replace:#/#_#"], "a/b/c.jpg", "a_b_c.jpg"),
        (["strip:a/", "replace:/b/c/"], "a/b.jpg", "c.jpg"),
        (["hash"], "jane/doe.jpg", r"[0-9a-f]{32}/[0-9a-f]{32}\.jpg"),
        (["hash"], "a.TAR.gz", r"[0-9a-f]{32}\.TAR\.gz"),
        (["hash"], "photo.jane", r"[0-9a-f]{32}"),
        (["hash:jane|doe"], "2024/jane-doe.jpg", r"2024/[0-9a-f]{32}-[0-9a-f]{32}\.jpg"),
        (["hash:.*"], "jane.jpg", r"[0-9a-f]{32}\.jpg"),
    ],
)
def test_rules(rules: list[str], path: str, expected: str) -> None:
    assert re.fullmatch(expected, rename(path, *rules))


@pytest.mark.parametrize(
    "rule",
    ["", "strip", "strip:", "hash:", "hash:(", "replace:", "replace:/a", "replace:/a/b", "replace://b/",
     "replace:/(/b/", r"replace:/a/\1/", "replace:/a/b/c/", "reverse:a"],
)  # fmt: skip
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(UserError, match=r"^--map "):
        parse_rules([rule])


@given(st.sets(PATHS, min_size=2, max_size=2))
def test_hashes_differ_where_paths_do_and_keep_what_a_file_is(paths: set[str]) -> None:
    first, second = paths
    assert rename(first, "hash") != rename(second, "hash")
    for path in paths:
        name = rename(path, "hash")
        assert registry.kind_of(name) == registry.kind_of(path) and find_suffix(name) == find_suffix(path)
        assert re.fullmatch(r"[0-9a-f/]*", name[: len(name) - len(find_suffix(name))])


def test_equal_names_have_equal_hashes_with_one_key_alone() -> None:
    assert rename("a/b.jpg", "hash").split("/")[1] == rename("c/b.jpg", "hash").split("/")[1]
    assert rename("b.jpg", "hash") != rename("b.jpg", "hash", key="cd" * 32)
    assert NameMap(()).note() == {} and parse_rules(["hash"]).note().keys() == {"names_key"}


def test_the_key_is_that_of_the_first_run_and_lies_among_the_records(tmp_path: Path) -> None:
    out, records = str(tmp_path / "out"), str(tmp_path / "records")
    assert name_map.load((), out, records) is None
    first = name_map.load(("hash",), out, records)
    assert first is not None and first != name_map.load(("hash",), out, records)
    with claims.hold(out, first.note(), records=records):
        pass
    assert name_map.load(("hash",), out, records) == first and first.key not in repr(list(Path(out).rglob("*")))
    job = Path(records, "job.json")
    job.write_text(job.read_text().replace(first.key, "none"))
    with pytest.raises(UserError, match="names_key must be 64 hexadecimal digits"):
        name_map.load(("hash",), out, records)
