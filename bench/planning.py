"""How long a listing of a million keys takes to be planned, and in how much memory: a fake S3 client, no network.

python bench/planning.py [--keys 1000000]
"""

import argparse
import os
import resource
import time
from typing import Any
from unittest.mock import patch

from depers import storage
from depers.runtime import units
from depers.storage import s3


class FakeClient:
    """Answers list_objects_v2 with pages of a thousand keys, every thousandth of them an archive."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def list_objects_v2(self, *, ContinuationToken: str = "0", **_: Any) -> dict[str, Any]:  # noqa: N803
        """Return a page."""
        first = int(ContinuationToken)
        numbers = range(first, min(self.keys, first + 1000))
        names = (f"photos/2024/{n // 5000:05}/IMG_{n:09}.{'tar' if n % 1000 == 0 else 'jpg'}" for n in numbers)
        contents = [{"Key": name, "Size": 500_000, "ETag": f'"{hash(name) & (2**128 - 1):032x}"'} for name in names]
        more = numbers.stop < self.keys
        return {"Contents": contents, "IsTruncated": more, "NextContinuationToken": str(numbers.stop)}


def main() -> None:
    """List and cut; print seconds and the peak of RSS."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    with patch.object(s3, "client", lambda: FakeClient(keys)):
        started, cpu = time.monotonic(), time.process_time()
        entries = storage.list_files("s3://bucket/photos")
        listing_seconds = time.monotonic() - started
        work_units = units.cut(entries)
        seconds, cpu = time.monotonic() - started, time.process_time() - cpu
    assert sum(len(unit.entries) for unit in work_units) == keys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{keys} keys: listed in {listing_seconds:.1f} s,", end=" ")
    print(f"planned as {len(work_units)} units in {seconds:.1f} s ({cpu:.1f} s of CPU)")
    print(f"peak RSS {peak:.0f} MiB; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
