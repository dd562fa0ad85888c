"""Errors."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING


class UserError(Exception):
    """What the user can put right: one line that names the file, the value found and the value allowed."""


def user_error(error: BaseException) -> UserError | None:
    """The UserError in `error` or among its causes, however deep Ray has wrapped it."""
    for cause in _causes(error):
        if isinstance(cause, UserError) and not _is_wrapper(cause):
            return cause
    # What an actor's constructor raised, and causes lost in pickling, are left only as a line of text.
    texts = re.findall(r"^depers\.errors\.UserError: (.+)$", str(error), re.MULTILINE)
    return UserError(texts[-1]) if texts else None


def describe(error: BaseException) -> str:
    """`Type: message` of what a task raised in the first place, on one line."""
    # The text of Ray's errors is the worker's traceback, which begins with the first of a chain of exceptions.
    raised = re.search(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", str(error), re.MULTILINE)
    if raised and (_is_wrapper(error) or type(error).__module__.startswith("ray.")):
        return raised[1]
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """The message of `error` on one line."""
    return " ".join(str(error).split())


def _is_wrapper(error: BaseException) -> bool:
    """Whether `error` only reports another; Ray's RayTaskError is even an instance of its cause's class."""
    return getattr(error, "cause", None) is not None or bool(getattr(error, "worker_failures", None))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error`, then what it reports, outermost first: Ray's `cause` and `worker_failures`, Python's own."""
    queue, seen = [error], set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [getattr(current, "cause", None), *(failures.values() if isinstance(failures, dict) else [])]
        inner += [current.__cause__, None if current.__suppress_context__ else current.__context__]
        queue += [e for e in inner if isinstance(e, BaseException)]


if TYPE_CHECKING:
    pass


def line(error: BaseException) -> str:
    """The error's message on one line."""
    return " ".join(str(error).split())[:200]
