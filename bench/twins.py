"""How many copies `depers normalize` knows as twins, and how many pairs of other images it takes for such.

    python bench/twins.py [--copies 300]

The images are those of DEPERS_DATA/detector (4105 photographs). Copies of some of them, changed as a row says and
written as JPEG, are looked for among all. What is found among the images themselves is counted, too, though frames of
one camera and photographs that are there twice are no mistakes.
"""

import argparse
import io
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from depers.imaging.likeness import read_likeness
from depers.imaging.near_twins import find_near_twins


def crop(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    """Return a function that cuts these shares of an image's sides off."""

    def cut(image: Image.Image) -> Image.Image:
        width, height = image.size
        return image.crop((int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height)))

    return cut


def shrink(factor: int) -> Callable[[Image.Image], Image.Image]:
    """Return a function that makes an image smaller."""
    return lambda image: image.resize((image.width // factor, image.height // factor))


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {
    "quality 30": (lambda image: image, 30),
    "half as large": (shrink(2), 85),
    "a third as large": (shrink(3), 85),
    "5 % of each side cut off": (crop(0.05, 0.05, 0.05, 0.05), 85),
    "2.5 % of each side": (crop(0.025, 0.025, 0.025, 0.025), 85),
    "5 % on the left": (crop(0.05, 0, 0, 0), 85),
    "5 % at the top and the right": (crop(0, 0.05, 0.05, 0), 85),
    "5 % at the bottom": (crop(0, 0, 0, 0.05), 85),
    "mirrored": (ImageOps.mirror, 85),
    "mirrored, 5 % of each side, quality 50": (lambda image: ImageOps.mirror(crop(0.05, 0.05, 0.05, 0.05)(image)), 50),
    "half as large, 5 % on the right, quality 40": (lambda image: shrink(2)(crop(0, 0, 0.05, 0)(image)), 40),
}


def copy(file: Path, name: str) -> bytes:
    """Return the copy of an image."""
    change, quality = CHANGES[name]
    buffer = io.BytesIO()
    with Image.open(file) as image:
        change(image.convert("RGB")).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def main() -> None:
    """Print how many are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=300)
    arguments = parser.parse_args()
    root = Path(os.environ.get("DEPERS_DATA", "../shared/data")) / "detector/images"
    files = sorted(path for path in root.rglob("*.webp"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.stack([row.thumbnail for row in pool.map(lambda file: read_likeness(file.read_bytes()), files)])
        start = time.process_time()
        twins = find_near_twins(images, np.arange(len(images)))
        seconds = time.process_time() - start
        print(f"{len(images)} images: {len(twins)} have a twin among them, found in {seconds:.1f} s\n")
        sample = random.Random(0).sample(range(len(files)), arguments.copies)
        print("| copy | found |\n|---|---|")
        for name in CHANGES:
            copies = pool.map(lambda index, name=name: read_likeness(copy(files[index], name)).thumbnail, sample)
            both = np.concatenate([images, np.stack(list(copies))])
            twins = find_near_twins(both, np.arange(len(both)))
            groups = {image: first for image, (_, first) in twins.items()}
            count = sum(
                len(images) + place in groups and groups[len(images) + place] == groups.get(index)
                for place, index in enumerate(sample)
            )
            print(f"| {name} | {count / len(sample):.1%} |", flush=True)


if __name__ == "__main__":
    main()
