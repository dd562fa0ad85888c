"""`depers mission`: the whole way from raw labels to an audited archive, as one YAML file of the verbs' own options.

Everything in the file is checked before any step begins. A step is passed over where it is complete: with the same
options, of inputs and with results that nobody has changed since. All others are run, and resume what they have done.
"""

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from depers import __version__, storage
from depers.errors import UserError, one_line
from depers.options import REQUIRED, CheckedOptions, argument, build
from depers.pipeline.options import find_records
from depers.runtime import progress
from depers.runtime.places import announce_stores, check_places
from depers.runtime.results import Failures, VerbResult
from depers.training.processes.outputs import BEST
from depers.yaml_files import parse_yaml, shorten

STEPS = ("normalize", "extract", "synthesize", "train", "evaluate", "anonymize", "audit")
"""The steps that a mission may have, in their order."""
FOLDERS = {
    "normalize": "dataset",
    "extract": "extracted",
    "synthesize": "synthetic",
    "train": "run",
    "evaluate": "evaluation",
    "anonymize": "safe",
}
"""Where each step writes below the mission's OUT, unless its `out` says otherwise; audit: beside what it checks."""
STATE = "mission.json"
_SETTINGS = ("out", "steps")
_INPUTS = {
    "normalize": ("raw",),
    "extract": ("dataset", "weights"),
    "synthesize": ("extracted", "real"),
    "train": ("dataset", "data", "weights", "hyp"),
    "evaluate": ("dataset", "weights"),
    "anonymize": ("input", "weights", "thresholds", "boxes", "previous_detections"),
    "audit": ("out", "input", "weights"),
}
"""The options that name what a step reads."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Run the steps of FILE, a YAML of `out` and `steps`, each with the options of its verb."""

    file: str = argument("YAML file of the mission, a path or s3:// URI")

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        super().__post_init__()
        storage.check(self.file, "FILE")


class Step(NamedTuple):
    """A step of a mission: a verb, its checked options, and the places that it reads and writes."""

    verb: str
    options: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Mission(NamedTuple):
    """What a file says: where the mission's state is, and its steps in order."""

    out: str
    steps: tuple[Step, ...]


def read_mission(file: str) -> Mission:
    """Return the mission of a YAML file. Raise UserError for everything wrong in it, in one line."""
    try:
        data = storage.read_bytes(file)
    except OSError as error:
        raise UserError(f"{file}: must be a YAML file of a mission, but cannot be read ({one_line(error)})") from None
    return parse_mission(file, data)


def parse_mission(file: str, data: bytes) -> Mission:
    """Return the mission that a file's bytes describe. Raise UserError."""
    content = parse_yaml(file, data, unique_keys=True)
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping with {' and '.join(_SETTINGS)}, but is {shorten(content)}")
    for name in content:
        if name not in _SETTINGS:
            raise UserError(f"{file}: must have {' and '.join(_SETTINGS)} alone, but has {shorten(name)}")
    out, chosen_steps = content.get("out"), content.get("steps")
    if not isinstance(out, str) or not out:
        raise UserError(f"{file}: out must be a folder or s3:// URI, but is {shorten(out)}")
    storage.check(out, f"{file}: out")
    if not isinstance(chosen_steps, dict) or not chosen_steps:
        raise UserError(f"{file}: steps must be a mapping of {', '.join(STEPS)}, but is {shorten(chosen_steps)}")
    for name in chosen_steps:
        if name not in STEPS:
            raise UserError(f"{file}: a step must be one of {', '.join(STEPS)}, but is {shorten(name)}")
    steps: dict[str, Step] = {}
    for verb in STEPS:
        if verb in chosen_steps:
            steps[verb] = _make_step(f"{file}: {verb}", verb, chosen_steps[verb], out, steps)
    return Mission(out, tuple(steps.values()))


def _make_step(place: str, verb: str, content: Any, out: str, before: Mapping[str, Step]) -> Step:
    """Return a step with what its options do not say taken from the steps before. Raise UserError."""
    if content is None:  # `audit:` with nothing behind it
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{place}: must be a mapping of options, but is {shorten(content)}")
    options_type = importlib.import_module(f"depers.commands.{verb}").Options
    names = [field.name for field in fields(options_type)]
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_") if isinstance(key, str) else key
        if name not in names:
            allowed = ", ".join(name.replace("_", "-") for name in names)
            raise UserError(f"{place}: an option must be one of {allowed}, but is {shorten(key)}")
        if name in values:
            raise UserError(f"{place}: {key} must be given once, but is twice")
        values[name] = value
    values = _find_defaults(verb, out, before) | values
    for field in fields(options_type):
        if field.name not in values and field.default in (REQUIRED,) and field.default_factory in (REQUIRED,):
            raise UserError(f"{place}: {field.name.replace('_', '-')} must be given, but is not")
    try:
        options = build(options_type, values)
    except (UserError, TypeError) as error:
        raise UserError(f"{place}: {one_line(error)}") from None
    if getattr(options, "dry_run", False):
        raise UserError(f"{place}: dry-run must not be given in a mission: the steps after it need what it would make")
    inputs = [uri for name in _INPUTS[verb] for uri in _list_places(name, getattr(options, name, None))]
    return Step(verb, options, tuple(inputs), _list_outputs(verb, options))


def _find_defaults(verb: str, out: str, before: Mapping[str, Step]) -> dict[str, Any]:
    """Return the options of a verb that follow from the steps before it, and where it writes."""
    values: dict[str, Any] = {"out": storage.join(out, FOLDERS[verb])} if verb in FOLDERS else {}

    def follow(name: str, step: str, path: str = "", is_several: bool = False) -> None:
        if step in before:
            uri = before[step].options.out
            uri = storage.join(uri, path) if path else uri
            values[name] = (uri,) if is_several else uri

    if verb in ("extract", "train", "evaluate"):
        follow("dataset", "normalize")
    if verb == "synthesize":
        follow("extracted", "extract")
    if verb == "train":
        follow("dataset", "synthesize")
    if verb in ("evaluate", "anonymize", "audit"):
        follow("weights", "train", BEST, is_several=True)
    if verb == "anonymize" and "evaluate" in before and before["evaluate"].options.target_recall:
        follow("thresholds", "evaluate", "thresholds.json")
    if verb == "audit" and "anonymize" in before:
        redaction = before["anonymize"].options
        values |= {"out": redaction.out, "input": redaction.input, "records": redaction.records}
        values |= {"weights": redaction.detectors, "classes": redaction.classes}
    return values


def _list_places(name: str, value: Any) -> list[str]:
    """Return the paths and URIs that an option names, without what stands behind them: classes, or a weight."""
    places = []
    for text in value if isinstance(value, tuple) else () if value is None else (value,):
        place, mark, addition = text.rpartition({"data": "=", "weights": ":"}.get(name, "\0"))
        has_addition = mark == "=" or (mark == ":" and "=" in addition)
        places.append(place if has_addition else text)
    return [place for place in places if place not in ("default", "none")]


def _list_outputs(verb: str, options: Any) -> tuple[str, ...]:
    if verb == "audit":
        return (storage.join(find_records(options.out, options.records), "audit"),)
    if verb == "anonymize":
        return options.out, storage.join(find_records(options.out, options.records), "manifest.parquet")
    return (options.out,)


@dataclass(frozen=True, kw_only=True)
class MissionResult(VerbResult):
    """What became of every step, in their order: the result of its verb, or None where it was complete before."""

    out: str
    steps: Mapping[str, VerbResult | None]

    def summary(self) -> list[str]:
        """Return the lines of the steps."""
        return [
            f"{name}: {line}"
            for name, result in self.steps.items()
            for line in (["complete before"] if result is None else result.summary())
        ]


def check(options: Options) -> None:
    """Raise UserError for everything wrong in the file, before Ray starts and before any step begins."""
    read_mission(options.file)


def run(options: Options) -> MissionResult:
    """Run the steps that are not complete, each with what the ones before have made. Raises UserError."""
    mission = read_mission(options.file)
    announce_stores(*(step.options for step in mission.steps))  # of which FILE alone is an option of the mission
    for step in mission.steps:
        check_places(step.options)
    state_uri = storage.join(mission.out, STATE)
    state = _read_state(state_uri)
    results: dict[str, VerbResult | None] = {}
    for number, step in enumerate(mission.steps, 1):
        title = f"step {number} of {len(mission.steps)}, {step.verb}"
        identity = {"options": _describe(step.options), "depers": __version__}
        stamps = identity | {"inputs": _stamp(step.inputs)}
        if state.get(step.verb) == stamps | {"outputs": _stamp(step.outputs)}:
            progress.report(f"{title}: complete before")
            results[step.verb] = None
            continue
        progress.report(title)
        module = importlib.import_module(f"depers.commands.{step.verb}")
        if check_step := getattr(module, "check", None):
            check_step(step.options)
        result: VerbResult = module.run(step.options)
        progress.report_lines(f"{step.verb}: {line}" for line in result.summary())
        results[step.verb] = result
        state.pop(step.verb, None)
        if not result.partial:  # what failed is tried again
            state[step.verb] = stamps | {"outputs": _stamp(step.outputs)}
        storage.write_bytes(state_uri, json.dumps(state, indent=1).encode())
    return MissionResult(failures=_join_failures(results), out=mission.out, steps=results)


def _read_state(uri: str) -> dict[str, Any]:
    """Return what is complete, by step; of a file that is none, nothing: then every step looks for itself."""
    try:
        state = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
    except ValueError:
        state = {}
    return state if isinstance(state, dict) else {}


def _describe(options: Any) -> Any:
    """Return options as JSON would give them back."""
    return json.loads(json.dumps(asdict(options)))


def _stamp(places: tuple[str, ...]) -> dict[str, str]:
    """Return for each place a hash of what storage lists there: paths, sizes and tags; empty where there is nothing."""
    stamps = {}
    for place in places:
        digest = hashlib.sha256()
        if storage.is_dir(place):
            for entry in storage.list_files(place):
                digest.update(json.dumps([entry.path, entry.size, entry.etag]).encode())
            stamps[place] = digest.hexdigest()
        else:
            folder, _, name = place.rpartition("/")
            stamps[place] = storage.read_stamp(folder or ".", name) if storage.exists(place) else ""
    return stamps


def _join_failures(results: Mapping[str, VerbResult | None]) -> Failures:
    """Return the failures of all steps as one: their number, and the first of them."""
    parts = [result.failures for result in results.values() if result is not None and result.failures.count]
    if len(parts) == 1:
        return parts[0]
    examples = tuple(example for part in parts for example in part.examples[:3])
    return replace(
        Failures(),
        count=sum(part.count for part in parts),
        examples=examples,
        table=", ".join(part.table for part in parts),
    )
