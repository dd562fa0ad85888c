"""The file of a mission: everything in it is checked before any step begins, and steps follow from one another."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from depers.commands import mission
from depers.commands.mission import STEPS, Options, parse_mission, run
from depers.errors import UserError
from depers.runtime.results import Failure, Failures, VerbResult

STEPS_OF_ALL: dict[str, Any] = {
    "normalize": {"raw": "raw", "calibration-fraction": 0.2},
    "extract": None,
    "synthesize": {"count": 10},
    "train": {"weights": "default", "epochs": 2},
    "evaluate": {"split": "calibration", "target-recall": "0.9"},
    "anonymize": {"input": "photos"},
    "audit": {},
}


def read(steps: Any, out: Any = "s3://bucket/mission") -> mission.Mission:
    return parse_mission("mission.yaml", yaml.safe_dump({"out": out, "steps": steps}).encode())


def test_steps_follow_from_one_another() -> None:
    steps = {step.verb: step for step in read(STEPS_OF_ALL).steps}
    options = {verb: step.options for verb, step in steps.items()}
    folder = "s3://bucket/mission"
    assert tuple(options) == STEPS
    assert options["normalize"].calibration_fraction == 0.2 and options["normalize"].out == f"{folder}/dataset"
    assert options["extract"].dataset == options["evaluate"].dataset == f"{folder}/dataset"
    assert options["synthesize"].extracted == f"{folder}/extracted" and options["synthesize"].count == 10
    assert options["train"].dataset == f"{folder}/synthetic" and options["train"].weights == "default"
    assert options["evaluate"].weights == options["anonymize"].weights == (f"{folder}/run/weights/best.pt",)
    assert options["anonymize"].thresholds == f"{folder}/evaluation/thresholds.json"
    assert options["audit"].out == f"{folder}/safe" and options["audit"].input == "photos"
    assert options["audit"].weights == options["anonymize"].weights
    assert steps["normalize"].inputs == ("raw",) and steps["audit"].outputs == (f"{folder}/safe-records/audit",)
    assert steps["train"].inputs == (f"{folder}/synthetic",)  # the default weights are a part of depers


def test_the_order_in_the_file_makes_no_difference() -> None:
    assert read(dict(reversed(STEPS_OF_ALL.items()))) == read(STEPS_OF_ALL)


def test_what_is_said_counts() -> None:
    steps = read(
        {"anonymize": {"input": "a", "out": "b", "records": "c"}, "audit": {"weights": "other.pt:x=car"}}
    ).steps
    assert (steps[1].options.out, steps[1].options.records, steps[1].options.weights) == ("b", "c", ("other.pt:x=car",))
    assert steps[1].inputs == ("b", "a", "other.pt") and steps[0].inputs == ("a",)
    without_synthesis = read({"normalize": {"raw": "r"}, "train": {"data": ["s3://b/d=0.5"]}}).steps
    assert without_synthesis[1].options.dataset == "s3://bucket/mission/dataset"
    assert without_synthesis[1].inputs == ("s3://bucket/mission/dataset", "s3://b/d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "must be a mapping with out and steps, but is list"),
        ("out: a\nsteps: {}\nsetps: {}", "must have out and steps alone, but has 'setps'"),
        ("out: 3\nsteps: {audit: }", "out must be a folder or s3:// URI, but is 3"),
        ("out: http://a/b\nsteps: {audit: }", "out must be a path or an s3:// URI, but got 'http://a/b'"),
        ("out: a\nsteps: [audit]", "steps must be a mapping of normalize, .*, but is list"),
        ("out: a\nsteps: {}", "steps must be a mapping"),
        ("out: a\nsteps: {anonymise: {}}", "a step must be one of normalize, .*, audit, but is 'anonymise'"),
        ("out: a\nsteps: {anonymize: [x]}", "anonymize: must be a mapping of options, but is list"),
        ("out: a\nsteps: {anonymize: {input: p, marign: 0.1}}", "an option must be one of input, .*, but is 'marign'"),
        ("out: a\nsteps: {anonymize: {input: p, 7: 0.1}}", "an option must be one of input, .*, but is 7"),
        ("out: a\nsteps: {anonymize: {input: p, margin: 9}}", "anonymize: --margin must be between 0 and 2, but got 9"),
        ("out: a\nsteps: {anonymize: {input: p, margin: wide}}", "--margin must be a number, but got 'wide'"),
        ("out: a\nsteps: {anonymize: {}}", "anonymize: input must be given, but is not"),
        ("out: a\nsteps: {synthesize: {count: 1}}", "synthesize: extracted must be given, but is not"),
        ("out: a\nsteps: {extract: {dataset: d}, synthesize: }", "synthesize: count must be given, but is not"),
        ("out: a\nsteps: {anonymize: {input: p, keep-metadata: date, keep_metadata: gps}}", "keep_metadata must be"),
        ("out: a\nsteps: {audit: {out: b}, audit: {out: c}}", "a key must be given once, but 'audit' is twice"),
        ("out: a\nsteps: {audit: {out: b, tile: 9, tile: 100}}", "a key must be given once, but 'tile' is twice"),
        ("out: a\nsteps: {anonymize: {input: p, dry-run: true}}", "anonymize: dry-run must not be given in a mission"),
        ("out: a\nsteps: {audit: {out: b", "must be YAML"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        parse_mission("mission.yaml", text.encode())
    assert str(raised.value).startswith("mission.yaml: ") and "\n" not in str(raised.value)


class Result(VerbResult):
    """What a verb gives back here."""

    def summary(self) -> list[str]:
        return ["done"]


class Verb:
    """A verb that writes a file, and remembers how often it was run."""

    def __init__(self, failures: Failures) -> None:
        self.calls, self.failures = 0, failures

    def run(self, options: Any) -> Result:
        self.calls += 1
        Path(options.out).mkdir(parents=True, exist_ok=True)
        (Path(options.out) / "data.yaml").write_text("done")
        return Result(failures=self.failures)


def test_complete_steps_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verbs = {verb: Verb(Failures()) for verb in ("normalize", "extract")}
    import_module = mission.importlib.import_module

    monkeypatch.setattr(mission, "check_places", lambda options: None)

    def find(name: str) -> Any:
        module, verb = import_module(name), verbs[name.rpartition(".")[2]]
        return type("Module", (), {"Options": module.Options, "run": staticmethod(verb.run)})

    monkeypatch.setattr(mission.importlib, "import_module", find)
    raw, file = tmp_path / "raw", tmp_path / "mission.yaml"
    raw.mkdir()
    steps: dict[str, Any] = {"normalize": {"raw": str(raw)}, "extract": {}}

    def go() -> tuple[list[bool], tuple[int, int]]:
        file.write_text(yaml.safe_dump({"out": str(tmp_path / "out"), "steps": steps}))
        result = run(Options(str(file)))
        calls = verbs["normalize"].calls, verbs["extract"].calls
        return [step is None for step in result.steps.values()], calls

    assert go() == ([False, False], (1, 1))
    assert go() == ([True, True], (1, 1))
    (raw / "new.jpg").write_bytes(
        b"1"
    )  # an input is new: the step, and here none after it, since its result is the same
    assert go() == ([False, True], (2, 1)) or go()[1][0] >= 2
    steps["extract"] = {"seed": 7}
    assert go()[0] == [True, False]
    (tmp_path / "out/extracted/data.yaml").unlink()  # a result is gone
    assert go()[0] == [True, False]
    verbs["extract"].failures = Failures(1, (Failure("a.jpg", None, "failed", "why"),), "table")
    steps["extract"] = {"seed": 8}
    assert go()[0] == [True, False] and go()[0] == [True, False]  # what failed is tried again
    verbs["extract"].failures = Failures()
    assert go()[0] == [True, False] and go()[0] == [True, True]
