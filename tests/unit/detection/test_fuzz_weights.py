"""A part of `bench/fuzz_weights.py`: hostile and damaged weights, which do nothing but load or be refused."""

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "bench" / "fuzz_weights.py"
    spec = importlib.util.spec_from_file_location("fuzz_weights", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(fuzz: ModuleType) -> Any:
    return fuzz.make_sources()


@pytest.fixture(scope="module")
def watch(fuzz: ModuleType, sources: Any) -> Any:
    watch = fuzz.Watch()
    for source in sources:
        fuzz.check(source.data, watch)  # what is imported late, is by now
    return watch


def test_ordinary_checkpoints_load(fuzz: ModuleType, sources: Any, watch: Any) -> None:
    assert [fuzz.check(source.data, watch) for source in sources] == ["loaded"] * 5


def test_hostile_checkpoints_do_nothing(fuzz: ModuleType, watch: Any) -> None:
    outcomes = Counter[str]()
    places = ("opt", "an activation", "hooks of the model", "whole file")
    for number, sample in enumerate(fuzz.make_samples(places)):
        if number % 211 == 0 or sample.name.startswith("posix.system by text"):
            outcome = fuzz.check(sample.make(), watch)
            assert outcome in ("loaded", "refused"), (sample.name, outcome)
            outcomes[outcome] += 1
    assert outcomes["loaded"] > 10 and outcomes["refused"] > 60


def test_damaged_checkpoints_do_nothing(fuzz: ModuleType, sources: Any, watch: Any) -> None:
    for number in range(30):
        outcome = fuzz.check(fuzz.mutate(sources, 7, number), watch)
        assert outcome in ("loaded", "refused"), (number, outcome)


def test_the_check_sees_what_runs(fuzz: ModuleType, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz.yolo, "load", lambda name, data: eval("1"))
    assert fuzz.check(b"", watch).startswith("WRONG: compile")
