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

from job import draw, measure_rate


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="depers-passes-"))
    source, single, detections, double = (work / name for name in ("in", "single", "detections", "double"))
    draw(source, options.images)
    ones, twos = [], []
    for _ in range(options.repeats):
        ones.append(measure_rate(["anonymize", str(source), str(single), "--weights", options.weights]))
        detection_rate = measure_rate(
            ["detect", str(source), str(detections), "--weights", options.weights, "--confidence", "0.15"]
        )
        redaction_rate = measure_rate(["anonymize", str(source), str(double), "--previous-detections", str(detections)])
        twos.append(1 / (1 / detection_rate + 1 / redaction_rate))
        print(
            f"one pass {ones[-1]:.1f} images/s; detect {detection_rate:.1f},"
            f" then redact {redaction_rate:.1f}: {twos[-1]:.1f}",
            flush=True,
        )
        names = [path.name for path in source.iterdir()]
        _, different, errors = filecmp.cmpfiles(single, double, names, shallow=False)
        assert not different and not errors, f"the two ways differ in {different + errors}"
        for folder in (single, detections, double):
            shutil.rmtree(folder)
    share = statistics.median(ones) / statistics.median(twos)
    print(f"load {os.getloadavg()[0]:.1f}; medians of {options.repeats}: one pass is {share:.2f} × as fast as two")
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
