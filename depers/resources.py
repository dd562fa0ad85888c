"""How much memory and disk this process may really use, by the container's limits; and that it keeps what it has."""

import ctypes
import gc
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 2**20
GIB = 2**30
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
SPARING = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
"""Environment variables by which all threads of a process share two heaps, and Arrow uses them as well.

By itself glibc gives a heap to each of the dozens of threads that read and write, and Arrow takes an allocator of its
own: each keeps tens of MB that nobody uses.
"""


def available_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that can still be used: the least of what the machine and all control groups leave.

    Memory that the kernel would give back (page cache) counts as free. `root` stands for `/`.
    """
    fields = dict(line.split(":", 1) for line in (root / "proc/meminfo").read_text().splitlines())
    return min([int(fields["MemAvailable"].split()[0]) * 1024, *_available_in_groups(root)])


def _available_in_groups(root: Path) -> Iterator[int]:
    """Yield limit minus use of the process's control group and those above, version 2 and 1 (kernel: cgroup-v2.rst)."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            base, limit, usage, cached = mount, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage = mount / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        folder = base / path.lstrip("/")  # inside a container it may not exist: then its root is the group's own
        for group in (folder, *folder.parents):
            if not group.is_relative_to(base):
                break
            limits, usages = _lines(group / limit), _lines(group / usage)
            if limits and usages and limits[0] != "max":
                pages = dict(line.split() for line in _lines(group / "memory.stat"))
                yield max(0, int(limits[0]) - int(usages[0]) + int(pages.get(cached, 0)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def available_disk(folder: Path) -> int:
    """Return the bytes that can be written in `folder`, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def format_bytes(count: float) -> str:
    """Return a number of bytes as text for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / MIB:.1f} MiB"


def default_cache_folder() -> str:
    """Return where nodes keep data that they can fetch again, as the XDG base directory specification has it."""
    return os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")) + "/depers"


def keep_freed_memory() -> None:
    """Let this process keep what it frees for the next image, where the C library is glibc.

    By itself glibc gives frames and feature maps back at once, and the kernel clears each page anew for the next ones:
    some thousand page faults for every image (mallopt(3)).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option, size in ((_M_TRIM_THRESHOLD, 128 * MIB), (_M_MMAP_THRESHOLD, 32 * MIB)):
        set_option(option, size)


def spare_memory() -> None:
    """Have this process and those that it starts take memory as `SPARING` says; to be called before Arrow is imported.

    What the environment says already stays.
    """
    for name, value in SPARING.items():
        os.environ.setdefault(name, value)
    with suppress(OSError, AttributeError, ValueError):  # read by glibc as a process starts
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, int(os.environ["MALLOC_ARENA_MAX"]))


def keep_pandas_out() -> None:
    """Have Arrow do without pandas in this process, where it is not imported yet.

    It imports pandas (0.2 s, 30 MB) with the first list that it is given, only to ask whether that is a series.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """An importer that says of pandas that it is not installed."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def collect_no_garbage() -> Iterator[None]:
    """Do not look for cycles of garbage within the block: among millions of new objects that takes half of the time.

    It is for blocks that make none, such as those that read JSON.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
