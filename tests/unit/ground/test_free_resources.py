"""What is free: memory by the container's limits, and disk."""

import os
from pathlib import Path

import numpy as np
import pytest

from depers import resources
from depers.resources import GIB, available_memory


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8192),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "5"}, 8192),
        ({"sys/fs/cgroup/memory.max": "5000", "sys/fs/cgroup/memory.current": "3000",
          "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 500"}, 2500),
        ({"sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/b/memory.current": "5",
          "sys/fs/cgroup/a/memory.max": "100", "sys/fs/cgroup/a/memory.current": "90"}, 10),
        ({"sys/fs/cgroup/memory/c/memory.limit_in_bytes": "700",
          "sys/fs/cgroup/memory/c/memory.usage_in_bytes": "600",
          "sys/fs/cgroup/memory/c/memory.stat": "total_inactive_file 50"}, 150),
    ],
)  # fmt: skip
def test_memory_is_what_the_container_leaves(tmp_path: Path, files: dict[str, str], free: int) -> None:
    base = {
        "proc/meminfo": "MemTotal: 99 kB\nMemAvailable:    8 kB\n",
        "proc/self/cgroup": "0::/a/b\n3:cpu,memory:/c\n",
    }
    for name, text in (base | files).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert available_memory(tmp_path) == free


def test_this_machines_memory_is_plausible() -> None:
    assert 0 < available_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_shown_sizes() -> None:
    assert [resources.format_bytes(size) for size in (0, 2**20, 3 * GIB)] == ["0.0 MiB", "1.0 MiB", "3.0 GiB"]
    assert np.isfinite(resources.available_disk(Path("/nowhere/at/all")))
