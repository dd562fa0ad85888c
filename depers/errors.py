"""Errors: what the user can put right, and how any error is told on one line."""

import re
from collections.abc import Iterator

REASON_LENGTH = 200
"""Characters of an error's message that a column `reason` holds: some hold a whole file."""


class UserError(Exception):
    """What the user can put right: one line that names the file, the value found and the value allowed."""


def as_user_error(error: BaseException) -> UserError | None:
    """Return the UserError in `error` or among its causes, however deep Ray has wrapped it."""
    for cause in _causes(error):
        if isinstance(cause, UserError) and not _is_wrapper(cause):
            return cause
    # What an actor's constructor raised, and causes lost in pickling, are left only as a line of text.
    texts = re.findall(
        r"^depers\.(?:errors\.UserError|storage\.failures\.OutageError): (.+)$", str(error), re.MULTILINE
    )
    return UserError(texts[-1]) if texts else None


def describe(error: BaseException) -> str:
    """Return `Type: message` of what a task raised in the first place, on one line."""
    # The text of Ray's errors is the worker's traceback, which begins with the first of a chain of exceptions.
    raised = re.search(r"^((?:\w+\.)*\w*(?:Error|Exception): .+)$", str(error), re.MULTILINE)
    if raised and (_is_wrapper(error) or type(error).__module__.startswith("ray.")):
        return raised[1]
    return f"{type(error).__name__}: {one_line(error)}"


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return the message of `error` on one line, its first `limit` characters."""
    return " ".join(str(error).split())[:limit]


def to_line(text: str) -> str:
    """Return text as one line for a terminal: what cannot be seen in it, such as a control character, is escaped.

    Names of files may hold anything: the end of a line, or what a terminal takes for an instruction.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def short_reason(error: BaseException) -> str:
    """Return why something failed, for a column `reason`: the system's words or the message, at most 200 characters."""
    return getattr(error, "strerror", None) or one_line(error, REASON_LENGTH)


def typed_reason(error: BaseException) -> str:
    """Return why something failed that no one foresaw: `Type: message`, of that at most 200 characters."""
    return f"{type(error).__name__}: {one_line(error, REASON_LENGTH)}"


def _is_wrapper(error: BaseException) -> bool:
    """Return whether `error` only reports another; Ray's RayTaskError is even an instance of its cause's class."""
    return getattr(error, "cause", None) is not None or bool(getattr(error, "worker_failures", None))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, then what it reports, outermost first: Ray's `cause` and `worker_failures`, Python's own."""
    queue, visited = [error], set()
    while queue:
        current = queue.pop(0)
        if id(current) in visited:
            continue
        visited.add(id(current))
        yield current
        failures = getattr(current, "worker_failures", None)
        inner = [getattr(current, "cause", None), *(failures.values() if isinstance(failures, dict) else [])]
        inner += [current.__cause__, None if current.__suppress_context__ else current.__context__]
        queue += [e for e in inner if isinstance(e, BaseException)]
