"""Whether to redact in the pass that detects, or in a second one that reads the images and the detections again.

    python bench/one_pass.py --weights yolov5n.pt [--images 600] [--repeats 3]

`depers anonymize` against `depers detect` and then `depers anonymize --previous-detections`: images per second of each
after its first unit, and of the two passes together. Both ways must write the same bytes.
"""

import argparse
import filecmp
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from job import draw, rate


def main() -> None:
    """Runs the rounds and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-passes-"))
    source, one, found, two = (work / name for name in ("in", "one", "found", "two"))
    draw(source, options.images)
    ones, twos = [], []
    for _ in range(options.repeats):
        ones.append(rate(["anonymize", str(source), str(one), "--weights", options.weights]))
        detecting = rate(["detect", str(source), str(found), "--weights", options.weights, "--confidence", "0.15"])
        redacting = rate(["anonymize", str(source), str(two), "--previous-detections", str(found)])
        twos.append(1 / (1 / detecting + 1 / redacting))
        print(
            f"one pass {ones[-1]:.1f} images/s; detect {detecting:.1f}, then redact {redacting:.1f}: {twos[-1]:.1f}",
            flush=True,
        )
        names = [path.name for path in source.iterdir()]
        _, different, missing = filecmp.cmpfiles(one, two, names, shallow=False)
        assert not different and not missing, f"the two ways differ in {different + missing}"
        for folder in (one, found, two):
            shutil.rmtree(folder)
    share = statistics.median(ones) / statistics.median(twos)
    print(f"load {os.getloadavg()[0]:.1f}; medians of {options.repeats}: one pass is {share:.2f} × as fast as two")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
