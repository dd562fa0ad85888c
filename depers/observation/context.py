"""Which run of a verb this process works for: what its metrics and log lines carry."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class RunContext(NamedTuple):
    """A run of a verb: `job` is the verb, the time of its start (UTC) and a random number."""

    job: str = ""
    verb: str = ""


_context = RunContext()


def make_context(verb: str) -> RunContext:
    """Return the context of a new run."""
    return RunContext(f"{verb}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}", verb)


def current_context() -> RunContext:
    """Return the run that this process works for."""
    return _context


def enter_context(context: RunContext) -> None:
    """Have this process, a worker, work for a run from now on."""
    global _context
    _context = context


@contextmanager
def run_context(context: RunContext) -> Iterator[None]:
    """Have this process work for a run while the block runs; within another run's block, that one stays."""
    former = current_context()
    enter_context(context if not former.job else former)
    try:
        yield
    finally:
        enter_context(former)
