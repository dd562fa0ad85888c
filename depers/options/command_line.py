"""The command line of options: text is read, help is written, and what every verb takes besides its own."""

import argparse
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Never, TypeVar

from depers import __version__
from depers.errors import UserError
from depers.options import REQUIRED, build, find_hint, flag, join_values, name_kind, read_value_type

T = TypeVar("T")
PROGRESS_STYLES = ("auto", "json", "none")
"""How progress is shown: as lines and bars, as JSON, or not at all."""
CURRENCY = "USD"
CORE_HOUR_PRICE = 0.05
"""The default price of a core-hour, in `CURRENCY`: about what a virtual CPU costs by the hour in public clouds."""
_SETTING = "setting of the command: "  # before its name where argparse keeps it: no option of a verb is called so


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
        raise UserError(_describe_unknown(unknown[0], parser, find_hint(options_type, name)))
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
        help=f"how it is shown on stderr (one of {join_values(PROGRESS_STYLES)}; json: an object per line)",
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def _add(parser: "argparse._ActionsContainer", field: "dataclasses.Field[Any]", hint: Any) -> None:
    """Add the argument or option of one field, whose resolved type is `hint`."""
    value_type, repeatable = read_value_type(hint)
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
        yield f"one of {join_values(choices)}"
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
            raise UserError(f"{name} must be {name_kind(value_type)}, but got {text!r}") from None

    return read


def _progress_reader(text: str) -> str:
    if text not in PROGRESS_STYLES:
        raise UserError(f"--progress must be one of {join_values(PROGRESS_STYLES)}, but got {text!r}")
    return text


def _describe_unknown(text: str, parser: argparse.ArgumentParser, hint: str) -> str:
    """Return the message about an argument that no option takes, with the `hint` that there is for it, if any."""
    if not text.startswith("-"):
        return f"unexpected argument {text!r}; an option that takes several values is repeated for each of them"
    flags = [name for action in parser._actions for name in action.option_strings]
    similar = difflib.get_close_matches(text.partition("=")[0], flags, n=1)
    hint = hint or (f"did you mean {similar[0]}?" if similar else "")
    return f"unknown option {text!r}" + (f"; {hint}" if hint else f" (see {parser.prog} --help)")


def _default_text(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    return join_values(default) if isinstance(default, tuple) else str(default)
