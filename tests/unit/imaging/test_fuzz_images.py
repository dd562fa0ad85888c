"""A small part of `bench/fuzz_images.py`: drawn files of every format, mutated, none of which comes out unredacted."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from depers.redaction.colors import MODES


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "bench" / "fuzz_images.py"
    spec = importlib.util.spec_from_file_location("fuzz_images", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutated_images_are_redacted_or_refused(fuzz: ModuleType) -> None:
    files = fuzz.read_sources(None)
    outcomes = Counter[str]()
    for index in range(300):
        outcome = fuzz.check(fuzz.mutate(files, 77, index), MODES[index % len(MODES)])
        assert outcome in ("redacted", "refused"), (index, outcome)
        outcomes[outcome] += 1
    assert outcomes["redacted"] > 60


def test_the_check_sees_what_is_not_redacted(fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, data in enumerate(fuzz.draw_images()):
        assert fuzz.check(data, "pixelate") == "redacted", index
    monkeypatch.setattr(fuzz, "_BOX", (0.0, 0.0, 0.05, 0.05))  # beside the pattern
    for index, data in enumerate(fuzz.draw_images()):
        assert fuzz.check(data, "pixelate").startswith("WRONG: unredacted"), index
