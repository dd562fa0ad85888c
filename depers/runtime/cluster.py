"""Cluster."""

import logging
import os
import sys

from depers.errors import UserError

MIB = 2**20


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
    if not debug:
        os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # verbs report progress themselves
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else every actor pool warns about its arguments
    import ray

    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if address != "local":
        ray.init(address=address, **quiet)
        return True
    # Ray takes its own minimal start, 2 s shorter, where the dashboard's dependencies cannot be imported.
    sys.modules["ray.dashboard.optional_deps"] = None  # type: ignore[assignment]
    try:
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


def object_store_bytes() -> int:
    """The size of a local object store: an eighth of the machine's memory, 256 MiB to 2 GiB.

    Verbs pass compressed bytes and model-sized inputs, never decoded frames, so more would only hold more in
    flight; the upper bound keeps memory flat whatever the machine and the number of images.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(256 * MIB, min(memory // 8, 2048 * MIB))
