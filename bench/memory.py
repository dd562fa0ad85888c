"""Peak memory of `depers anonymize` over all its processes, with few and with many 1080p pictures.

    python bench/memory.py --weights yolov5n.pt [--few 300] [--many 3000] [--tar]

With --tar the pictures are also measured packed in one archive; 10000 of them are 5 GB.
"""

import argparse
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from job import draw, watch


def main() -> None:
    """Runs all and prints the peaks and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3000)
    parser.add_argument("--tar", action="store_true")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-memory-"))
    peaks: dict[str, float] = {}
    for count in (options.few, options.many):
        source, out, packed = work / f"in{count}", work / "out", work / f"tar{count}"
        draw(source, count)
        sources = {f"{count} pictures": source}
        if options.tar:
            packed.mkdir()
            with tarfile.open(packed / "pictures.tar", "w") as archive:
                archive.add(source, ".")
            size = (packed / "pictures.tar").stat().st_size / 1e9
            sources[f"{count} pictures in a tar of {size:.1f} GB"] = packed
        for name, place in sources.items():
            run = watch(["anonymize", str(place), str(out), "--weights", options.weights], out)
            peaks[name] = run.peak_mib
            spilled = f"{run.spilled_mib:.0f} MiB spilled"
            print(
                f"{name}: peak {run.peak_mib:.0f} MiB, {spilled}, in {run.seconds:.0f} s; {run.last_line}", flush=True
            )
            shutil.rmtree(out)
            shutil.rmtree(place)
    (first, least), *others = peaks.items()
    for name, peak in others:
        print(f"load {os.getloadavg()[0]:.1f}; {name} need {peak / least:.3f} × the memory of {first}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
