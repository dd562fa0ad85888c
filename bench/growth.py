"""How many files a run does again after one more file, 1 % more and 1 % less: a simulated listing, real records.

    python bench/growth.py [--files 100000]

The work itself is left out: what is counted is what a run over the new listing would work on, and how long it takes to
find that out and to put the records of the units together whose other files are as they were.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence

import pyarrow as pa

from depers.anonymization.manifest import SCHEMA
from depers.runtime import takeover, units
from depers.runtime.units import RecordNotes
from depers.statuses import FileStatus
from depers.storage import Entry
from depers.storage.tables import plain_schema


def make_entry(number: int, suffix: str = "") -> Entry:
    """Return a photograph in a folder by date."""
    return Entry(
        f"2024/{number // 500:05}/IMG_{number:08}{suffix}.jpg", 2_000_000, f"{number * 2654435761 % 2**128:032x}"
    )


def run(records: str, entries: Sequence[Entry]) -> int:
    """Do a run over the listing, but for the work; return how many files it worked on."""
    all_units = units.cut(entries)
    portions = takeover.split_all(records, units.take_up(records, all_units))
    for unit, sources in portions:
        rows = [
            {"path": entry.path, "status": FileStatus.CLEAN, "reason": "", "boxes": [], "input_bytes": entry.size}
            for entry in unit.entries
        ]
        notes = RecordNotes(stamps={entry.path: entry.etag for entry in unit.entries}, identities=unit.identify())
        table = pa.Table.from_pylist(rows, plain_schema(SCHEMA))
        units.write_record(records, unit.name, *takeover.complete(records, table, notes, sources))
    total = sum(len(table) for table in units.read_records(records, all_units, SCHEMA))
    assert total == len(entries)
    units.remove_former(records)
    return sum(len(unit.entries) for unit, _ in portions)


def main() -> None:
    """Change the listing in three ways, each from the same beginning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    count = parser.parse_args().files
    entries = [make_entry(number) for number in range(count)]
    chosen = set(random.Random(1).sample(range(count), count // 100))
    additions = [make_entry(number, "b") for number in sorted(chosen)]
    remainder = [entry for number, entry in enumerate(entries) if number not in chosen]
    listings = {
        "one file at the front": ([Entry("2023.jpg", 1, ""), *entries], 1),
        "1 % more, anywhere": ([*entries, *additions], len(additions)),
        "1 % less, anywhere": (remainder, len(chosen)),
        "1 % more, at the end": (
            [*entries, *(make_entry(count + number) for number in range(count // 100))],
            len(chosen),
        ),
    }
    for name, (listing, changes) in listings.items():
        with tempfile.TemporaryDirectory(prefix="depers-growth-") as records:
            run(records, entries)
            start = time.monotonic()
            count_again = run(records, sorted(listing))
            seconds = time.monotonic() - start
        print(f"{name}: {changes} of {count} files changed, {count_again} done again, in {seconds:.1f} s", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
