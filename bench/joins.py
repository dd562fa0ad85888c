"""Memory and time of joining a manifest of millions of rows with a run, and of what `depers audit` looks for in it.

    python bench/joins.py [--rows 10000000] [--again 0.1] [--shuffled]

A manifest is made up (paths, digests, one box in two rows), with the rows of a second run over a share of the files
(`--again`) behind those of the first; with `--shuffled` in no order. Then, each in a process of its own: the rows are
joined with the units of a listing, as `--previous-detections` and `audit` do, digested and written for all units; and
manifest, OUT and INPUT are compared, with a thousand files missing in each.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from depers.anonymization.completeness import find_missing
from depers.anonymization.manifest import SCHEMA, open_manifest
from depers.detection.detections import BOX
from depers.pipeline.box_tables import RowsByPath
from depers.pipeline.row_join import RowJoin
from depers.runtime import units
from depers.storage import Entry
from depers.storage.tables import plain_schema

_GROUP_ROWS = 65_536
_MISSING = 1000


def name_file(number: int) -> str:
    """Return a path as archives of photographs have them."""
    return f"photos/2024/{number // 5000:05}/IMG_{number:09}.jpg"


def write_manifest(path: str, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Write a row for each number, a group of rows at a time."""
    schema = plain_schema(SCHEMA)
    generator = np.random.default_rng(0)
    box_type = schema.field("boxes").type.value_type
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for first in range(0, len(numbers), _GROUP_ROWS):
            group = numbers[first : first + _GROUP_ROWS].tolist()
            count = len(group)
            digests = [row.tobytes().hex() for row in generator.integers(0, 256, (count, 32), np.uint8)]
            edges = generator.random((count // 2, 4)).astype(np.float32) * 1000
            fields = {
                "class": ["face"] * len(edges),
                "confidence": edges[:, 0] / 1000,
                **{name: edges[:, i] for i, name in enumerate(("x_min", "y_min", "x_max", "y_max"))},
                "model": ["depers-n-v2.pt"] * len(edges),
                "frame": [0] * len(edges),
            }
            arrays = [pa.array(fields[field.name], field.type) for field in BOX]
            boxes = pa.StructArray.from_arrays(arrays, fields=[box_type.field(i) for i in range(box_type.num_fields)])
            offsets = pa.array(np.minimum(np.arange(count + 1) // 2, len(edges)).astype(np.int32))
            columns = {
                "path": [name_file(number) for number in group],
                "status": ["redacted"] * count,
                "reason": [""] * count,
                "width": [1920] * count,
                "height": [1080] * count,
                "frames": [1] * count,
                "boxes": pa.ListArray.from_arrays(offsets, boxes),
                "margin": [0.1] * count,
                "input_sha256": digests,
                "output_sha256": digests[::-1],
                "output_bytes": [500_000] * count,
            }
            table = pa.table(
                [
                    pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
                    for field in schema
                ],
                schema=schema,
            )
            writer.write_table(table)


def report(what: str, began: float, start_mib: float) -> None:
    """Print seconds and memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    seconds = time.monotonic() - began
    text = f"{what}: {seconds:.0f} s; RSS {start_mib:.0f} MiB before, at most {peak:.0f} MiB"
    print(f"{text}; load {os.getloadavg()[0]:.1f}", flush=True)


def measure_rss() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def join(path: str, rows: int) -> None:
    """Join with the units of a listing; digest all, and write all."""
    all_units = units.cut([Entry(name_file(number), 500_000, f"{number:032x}") for number in range(rows)])
    start, began = measure_rss(), time.monotonic()
    table = open_manifest(path)
    with tempfile.TemporaryDirectory() as records, RowJoin(table, all_units) as rows_by_unit:
        digests = rows_by_unit.compute_digests()
        report("  parted and digested", began, start)
        places = rows_by_unit.write(records, range(len(all_units)), RowsByPath)
        assert len(set(digests)) == len(places) == len(all_units)
        for index in (0, len(all_units) // 2, len(all_units) - 1):
            loaded = places[index].read(all_units[index])
            assert all(len(numbers) == 1 for numbers in loaded.values())
    report(f"join with {len(all_units)} units", began, start)


def compare(path: str, rows: int) -> None:
    """Compare manifest, OUT and INPUT as an audit does."""

    def list_paths(first: int, last: int) -> Iterator[str]:
        return (name_file(number) for number in range(first, last))

    start, began = measure_rss(), time.monotonic()
    table = open_manifest(path)
    findings = find_missing(table, list_paths(_MISSING, rows), {}, list_paths(0, rows + _MISSING))
    assert sum(len(part) for part in findings) == 2 * _MISSING
    report("audit's comparison", began, start)


def main() -> None:
    """Make the manifest; measure both, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--again", type=float, default=0.1)
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--part", choices=("write", "join", "compare"), help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows, again = options.rows, int(options.rows * options.again)
    if options.part == "write":
        numbers = np.concatenate([np.arange(rows), np.arange(again)])
        write_manifest(options.file, np.random.default_rng(1).permutation(numbers) if options.shuffled else numbers)
    elif options.part:
        {"join": join, "compare": compare}[options.part](options.file, rows)
    else:
        with tempfile.TemporaryDirectory(prefix="depers-joins-") as folder:
            file = Path(folder) / "manifest.parquet"
            for part in ("write", "join", "compare"):
                command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--file", str(file)]
                subprocess.run(command, check=True)
                if part == "write":
                    size = f"{file.stat().st_size / 1e9:.2f} GB"
                    print(f"{rows} files, {again} of them twice: {size}", flush=True)


if __name__ == "__main__":
    main()
