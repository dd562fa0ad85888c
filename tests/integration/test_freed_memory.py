"""What a process keeps."""

import subprocess
import sys

import pytest

ALLOCATES = """
import resource, sys
import numpy as np
from depers.resources import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def frames(): [np.ones(10 * 2**20, np.uint8) for _ in range(8)]
frames()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    frames()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", ALLOCATES, how], capture_output=True, text=True).stdout)


def test_what_is_freed_is_kept_for_the_next() -> None:
    given_back = page_faults("give back")
    if given_back < 10_000:
        pytest.skip("this C library keeps it of itself")
    assert page_faults("keep") < given_back / 20
