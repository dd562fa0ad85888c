"""Options: one frozen dataclass per verb is its documentation, its command line, and its keyword arguments in Python.

A field made by `argument` is a positional argument, one made by `option` becomes `--kebab-case`. Types decide how text
is read: `str`, `int`, `float`, `bool` (`--x` / `--no-x`), `X | None`, and `tuple[X, ...]` (repeatable). What a value
may be belongs to its option; `CheckedOptions` checks it, whether the value comes from a command line or from Python.
"""

import argparse
import dataclasses
import difflib
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Never, TypeVar

from depers import __version__
from depers.errors import UserError

T = TypeVar("T")
_LARGEST = 10**300  # of whole numbers that are made fractions
REQUIRED: Any = dataclasses.MISSING
"""The default of an option that must be given."""

PROGRESS_STYLES = ("auto", "json", "none")
"""How progress is shown: as lines and bars, as JSON, or not at all."""
CURRENCY = "USD"
CORE_HOUR_PRICE = 0.05
"""The default price of a core-hour, in `CURRENCY`: about what a virtual CPU costs by the hour in public clouds."""
_SETTING = "setting of the command: "  # before its name where argparse keeps it: no option of a verb is called so

DETECTION, REDACTION, TRAINING, SYNTHESIS, RUNNING = "detection", "redaction", "training", "synthesis", "running"
SELECTION = "which inputs"
"""Sections of `--help` that several verbs have."""


class Limits(NamedTuple):
    """What a value, or each of several, may be: `low` and `high` are allowed themselves, `above` and `below` not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    multiple_of: int | None = None
    choices: tuple[Any, ...] = ()
    is_pattern: bool = False
    """A regular expression."""
    is_distinct: bool = False
    """Several values, of which no two are the same."""
    ceiling: float | None = None
    """What no value that is meant exceeds: a machine that took it for meant would end the job."""

    def allows(self, number: float) -> bool:
        """Return whether a number lies within the bounds."""
        return not (
            (self.low is not None and number < self.low)
            or (self.high is not None and number > self.high)
            or (self.above is not None and number <= self.above)
            or (self.below is not None and number >= self.below)
            or (self.ceiling is not None and number > self.ceiling)
            or not self.is_multiple(number)
        )

    def is_multiple(self, number: float) -> bool:
        """Return whether a number is a positive multiple of what it must be one of, if of anything."""
        return self.multiple_of is None or (number > 0 and number % self.multiple_of == 0)

    def describe(self, number: float) -> str:
        """Return what stands after "must be" for a number that is not allowed."""
        if self.ceiling is not None and number > self.ceiling:
            return f"at most {self.ceiling:g}"
        if not self.is_multiple(number):
            return f"a positive multiple of {self.multiple_of}"
        if self.low is not None and self.high is not None:
            text = f"between {self.low:g} and {self.high:g}"
        else:
            bounds = (("at least", self.low), ("above", self.above), ("at most", self.high), ("below", self.below))
            text = " and ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return text


def argument(help: str) -> Any:
    """Return a dataclass field that is a positional argument; it takes its place from the order of the fields."""
    return dataclasses.field(metadata={"positional": True, "help": help, "limits": Limits()})


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[Any] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    multiple_of: int | None = None,
    pattern: bool = False,
    distinct: bool = False,
    ceiling: float | None = None,
    group: str | None = None,
    metavar: str | None = None,
    commas: bool = False,
) -> Any:
    """Return a dataclass field that is `--kebab-case` on the command line.

    `default` may be `REQUIRED` (such fields must precede those with a default). What a value may be is checked by
    `CheckedOptions`: one of `choices`, at least `low` and at most `high`, `above` and `below` exclusive bounds, a
    positive multiple of `multiple_of`, a regular expression (`pattern`); several values `distinct`; and not more than
    a generous `ceiling`. `group` is the section of `--help`. With `commas`, the command line takes several values in
    one, `a,b`; Python takes a sequence, whose values may hold commas.
    """
    limits = Limits(low, high, above, below, multiple_of, tuple(choices), pattern, distinct, ceiling)
    metadata = {"positional": False, "help": help, "limits": limits, "group": group, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata | {"commas": commas})


# Options that several verbs have, with the same words.


def classes_option(default: str = "all that the weights give") -> Any:
    """Return the option of the classes to look for."""
    return option((), f"only these classes, or all (default: {default})", group=DETECTION, metavar="CLASS", commas=True)


def weights_option(purpose: str = "repeat to combine detectors") -> Any:
    """Return the option of the detectors; `purpose` says what they are for."""
    text = "YOLOv5 checkpoint, PATH_OR_URI[:model_class=class,…], or default, the one that is part of depers"
    return option((), f"{text}; {purpose}", group=DETECTION, metavar="W")


def confidence_option(default: float | None, help: str) -> Any:
    """Return the option of the least confidence of a box."""
    return option(default, f"{help}, 0…1", above=0, below=1, group=DETECTION)


def imgsz_option(default: int = 640, note: str = "", group: str = DETECTION) -> Any:
    """Return the option of the size at which a detector sees images."""
    text = "longer side of the images as the detector sees them, in pixels, a multiple of 32"
    return option(default, text + note, multiple_of=32, ceiling=16_384, group=group)


def tile_option() -> Any:
    """Return the option of the tiles in which a detector looks at large images."""
    text = "images larger than this many pixels are looked at whole and in overlapping tiles of this size"
    return option(None, text, low=64, ceiling=1_000_000, group=DETECTION)


def within_option() -> Any:
    """Return the option of what lies where it belongs."""
    text = (
        "a box of CLASS whose center lies in no box of CONTEXT has a tenth of its confidence (default: none; with the"
        " detector of depers carplate=car)"
    )
    return option((), text, group=DETECTION, metavar="CLASS=CONTEXT")


def max_detections_option(default: int, note: str = "") -> Any:
    """Return the option of how many boxes an image may have; `note` says what becomes of one that has more."""
    return option(default, f"most boxes of one image{note}", low=1, ceiling=30_000, group=DETECTION)


def batch_size_option(default: int = 8, help: str = "images per inference", group: str = RUNNING) -> Any:
    """Return the option of how many images are computed together."""
    return option(default, help, low=1, ceiling=4096, group=group)


def device_option() -> Any:
    """Return the option of what to compute on."""
    text = "what to compute on; auto: GPUs if the cluster has enough of them"
    return option("auto", text, choices=("auto", "cpu", "cuda"), group=RUNNING)


def precision_option(choices: Sequence[str], note: str = "") -> Any:
    """Return the option of the arithmetic."""
    text = "arithmetic; auto: bfloat16 where it is native, faster"
    return option("auto", text + note, choices=choices, group=RUNNING)


def max_megapixels_option(default: float) -> Any:
    """Return the option of the largest image."""
    return option(default, "images that declare more pixels fail", above=0, ceiling=1_000_000, group=RUNNING)


def file_seconds_option(default: float) -> Any:
    """Return the option of how long a file may take."""
    return option(
        default, "seconds of a processor that one step of one file may take, else it fails", above=0, group=RUNNING
    )


def follow_links_option() -> Any:
    """Return the option of links that lead out of the input."""
    text = "also read what links lead to outside the folder; without it they are skipped"
    return option(False, text, group=RUNNING)


def workers_option(default: int | None = None, help: str = "processes (default: one per core of the cluster)") -> Any:
    """Return the option of how much works at the same time."""
    return option(default, help, low=1, ceiling=100_000, group=RUNNING)


def seed_option(help: str, group: str | None = None) -> Any:
    """Return the option of a seed."""
    return option(0, help, low=0, group=group)


@dataclasses.dataclass(frozen=True)
class CheckedOptions:
    """A dataclass of options whose values are checked as soon as it is made.

    What relates several options is checked by a subclass's `__post_init__`, which calls this one first.
    """

    HINTS: ClassVar[Mapping[str, str]] = {}
    """What to say to who gives an option that there is not, by its name in Python, where a likeness would mislead."""

    def __post_init__(self) -> None:
        """Raise UserError for a value that is not allowed."""
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            if "limits" in field.metadata:
                _check(field, hints[field.name], getattr(self, field.name))


def build(options_type: type[T], values: Mapping[str, Any]) -> T:
    """Return the options with these values by name, as Python callers give them.

    A path may be a `Path`, several values may be any sequence, or one value alone, and a number of NumPy's counts as
    Python's. Raises UserError for a value that is not allowed, TypeError for a name that is no option's, or missing.
    """
    fields = {field.name: field for field in dataclasses.fields(options_type)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            similar = difflib.get_close_matches(name, fields, n=1)
            hint = _find_hint(options_type, name) or (f"did you mean {similar[0]}?" if similar else "")
            raise TypeError(f"{name!r} is no option" + (f"; {hint}" if hint else ""))
    hints = typing.get_type_hints(options_type)
    return options_type(**{name: _plain(value, *_value_type(hints[name])) for name, value in values.items()})


class _S3Setting(NamedTuple):
    """What the requests to S3 carry: what it is about, and which values it may have."""

    help: str
    choices: tuple[str, ...] = ()
    metavar: str | None = None


S3_SETTINGS: Mapping[str, _S3Setting] = {
    "s3_sse": _S3Setting("how what is written is encrypted", ("AES256", "aws:kms", "aws:kms:dsse")),
    "s3_kms_key": _S3Setting("the KMS key that encrypts it", metavar="ARN"),
    "s3_storage_class": _S3Setting("its storage class, such as STANDARD_IA", metavar="CLASS"),
    "s3_acl": _S3Setting("its access control list, such as bucket-owner-full-control", metavar="ACL"),
    "s3_tags": _S3Setting("its tags", metavar="NAME=VALUE&…"),
    "s3_cache_control": _S3Setting("its Cache-Control, for who serves it", metavar="TEXT"),
    "s3_checksum": _S3Setting("its checksum, as Object Lock needs", ("CRC32", "CRC32C", "SHA1", "SHA256")),
    "s3_requester_pays": _S3Setting("pay for requests to buckets of others (yes)", ("yes",)),
    "s3_requests_per_second": _S3Setting("most requests of each process below one prefix", metavar="N"),
}
"""Settings of the command line that are variables of the environment, DEPERS_S3_…, for every process of a job."""


class CommandSettings(NamedTuple):
    """What every verb takes on the command line besides its options: it says what is shown, and changes no result."""

    debug: bool = False
    progress: str = "auto"
    core_hour_price: float = CORE_HOUR_PRICE
    s3: Mapping[str, str] = {}
    """Those of `S3_SETTINGS` that are given, by the variables that have them."""


def parse(options_type: type[T], argv: Sequence[str], prog: str) -> T:
    """Return the options that `argv` (without the program's name) gives, as `parse_command` does."""
    return parse_command(options_type, argv, prog)[0]


def parse_command(options_type: type[T], argv: Sequence[str], prog: str) -> tuple[T, CommandSettings]:
    """Return the options that `argv` (without the program's name) gives, and what is to be shown.

    Raises UserError for everything wrong, including what the dataclass refuses, and SystemExit(0) after `--help` and
    `--version`.
    """
    parser = make_parser(options_type, prog)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0].removeprefix("--").replace("-", "_")
        raise UserError(_describe_unknown(unknown[0], parser, _find_hint(options_type, name)))
    values = vars(namespace)
    names = [name for name in CommandSettings._fields if name != "s3"]
    settings = CommandSettings(**{name: values.pop(_SETTING + name) for name in names})
    s3_values = {f"DEPERS_{name.upper()}": values.pop(_SETTING + name) for name in S3_SETTINGS}
    settings = settings._replace(s3={name: value for name, value in s3_values.items() if value is not None})
    if (rate := settings.s3.get("DEPERS_S3_REQUESTS_PER_SECOND")) is not None and not _is_rate(rate):
        raise UserError(f"--s3-requests-per-second must be above 0, but got {rate!r}")
    if not (math.isfinite(settings.core_hour_price) and settings.core_hour_price >= 0):
        raise UserError(f"--core-hour-price must be at least 0, but got {settings.core_hour_price:g}")
    return build(options_type, values), settings


def make_parser(options_type: type[Any], prog: str) -> argparse.ArgumentParser:
    """Return the parser of the options; its help has a section for every group."""
    doc = options_type.__doc__ or ""
    is_generated = doc.startswith(f"{options_type.__name__}(")  # a dataclass without a docstring gets its signature
    parser = _Parser(
        prog=prog,
        description=None if is_generated else doc.split("\n\n")[0],
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    hints = typing.get_type_hints(options_type)
    fields = dataclasses.fields(options_type)
    titles = dict.fromkeys(group for field in fields if (group := field.metadata.get("group")))
    groups = {title: parser.add_argument_group(title) for title in titles}
    for field in fields:
        _add(groups.get(field.metadata.get("group"), parser), field, hints[field.name])
    settings = parser.add_argument_group("what is shown")
    settings.add_argument(
        "--debug", dest=f"{_SETTING}debug", action="store_true", help="show the traceback of an unexpected error"
    )
    settings.add_argument(
        "--progress",
        dest=f"{_SETTING}progress",
        type=_progress_reader,
        default=PROGRESS_STYLES[0],
        metavar="STYLE",
        help=f"how it is shown on stderr (one of {_listed(PROGRESS_STYLES)}; json: an object per line)",
    )
    settings.add_argument(
        "--core-hour-price",
        dest=f"{_SETTING}core_hour_price",
        type=_reader("--core-hour-price", float),
        default=CORE_HOUR_PRICE,
        metavar="X",
        help=f"{CURRENCY} per hour of a core, to say what a million images cost (default: {CORE_HOUR_PRICE:g})",
    )
    section = parser.add_argument_group("S3 (also as variables of the environment, DEPERS_S3_…)")
    for name, setting in S3_SETTINGS.items():
        section.add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"{_SETTING}{name}",
            choices=setting.choices or None,
            metavar=setting.metavar,
            help=setting.help,
        )
    parser.add_argument("--version", action="version", version=f"depers {__version__}")
    return parser


def _is_rate(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def flag(field: "dataclasses.Field[Any]") -> str:
    """Return how messages and the command line name an option: `INPUT`, `--kebab-case`."""
    return field.name.upper() if field.metadata["positional"] else "--" + field.name.replace("_", "-")


def _check(field: "dataclasses.Field[Any]", hint: Any, value: Any) -> None:
    """Raise UserError where the value of a field is not allowed."""
    value_type, repeatable = _value_type(hint)
    name, limits = flag(field), field.metadata["limits"]
    if value is None and isinstance(hint, types.UnionType):
        return
    if repeatable and not isinstance(value, tuple):
        raise UserError(f"{name} must be several values, but got {value!r}")
    items = value if repeatable else (value,)
    for item in items:
        _check_type(name, value_type, item)
        if limits.choices and item not in limits.choices:
            raise UserError(f"{name} must be one of {_listed(limits.choices)}, but got {item!r}")
        if value_type in (int, float) and not limits.allows(item):
            raise UserError(f"{name} must be {limits.describe(item)}, but got {_shorten(item)}")
        if limits.is_pattern:
            _check_pattern(name, item)
    if limits.is_distinct and len(set(items)) < len(items):
        raise UserError(f"{name} must be different values, but got {_listed(items)}")


def _check_type(name: str, value_type: type, value: Any) -> None:
    """Raise UserError where a value is not of its option's type, empty or not finite."""
    if value_type is str:
        if not isinstance(value, str):
            raise UserError(f"{name} must be text, but got {value!r}")
        if value == "":  # an unset shell variable, and as a path the working folder
            raise UserError(f"{name} must not be empty")
    elif value_type is bool:
        if not isinstance(value, bool):
            raise UserError(f"{name} must be True or False, but got {value!r}")
    else:
        number_types = int if value_type is int else (int, float)
        is_number = isinstance(value, number_types) and not isinstance(value, bool)
        if not is_number or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"{name} must be {_kind(value_type)}, but got {value!r}")


def _shorten(number: float) -> str:
    """Return a number as text, also a whole one that no float can hold."""
    return f"{number:g}" if abs(number) < _LARGEST else "a number of more than 300 digits"


def _check_pattern(name: str, pattern: str) -> None:
    """Raise UserError where `pattern` is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{name} must be a regular expression, but {pattern!r} is none ({error})") from None


def _plain(value: Any, value_type: type, repeatable: bool) -> Any:
    """Return a value as its option holds it, where that is clear; else as it is, to be refused."""
    if repeatable and not isinstance(value, str | os.PathLike | numbers.Number | None):
        return tuple(_plain(item, value_type, False) for item in value)
    if value_type is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif value_type is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        value = int(value)
    elif value_type is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        number: Any = value
        value = float(number) if abs(number) < _LARGEST else number
    return (value,) if repeatable else value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def _add(parser: "argparse._ActionsContainer", field: "dataclasses.Field[Any]", hint: Any) -> None:
    """Add the argument or option of one field, whose resolved type is `hint`."""
    value_type, repeatable = _value_type(hint)
    name = flag(field)
    text = field.metadata["help"].replace("%", "%%")  # argparse formats help with %
    if field.metadata["positional"]:
        parser.add_argument(field.name, metavar=name, type=_reader(name, value_type), help=text)
        return
    default = field.default
    required = default is REQUIRED
    if notes := "; ".join(_notes(field, repeatable)):
        text += f" ({notes})".replace("%", "%%")
    settings: dict[str, Any] = {"dest": field.name, "required": required, "help": text}
    if not required:
        settings["default"] = default
    if value_type is bool:
        parser.add_argument(name, action=argparse.BooleanOptionalAction, **settings)
    else:
        parser.add_argument(
            name,
            action=_Append if repeatable else "store",
            type=_split if field.metadata["commas"] else _reader(name, value_type),
            metavar=field.metadata["metavar"] or {int: "N", float: "X"}.get(value_type, field.name.upper()),
            **settings,
        )


def _notes(field: "dataclasses.Field[Any]", repeatable: bool) -> Iterator[str]:
    """Yield what help says behind the text of an option."""
    choices, default = field.metadata["limits"].choices, field.default
    if choices:
        yield f"one of {_listed(choices)}"
    if repeatable:
        yield "repeatable, also a,b" if field.metadata["commas"] else "repeatable"
    if default is REQUIRED:
        yield "required"
    elif default not in (None, ()):
        yield f"default: {_default_text(default)}"


class _Append(argparse.Action):
    """Appends one value or a list; unlike argparse's own, what the user gives replaces the default."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        items = getattr(namespace, self.dest)
        before = items if isinstance(items, list) else []
        setattr(namespace, self.dest, [*before, *(values if isinstance(values, list) else [values])])


def _split(text: str) -> list[str]:
    """Return the values of an option that takes several with commas."""
    return [part.strip() for part in text.split(",")]


def _value_type(hint: Any) -> tuple[type, bool]:
    """Return (type of one value, repeatable): `int | None` → (int, False), `tuple[str, ...]` → (str, True)."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    repeatable = typing.get_origin(hint) is tuple
    if repeatable:
        hint, _ = typing.get_args(hint)
    if hint not in (str, int, float, bool):
        raise TypeError(f"an option must be str, int, float or bool, | None or tuple[…, ...], but is {hint}")
    return hint, repeatable


def _reader(name: str, value_type: type) -> Callable[[str], Any]:
    """Return a function from the text on the command line to the value, which raises UserError."""

    def read(text: str) -> Any:
        if value_type is str:
            return text
        if text == "":
            raise UserError(f"{name} must not be empty")
        try:
            return value_type(text)
        except ValueError:
            raise UserError(f"{name} must be {_kind(value_type)}, but got {text!r}") from None

    return read


def _progress_reader(text: str) -> str:
    if text not in PROGRESS_STYLES:
        raise UserError(f"--progress must be one of {_listed(PROGRESS_STYLES)}, but got {text!r}")
    return text


def _kind(value_type: type) -> str:
    return "a whole number" if value_type is int else "a number"


def _find_hint(options_type: type[Any], name: str) -> str:
    return str(getattr(options_type, "HINTS", {}).get(name, ""))


def _describe_unknown(text: str, parser: argparse.ArgumentParser, hint: str) -> str:
    """Return the message about an argument that no option takes, with the `hint` that there is for it, if any."""
    if not text.startswith("-"):
        return f"unexpected argument {text!r}; an option that takes several values is repeated for each of them"
    flags = [name for action in parser._actions for name in action.option_strings]
    similar = difflib.get_close_matches(text.partition("=")[0], flags, n=1)
    hint = hint or (f"did you mean {similar[0]}?" if similar else "")
    return f"unknown option {text!r}" + (f"; {hint}" if hint else f" (see {parser.prog} --help)")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _default_text(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    return _listed(default) if isinstance(default, tuple) else str(default)
