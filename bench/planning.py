"""How long a driver takes over millions of keys before and after the work, and in how much memory: a fake S3.

    python bench/planning.py [--keys 1000000] [--records 500]

It lists INPUT and plans it, compares it with what earlier runs knew, lists OUT, and goes through the records: what each
notes is held against OUT (the resume check), and all rows are accounted for. The last two are done for a number of
records, which are real files, and told for all.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa

from depers import storage
from depers.anonymization.manifest import SCHEMA
from depers.runtime import changes, inputs, outputs, units
from depers.runtime.units import Finished, RecordNotes
from depers.storage import s3
from depers.storage.listing import FileListing, Results
from depers.storage.selection import Selection, list_selected
from depers.storage.tables import plain_schema


class FakeClient:
    """Answers list_objects_v2 with pages of a thousand keys, every thousandth of them an archive."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    def list_objects_v2(self, *, Prefix: str, ContinuationToken: str = "0", **_: Any) -> dict[str, Any]:  # noqa: N803
        """Return a page."""
        first = int(ContinuationToken)
        numbers = range(first, min(self.keys, first + 1000))
        names = (f"{Prefix}2024/{n // 5000:05}/IMG_{n:09}.{'tar' if n % 1000 == 0 else 'jpg'}" for n in numbers)
        contents = [{"Key": name, "Size": 500_000, "ETag": f'"{hash(name) & (2**128 - 1):032x}"'} for name in names]
        more = numbers.stop < self.keys
        return {"Contents": contents, "IsTruncated": more, "NextContinuationToken": str(numbers.stop)}


@contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time the block, and print its seconds and the peak of RSS so far."""
    start = time.monotonic()
    yield
    seconds[name] = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{name}: {seconds[name]:.1f} s, peak RSS {peak:.0f} MiB", flush=True)


def write_records(records: str, some_units: list[units.Unit], results: Results) -> None:
    """Write the records of units as a run would have written them."""
    for unit in some_units:
        stamps = {path: entry.stamp for path, entry in results.near(unit.entries).items()}
        rows = [
            {
                "path": entry.path,
                "status": "clean",
                "reason": "",
                "boxes": [],
                "output_bytes": 1,
                "output_sha256": "0" * 64,
            }
            for entry in unit.entries
        ]
        notes = RecordNotes(stamps=stamps, identities=unit.identify())
        units.write_record(records, unit.name, pa.Table.from_pylist(rows, plain_schema(SCHEMA)), notes)


def main() -> None:
    """Go through the phases of a driver."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--records", type=int, default=500)
    options = parser.parse_args()
    source, out, seconds = "s3://bucket/photos", "s3://bucket/safe", dict[str, float]()
    with tempfile.TemporaryDirectory() as records, patch.object(s3, "client", lambda: FakeClient(options.keys)):
        with phase("list and plan INPUT", seconds):
            listing = FileListing.of(outputs.check_keys(source, out, list_selected(source, False, (out,))))
            work_units = units.cut(listing)
        with phase("note the inputs", seconds):
            inputs.write_inputs(records, source, listing, Selection())
        with phase("compare with what was known", seconds):
            known = inputs.read_inputs(records)
            inputs.refuse_another(out, source, listing, known)
            assert not list(known.without(listing))
        with phase("list OUT", seconds):
            results = Results.of(storage.list_sorted(out))
        some_units = [unit for unit in work_units if not unit.archive][: options.records]
        write_records(records, some_units, results)
        finished = Finished(frozenset(unit.name for unit in some_units), frozenset())
        with phase("resume check of some", seconds):
            assert not changes.check_results(records, some_units, finished, out, results).units
        with phase("account for some", seconds):
            rows = sum(len(table) for table in units.read_records(records, some_units, SCHEMA))
    share = sum(len(unit.entries) for unit in work_units) / rows
    total = sum(value * (share if name.endswith("some") else 1) for name, value in seconds.items())
    print(f"{options.keys} keys in {len(work_units)} units: {total:.0f} s in all; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
