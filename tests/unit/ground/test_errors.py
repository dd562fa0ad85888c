"""Tests of how errors are told."""

import errno

import pytest

from depers import storage
from depers.errors import UserError, as_user_error, describe, one_line, short_reason, to_line, typed_reason


def test_an_error_is_one_line() -> None:
    error = ValueError("first\n  second\t third")
    assert one_line(error) == "first second third" and one_line(error, 5) == "first"
    assert describe(error) == typed_reason(error) == "ValueError: first second third"


def test_reasons_are_short() -> None:
    assert short_reason(OSError(errno.EACCES, "Permission denied", "/x")) == "Permission denied"
    assert short_reason(ValueError("x" * 300)) == "x" * 200
    assert typed_reason(ValueError("x" * 300)) == f"ValueError: {'x' * 200}"


def test_a_user_error_is_found_among_the_causes() -> None:
    wrong = UserError("--count must be at least 1")
    outer = RuntimeError("a task failed")
    outer.__cause__ = wrong
    assert as_user_error(outer) is wrong and as_user_error(RuntimeError("other")) is None
    found = as_user_error(RuntimeError("Traceback\ndepers.errors.UserError: a line\n"))
    assert found is not None and str(found) == "a line"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "no such object", "s3://b/k"), "s3://b: no such folder"),
        (NotADirectoryError(20, "Not a directory", "/f"), "s3://b: must be a folder, but is a file"),
        (PermissionError(13, "access denied", "s3://b/k"), "s3://b/k: not readable (access denied)"),
    ],
)
def test_errors_of_reading_are_translated(error: OSError, text: str) -> None:
    with pytest.raises(UserError) as caught, storage.translated_errors("s3://b"):
        raise error
    assert str(caught.value) == text


def test_errors_of_writing_are_translated() -> None:
    with pytest.raises(UserError) as caught, storage.translated_write_errors("/out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == "/out: cannot be written (No space left on device)"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Straße 1.jpg", "Straße 1.jpg"),
        ("\x1b]0;title\x07.jpg", "\\x1b]0;title\\x07.jpg"),
        ("a.jpg\n5 inputs: 0 failed", "a.jpg\\n5 inputs: 0 failed"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_a_name_is_shown_on_a_line_and_tells_a_terminal_nothing(name: str, line: str) -> None:
    assert to_line(name) == line
