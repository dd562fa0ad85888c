"""Options: one frozen dataclass per verb is both its documentation and its command line.

A field made by `argument` is a positional argument, one made by `option` becomes `--kebab-case`. Types
decide how text is read: `str`, `int`, `float`, `bool` (`--x` / `--no-x`), `X | None`, and `tuple[X, ...]`
(repeatable).
"""

import argparse
import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Never, TypeVar

from depers import __version__
from depers.errors import UserError

T = TypeVar("T")
REQUIRED: Any = dataclasses.MISSING
"""The default of an option that must be given."""


def argument(help: str) -> Any:
    """A dataclass field that is a positional argument; it takes its place from the order of the fields."""
    return dataclasses.field(metadata={"positional": True, "help": help})


def option(default: Any, help: str, *, choices: Sequence[Any] | None = None, metavar: str | None = None) -> Any:
    """A dataclass field that is `--kebab-case` on the command line.

    `default` may be `REQUIRED` (such fields must precede those with a default). `choices` are checked by
    `parse`.
    """
    metadata = {"positional": False, "help": help, "choices": choices, "metavar": metavar}
    return dataclasses.field(default=default, metadata=metadata)


def check_pattern(flag: str, pattern: str) -> None:
    """Raises UserError where `pattern` is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"{flag} must be a regular expression, but {pattern!r} is none ({error})") from None


def parse(options_type: type[T], argv: Sequence[str], prog: str) -> T:
    """The options that `argv` (without the program's name) gives.

    Raises UserError for everything wrong, including what `__post_init__` of the dataclass refuses, and
    SystemExit(0) after `--help` and `--version`. `--debug` is accepted everywhere and left to the caller.
    """
    doc = options_type.__doc__ or ""
    generated = doc.startswith(f"{options_type.__name__}(")  # a dataclass without a docstring gets its signature
    parser = _Parser(
        prog=prog,
        description=None if generated else doc.split("\n\n")[0],
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    hints = typing.get_type_hints(options_type)
    for field in dataclasses.fields(options_type):  # type: ignore[arg-type]
        _add(parser, field, hints[field.name])
    parser.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    parser.add_argument("--version", action="version", version=f"depers {__version__}")
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UserError(_describe_unknown(unknown[0], parser))
    given = vars(values)
    del given["debug"]
    return options_type(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items()})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


def _add(parser: argparse.ArgumentParser, field: "dataclasses.Field[Any]", hint: Any) -> None:
    """Add the argument or option of one field, whose resolved type is `hint`."""
    value_type, repeatable = _value_type(hint)
    positional = field.metadata["positional"]
    flag = field.name.upper() if positional else "--" + field.name.replace("_", "-")
    text = field.metadata["help"].replace("%", "%%")  # argparse formats help with %
    if positional:
        parser.add_argument(field.name, metavar=flag, type=_reader(flag, value_type, None), help=text)
        return
    choices, default = field.metadata["choices"], field.default
    required = default is REQUIRED
    notes = [f"one of {_listed(choices)}"] if choices else []
    notes += ["repeatable"] if repeatable else []
    notes += ["required"] if required else [f"default: {_shown(default)}"] if default not in (None, ()) else []
    text += f" ({'; '.join(notes)})".replace("%", "%%") if notes else ""
    common: dict[str, Any] = {"dest": field.name, "required": required, "help": text}
    if not required:
        common["default"] = default
    if value_type is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
    else:
        parser.add_argument(
            flag,
            action=_Append if repeatable else "store",
            type=_reader(flag, value_type, choices),
            metavar=field.metadata["metavar"] or {int: "N", float: "X"}.get(value_type, field.name.upper()),
            **common,
        )


class _Append(argparse.Action):
    """Appends; unlike argparse's own, what the user gives replaces the default instead of following it."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, flag: str | None = None) -> None:
        so_far = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(so_far if isinstance(so_far, list) else []), values])


def _value_type(hint: Any) -> tuple[type, bool]:
    """(type of one value, repeatable): `int | None` → (int, False), `tuple[str, ...]` → (str, True)."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    repeatable = typing.get_origin(hint) is tuple
    if repeatable:
        hint, _ = typing.get_args(hint)
    if hint not in (str, int, float, bool):
        raise TypeError(f"an option must be str, int, float or bool, | None or tuple[…, ...], but is {hint}")
    return hint, repeatable


def _reader(flag: str, value_type: type, choices: Sequence[Any] | None) -> Callable[[str], Any]:
    """A function from the text on the command line to the value, which raises UserError."""

    def read(text: str) -> Any:
        if text == "":  # an unset shell variable, and as a path the working folder
            raise UserError(f"{flag} must not be empty")
        value: Any = text
        try:
            if value_type is not str:
                value = value_type(text)
        except ValueError:
            value = math.nan
        if value_type is not str and not math.isfinite(value):
            wanted = "a whole number" if value_type is int else "a number"
            raise UserError(f"{flag} must be {wanted}, but got {text!r}")
        if choices and value not in choices:
            raise UserError(f"{flag} must be one of {_listed(choices)}, but got {text!r}")
        return value

    return read


def _describe_unknown(found: str, parser: argparse.ArgumentParser) -> str:
    if not found.startswith("-"):
        return f"unexpected argument {found!r}; an option that takes several values is repeated for each of them"
    known = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(found.partition("=")[0], known, n=1)
    return f"unknown option {found!r}" + (f"; did you mean {near[0]}?" if near else f" (see {parser.prog} --help)")


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return _listed(default) if isinstance(default, tuple) else str(default)
