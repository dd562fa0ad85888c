"""YAML of strangers: plain values, or one line that says why not."""

import pytest

from depers.errors import UserError
from depers.yaml_files import parse_yaml


def bomb(pattern: str) -> bytes:
    """Return a list whose items each hold the one before twice."""
    lines = ["- &a0 {x: 1}"] + [f"- &a{level + 1} {pattern.format(f'*a{level}')}" for level in range(40)]
    return "\n".join(lines).encode()


def test_plain_values_are_read() -> None:
    assert parse_yaml("x.yaml", b"") is None
    assert parse_yaml("x.yaml", b"a: &a [1, 2]\nb: *a\n") == {"a": [1, 2], "b": [1, 2]}
    assert parse_yaml("x.yaml", b"names: {0: a, 1: b}\ntrain: [x, 1.5, null]\n") == {
        "names": {0: "a", 1: "b"},
        "train": ["x", 1.5, None],
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"a: !!python/object/apply:os.system [ls]", "could not determine a constructor", id="a call"),
        pytest.param(bomb("[{0}, {0}]"), "its aliases make more of them", id="aliases, of which a few fill any memory"),
        pytest.param(bomb("{{<<: [{0}, {0}]}}"), "its aliases make more of them", id="merged aliases"),
        pytest.param(b"a: &a [*a]", "its aliases make more of them", id="a list in itself"),
        pytest.param(b"[" * 5000, "nested too deeply", id="depth"),
        pytest.param(b"a: 2021-99-99", "month must be in", id="a date that is none"),
        pytest.param(b"a: " + b"9" * 5000, "4300 digits", id="a number of any length"),
        pytest.param(b"\xff", "can't decode", id="no text"),
        pytest.param(b"{a: 1}: 2", "unhashable key", id="a mapping as a key"),
        pytest.param(b"a: [", "while parsing", id="cut off"),
        pytest.param(b" " * 4_000_001, "at most 4000000 bytes, but has 4000001", id="size"),
    ],
)
def test_all_else_is_refused_in_one_line(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_yaml("x.yaml", data)
    assert str(caught.value).startswith("x.yaml: must be YAML") and "\n" not in str(caught.value)
