"""Options: one frozen dataclass per verb is its documentation, its command line, and its keyword arguments in Python.

A field made by `argument` is a positional argument, one made by `option` becomes `--kebab-case`. Types decide how text
is read: `str`, `int`, `float`, `bool` (`--x` / `--no-x`), `X | None`, and `tuple[X, ...]` (repeatable). What a value
may be belongs to its option; `CheckedOptions` checks it, whether the value comes from a command line or from Python.
The command line is read by `options.command_line`; `options.shared` has the options that several verbs have.
"""

import dataclasses
import difflib
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from depers.errors import UserError

T = TypeVar("T")
_LARGEST = 10**300  # of whole numbers that are made fractions
REQUIRED: Any = dataclasses.MISSING
"""The default of an option that must be given."""


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
            hint = find_hint(options_type, name) or (f"did you mean {similar[0]}?" if similar else "")
            raise TypeError(f"{name!r} is no option" + (f"; {hint}" if hint else ""))
    hints = typing.get_type_hints(options_type)
    return options_type(**{name: _plain(value, *read_value_type(hints[name])) for name, value in values.items()})


def flag(field: "dataclasses.Field[Any]") -> str:
    """Return how messages and the command line name an option: `INPUT`, `--kebab-case`."""
    return field.name.upper() if field.metadata["positional"] else "--" + field.name.replace("_", "-")


def _check(field: "dataclasses.Field[Any]", hint: Any, value: Any) -> None:
    """Raise UserError where the value of a field is not allowed."""
    value_type, repeatable = read_value_type(hint)
    name, limits = flag(field), field.metadata["limits"]
    if value is None and isinstance(hint, types.UnionType):
        return
    if repeatable and not isinstance(value, tuple):
        raise UserError(f"{name} must be several values, but got {value!r}")
    items = value if repeatable else (value,)
    for item in items:
        _check_type(name, value_type, item)
        if limits.choices and item not in limits.choices:
            raise UserError(f"{name} must be one of {join_values(limits.choices)}, but got {item!r}")
        if value_type in (int, float) and not limits.allows(item):
            raise UserError(f"{name} must be {limits.describe(item)}, but got {_shorten(item)}")
        if limits.is_pattern:
            _check_pattern(name, item)
    if limits.is_distinct and len(set(items)) < len(items):
        raise UserError(f"{name} must be different values, but got {join_values(items)}")


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
            raise UserError(f"{name} must be {name_kind(value_type)}, but got {value!r}")


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


def read_value_type(hint: Any) -> tuple[type, bool]:
    """Return (type of one value, repeatable): `int | None` → (int, False), `tuple[str, ...]` → (str, True)."""
    if isinstance(hint, types.UnionType):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    repeatable = typing.get_origin(hint) is tuple
    if repeatable:
        hint, _ = typing.get_args(hint)
    if hint not in (str, int, float, bool):
        raise TypeError(f"an option must be str, int, float or bool, | None or tuple[…, ...], but is {hint}")
    return hint, repeatable


def name_kind(value_type: type) -> str:
    """Return what messages call a value of a type that is a number."""
    return "a whole number" if value_type is int else "a number"


def find_hint(options_type: type[Any], name: str) -> str:
    """Return what the options say to who gives one of this name, which there is not; empty for nothing."""
    return str(getattr(options_type, "HINTS", {}).get(name, ""))


def join_values(values: Sequence[Any]) -> str:
    """Return several values as messages and help list them."""
    return ", ".join(str(value) for value in values)
