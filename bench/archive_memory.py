"""Peak memory of reading an archive in chunks and putting it together again: it must not grow with the archive.

    python bench/archive_memory.py [--gigabytes 2]

Each kind is measured in a process of its own, on a small archive and on one ten times as large; images are random
bytes, and go through as they are: what is measured is the streaming, not the redaction.
"""

import argparse
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from depers.archives import registry

SIZE = 700_000
RUN = "import sys; sys.path.insert(0, sys.argv[1]); import archive_memory; archive_memory.stream(*sys.argv[2:])"


def write_archive(path: Path, kind: str, count: int) -> None:
    """Write an archive of `count` files that begin as JPEGs."""
    files = ((f"{number:06}.jpg", b"\xff\xd8\xff" + random.Random(number).randbytes(SIZE)) for number in range(count))
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            for name, data in files:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, data in files:
                packed.writestr(name, data)
    else:
        schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
        with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
            rows = []
            for name, data in files:
                rows.append({"image": {"bytes": data, "path": name}})
                if len(rows) == 100:
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    rows = []
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))


def read_peak_mib() -> int:
    """Return the most memory that this process has held (its rusage would begin with that of its parent)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) // 2**10


def stream(kind: str, source: str, target: str) -> None:
    """Read, encode chunks, assemble; print the peak of RSS in MiB before and after."""
    from depers import storage
    from depers.archives import base as archives

    form = registry.load_format(kind)
    mib_before = read_peak_mib()
    [entry] = storage.list_files(source)
    encoded = Path(target) / "chunks"
    encoded.mkdir(parents=True)
    with storage.open_entry(source, entry) as file:
        rules = archives.MemberRules((), 1 << 30)
        layout = form.read_layout(file, rules)
        for chunk in form.read(file, entry.size, rules):
            if isinstance(chunk, archives.Chunk):
                data, _ = form.encode_chunk(chunk, [member.data for member in chunk.members], layout)
                (encoded / f"{chunk.number:06}").write_bytes(data)
            else:
                end = chunk
    assert not end.reason, end.reason
    with storage.open_writer(f"{target}/whole") as out:
        form.assemble((path.read_bytes() for path in sorted(encoded.iterdir())), layout, out)
    print(mib_before, read_peak_mib(), end.members)


def main() -> None:
    """Measure each kind twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--kinds", nargs="+", default=["tar", "zip", "parquet"])
    options = parser.parse_args()
    count = int(options.gigabytes * 1e9 / SIZE)
    for kind in options.kinds:
        peaks = []
        for files in (count // 10, count):
            work = Path(tempfile.mkdtemp(prefix="depers-archive-"))
            (work / "in").mkdir()
            write_archive(work / "in" / f"a.{kind}", kind, files)
            command = [sys.executable, "-c", RUN, str(Path(__file__).parent), kind, str(work / "in"), str(work / "out")]
            words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            peaks.append(int(words[1]))
            print(
                f"{kind}: {words[2]} files, {files * SIZE / 1e9:.1f} GB: {words[0]} MiB before, peak {words[1]} MiB",
                flush=True,
            )
            shutil.rmtree(work)
        print(f"{kind}: ten times the archive needs {peaks[1] / peaks[0]:.2f} × the memory")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
