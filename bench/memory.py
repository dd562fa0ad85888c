"""Peak memory of `depers anonymize` over all its processes, with few and with many 1080p pictures.

python bench/memory.py --weights yolov5n.pt [--few 300] [--many 3000]
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from job import draw, watch


def main() -> None:
    """Runs both and prints the peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=3000)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-memory-"))
    peaks = []
    for count in (options.few, options.many):
        source, out = work / f"in{count}", work / "out"
        draw(source, count)
        run = watch(["anonymize", str(source), str(out), "--weights", options.weights], out)
        peaks.append(run.peak_mib)
        print(f"{count} pictures: peak {run.peak_mib:.0f} MiB in {run.seconds:.0f} s; {run.last_line}", flush=True)
        shutil.rmtree(source)
        shutil.rmtree(out)
    print(f"load {os.getloadavg()[0]:.1f}; {options.many} need {peaks[1] / peaks[0]:.3f} × the memory of {options.few}")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
