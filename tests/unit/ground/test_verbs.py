"""Verbs in Python: a function for each verb of the command line, with its arguments and options, and its errors."""

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import depers
from depers import api, cli
from depers.options import REQUIRED
from depers.runtime.results import VerbResult


class WrappedError(Exception):
    """As Ray wraps what a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("in a task")
        self.cause = cause


def options_type(verb: str) -> Any:
    return importlib.import_module(f"depers.commands.{verb}").Options


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_is_a_function_with_its_arguments(verb: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []
    monkeypatch.setattr(api, "run_verb", lambda verb, options: calls.append((verb, options)))
    fields = dataclasses.fields(options_type(verb))
    arguments = [field.name for field in fields if field.metadata["positional"]]
    parameters = inspect.signature(getattr(depers, verb)).parameters
    assert [name for name, parameter in parameters.items() if parameter.kind == parameter.POSITIONAL_OR_KEYWORD] == (
        arguments
    )
    required: dict[str, Any] = {
        field.name: 1 for field in fields if field.default is REQUIRED and not field.metadata["positional"]
    }
    if any(field.name == "weights" and field.default == () for field in fields):
        required["weights"] = "a.pt"
    names = {"out": "out.onnx"} if verb == "export" else {}
    places = [tmp_path / names.get(name, name) for name in arguments]
    getattr(depers, verb)(*places, **required)
    [(called_verb, options)] = calls
    assert called_verb == verb and type(options) is options_type(verb)
    assert [getattr(options, name) for name in arguments] == [str(place) for place in places]
    with pytest.raises(TypeError, match=r"'verbose' is no option$"):
        getattr(depers, verb)(*places, **required, verbose=True)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_gives_a_result_that_says_what_it_did(verb: str) -> None:
    module = importlib.import_module(f"depers.commands.{verb}")
    result_type = getattr(module, f"{verb.capitalize()}Result")
    assert issubclass(result_type, VerbResult) and result_type.__dataclass_params__.frozen
    assert inspect.signature(module.run).return_annotation is result_type
    assert inspect.signature(getattr(depers, verb)).return_annotation == result_type.__name__


def test_what_a_worker_raised_is_raised_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_verb(verb: str, options: object) -> None:
        raise errors.pop()

    errors: list[Exception] = [
        ZeroDivisionError("by zero"),
        depers.UserError("in the driver"),
        WrappedError(depers.UserError("in a worker")),
    ]
    monkeypatch.setattr(api, "run_verb", run_verb)
    for message in ("^in a worker$", "^in the driver$"):
        with pytest.raises(depers.UserError, match=message):
            depers.audit("out")
    with pytest.raises(ZeroDivisionError):
        depers.audit("out")
