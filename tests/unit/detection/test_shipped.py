"""The detector that is part of depers: its files belong together, and options name it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from depers.commands import anonymize, audit, detect, evaluate
from depers.datasets.labels import CLASSES
from depers.detection import detector, shipped
from depers.detection.settings import InferenceSettings, Weights, describe_weights_uri, parse_weights, read_checkpoints
from depers.detection.thresholds import read_thresholds
from depers.options.command_line import parse
from depers.pipeline.run import make_job
from depers.pipeline.threshold_check import check_thresholds
from depers.training import options as training_options


def test_the_thresholds_are_those_of_the_weights() -> None:
    thresholds = read_thresholds(shipped.THRESHOLDS)
    data = Path(shipped.WEIGHTS).read_bytes()
    assert len(data) <= 16e6
    assert thresholds.settings.weights == ((hashlib.sha256(data).hexdigest(), {}),)
    assert set(thresholds.by_class) == set(thresholds.settings.classes or ()) == set(CLASSES)


def test_its_model_knows_all_classes() -> None:
    ensemble = detector.DetectorEnsemble(
        [Weights(shipped.WEIGHTS, {})], [Path(shipped.WEIGHTS).read_bytes()], (), InferenceSettings()
    )
    assert set(ensemble.class_names) == set(CLASSES)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("default", Weights(shipped.WEIGHTS, {})),
        ("default:human=person", Weights(shipped.WEIGHTS, {"human": "person"})),
        ("./default", Weights("./default", {})),
        ("default.pt", Weights("default.pt", {})),
    ],
)
def test_weights_named_default(text: str, weights: Weights) -> None:
    assert parse_weights(text) == weights


@pytest.mark.parametrize(
    ("arguments", "classes", "thresholds"),
    [
        ([], ("face", "head", "carplate"), shipped.THRESHOLDS),
        (["--weights", "default"], ("face", "head", "carplate"), shipped.THRESHOLDS),
        (["--classes", "all"], (), shipped.THRESHOLDS),
        (["--classes", "face, carplate"], ("face", "carplate"), shipped.THRESHOLDS),
        (["--classes", "face", "--classes", "human"], ("face", "human"), shipped.THRESHOLDS),
        (["--confidence", "0.3"], ("face", "head", "carplate"), None),
        (["--thresholds", "t.json"], ("face", "head", "carplate"), "t.json"),
        (["--weights", "w.pt"], (), None),
        (["--weights", "default:car=car"], (), None),
        (["--weights", "default", "--weights", "w.pt"], (), None),
        (["--boxes", "b"], (), None),
        (["--previous-detections", "b", "--classes", "face"], ("face",), None),
    ],
)
def test_what_anonymize_looks_for(arguments: list[str], classes: tuple[str, ...], thresholds: str | None) -> None:
    options = parse(anonymize.Options, ["in", "out", *arguments], "depers anonymize")
    assert (options.chosen_classes, options.chosen_thresholds) == (classes, thresholds)
    assert bool(options.detectors) == ("--boxes" not in arguments and "--previous-detections" not in arguments)


def test_other_verbs_look_for_all_that_it_knows() -> None:
    assert detect.Options("in", "out").detectors == evaluate.Options("data", "out").detectors == ("default",)
    assert detect.Options("in", "out").chosen_classes == ()
    assert detect.Options("in", "out").chosen_thresholds is None


def test_figures_call_it_by_name_and_version_not_by_a_place_on_this_machine() -> None:
    options = evaluate.Options("data", "out", weights=("default:face=human", "w.pt"))
    assert evaluate.Options("data", "out").name_detectors() == ["default (depers-n-v2)"]
    assert options.name_detectors() == ["default (depers-n-v2):face=human", "w.pt"]
    assert describe_weights_uri(parse_weights("default").uri) == "default (depers-n-v2)"


def test_an_audit_looks_for_what_anonymize_redacts() -> None:
    assert audit.Options("out", weights=("default",)).reading().chosen_classes == shipped.CLASSES
    assert audit.Options("out", weights=("default",), classes=("all",)).reading().chosen_classes == ()
    assert audit.Options("out", weights=("w.pt",)).reading().chosen_classes == ()
    assert audit.Options("out").reading().detectors == ()


def test_training_starts_from_it() -> None:
    options = training_options.Options("data", "out", weights="default")
    assert training_options.resolve_paths(options).weights == shipped.WEIGHTS
    assert options.describe()["weights"] == hashlib.sha256(Path(shipped.WEIGHTS).read_bytes()).hexdigest()


def test_a_name_may_hold_commas_in_python() -> None:
    assert detect.Options("in", "out", classes=("car, truck",)).chosen_classes == ("car, truck",)


def test_another_size_or_arithmetic_is_told_and_fewer_classes_are_not() -> None:
    options = anonymize.Options("in", "out", topology="local", device="cpu")
    for changes, names, arithmetic, difference in (
        ({}, shipped.CLASSES, "bfloat16", None),
        ({"classes": ("face",)}, ("face",), "bfloat16", None),
        ({}, CLASSES, "bfloat16", None),
        ({"imgsz": 1280}, shipped.CLASSES, "bfloat16", "--imgsz 640, now 1280"),
        ({}, shipped.CLASSES, "float32", "arithmetic bfloat16, now float32 (--precision, --device)"),
        ({}, shipped.CLASSES, "float16", "arithmetic bfloat16, now float16 (--precision, --device)"),
    ):
        changed = replace(options, **changes)
        job = make_job(changed, anonymize.SCHEMA, lambda out: print, device="cpu")
        notes = check_thresholds(changed, job, read_checkpoints(job.weights), names, arithmetic)
        text = f"warning: the thresholds of the default detector were found with {difference}"
        assert notes == ((f"{text}; what they promise does not hold",) if difference else ())
