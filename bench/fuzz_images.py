"""Mutated images of every format: none may crash, hang or come out unredacted or with metadata.

    python bench/fuzz_images.py --data ../shared/data [--first 0] [--count 20000] [--seed 0]

Image `i` of a seed is always the same: a real file or one drawn with a pattern in it, with bytes flipped, cut, moved or
spliced with another file. A worker process redacts one after another; its death is a crash, its silence a hang.
Exit code 1 where anything was found; the files are left in --keep for reproduction.
"""

import argparse
import io
import multiprocessing
import os
import resource
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from PIL import Image

from depers.imaging.decoding import decode_frames
from depers.imaging.headers import ImageError, learn_heif
from depers.imaging.metadata.residue import find_residue
from depers.redaction.colors import MODES
from depers.redaction.files import redact_file

SUFFIXES = {
    ".jpg",
    ".jpeg",
    ".png",
    ".apng",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".bmp",
    ".avif",
    ".heic",
    ".heif",
    ".mpo",
}
MAX_BYTES = 120_000  # of a source; larger ones teach the same more slowly
HANG_SECONDS = 20  # of CPU
DEADLOCK_SECONDS = 900  # of silence
MAX_MEGAPIXELS = 4
_BOX = (0.25, 0.25, 0.75, 0.75)


def read_sources(data: Path | None) -> list[bytes]:
    """Return the files to mutate: drawn ones of every format with a checkerboard in the middle, then the real ones."""
    files = draw_images()
    for folder in ("badimages", "exif") if data else ():
        paths = sorted(path for path in (data / folder).rglob("*") if path.suffix.lower() in SUFFIXES)  # type: ignore[operator]
        files += [path.read_bytes() for path in paths if path.stat().st_size <= MAX_BYTES]
    return files


def draw_images() -> list[bytes]:
    """Draw images in every format with a pattern where the box will be."""
    rows, columns = np.indices((96, 128))
    pixels = np.stack([rows * 2, columns, 200 - rows], axis=2).astype(np.uint8)
    checker = ((rows // 2 + columns // 2) % 2 * 255).astype(np.uint8)
    pixels[24:72, 32:96] = checker[24:72, 32:96, None]
    image, files = Image.fromarray(pixels), []
    kinds = [("JPEG", {"subsampling": s, "progressive": p}) for s in (0, 1, 2) for p in (False, True)]
    kinds += [("JPEG", {"restart_marker_blocks": 3}), ("JPEG", {"exif": _make_rotation()}), ("PNG", {}), ("BMP", {})]
    kinds += [
        ("WEBP", {"lossless": True}),
        ("WEBP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {}),
        ("GIF", {}),
    ]
    kinds += [("AVIF", {"speed": 10})]
    if find_spec("pillow_heif"):
        learn_heif()
        kinds += [("HEIF", {"enc_params": {"preset": "ultrafast"}})]
    kinds += [
        (kind, {"save_all": True, "append_images": [image.rotate(180)]}) for kind in ("GIF", "WEBP", "PNG", "TIFF")
    ]
    for kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("P", "BMP")):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        files.append(buffer.getvalue())
    return files


def _make_rotation() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def mutate(files: Sequence[bytes], seed: int, index: int) -> bytes:
    """Return file `index` of a seed; one in twenty is left as it is."""
    rng = Generator(Philox(SeedSequence(seed, spawn_key=(0, index))))
    data = bytearray(files[int(rng.integers(len(files)))])
    if rng.random() < 0.05:
        return bytes(data)
    for _ in range(1 + int(rng.random() < 0.3)):
        size = len(data)
        if size < 4:
            break
        start = int(rng.integers(size) if rng.random() < 0.5 else rng.integers(min(size, 700)))  # headers more often
        length = int(min(size - start, rng.integers(1, 64)))
        kind = int(rng.integers(7))
        if kind <= 1:
            for at in rng.integers(start, min(size, start + 200), int(rng.integers(1, 12))).tolist():
                data[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            data[start : start + length] = rng.bytes(length)
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = data[start : start + length]
        elif kind == 5 and rng.random() < 0.5:
            del data[max(4, start) :]
        else:
            donor = files[int(rng.integers(len(files)))]
            at = int(rng.integers(len(donor)))
            stop = len(donor) if rng.random() < 0.5 else at + 2000
            data[start : start + (stop - at if rng.random() < 0.5 else 0)] = donor[at:stop]
    return _correct_sums(bytes(data)) if data[:4] == b"\x89PNG" and rng.random() < 0.7 else bytes(data)


def _correct_sums(png: bytes) -> bytes:
    """Return the PNG with the checksums of its chunks set right, so that what was mutated is looked at."""
    position, fixed = 8, bytearray(png)
    while position + 12 <= len(fixed):
        end = position + 8 + int.from_bytes(fixed[position : position + 4], "big")
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = zlib.crc32(fixed[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(fixed)


def check(data: bytes, mode: str) -> str:
    """Redact and judge: return "redacted", "refused", or what is wrong."""
    try:
        textures_before, boxes = [], []
        for rgb in decode_frames(data, MAX_MEGAPIXELS):
            height, width = rgb.shape[:2]
            boxes.append(np.array([_BOX], np.float32) * np.array([width, height] * 2, np.float32))
            textures_before.append(_compute_texture(rgb))
        result = redact_file(data, boxes, mode=mode, max_megapixels=MAX_MEGAPIXELS)
    except ImageError as error:
        return "refused" if str(error) else "WRONG: no reason"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}"
    residue = find_residue(result.data)
    if residue:
        return f"WRONG: holds {', '.join(residue)}"
    try:
        textures_after = [_compute_texture(rgb) for rgb in decode_frames(result.data, 4 * MAX_MEGAPIXELS)]
    except ImageError as error:
        return f"WRONG: the result cannot be read: {error}"
    if len(textures_after) == len(textures_before):  # writers unite frames that are alike
        for first, second in zip(textures_before, textures_after, strict=True):
            if (likeness := _compute_likeness(first, second)) > 0.5:
                return f"WRONG: unredacted, likeness {likeness:.2f}, {result.method}"
    elif len(textures_after) > len(textures_before):
        return "WRONG: more frames than before"
    return "redacted"


def _compute_texture(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return differences of horizontal neighbors inside the box, without its rim and without a gradient across it."""
    height, width = rgb.shape[:2]
    inner = rgb[int(height * 0.3) : int(height * 0.7), int(width * 0.3) : int(width * 0.7)]
    differences = np.diff(inner.astype(np.float32), axis=1)
    return (differences - differences.mean()).ravel() if differences.size else differences.ravel()


def _compute_likeness(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the correlation of two textures; 0 where the first is too small or too plain to tell."""
    if len(first) < 400 or len(first) != len(second) or np.abs(first).mean() < 6:
        return 0.0
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second) + 1e-6))


def _work(pipe: Connection, data: Path | None, seed: int, first: int, last: int) -> None:
    files = read_sources(data)
    for index in range(first, last):
        pipe.send((index, "", 0.0, 0))
        signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)  # SIGPROF ends the process, whatever code it is in
        started = time.process_time()
        outcome = check(mutate(files, seed, index), MODES[index % len(MODES)])
        seconds, peak_mib = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        pipe.send((index, outcome, seconds, peak_mib))


def generate_outcomes(data: Path | None, seed: int, first: int, last: int) -> Iterator[tuple[int, str, float, int]]:
    """Yield for each image its index, what became of it, the CPU seconds, and the worker's highest RSS in MiB."""
    context, index = multiprocessing.get_context("spawn"), first
    while index < last:
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(sender, data, seed, index, last), daemon=True)
        worker.start()
        sender.close()
        while index < last:
            if not receiver.poll(DEADLOCK_SECONDS):
                worker.kill()
            try:
                index, outcome, seconds, peak_mib = receiver.recv()
            except EOFError:
                worker.join()
                hung = worker.exitcode in (-signal.SIGPROF, -signal.SIGKILL)
                yield index, "HANG" if hung else f"CRASH {worker.exitcode}", HANG_SECONDS, 0
                index += 1
                break
            if outcome:
                yield index, outcome, seconds, peak_mib
                index += 1
        worker.kill()


def main() -> int:
    """Go through the images and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long; says where")
    parser.add_argument("--keep", type=Path, help="folder for the files that something is wrong with")
    options = parser.parse_args()
    counts, slowest, peak, wrong, index = Counter[str](), 0.0, 0, list[int](), options.first
    started = time.monotonic()
    for index, outcome, seconds, peak_mib in generate_outcomes(
        options.data, options.seed, options.first, options.first + options.count
    ):
        counts[outcome.split(":")[0]] += 1
        slowest, peak = max(slowest, seconds), max(peak, peak_mib)
        if outcome.startswith(("WRONG", "HANG", "CRASH")):
            wrong.append(index)
            print(f"seed {options.seed} image {index}: {outcome}", flush=True)
        if time.monotonic() - started > options.seconds:
            break
    if options.keep and wrong:
        options.keep.mkdir(parents=True, exist_ok=True)
        files = read_sources(options.data)
        for number in wrong:
            (options.keep / f"{options.seed}-{number}").write_bytes(mutate(files, options.seed, number))
    print(
        f"{options.first}…{index} of seed {options.seed}: {dict(counts)}; slowest {slowest:.1f} s of CPU, "
        f"peak {peak} MiB; load {os.getloadavg()[0]:.1f}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
