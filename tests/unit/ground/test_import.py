"""`import depers`: milliseconds, and everything public by its name."""

import ast
from pathlib import Path

import pytest

import depers


def test_all_public_names_are_there_and_typed() -> None:
    for name in depers.__all__:
        assert getattr(depers, name).__name__ == name
    assert set(dir(depers)) >= set(depers.__all__)
    source = ast.parse(Path(depers.__file__).read_text(encoding="utf-8"))
    typed = {alias.name for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed >= set(depers.__all__)  # what mypy sees


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'depers' has no attribute 'redactt'"):
        depers.redactt  # noqa: B018
