"""Mutated archives: no crash, no hang, every member accounted for, and nothing in the output that was not redacted.

    python bench/fuzz_archives.py [--count 2000] [--seed 1]

Each archive is read in a process of its own kind (so that a crash in a library is seen, not suffered), its images
replaced by a marker, and written anew: of the planted images' bytes none may come through.
"""

import argparse
import io
import multiprocessing
import os
import random
import tarfile
import time
import zipfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from depers.archives import base as archives
from depers.archives import registry
from depers.archives.base import ArchiveEnd, Chunk

SECRET = b"\xff\xd8\xff" + b"SECRET-IMAGE" * 40
LIMIT_SECONDS = 20
KINDS = ("tar", "tar.gz", "zip", "parquet")


def make_archive(kind: str) -> bytes:
    """Return a small archive with images, texts and folders."""
    buffer = io.BytesIO()
    names = [f"d/{number}.{'txt' if number % 4 == 0 else 'jpg'}" for number in range(12)]
    content = {name: b"text" if name.endswith("txt") else SECRET + bytes([number]) for number, name in enumerate(names)}
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            for name, data in content.items():
                packed.writestr(name, data, zipfile.ZIP_DEFLATED if "1" in name else zipfile.ZIP_STORED)
    elif kind == "parquet":
        image = [{"bytes": data, "path": name} for name, data in content.items() if name.endswith("jpg")]
        table = pa.table({"id": range(len(image)), "image": image, "raw": [row["bytes"] for row in image]})
        pq.write_table(table, buffer, row_group_size=4, compression="none", use_dictionary=False)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for name, data in content.items():
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return the bytes with bits turned, bytes overwritten, parts cut out, doubled, moved, or the end lost."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(len(content))
        length = min(chance.choice((1, 4, 64, 512)), len(content) - place)
        mutation = chance.randrange(6)
        if mutation == 0:
            content[place] ^= 1 << chance.randrange(8)
        elif mutation == 1:
            content[place : place + length] = chance.randbytes(length)
        elif mutation == 2:
            del content[place : place + length]
        elif mutation == 3:
            content[place:place] = content[place : place + length]
        elif mutation == 4:
            content[place : place + length] = bytes([chance.choice((0, 255))]) * length
        else:
            del content[max(1, place) :]
        if not content:
            content = bytearray(b"\0")
    return bytes(content)


def process(kind: str, data: bytes) -> str:
    """Return what became of one archive, in a word. Raise AssertionError where something came through."""
    form = registry.load_format("tar" if kind.startswith("tar") else kind)
    *chunks, end = form.read(io.BytesIO(data), len(data), archives.MemberRules((), 1 << 22))
    assert isinstance(end, ArchiveEnd) and all(isinstance(chunk, Chunk) for chunk in chunks)
    members = [member for chunk in chunks if isinstance(chunk, Chunk) for member in chunk.members]
    files = [member for member in members if member.status != "folder"]
    assert [member.number for member in files] == list(range(len(files))) and end.members == len(members)
    assert all(member.reason for member in files if member.status in ("failed", "skipped"))
    if end.reason and not chunks:
        return "failed"
    parts = []
    for chunk in chunks:
        assert isinstance(chunk, Chunk)
        results = [None if member.data is None or member.status else b"redacted" for member in chunk.members]
        parts.append(form.encode_chunk(chunk, results, end.layout)[0])
    out = io.BytesIO()
    form.assemble(iter(parts), end.layout, out)
    content = out.getvalue()
    if kind == "tar.gz":
        import gzip

        content = gzip.decompress(content)
    elif kind == "parquet":
        table = pq.read_table(io.BytesIO(content))
        content += b"".join(str(column.to_pylist()).encode() for column in table.columns)
    elif kind == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            content += b"".join(packed.read(member) for member in packed.infolist())
    assert b"SECRET-IMAGE" not in content, "an image came through"
    return "incomplete" if end.reason else "complete"


def work(
    tasks: "multiprocessing.Queue[tuple[int, str, bytes] | None]", results: "multiprocessing.Queue[object]"
) -> None:
    """Take archives until there are no more, in a process of its own."""
    while (task := tasks.get()) is not None:
        number, kind, data = task
        results.put((number, "began"))
        try:
            results.put((number, process(kind, data)))
        except Exception as error:
            results.put((number, f"ERROR {type(error).__name__}: {error}"))


def main() -> None:
    """Mutate, process and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    originals = {kind: make_archive(kind) for kind in KINDS}
    context = multiprocessing.get_context("spawn")
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    started, slowest = time.monotonic(), 0.0
    worker, tasks, results = None, context.Queue(), context.Queue()
    for number in range(arguments.count):
        kind = KINDS[number % len(KINDS)]
        data = mutate(originals[kind], random.Random(f"{arguments.seed}/{number}"))
        if worker is None or not worker.is_alive():
            tasks, results = context.Queue(), context.Queue()
            worker = context.Process(target=work, args=(tasks, results), daemon=True)
            worker.start()
        tasks.put((number, kind, data))
        assert results.get(timeout=120) == (number, "began")
        beginning, outcome = time.monotonic(), ""
        while not outcome:
            try:
                outcome = str(results.get(timeout=0.5)[1])  # type: ignore[index]
            except Exception:
                if not worker.is_alive():
                    outcome = f"CRASH {worker.exitcode}"
                elif time.monotonic() - beginning > LIMIT_SECONDS:
                    worker.kill()
                    outcome = "HANG"
        slowest = max(slowest, time.monotonic() - beginning)
        outcomes[kind][outcome] += 1
        if outcome.split()[0] in ("ERROR", "CRASH", "HANG"):
            print(f"{number} {kind}: {outcome}", flush=True)
            outcomes[kind]["BAD"] += 1
    tasks.put(None)
    for kind, counts in outcomes.items():
        print(kind, dict(counts))
    bad = sum(counts["BAD"] for counts in outcomes.values())
    print(f"{arguments.count} archives in {time.monotonic() - started:.0f} s, the slowest {slowest:.2f} s, {bad} bad")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
