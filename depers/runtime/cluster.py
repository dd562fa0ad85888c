"""How Ray starts, and what a cluster can do."""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from depers.errors import UserError
from depers.resources import MIB
from depers.runtime import places

_NOTE = b"Set ray log level from environment variable"


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
        with _quiet_start(debug):
            ray.init(address=address, runtime_env={"env_vars": variables} if variables else None, **quiet)
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


def _read_given_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that `ray job submit` gives the job: they must not be given again."""
    try:
        config = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return dict((config.get("runtime_env") or {}).get("env_vars") or {})
    except (ValueError, AttributeError, TypeError):
        return {}


def is_named() -> bool:
    """Say whether RAY_ADDRESS is set, or Ray runs in this process."""
    return bool(os.environ.get("RAY_ADDRESS")) or ("ray" in sys.modules and sys.modules["ray"].is_initialized())


def count_nodes() -> int:
    """Return how many nodes the work may run on: one where no Ray runs."""
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        return 1
    return sum(node["Alive"] for node in sys.modules["ray"].nodes())


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


def object_store_bytes() -> int:
    """Return the size of a local object store: an eighth of the machine's memory, 256 MiB to 2 GiB.

    Verbs pass compressed bytes and model-sized inputs, never decoded frames, so more would only hold more in
    flight; the upper bound keeps memory flat whatever the machine and the number of images.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * MIB, min(memory // 8, 2048 * MIB))
