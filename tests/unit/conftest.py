"""Unit tests start neither Ray nor any other process."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

_LIBRARY_SEARCH = {"ldconfig", "gcc", "cc", "ld"}
"""What ctypes.util.find_library asks where a shared library lies."""


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that starts a process, as Ray does."""
    start = subprocess.Popen.__init__

    def refuse(process: Any, command: Any, *arguments: Any, **keywords: Any) -> None:
        program = command if isinstance(command, str) else command[0]
        if Path(str(program)).name not in _LIBRARY_SEARCH:
            raise AssertionError(f"a unit test must not start a process, but would start {command}")
        start(process, command, *arguments, **keywords)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
