"""How Ray starts, and what a cluster can do."""

import atexit
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from depers.errors import UserError, one_line, short_reason
from depers.resources import MIB
from depers.runtime import places

_NOTE = b"Set ray log level from environment variable"
_ADDRESS = re.compile(r"\[?([^\[\]/]+?)\]?:(\d{1,5})")
_LISTEN_SECONDS, _ANSWER_SECONDS = 10.0, 60.0
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # with a frame of no settings
_FRAME_BYTES, _SETTINGS = 9, 4  # of a frame's header, and the type that its fourth byte says
_REASON_LENGTH = 300
_JOINED = b"depers has joined\n"
_WITNESS = """
import os, sys
note, joined, message = (text.encode() for text in sys.argv[1:])
for line in sys.stdin.buffer:
    if line.endswith(joined):
        break
    if note not in line:
        os.write(2, line)
else:
    os.write(2, message)
"""
"""A process that passes on what another one writes to stderr, and has a last word where that one ends too soon."""


def start_ray(debug: bool = False, cpus: int | None = None) -> bool:
    """Join the cluster at RAY_ADDRESS (`ray job submit` sets it), else start one that ends with this process.

    `cpus` bounds a local Ray (default: all). Returns whether this call did it: False where Ray runs already.
    Only RAY_ADDRESS counts: a cluster that happens to run on this machine may be someone else's, or dead.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS must be auto or HOST:PORT, but is the job server {address}: use `ray job submit`, or unset it"
        )
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else each 0-GPU task warns
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_FACTOR", "4")  # as tasks, of which four per CPU wait
    if not debug:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # verbs report progress themselves
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else every actor pool warns about its arguments
    import ray

    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if address != "local":
        variables = places.choose_variables(os.environ, _read_given_variables(os.environ))
        _join(address, debug, {"runtime_env": {"env_vars": variables} if variables else None, **quiet})
        return True
    # Ray takes its own minimal start, 2 s shorter, where the dashboard's dependencies cannot be imported.
    sys.modules["ray.dashboard.optional_deps"] = None  # type: ignore[assignment]
    try:
        with _quiet_start(debug):
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes(),
                **quiet,
            )
    finally:
        del sys.modules["ray.dashboard.optional_deps"]
    return True


def _join(address: str, debug: bool, arguments: Mapping[str, Any]) -> None:
    """Join a cluster. Raise UserError where nobody listens there, or one of other versions of Ray or Python does."""
    import ray

    if address != "auto":
        check_listener(address)
    requirement = f"depers needs one of Ray {ray.__version__} with Python {platform.python_version()}"
    try:
        with _witnessed(debug, f"RAY_ADDRESS {address}: ended while it joined what listens there: {requirement}"):
            ray.init(address=address, **arguments)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        with suppress(Exception):
            ray.shutdown()
        reason = one_line(error, _REASON_LENGTH)
        raise UserError(f"RAY_ADDRESS {address}: no cluster that can be joined ({reason}): {requirement}") from error


def check_listener(address: str) -> None:
    """Raise UserError where no Ray listens at HOST:PORT: its own client would wait for many minutes, and say nothing.

    Ray speaks gRPC, of which the other end's first word is known: a frame of settings (RFC 9113).
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"RAY_ADDRESS must be auto or HOST:PORT, but is {address}")
    try:
        with socket.create_connection((match[1], int(match[2])), _LISTEN_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "").lower() in ("1", "true"):  # whose first words are others
                return
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(_GREETING)
            answer = b""
            while len(answer) < _FRAME_BYTES and (data := connection.recv(_FRAME_BYTES - len(answer))):
                answer += data
            if len(answer) == _FRAME_BYTES and answer[3] == _SETTINGS:
                return
            raise ConnectionError("something else listens there")
    except (OSError, OverflowError) as error:
        reason = short_reason(error)
        hint = "start the cluster, or unset RAY_ADDRESS, which has one machine do the work"
        requirement = "must be where a cluster listens, but there is none"
        raise UserError(f"RAY_ADDRESS {address}: {requirement} ({reason}): {hint}") from None


def _read_given_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that `ray job submit` gives the job: they must not be given again."""
    try:
        config = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return dict((config.get("runtime_env") or {}).get("env_vars") or {})
    except (ValueError, AttributeError, TypeError):
        return {}


def part() -> None:
    """Have the end of this process be its leave of a cluster that it joined; a Ray of its own is stopped by Ray.

    The cluster notices at once that a driver is gone. Ray's own way to say so ended some processes with the exit code 1
    and without a word, after all work was done.
    """
    if "ray" in sys.modules and (os.environ.get("RAY_ADDRESS") or "local") != "local":
        atexit.unregister(sys.modules["ray"].shutdown)


def is_named() -> bool:
    """Say whether RAY_ADDRESS is set, or Ray runs in this process."""
    return bool(os.environ.get("RAY_ADDRESS")) or ("ray" in sys.modules and sys.modules["ray"].is_initialized())


def count_nodes() -> int:
    """Return how many nodes the work may run on: one where no Ray runs."""
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return 1
    return sum(node["Alive"] for node in sys.modules["ray"].nodes())


@contextmanager
def _witnessed(debug: bool, message: str) -> Iterator[None]:
    """Have `message` written to stderr where this process ends in the block, which Ray's client does without a word.

    What Ray writes is passed on, without the note on its log level; with `debug`, it writes enough itself.
    """
    if debug:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    texts = (_NOTE.decode(), _JOINED.decode(), f"depers: error: {message}\n")
    witness = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WITNESS, *texts], stdin=subprocess.PIPE, start_new_session=True
    )
    assert witness.stdin is not None
    os.dup2(witness.stdin.fileno(), 2)
    witness.stdin.close()
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stderr.flush()
            os.write(2, _JOINED)
        os.dup2(stderr, 2)
        os.close(stderr)
        witness.wait()


@contextmanager
def _quiet_start(debug: bool) -> Iterator[None]:
    """Hold back what Ray writes to stderr in the block, and show it at its end, without the note on its log level.

    The level must be in the environment, since only so every process of Ray has it; and Ray says so each time, past
    Python, before the level counts. With `debug` nothing is held back.
    """
    if debug:
        yield
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if _NOTE not in line:
                    os.write(2, line)


@contextmanager
def explained_space() -> Iterator[None]:
    """Raise UserError where the block ends since there is room for no object more: in no store, and on no disk."""
    import ray

    try:
        yield
    except (ray.exceptions.OutOfDiskError, ray.exceptions.ObjectStoreFullError) as error:
        full = "the cluster's object store is full, and so is the disk that it spills to"
        hint = "end what else fills them, or give nodes more; the same command takes up the work again"
        raise UserError(f"{full}: {hint}") from error


def object_store_bytes() -> int:
    """Return the size of a local object store: an eighth of the machine's memory, 256 MiB to 2 GiB.

    Verbs pass compressed bytes and model-sized inputs, never decoded frames, so more would only hold more in
    flight; the upper bound keeps memory flat whatever the machine and the number of images.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * MIB, min(memory // 8, 2048 * MIB))
