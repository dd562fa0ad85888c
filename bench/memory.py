"""Peak memory of `depers anonymize` over all its processes, with few and with many 1080p images.

    python bench/memory.py --weights yolov5n.pt [--few 300] [--many 3000] [--kinds folder tar]

With `tar` the images lie in one archive; 12000 of them are 5 GB. Many are compared with few of the same kind.
"""

import argparse
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from job import draw, watch


def main() -> None:
    """Run all and print the peaks and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3000)
    parser.add_argument("--kinds", nargs="+", choices=("folder", "tar"), default=["folder"])
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-memory-"))
    peaks: dict[str, list[float]] = {kind: [] for kind in options.kinds}
    for count, kind in ((count, kind) for count in (options.few, options.many) for kind in options.kinds):
        source, out = work / "in", work / "out"
        draw(source, count)
        if kind == "tar":
            images, source = source, work / "packed"
            source.mkdir()
            with tarfile.open(source / "images.tar", "w") as archive:
                archive.add(images, ".")
            shutil.rmtree(images)
        size = sum(path.stat().st_size for path in source.iterdir()) / 1e9
        run = watch(["anonymize", str(source), str(out), "--weights", options.weights], out)
        peaks[kind].append(run.peak_mib)
        print(
            f"{count} images ({kind}, {size:.1f} GB): peak {run.peak_mib:.0f} MiB, {run.spilled_mib:.0f} MiB spilled,"
            f" in {run.seconds:.0f} s; {run.last_line}",
            flush=True,
        )
        shutil.rmtree(out)
        shutil.rmtree(source)
    for kind, (few, many) in peaks.items():
        ratio = many / few
        print(f"load {os.getloadavg()[0]:.1f}; {kind}: {options.many} need {ratio:.3f} × the memory of {options.few}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
