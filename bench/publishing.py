"""Play who has OUT alone and wants to know what a box hides: one of 10 000 numbers.

    python bench/publishing.py [--candidates 10000]

The attacker knows all of the original but the number, so each candidate can be drawn as it was. What OUT holds (bytes,
names, sizes, times, leftovers) is searched for whatever tells one original from another: its size and its digests. And
each candidate is redacted as the owner did, and compared. The true number must not stand out. The same attack on the
records shows what they would give away.

Originals here differ inside the box alone. Encoders of lossy WebP, AVIF, HEIC and of GIF spread a trace of every region
over the whole image (quantizers, prediction, palettes) when the original is written: whoever can draw and encode the
rest to the last bit could tell candidates apart by pixels that no box covers, in any redaction that keeps them.
"""

import argparse
import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

import depers

BOX = (40, 24, 120, 56)
SIZE_WH = (160, 80)
FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}
MARGIN = 0.1
SHARE = 0.01
"""The true number stands out where fewer than this share of all candidates have as much evidence."""


def draw_original(number: int, suffix: str) -> bytes:
    """Return an image file that shows a number of four digits, inside `BOX`."""
    noise = np.random.default_rng(7).integers(0, 255, (SIZE_WH[1], SIZE_WH[0], 3), np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    draw.rectangle((BOX[0] + 6, BOX[1] + 4, BOX[2] - 6, BOX[3] - 4), "white")
    draw.text((BOX[0] + 10, BOX[1] + 6), f"{number:04}", "black", font_size=18)
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix], lossless=True)  # which WebP alone heeds
    return buffer.getvalue()


def write_inputs(root: Path, number: int) -> None:
    """Write the original as a file and in archives, and the boxes beside them; their times are of long ago."""
    originals = {f"{suffix}.{suffix}": draw_original(number, suffix) for suffix in FORMATS}
    folder, labels = root / "in", root / "boxes" / "labels"
    folder.mkdir(parents=True)
    for name, data in originals.items():
        (folder / name).write_bytes(data)
    for name, mode in (("b.tar", "w"), ("c.tar.gz", "w:gz")):
        with tarfile.open(folder / name, mode) as archive:
            for member, data in originals.items():
                header = tarfile.TarInfo(member)
                header.size, header.mtime = len(data), 981_173_106
                archive.addfile(header, io.BytesIO(data))
    with zipfile.ZipFile(folder / "d.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for member, data in originals.items():
            packed.writestr(zipfile.ZipInfo(member, (2001, 2, 3, 4, 5, 6)), data)
    pq.write_table(
        pa.table({"image": [{"bytes": data, "path": name} for name, data in originals.items()]}), folder / "e.parquet"
    )
    x, y = ((BOX[0] + BOX[2]) / 2 / SIZE_WH[0], (BOX[1] + BOX[3]) / 2 / SIZE_WH[1])
    text = f"0 {x} {y} {(BOX[2] - BOX[0]) / SIZE_WH[0]} {(BOX[3] - BOX[1]) / SIZE_WH[1]}\n"
    places = [f"{prefix}{name}" for name in originals for prefix in ("", "b.tar/", "c.tar.gz/", "d.zip/")]
    places += [f"e.parquet/image[{row}]" for row in range(len(originals))]
    for place in places:
        path = (labels / place).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "boxes" / "classes.txt").write_text("carplate\n")
    for path in folder.iterdir():
        os.utime(path, (981_173_106, 981_173_106))


def read_published(root: Path) -> bytes:
    """Return all that whoever has a folder can see of it: names, sizes, times, and the bytes of every file.

    Tables and streams are unpacked as well.
    """
    seen = bytearray()
    for path in sorted(root.rglob("*")):
        status = path.stat()
        seen += f"\n{path.relative_to(root)} {status.st_size} {status.st_mtime_ns}\n".encode()
        if path.is_file():
            seen += path.read_bytes()
            seen += b"".join(_unpack(path))
    return bytes(seen)


def _unpack(path: Path) -> Iterator[bytes]:
    if path.suffix == ".parquet":
        for row in pq.read_table(path).to_pylist():
            yield from (f" {value!r} ".encode() for value in row.values())
    if path.suffix == ".gz":
        yield zlib.decompress(path.read_bytes(), 31)


def list_tokens(original: bytes) -> list[bytes]:
    """Return what a file may be known by, in the forms in which it may be written down."""
    tokens = [str(len(original)).encode(), len(original).to_bytes(4, "little"), len(original).to_bytes(4, "big")]
    digests = [hashlib.new(name, original).digest() for name in ("md5", "sha1", "sha256", "sha512", "blake2b")]
    for digest in (*digests, zlib.crc32(original).to_bytes(4, "big")):
        tokens += [digest, digest[::-1], digest.hex().encode(), base64.b64encode(digest).rstrip(b"=")]
    for digest in digests:
        tokens.append(digest.hex()[:16].encode())
    return tokens


def count_evidence(published: bytes, number: int) -> int:
    """Return how much of what the originals of a candidate may be known by is there to be seen."""
    tokens = [token for suffix in FORMATS for token in list_tokens(draw_original(number, suffix))]
    sizes = {token for token in published.split() if token.isdigit()}
    return sum(token in sizes if token.isdigit() else token in published for token in tokens)


def count_equal(root: Path, number: int) -> int:
    """Return how many files of a candidate come out as those in OUT, if redacted as the owner did."""
    return sum(
        depers.redact(draw_original(number, suffix), [BOX], margin=MARGIN) == (root / f"{suffix}.{suffix}").read_bytes()
        for suffix in FORMATS
    )


def measure_rank(scores: Sequence[int], numbers: Sequence[int], truth: int) -> float:
    """Return the share of candidates that score at least as high as the truth: 1 is no knowledge, 1/N is all."""
    score = scores[numbers.index(truth)]
    return sum(other >= score for other in scores) / len(scores)


def attack(root: Path, numbers: Sequence[int], truth: int, apply: Callable[..., Iterable[int]] = map) -> float:
    """Attack a folder in both ways; return the smaller share of candidates that could be the truth."""
    attacks = [partial(count_evidence, read_published(root))]
    if (root / "png.png").exists():
        attacks.append(partial(count_equal, root))
    return min(measure_rank(list(apply(count, numbers)), numbers, truth) for count in attacks)


def main() -> int:
    """Anonymize, attack OUT and its records; return 1 where OUT gives the number away, or the attack is too weak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=10_000)
    parser.add_argument("--truth", type=int, default=4711)
    arguments = parser.parse_args()
    numbers = list(range(10_000))[: arguments.candidates]
    truth = arguments.truth % len(numbers)
    work = Path(tempfile.mkdtemp(prefix="depers-publishing-"))
    write_inputs(work, truth)
    command = [sys.executable, "-m", "depers.cli", "anonymize", "in", "out", "--boxes", "boxes"]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Pool() as pool:
        shares = [attack(work / name, numbers, truth, pool.map) for name in ("out", "out-records")]
    for name, share in zip(("OUT", "its records"), shares, strict=True):
        print(f"{name}: of {len(numbers)} candidates {share:.2%} can be the true one")
    shutil.rmtree(work)
    return int(not shares[0] >= SHARE > shares[1])


if __name__ == "__main__":
    sys.exit(main())
